package coordinator

import (
	"context"

	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/ledger"
)

// whyPaused says why no builds are placed; empty if they are.
func (l *loop) whyPaused() string {
	if why := l.pause.Why(); why != "" {
		return why
	}
	if low := l.room.Low(); low != "" {
		return "paused until there is room on the head: " + low
	}
	return ""
}

// setPaused pauses or resumes placing for an operator. Running builds go on.
func (l *loop) setPaused(paused bool, by, reason string) {
	l.outlook.Drop()
	text := conduct.Done("resumed", by, reason)
	if l.pause = (conduct.Pause{}); paused {
		l.pause = conduct.Pause{Paused: true, By: by, Reason: reason}
		text = l.pause.Why()
	}
	l.change(ledger.Change{Setting: l.pause.Setting()})
	l.machineEvent(api.KindOperator, "", text)
	l.log.Info("an operator changed the coordinator", "what", text)
	l.placing = true
}

// Pause has no builds placed until Resume. Running builds go on. by is who asks, for people; empty if
// that is not known.
func (c *Coordinator) Pause(ctx context.Context, by, reason string) error {
	return c.durable(ctx, func(l *loop) error {
		l.setPaused(true, by, reason)
		return nil
	})
}

// Resume ends Pause.
func (c *Coordinator) Resume(ctx context.Context, by, reason string) error {
	return c.durable(ctx, func(l *loop) error {
		l.setPaused(false, by, reason)
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
