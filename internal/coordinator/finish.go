package coordinator

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/limits"
	"lighter/internal/coordinator/remote"
	"lighter/internal/coordinator/reserve"
	"lighter/internal/coordinator/stage"
	"lighter/internal/ledger"
	"lighter/scheduler"
	"lighter/scheduler/estimate"
)

// ended deals with an attempt that is over.
func (a *attempt) ended(l *loop, out *remote.Outcome, err error) {
	if err != nil && l.ctx.Err() != nil {
		return // the coordinator stops, and that is all; the next one takes it up
	}
	l.placing = true
	t := a.task
	if t.check != nil && t.underWay == a {
		a.checkEnded(l, out, err)
		return
	}
	if t.elder == a {
		a.elderEnded(l, out, err)
		return
	}
	if t.underWay != a {
		if a.stale == "" {
			l.log.Warn("an old attempt reported late; it is not believed", "build", a.ID, "attempt", a.Number, "machine", a.machine.Name, "err", err)
		}
		return
	}
	a.detach(l, "")
	for _, lb := range t.builds {
		lb.SentBytes += a.Sent.Load()
		lb.FetchBytes += a.Fetched.Load()
		if n := a.Logged.Load(); n > 0 {
			lb.LogSize = n
		}
	}
	switch {
	case t.elder != nil && err != nil && !a.decides(err):
		a.giveWay(l, err)
		return
	case err == nil && !a.FetchOnly && a.Number != t.attempt:
		t.takeFinished(l, a)
		return
	}
	t.dropElder(l)
	switch {
	case errors.Is(err, delivery.ErrGone):
		if a.recipient.delivery == a.To {
			a.recipient.delivery = nil
		}
		t.bring(l)
	case err != nil:
		t.builds.noteMeasured(out)
		a.failed(l, out, err)
	case a.recipient != nil:
		a.delivered(l)
	case a.FetchOnly:
		a.cameHome(l, out)
	default:
		a.succeeded(l, out)
	}
}

// succeeded goes on with a task whose outputs are on a machine now. An attempt of its own brings
// them to whoever wants them elsewhere, since a slot is for building.
func (a *attempt) succeeded(l *loop, out *remote.Outcome) {
	t, m := a.task, a.machine
	a.measure(l, out)
	t.disagree(l, m)
	m.has.Add(t.inputPaths...)
	for _, info := range out.Outputs {
		m.has.Add(info.Path)
	}
	t.keep(l, m, out.Made)
	t.noteBuilt(out)
	if !t.builds.wantedHome() {
		m.succeeded(l) // else only once it has handed over the outputs
	}
	t.bring(l)
	t.offer(l)
}

// cameHome ends a task whose outputs are at home, unless somebody wants others by now.
func (a *attempt) cameHome(l *loop, out *remote.Outcome) {
	t := a.task
	a.machine.succeeded(l)
	if t.builds.offloaded() || t.builds.wantedHome() && !limits.Covers(a.Outputs, limits.Outputs(t.builds.requests())) {
		t.bring(l)
		return
	}
	t.noteBuilt(out)
	if t.kept != nil && a.Outputs == nil {
		t.release(l, t.kept) // all are at home
	}
	t.finish(l, "")
}

// noteBuilt notes in a task's builds what was made.
func (t *task) noteBuilt(out *remote.Outcome) {
	for _, lb := range t.builds {
		lb.OutputPaths, lb.Failure = t.node.OutputMap(), nil
		lb.OutputSize = cmp.Or(out.Size(), lb.OutputSize)
		if !out.Cached {
			lb.BuildTime = api.Seconds(out.BuildTime.Seconds())
		}
	}
	t.builds.noteMeasured(out)
}

// measure learns from a build what such builds take, and how fast the machine is.
func (a *attempt) measure(l *loop, out *remote.Outcome) {
	t, m := a.task, a.machine
	key := t.node.Key()
	sample, ok := out.Sample()
	if !ok {
		return
	}
	sample.Version, sample.Speed, sample.Machine, sample.Class, sample.Time = key.Version, m.Speed, m.Name, m.class(), l.now()
	for _, p := range t.inputPaths {
		sample.Input += l.inventory.Size(p)
	}
	l.change(ledger.Change{Samples: &ledger.Samples{Key: key, Samples: []estimate.Sample{sample}}})
	if t.estimate.Measured() && !t.node.Fixed { // a download says nothing of a processor
		m.speed.Observe(m.Speed, t.expected(), out.BuildTime)
	}
	m.learnt = true
	l.outlook.Took(l.now().Sub(a.began), out.BuildTime)
}

