package coordinator

import (
	"context"
	"errors"

	"lighter/internal/api"
	"lighter/internal/ledger"
)

// pausedSetting is the name of the ledger's setting that says whether an operator paused
// the coordinator.
const pausedSetting = "paused"

type pauseSetting struct {
	Paused bool   `json:"paused"`
	Reason string `json:"reason,omitempty"`
}

// whyPaused says why no builds are placed; empty if they are.
func (l *loop) whyPaused() string {
	if l.pause.Paused {
		return withReason("paused", l.pause.Reason)
	}
	if low := l.room.Low(); low != "" {
		return "paused until there is room on the head: " + low
	}
	return ""
}

// setPaused pauses or resumes placing for an operator. Running builds go on.
func (l *loop) setPaused(paused bool, reason string) {
	s := &ledger.Setting{Name: pausedSetting}
	text := withReason("resumed", reason)
	l.outlook.Drop()
	l.pause = pauseSetting{}
	if paused {
		l.pause = pauseSetting{true, reason}
		s.Value = l.pause
		text = withReason("paused", reason)
	}
	l.change(ledger.Change{Setting: s})
	l.machineEvent(api.KindOperator, "", text)
	l.log.Info("an operator changed the coordinator", "what", text)
	l.placing = true
}

func (l *loop) recoverPause(ctx context.Context) error {
	_, err := l.ledger.Setting(ctx, pausedSetting, &l.pause)
	if errors.As(err, new(*ledger.RecordError)) {
		// Better that somebody has to resume it than that what was paused goes on.
		l.pause, err = pauseSetting{true, err.Error()}, nil
	}
	if err == nil && l.pause.Paused {
		l.log.Warn("nothing is started: an operator paused the coordinator", "reason", l.pause.Reason)
	}
	return err
}

// Pause has no builds placed until Resume. Running builds go on.
func (c *Coordinator) Pause(ctx context.Context, reason string) error {
	return c.durable(ctx, func(l *loop) error {
		l.setPaused(true, reason)
		return nil
	})
}

// Resume ends Pause.
func (c *Coordinator) Resume(ctx context.Context, reason string) error {
	return c.durable(ctx, func(l *loop) error {
		l.setPaused(false, reason)
		return nil
	})
}

// headMeasured notes the room on the head, and pauses or goes on accordingly.
func (l *loop) headMeasured(space api.HeadStatus) {
	l.space = space
	low, changed := l.room.Judge(&space)
	if !changed {
		return
	}
	l.outlook.Drop()
	switch {
	case low != "":
		l.log.Error("the head has no room: nothing is started or fetched until it has", "why", low)
		l.event("", "paused until there is room on the head: "+low)
	default:
		l.log.Info("the head has room again")
		l.event("", "there is room on the head again")
		l.placing = true
	}
}
