package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/disk"
	"lighter/internal/human"
	"lighter/internal/ledger"
	"lighter/internal/quantity"
	"lighter/store"
)

// pausedSetting is the name of the ledger's setting that says whether an operator paused
// the coordinator.
const pausedSetting = "paused"

type pauseSetting struct {
	Paused bool   `json:"paused"`
	Reason string `json:"reason,omitempty"`
}

// held says why nothing is placed; empty if builds are.
func (l *loop) held() string {
	switch {
	case l.pause.Paused:
		return withReason("paused", l.pause.Reason)
	case l.headLow != "":
		return "paused until there is room on the head: " + l.headLow
	}
	return ""
}

// setPaused pauses placing for an operator, or ends that. What runs goes on.
func (l *loop) setPaused(paused bool, reason string) {
	s := &ledger.Setting{Name: pausedSetting}
	text := withReason("resumed", reason)
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
		// Better that somebody has to resume it than that what was stopped goes on.
		l.pause, err = pauseSetting{true, err.Error()}, nil
	}
	if err == nil && l.pause.Paused {
		l.log.Warn("nothing is started: an operator paused the coordinator", "reason", l.pause.Reason)
	}
	return err
}

// Pause has no builds placed, until Resume. What runs goes on.
func (c *Coordinator) Pause(ctx context.Context, reason string) error {
	return c.changePaused(ctx, true, reason)
}

// Resume ends Pause.
func (c *Coordinator) Resume(ctx context.Context, reason string) error {
	return c.changePaused(ctx, false, reason)
}

func (c *Coordinator) changePaused(ctx context.Context, paused bool, reason string) error {
	return c.durable(ctx, func(l *loop) error {
		l.setPaused(paused, reason)
		return nil
	})
}

// ---- room on the head ----------------------------------------------------------------

// HeadLimits are what must be free on the head's disks for it to start builds and to fetch
// outputs; 0 disregards it.
type HeadLimits struct {
	MinFreeDisk      int64 // bytes, where the store is
	MinFreeInodes    int64 // there
	MinFreeStateDisk int64 // bytes, where ledger and logs are
}

// lacks says which limit the head is beyond. With slack there must be that much more than
// the limits, as a part of them.
func (l *HeadLimits) lacks(s *api.HeadStatus, slack float64) string {
	for _, rule := range []struct {
		what     string
		has, min int64
		quantity func(int64) string
	}{
		{"where the store is", s.FreeDisk, l.MinFreeDisk, quantity.Bytes},
		{"where the coordinator's state is", s.StateFreeDisk, l.MinFreeStateDisk, quantity.Bytes},
		{"inodes where the store is", s.FreeInodes, l.MinFreeInodes, countOf},
	} {
		limit := float64(rule.min) * (1 + slack)
		if rule.has >= 0 && rule.min > 0 && float64(rule.has) < limit {
			return fmt.Sprintf("%s free %s, %s are wanted", rule.quantity(rule.has), rule.what, rule.quantity(int64(limit)))
		}
	}
	return ""
}

// reserve keeps room on the head's disk for items that are about to be fetched, as large as
// they are said to be, until the result is called. Where they would not leave as much free
// as must be, it is an error, before anything is fetched.
func (c *Coordinator) reserve(infos []*store.Info) (release func(), err error) {
	var size int64
	for _, info := range infos {
		size += info.NARSize
	}
	space, err := c.spaceOf()
	if err != nil {
		space.FreeDisk = -1 // watchHead says why
	}
	coming := c.coming.Add(size)
	release = func() { c.coming.Add(-size) }
	if free := space.FreeDisk - c.cfg.HeadLimits.MinFreeDisk; space.FreeDisk >= 0 && coming > free {
		release()
		return nil, &headstore.Error{Err: fmt.Errorf("%s of %s to be fetched, with what is on its way %s, do not fit on the head: %s are free where its store is, of which %s stay free",
			quantity.Bytes(size), human.Count(len(infos), "item"), quantity.Bytes(coming), quantity.Bytes(space.FreeDisk), quantity.Bytes(c.cfg.HeadLimits.MinFreeDisk))}
	}
	return release, nil
}

// spaceOf measures the head's disks.
func (c *Coordinator) spaceOf() (api.HeadStatus, error) {
	if c.cfg.headSpace != nil {
		return c.cfg.headSpace()
	}
	return c.measureHead()
}

// headInterval is the time between looks at the head's disks.
const headInterval = 5 * time.Second

// watchHead looks at the head's disks.
func (c *Coordinator) watchHead(ctx context.Context) {
	failed := false
	for {
		space, err := c.spaceOf()
		if err != nil && !failed {
			c.log.Warn("the head's free disk is not known", "err", err)
		}
		if failed = err != nil; !failed {
			c.post(func(l *loop) { l.headMeasured(space) })
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(headInterval):
		}
	}
}

// headMeasured pauses, or goes on, as there is room on the head.
func (l *loop) headMeasured(space api.HeadStatus) {
	l.space = space
	slack := 0.0
	if l.headLow != "" {
		slack = admissionSlack
	}
	low := l.cfg.HeadLimits.lacks(&space, slack)
	switch {
	case low != "" && l.headLow == "":
		l.log.Error("the head has no room: nothing is started or fetched until it has", "why", low)
		l.event("", "paused until there is room on the head: "+low)
		l.room.shut()
	case low == "" && l.headLow != "":
		l.log.Info("the head has room again")
		l.event("", "there is room on the head again")
		l.room.open()
		l.placing = true
	}
	l.headLow = low
}

// measureHead asks the file systems. What is not known is negative.
func (c *Coordinator) measureHead() (api.HeadStatus, error) {
	s := api.HeadStatus{FreeDisk: -1, FreeInodes: -1, StateFreeDisk: -1}
	if c.cfg.StoreFolder != "" {
		space, err := disk.Free(c.cfg.StoreFolder)
		if err != nil {
			return s, err
		}
		s.FreeDisk, s.FreeInodes = space.Free, space.Inodes
	}
	if c.cfg.StateFolder == "" {
		return s, nil
	}
	space, err := disk.Free(c.cfg.StateFolder)
	s.StateFreeDisk = space.Free
	return s, err
}

// gate lets through, or makes wait.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // closed when it is open
}

func newGate() *gate {
	g := &gate{opened: make(chan struct{})}
	close(g.opened)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
		g.opened = make(chan struct{})
	default:
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
	default:
		close(g.opened)
	}
}

// wait returns when the gate is open, or with the reason for which ctx ended.
func (g *gate) wait(ctx context.Context) error {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