// class is that of the machine, to which samples belong.
func (m *machine) class() string {
	if m.BuildCores <= 0 && m.info != nil {
		return reserve.Class(m.info.Cores)
	}
	return reserve.Class(m.BuildCores)
}

// failed decides what follows from an attempt that failed.
func (a *attempt) failed(l *loop, out *remote.Outcome, err error) {
	t, m := a.task, a.machine
	lost := headstore.Lost(err)
	l.head.Forget(lost...)
	if a.Later {
		a.earlyFailed(l, err)
		return
	}
	if lost != nil && !a.FetchOnly {
		l.log.Warn("inputs were lost", "build", a.ID, "machine", m.Name, "err", err)
		a.inputsLost(l, lost)
		return
	}
	f := a.blame(err)
	l.counts.Failed[f.Culprit]++
	for _, lb := range t.builds {
		lb.Failure = f
	}
	if a.FetchOnly {
		a.fetchFailed(l, f)
		return
	}
	id := a.ID
	l.durably(func() { m.forget(l, id) })
	if f.Final() {
		if !a.retryOwn(l, f) && !a.retryStarved(l, f, out) {
			t.fail(l, f)
		}
		return
	}
	t.failed.Add(f)
	if f.Kind == api.KindUnable {
		a.refused(l, f)
		return
	}
	t.failed.Blamed++
	l.log.Warn("attempt failed", "build", t.id, "derivation", t.drv, "attempt", a.Number, "machine", m.Name,
		"culprit", f.Culprit, "phase", f.Phase, "err", f.Message)
	if t.failed.Blamed >= l.limits.MaxAttempts {
		t.fail(l, t.failed.All(f))
		return
	}
	if f.Culprit == api.CulpritMachine {
		m.mishap(l, t, f)
	}
	if f.Culprit == api.CulpritMachine || f.Culprit == api.CulpritLink {
		m.avoidHost(&t.skip)
	}
	t.retryLater(l, f)
}

// refused goes on with a task that the attempt's machine can't build: elsewhere, if there is a
// machine that has not said so too.
func (a *attempt) refused(l *loop, f *api.Failure) {
	t, m := a.task, a.machine
	t.failed.Unable.Add(m.Name, f.Message)
	l.log.Info("a machine can't build a derivation", "build", t.id, "derivation", t.drv, "machine", m.Name, "why", f.Message)
	if t.neverReason(l) == "" {
		t.retryLater(l, f)
		return
	}
	t.fail(l, t.failed.Refused(f))
}

// fetchFailed decides what follows when a build is done but its outputs could not be brought
// where they are wanted.
func (a *attempt) fetchFailed(l *loop, f *api.Failure) {
	t, m := a.task, a.machine
	t.failed.Blame(f)
	l.log.Warn("outputs could not be fetched", "build", t.id, "derivation", t.drv, "machine", m.Name, "culprit", f.Culprit, "err", f.Message)
	switch {
	case t.failed.Blamed >= l.limits.MaxAttempts:
		t.lose(l, f.Message)
		t.fail(l, t.failed.All(f))
	case f.Culprit == api.CulpritCoordinator:
		t.delay(l, f)
		t.enter(l, stage.Postponed)
	default:
		if f.Culprit == api.CulpritMachine {
			m.mishap(l, t, f)
			m.avoidHost(&t.skip)
		}
		t.lose(l, f.Message)
		if !t.elsewhere(l) {
			clear(t.skip)
			t.delay(l, f)
		}
	}
}

// delay puts off the next attempt, for a time that grows.
func (t *task) delay(l *loop, f *api.Failure) {
	delay := t.failed.Delay(l.limits.AttemptDelay)
	t.notBefore = l.now().Add(delay)
	t.setState(l, api.Queued, fmt.Sprintf("tried again in %s: %s", delay, f.Short()))
}

// retryLater lets a task be placed again: at once if there are machines on which it was not
// tried, otherwise after a time that grows.
func (t *task) retryLater(l *loop, f *api.Failure) {
	if f.Culprit == api.CulpritCoordinator || !t.elsewhere(l) {
		clear(t.skip)
		t.delay(l, f)
	} else {
		t.notBefore = time.Time{}
		t.setState(l, api.Queued, "tried again elsewhere: "+f.Short())
	}
	t.expand(l) // the outputs, or inputs, may have come or gone meanwhile
}

// elsewhere reports whether a machine is left on which the task may be tried.
func (t *task) elsewhere(l *loop) bool {
	b := t.schedulerBuild(l)
	return scheduler.Possible(&b, l.staticMachines())
}
