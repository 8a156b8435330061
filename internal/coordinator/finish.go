package coordinator

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/remote"
	"lighter/internal/ledger"
	"lighter/scheduler"
)

// ended is called with what an attempt came to.
func (r *attempt) ended(l *loop, out *remote.Outcome, err error) {
	l.placing = true
	t := r.task
	if t.check != nil && t.underWay == r {
		r.checkEnded(l, out, err)
		return
	}
	if t.underWay != r {
		if r.stale == "" {
			l.log.Warn("an old attempt reported late; it is not believed", "build", r.ID, "attempt", r.Number, "machine", r.machine.Name, "err", err)
		}
		return
	}
	r.detach(l, "")
	for _, rec := range t.builds {
		rec.SentBytes += r.Sent.Load()
		rec.FetchBytes += r.Fetched.Load()
		if n := r.Logged.Load(); n > 0 {
			rec.LogSize = n
		}
	}
	switch {
	case errors.Is(err, delivery.ErrGone):
		if r.deliver.delivery == r.To {
			r.deliver.delivery = nil
		}
		t.bring(l)
	case err != nil:
		r.failed(l, err)
	case r.deliver != nil:
		r.delivered(l)
	case r.FetchOnly:
		r.cameHome(l, out)
	default:
		r.succeeded(l, out)
	}
}

// succeeded goes on with a task whose outputs are on a machine now. Who wants them elsewhere
// gets them by an attempt of its own, since a slot is for what builds.
func (r *attempt) succeeded(l *loop, out *remote.Outcome) {
	t, m := r.task, r.machine
	r.measure(l, out)
	t.disagree(l, m)
	m.has.Add(t.inputPaths...)
	for _, info := range out.Outputs {
		m.has.Add(info.Path)
	}
	t.keep(l, m, out.Made)
	t.noteBuilt(out)
	if !t.wantedHome() {
		m.succeeded(l) // else only once it gave the outputs
	}
	t.bring(l)
}

// cameHome ends a task whose outputs are at home, unless somebody wants others by now.
func (r *attempt) cameHome(l *loop, out *remote.Outcome) {
	t := r.task
	r.machine.succeeded(l)
	if t.offloaded() || t.wantedHome() && !covers(r.Outputs, t.requestedOutputs()) {
		t.bring(l)
		return
	}
	t.noteBuilt(out)
	if t.kept != nil && r.Outputs == nil {
		t.release(l, t.kept) // all are at home
	}
	t.finish(l, "")
}

// noteBuilt notes in a task's builds what was built.
func (t *task) noteBuilt(out *remote.Outcome) {
	for _, rec := range t.builds {
		rec.OutputPaths, rec.Failure = t.node.OutputMap(), nil
		rec.OutputSize = cmp.Or(out.Size(), rec.OutputSize)
		if !out.Cached {
			rec.BuildTime = api.Seconds(out.BuildTime.Seconds())
		}
	}
}

// covers reports whether the names in some have all that are in wanted; nil is all.
func covers(some, wanted []string) bool {
	if len(some) == 0 {
		return true
	}
	return len(wanted) > 0 && !slices.ContainsFunc(wanted, func(name string) bool { return !slices.Contains(some, name) })
}

// measure learns from a build how long such builds take, and how fast the machine is.
func (r *attempt) measure(l *loop, out *remote.Outcome) {
	if out.Cached || !out.Measured || out.BuildTime <= 0 {
		return
	}
	t, m := r.task, r.machine
	l.change(ledger.Change{Duration: &ledger.Duration{
		Name: t.node.PackageName(), System: t.node.System,
		Sample: ledger.Sample{Machine: m.Name, Speed: m.Speed, Seconds: out.BuildTime.Seconds(), Time: l.now()},
	}})
	if t.expectedKnown {
		m.speed.Observe(m.Speed, t.expected, out.BuildTime)
	}
	m.learnt = true
}

