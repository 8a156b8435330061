package coordinator

import (
	"fmt"

	"lighter/internal/api"
	"lighter/internal/coordinator/remote"
	"lighter/internal/coordinator/stage"
	"lighter/internal/quantity"
	"lighter/scheduler"
	"lighter/store"
)

// again.go is what becomes of a build that runs on a slow machine and is begun again on a faster one
// that idles. The new attempt is the task's current one, with the next number: of it everybody is
// told, and a restart takes it up. The elder goes on beside it, and is heard when it ends. The
// end that comes first counts. If that is the elder's, an attempt with the next number takes
// what was made from its machine, as if that had been away (see restart.go): so there is one owner
// at any time, and one log that belongs to what is used.

// mayRunAgain reports whether the task of an attempt may be begun on another machine too.
func (a *attempt) mayRunAgain(c *Coordinator) bool {
	t := a.task
	return !c.limits.RunOnce && t.underWay == a && t.elder == nil && a.fresh && t.check == nil && !t.node.Fixed &&
		t.attempt < api.MaxAttempt-2
}

// beginAgain begins a build on a second machine.
func (l *loop) beginAgain(plan *scheduler.Again) {
	t, to := l.byID[plan.Build.ID], l.byName[plan.To]
	if t == nil || to == nil || t.underWay == nil || !t.underWay.mayRunAgain(l.Coordinator) {
		return
	}
	from := t.underWay
	if from.host == to.host || !t.allows(to.Name) || t.skip[to.Name] || t.failed.Unable.Has(to.Name) {
		return
	}
	l.counts.Placements++
	reason := fmt.Sprintf("begun again on %s, which idles: to be finished in %s instead of %s on %s, where it goes on too",
		to.Name, quantity.Duration(plan.Finish), quantity.Duration(plan.Instead), from.machine.Name)
	l.log.Info("a build is begun again on a faster machine", "build", t.id, "derivation", t.drv, "machine", to.Name, "goes on on", from.machine.Name)
	// After a crash the machine would be taken to list what it was not given.
	known := make(chan struct{})
	t.recorded, t.elder = known, from
	t.place(l, to, reason)
	l.durably(func() { close(known) })
}

// leave takes an elder attempt from its task and its machine.
func (a *attempt) leave(l *loop, why error) {
	a.task.elder = nil
	delete(a.host.attempts, a)
	a.release(l)
	if why != nil {
		a.stale = why.Error()
	}
	a.Cancel(why)
	l.placing = true
}

// dropElder ends the elder attempt, if there is one, here and on its machine.
func (t *task) dropElder(l *loop) {
	if a := t.elder; a != nil {
		a.leave(l, errAbandoned)
		m, id := a.machine, a.ID
		l.durably(func() { m.forget(l, id) })
	}
}

// elderEnded deals with the end of an elder attempt while the newer one goes on.
func (a *attempt) elderEnded(l *loop, out *remote.Outcome, err error) {
	t, m := a.task, a.machine
	a.leave(l, nil)
	switch {
	case err == nil:
		t.abandon(l, m.Name+" was done first")
		t.takeFinished(l, a)
	case a.decides(err):
		t.abandon(l, "it failed on "+m.Name)
		t.machine = m
		a.failed(l, out, err)
	default:
		a.inVain(l, err)
	}
}

// takeFinished takes what an attempt made that is not the last one.
func (t *task) takeFinished(l *loop, a *attempt) {
	t.attempt++
	t.takeUpOn, t.machine, t.state = a.machine, a.machine, api.Building
	t.takeUp(l, fmt.Sprintf("%s was done first, with attempt %d", a.machine.Name, a.Number), nil)
}

// decides reports whether what an attempt ended with is the derivation's own failure, so that it is in
// vain to wait for another one. That a builder was killed, or filled a disk, says little of others.
func (a *attempt) decides(err error) bool {
	f := a.blame(err)
	return f.Final() && f.Kind != string(store.FailedKilled) && f.Kind != string(store.FailedDiskFull)
}

// inVain notes the failure of one of two attempts.
func (a *attempt) inVain(l *loop, err error) {
	t, m, f := a.task, a.machine, a.blame(err)
	l.log.Warn("one of two attempts failed; the other goes on", "build", t.id, "derivation", t.drv, "attempt", a.Number, "machine", m.Name,
		"culprit", f.Culprit, "phase", f.Phase, "err", f.Message)
	l.counts.Failed[f.Culprit]++
	t.failed.Add(f)
	if f.Kind == api.KindUnable {
		t.failed.Unable.Add(m.Name, f.Message)
	} else if f.Culprit == api.CulpritMachine {
		m.mishap(l, t, f)
	}
	m.avoidHost(&t.skip)
	id := a.ID
	l.durably(func() { m.forget(l, id) })
}

// giveWay has the elder attempt go on alone when the newer one, which is detached, failed.
func (a *attempt) giveWay(l *loop, err error) {
	t := a.task
	elder := t.elder
	t.elder, t.underWay, t.machine = nil, elder, elder.machine
	t.enter(l, stage.Working)
	a.inVain(l, err)
	f := a.blame(err)
	t.setState(l, elder.phase, fmt.Sprintf("goes on on %s alone: %s", elder.machine.Name, f.Short()))
}
