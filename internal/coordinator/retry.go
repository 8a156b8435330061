package coordinator

import (
	"context"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/limits"
	"lighter/internal/coordinator/remote"
	"lighter/internal/coordinator/reserve"
	"lighter/internal/ledger"
	"lighter/scheduler/estimate"
	"lighter/store"
)

// ---- by itself ---------------------------------------------------------------------------

// retryOwn tries a derivation that failed by itself once more, if its builds grant that, and
// reports whether it does. Machines on which it has not failed yet come first.
func (a *attempt) retryOwn(l *loop, f *api.Failure) bool {
	t := a.task
	mark(&t.failedOn, a.machine.Name)
	granted := limits.Retries(t.requests(), l.limits.Retries)
	download := f.Kind == string(store.FailedExit) || f.Kind == string(store.FailedDownload)
	if t.node.Fixed && download && !t.builds.offloaded() {
		granted = max(granted, l.limits.DownloadRetries)
	}
	if t.retried >= granted {
		return false
	}
	t.retried++
	for _, lb := range t.builds {
		lb.Retried = t.retried
	}
	t.failed.Add(f)
	clear(t.skip)
	for name := range t.failedOn {
		if mark(&t.skip, name); l.byName[name] != nil {
			l.byName[name].avoidHost(&t.skip)
		}
	}
	l.log.Info("a failed build is tried again", "build", t.id, "derivation", t.drv, "machine", a.machine.Name,
		"retry", t.retried, "of", granted, "err", f.Message)
	t.retryLater(l, f)
	return true
}

// A builder that was killed has most often been the machine's kernel's choice when memory was short:
// there may be more of it elsewhere, or on the same machine while nothing else is built there; so it is
// with one that filled the disk. That is awaited for aloneWait at most, and looked for every alonePoll.
const (
	aloneWait = 10 * time.Minute
	alonePoll = 2 * time.Second
)

// retryStarved tries a derivation whose builder was killed, or had filled the disk, once more, whatever
// its builds grant, and reports whether it does. Where the kernel killed it for want of memory it is tried as
// long as there is a machine that has more of that for it than it had.
func (a *attempt) retryStarved(l *loop, f *api.Failure, out *remote.Outcome) bool {
	t := a.task
	more, certain := false, false
	switch store.BuildFailure(f.Kind) {
	case store.FailedKilled:
		more, certain = a.shortOfMemory(l, f, out)
	case store.FailedDiskFull:
	default:
		return false
	}
	again := more && certain && t.retried < reserve.MaxKills
	if t.retried > 0 && !again {
		return false
	}
	t.retried++
	for _, lb := range t.builds {
		lb.Retried = t.retried
	}
	t.failed.Add(f)
	if !more || !certain {
		a.machine.avoidHost(&t.skip)
		if !t.elsewhere(l) {
			t.aloneOn, t.aloneUntil = a.machine, l.now().Add(aloneWait)
		}
	}
	l.log.Info("a build that was killed, or filled the disk, is tried once more", "build", t.id, "derivation", t.drv, "machine", a.machine.Name, "memory", t.need, "err", f.Message)
	t.retryLater(l, f)
	return true
}

// shortOfMemory notes how much memory a build needs at least whose builder was killed, for its package too, and
// adds to the failure how much it had. It reports whether a machine has more, and whether it is certain that
// memory was short.
func (a *attempt) shortOfMemory(l *loop, f *api.Failure, out *remote.Outcome) (more, certain bool) {
	t, m := a.task, a.machine
	var used *store.Measured
	if out != nil {
		used = out.Used
	}
	k := reserve.AfterKill(used, a.build.Memory, m.memory(), m.ParallelBuilds, l.stock().Most(a.build))
	t.need = max(t.need, k.Need)
	f.Message = k.Explain(f.Message)
	if key := t.node.Key(); k.Certain {
		l.change(ledger.Change{Samples: &ledger.Samples{Key: key, Samples: []estimate.Sample{
			{Version: key.Version, Memory: k.Had, Killed: true, Machine: m.Name, Class: m.class(), Time: l.now()},
		}}})
	}
	return k.More, k.Certain
}

// ---- by a client -------------------------------------------------------------------------

// retryable reports whether a client may have a build tried again. One that a build hook asked
// for is not: guix-daemon has had its answer.
func retryable(b *api.Build) bool {
	return b.State.Final() && b.State != api.Succeeded && !b.Offload
}

// Retry has those of some builds tried again that failed, timed out or were canceled, under
// their ids, and returns their ids once that is durable.
func (c *Coordinator) Retry(ctx context.Context, ids []string, reason string) ([]string, error) {
	return limits.InPieces(ids, func(piece []string) ([]string, error) { return c.retry(ctx, piece, reason) })
}

func (c *Coordinator) retry(ctx context.Context, ids []string, reason string) ([]string, error) {
	release, err := c.pruner.Hold(ctx)
	if err != nil {
		return nil, err
	}
	var builds []*api.Build
	for _, id := range ids {
		b, err := c.ledger.Build(ctx, id)
		if err != nil {
			release()
			return nil, err
		}
		if retryable(b) {
			builds = append(builds, b)
		}
	}
	return c.durablyIn(ctx, func(l *loop) []string {
		l.durably(release)
		var again []string
		for _, b := range builds {
			if l.builds[b.ID] != nil {
				continue // somebody else was faster
			}
			b.State, b.Reason, b.Stopped, b.Started, b.Failure = api.Queued, reason, nil, nil, nil
			b.Machine, b.Shares, b.Retried, b.Parent, b.Dependents = "", "", 0, "", 0
			record := *b
			l.change(ledger.Change{Build: &record, Event: &api.Event{Reason: reason}})
			l.addBuilds([]api.Build{*b})
			again = append(again, b.ID)
		}
		return again
	})
}

// ---- priority ----------------------------------------------------------------------------

// Prioritise gives those of some builds that are not final another priority, and returns their
// ids once that is durable.
func (c *Coordinator) Prioritise(ctx context.Context, ids []string, priority int, reason string) ([]string, error) {
	return c.changeBuilds(ctx, ids, func(l *loop, lb *liveBuild) {
		lb.Priority = priority
		b := lb.Build
		l.change(ledger.Change{Build: &b, Event: &api.Event{
			State: b.State, Attempt: b.Attempt, Machine: b.Machine, Reason: reason,
		}})
		lb.task.reprioritise(l)
	})
}

// reprioritise gives a task, and what it needs, the priority of the most urgent build that it
// is for.
func (t *task) reprioritise(l *loop) {
	work := []*task{t}
	for len(work) > 0 {
		t := work[len(work)-1]
		work = work[:len(work)-1]
		priority, set := 0, false
		raise := func(n int) {
			if !set || n > priority {
				priority, set = n, true
			}
		}
		for d := range t.dependants.All() {
			raise(d.priority)
		}
		for _, lb := range t.builds {
			if lb.Parent == "" || t.dependants.Size() == 0 {
				raise(lb.Priority)
			}
		}
		if !set || priority == t.priority {
			continue
		}
		t.priority = priority
		t.moveInQueue(l)
		for in := range t.inputs.All() {
			work = append(work, in)
		}
	}
}