// failed decides what follows from an attempt that came to nothing.
func (r *attempt) failed(l *loop, err error) {
	t, m := r.task, r.machine
	lost := headstore.Lost(err)
	l.head.Forget(lost...)
	if lost != nil && !r.FetchOnly {
		l.log.Warn("inputs were lost", "build", r.ID, "machine", m.Name, "err", err)
		r.inputsLost(l, lost)
		return
	}
	f := r.Failure(err)
	l.counts.Failed[f.Culprit]++
	for _, rec := range t.builds {
		rec.Failure = f
	}
	if r.FetchOnly {
		r.fetchFailed(l, f)
		return
	}
	id := r.ID
	l.durably(func() { m.forget(l, id) })
	if f.Final() {
		if !r.retryOwn(l, f) {
			t.fail(l, f)
		}
		return
	}
	t.failures = append(t.failures, *f)
	t.blamed++
	l.log.Warn("attempt failed", "build", t.id, "derivation", t.drv, "attempt", r.Number, "machine", m.Name,
		"culprit", f.Culprit, "phase", f.Phase, "err", f.Message)
	if t.blamed >= l.limits.MaxAttempts {
		t.fail(l, allFailed(t, f))
		return
	}
	if f.Culprit == api.CulpritMachine {
		m.mishap(l, t, f)
	}
	if f.Culprit == api.CulpritMachine || f.Culprit == api.CulpritLink {
		mark(&t.skip, m.Name)
	}
	t.retryLater(l, f)
}

// fetchFailed decides what follows where a build is done, but its outputs could not be
// brought home.
func (r *attempt) fetchFailed(l *loop, f *api.Failure) {
	t, m := r.task, r.machine
	t.failures = append(t.failures, *f)
	t.blamed++
	l.log.Warn("outputs could not be fetched", "build", t.id, "derivation", t.drv, "machine", m.Name, "culprit", f.Culprit, "err", f.Message)
	switch {
	case t.blamed >= l.limits.MaxAttempts:
		t.lose(l, f.Message)
		t.fail(l, allFailed(t, f))
	case f.Culprit == api.CulpritCoordinator:
		t.delay(l, f)
		t.enter(l, stagePostponed)
	default:
		if f.Culprit == api.CulpritMachine {
			m.mishap(l, t, f)
			mark(&t.skip, m.Name)
		}
		t.lose(l, f.Message)
		if !t.elsewhere(l) {
			clear(t.skip)
			t.delay(l, f)
		}
	}
}

// delay puts the next attempt off, for a time that grows.
func (t *task) delay(l *loop, f *api.Failure) {
	delay := min(l.limits.AttemptDelay<<min(t.rounds, 20), maxAttemptDelay)
	t.rounds++
	t.notBefore = l.now().Add(delay)
	t.setState(l, api.Queued, fmt.Sprintf("tried again in %s: %s", delay, f.Error()))
}

// allFailed is the failure of a build that was tried often enough.
func allFailed(t *task, last *api.Failure) *api.Failure {
	var causes []string
	for i := range t.failures {
		if text := t.failures[i].Error(); !slices.Contains(causes, text) {
			causes = append(causes, text)
		}
	}
	f := *last
	f.Message = fmt.Sprintf("%d attempts failed: ", t.blamed)
	f.Message += listUpTo(causes, "; ", api.MaxMessage-len(f.Message))
	return &f
}

// maxAttemptDelay bounds the time before all machines are tried again.
const maxAttemptDelay = 5 * time.Minute

// retryLater lets a task be placed again: at once if there are machines where it was
// not tried, and otherwise after a time that grows.
func (t *task) retryLater(l *loop, f *api.Failure) {
	if f.Culprit == api.CulpritCoordinator || !t.elsewhere(l) {
		clear(t.skip)
		t.delay(l, f)
	} else {
		t.notBefore = time.Time{}
		t.setState(l, api.Queued, "tried again elsewhere: "+f.Error())
	}
	t.expand(l) // the outputs, or inputs, may have come or gone meanwhile
}

// elsewhere reports whether a machine is left on which the task may be tried.
func (t *task) elsewhere(l *loop) bool {
	b := t.schedulerBuild(l)
	return scheduler.Possible(&b, l.staticMachines())
}
