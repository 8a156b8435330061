package coordinator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/ledger"
)

// recover fills the loop from the ledger, before it runs.
func (c *Coordinator) recover(ctx context.Context) error {
	if err := c.recoverMachines(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	var tags map[string]string
	for b, err := range c.ledger.Builds(ctx, ledger.Filter{Filter: api.Filter{States: ledger.NonFinal()}, OldestFirst: true}) {
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		tags = sameTags(b.Tags, tags)
		b.Tags = tags
		c.recoverBuild(b)
	}
	if len(c.tasks) == 0 {
		return nil
	}
	c.group.Go(func() {
		select {
		case <-c.ctx.Done():
		case <-time.After(c.limits.HookGrace):
			c.endHookGrace(c.ctx)
		}
	})
	c.log.Info("unfinished builds were found", "builds", len(c.builds), "derivations", len(c.tasks))
	c.grace = make(map[*machine]bool)
	for _, m := range c.machines {
		c.grace[m] = true
	}
	for _, t := range c.tasks {
		t.expanding = true
	}
	if len(c.machines) == 0 {
		c.endGrace(nil)
		return nil
	}
	c.group.Go(func() {
		select {
		case <-c.ctx.Done():
		case <-time.After(c.limits.StartGrace):
			c.post(func() { c.endGrace(nil) })
		}
	})
	return nil
}

func (c *Coordinator) recoverMachines(ctx context.Context) error {
	past, err := c.pastOf(ctx)
	if err != nil {
		return err
	}
	for _, m := range c.machines {
		m.remember(past)
	}
	if err := c.recoverFailures(ctx); err != nil {
		return err
	}
	return c.recoverPause(ctx)
}

// recoverBuild makes a build of the ledger live again. Builds of the same derivation
// share a task, as they did.
func (c *Coordinator) recoverBuild(b *api.Build) {
	if b.Attached {
		c.awaitClient(b.ID)
	}
	if b.Check > 0 {
		c.takeUpCheck(b)
		return
	}
	id := b.ID
	if b.Shares != "" {
		id = b.Shares
	}
	t := c.tasks[b.Derivation]
	if t == nil {
		t = c.newTask(b.Derivation, id)
		t.state = "" // so that whatever comes first is recorded
	}
	if b.Attempt > t.attempt || t.id != id && b.Attempt == t.attempt && b.State.Running() {
		delete(c.byID, t.id)
		t.id = id
		c.byID[id] = t
	}
	if m := c.byName[b.Machine]; b.State.Running() && m != nil && b.Attempt >= t.attempt {
		t.resume, t.state, t.machine = m, b.State, m
	} else if b.State.Running() && m == nil {
		c.log.Warn("an attempt is lost: its machine is not in the machines file any more", "build", b.ID, "machine", b.Machine)
	}
	t.attempt, t.retried = max(t.attempt, b.Attempt), max(t.retried, b.Retried)
	if b.Failure != nil && !slices.ContainsFunc(t.failures, func(f api.Failure) bool { return f == *b.Failure }) {
		t.failures = append(t.failures, *b.Failure)
		t.blamed = max(t.blamed, min(t.attempt-1-b.Retried, c.limits.MaxAttempts-1))
	}
	c.join(t, *b)
}

// resume goes on with an attempt that was under way when the coordinator stopped.
func (c *Coordinator) resume(t *task) {
	c.takeAgain(t, "the coordinator was started again and takes it up", nil)
}

// takeAgain goes on with the attempt that is under way on the machine resume, once before
// is closed, if that is not nil.
func (c *Coordinator) takeAgain(t *task, reason string, before <-chan struct{}) {
	m := t.resume
	t.resume = nil
	r := c.newRun(t, m)
	r.resumed = t.state
	r.phase = t.state
	if t.state != api.Building && t.state != api.Fetching {
		r.resumed = api.Placed
	}
	c.setState(t, t.state, reason)
	c.group.Go(func() {
		if before != nil {
			<-before
		}
		r.main()
	})
}
