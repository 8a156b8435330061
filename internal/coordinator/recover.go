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
func (l *loop) recover(ctx context.Context) error {
	if err := l.recoverMachines(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	var tags map[string]string
	for b, err := range l.ledger.Builds(ctx, ledger.Filter{Filter: api.Filter{States: ledger.NonFinal()}, OldestFirst: true}) {
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		tags = sameTags(b.Tags, tags)
		b.Tags = tags
		l.recoverBuild(b)
	}
	if len(l.tasks) == 0 {
		return nil
	}
	l.group.Go(func() {
		select {
		case <-l.ctx.Done():
		case <-time.After(l.limits.HookGrace):
			l.endHookGrace(l.ctx)
		}
	})
	l.log.Info("unfinished builds were found", "builds", len(l.builds), "derivations", len(l.tasks))
	l.grace = make(map[*machine]bool)
	for _, m := range l.machines {
		l.grace[m] = true
	}
	for _, t := range l.tasks {
		t.expanding = true
	}
	if len(l.machines) == 0 {
		l.endGrace(nil)
		return nil
	}
	l.group.Go(func() {
		select {
		case <-l.ctx.Done():
		case <-time.After(l.limits.StartGrace):
			l.post(func(l *loop) { l.endGrace(nil) })
		}
	})
	return nil
}

func (l *loop) recoverMachines(ctx context.Context) error {
	past, err := l.pastOf(ctx)
	if err != nil {
		return err
	}
	for _, m := range l.machines {
		m.remember(past)
	}
	if err := l.recoverFailures(ctx); err != nil {
		return err
	}
	return l.recoverPause(ctx)
}

// recoverBuild makes a build of the ledger live again. Builds of the same derivation
// share a task, as they did.
func (l *loop) recoverBuild(b *api.Build) {
	if b.Attached {
		l.awaitClient(b.ID)
	}
	if b.Check > 0 {
		l.takeUpCheck(b)
		return
	}
	id := b.ID
	if b.Shares != "" {
		id = b.Shares
	}
	t := l.tasks[b.Derivation]
	if t == nil {
		t = l.newTask(b.Derivation, id)
		t.state = "" // so that whatever comes first is recorded
	}
	if b.Attempt > t.attempt || t.id != id && b.Attempt == t.attempt && b.State.Running() {
		delete(l.byID, t.id)
		t.id = id
		l.byID[id] = t
	}
	if m := l.byName[b.Machine]; b.State.Running() && m != nil && b.Attempt >= t.attempt {
		t.resume, t.state, t.machine = m, b.State, m
	} else if b.State.Running() && m == nil {
		l.log.Warn("an attempt is lost: its machine is not in the machines file any more", "build", b.ID, "machine", b.Machine)
	}
	t.attempt, t.retried = max(t.attempt, b.Attempt), max(t.retried, b.Retried)
	if b.Failure != nil && !slices.ContainsFunc(t.failures, func(f api.Failure) bool { return f == *b.Failure }) {
		t.failures = append(t.failures, *b.Failure)
		t.blamed = max(t.blamed, min(t.attempt-1-b.Retried, l.limits.MaxAttempts-1))
	}
	t.join(l, *b)
}

// reattach goes on with an attempt that was under way when the coordinator stopped.
func (t *task) reattach(l *loop) {
	t.takeAgain(l, "the coordinator was started again and takes it up", nil)
}

// takeAgain goes on with the attempt that is under way on the machine resume, once before
// is closed, if that is not nil.
func (t *task) takeAgain(l *loop, reason string, before <-chan struct{}) {
	m := t.resume
	t.resume = nil
	r := l.newRun(t, m)
	r.resumed = t.state
	r.phase = t.state
	if t.state != api.Building && t.state != api.Fetching {
		r.resumed = api.Placed
	}
	t.setState(l, t.state, reason)
	l.group.Go(func() {
		if before != nil {
			<-before
		}
		r.main()
	})
}
