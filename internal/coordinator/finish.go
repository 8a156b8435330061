package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
)

// outcome is what a run that succeeded reports.
type outcome struct {
	reason    string
	outputs   map[string]*store.Info
	made      []*madeItem // the same
	home      bool        // the outputs are at home
	names     []string    // those of them; nil is all
	buildTime time.Duration
	measured  bool // buildTime says something about such builds
	cached    bool // nothing was built
}

// ended is called with what a run came to.
func (r *run) ended(l *loop, out *outcome, err error) {
	delete(r.machine.runs, r)
	l.placing = true
	t := r.task
	if t.check != nil && t.run == r {
		r.checkEnded(l, out, err)
		return
	}
	if t.run != r {
		if r.stale == "" {
			l.log.Warn("an old attempt reported late; it is not believed", "build", r.id, "attempt", r.attempt, "machine", r.machine.Name, "err", err)
		}
		return
	}
	t.run = nil
	r.cancel(nil)
	for _, rec := range t.builds {
		rec.SentBytes += r.sent.Load()
		rec.FetchBytes += r.fetched.Load()
		if n := r.logged.Load(); n > 0 {
			rec.LogSize = n
		}
	}
	switch {
	case errors.Is(err, errHookGone):
		if r.deliver.delivery == r.to {
			r.deliver.delivery = nil
		}
		t.bring(l)
	case err != nil:
		r.failed(l, out, err)
	default:
		r.succeeded(l, out)
	}
}

func (r *run) succeeded(l *loop, out *outcome) {
	t, m := r.task, r.machine
	if r.deliver != nil {
		r.delivered(l)
		return
	}
	r.measure(l, out)
	m.succeeded(l)
	t.disagree(l, m)
	var size int64
	for _, info := range out.outputs {
		size += info.NARSize
		m.has.add(info.Path)
	}
	m.has.add(t.inputPaths...)
	if t.offloaded() || t.wantedHome() && (!out.home || !covers(out.names, t.requestedOutputs())) {
		// Build hooks wait, or somebody asked for outputs after the run looked who
		// wanted what.
		t.keep(l, m, out.made)
		l.noteBuilt(t, out, size)
		t.bring(l)
		return
	}
	now := time.Now()
	for _, rec := range t.builds {
		rec.Stopped = &now
		if !out.home {
			rec.OutputsOn = m.Name
		}
	}
	l.noteBuilt(t, out, size)
	switch {
	case !out.home:
		t.keep(l, m, out.made)
	case t.kept == nil:
		id := r.id
		l.durably(func() { m.forget(l, id) })
	}
	t.finish(l, *out)
}

// noteBuilt notes in a task's builds what was built.
func (c *Coordinator) noteBuilt(t *task, out *outcome, size int64) {
	for _, rec := range t.builds {
		rec.OutputPaths, rec.Failure = t.node.OutputMap(), nil
		if size > 0 {
			rec.OutputSize = size
		}
		if !out.cached {
			rec.BuildTime = api.Seconds(out.buildTime.Seconds())
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
func (r *run) measure(l *loop, out *outcome) {
	if out.cached || !out.measured || out.buildTime <= 0 {
		return
	}
	t, m := r.task, r.machine
	l.change(ledger.Change{Duration: &ledger.Duration{
		Name: t.node.PackageName(), System: t.node.System,
		Sample: ledger.Sample{Machine: m.Name, Speed: m.Speed, Seconds: out.buildTime.Seconds(), Time: time.Now()},
	}})
	if t.expectedKnown {
		m.speed.Observe(m.Speed, t.expected, out.buildTime)
	}
	m.learnt = true
}

// finish ends a task, and its builds, with success.
func (t *task) finish(l *loop, out outcome) {
	t.setAvailable(l)
	l.queue.Remove(t.id)
	t.setState(l, api.Succeeded, out.reason)
	t.endBuilds(l)
	t.releaseInputs(l)
	t.dropUnneeded(l)
	l.placing = true
}

// setAvailable says that a task's outputs exist, and lets those that waited for them
// alone go on.
func (t *task) setAvailable(l *loop) {
	if t.available {
		return
	}
	t.available = true
	for d := range t.dependants.all() {
		if d.run != nil || d.available {
			continue
		}
		if d.waiting--; d.waiting == 0 && !d.expanding && d.resume == nil {
			d.makeReady(l)
		}
	}
}

// endBuilds forgets the builds of a task, which are final and in the ledger.
func (t *task) endBuilds(l *loop) {
	for _, r := range t.builds {
		delete(l.builds, r.ID)
	}
	t.builds = nil
}

// releaseInputs says that a task which is over needs its inputs no more.
func (t *task) releaseInputs(l *loop) {
	inputs := t.inputs
	t.inputs = taskSet{}
	for in := range inputs.all() {
		in.dependants.remove(t)
		in.dropUnneeded(l)
	}
}

// dropUnneeded removes a task that nobody needs and no client asked for: what is kept
// of its outputs, or what is still to be done for it.
func (t *task) dropUnneeded(l *loop) {
	if t.dependants.size() > 0 || l.tasks[t.drv] != t || t.wantedHome() || t.offloaded() {
		return
	}
	if !t.available {
		t.cancel(l, "nobody needs it any more")
		return
	}
	t.remove(l)
	if m := t.kept; m != nil {
		t.release(l, m)
	}
	t.releaseInputs(l)
}

// failed decides what follows from an attempt that came to nothing.
func (r *run) failed(l *loop, out *outcome, err error) {
	t, m := r.task, r.machine
	lost := lostInputs(err)
	l.head.Forget(lost...)
	if lost != nil && !r.fetchOnly {
		l.log.Warn("inputs were lost", "build", r.id, "machine", m.Name, "err", err)
		r.inputsLost(l, lost)
		return
	}
	f := r.failure(err)
	l.counts.attemptFailed(f.Culprit)
	for _, rec := range t.builds {
		rec.Failure = f
	}
	if r.fetchOnly || out != nil && f.Culprit == api.CulpritCoordinator {
		r.fetchFailed(l, out, f)
		return
	}
	id := r.id
	l.durably(func() { m.forget(l, id) })
	if f.Final() {
		if !r.retryOwn(l, f) {
			t.fail(l, f)
		}
		return
	}
	t.failures = append(t.failures, *f)
	t.blamed++
	l.log.Warn("attempt failed", "build", t.id, "derivation", t.drv, "attempt", r.attempt, "machine", m.Name,
		"culprit", f.Culprit, "phase", f.Phase, "err", f.Message)
	if t.blamed >= l.limits.MaxAttempts {
		t.fail(l, l.allFailed(t, f))
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
func (r *run) fetchFailed(l *loop, out *outcome, f *api.Failure) {
	t, m := r.task, r.machine
	if !r.fetchOnly {
		t.keep(l, m, out.made)
	}
	t.failures = append(t.failures, *f)
	t.blamed++
	l.log.Warn("outputs could not be fetched", "build", t.id, "derivation", t.drv, "machine", m.Name, "culprit", f.Culprit, "err", f.Message)
	switch {
	case t.blamed >= l.limits.MaxAttempts:
		t.lose(l, f.Message)
		t.fail(l, l.allFailed(t, f))
	case f.Culprit == api.CulpritCoordinator:
		t.delay(l, f)
		l.delayed[t] = true
		l.placeBy(t.notBefore)
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
	t.notBefore = time.Now().Add(delay)
	t.setState(l, api.Queued, fmt.Sprintf("tried again in %s: %s", delay, f.Error()))
}

// allFailed is the failure of a build that was tried often enough.
func (c *Coordinator) allFailed(t *task, last *api.Failure) *api.Failure {
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
	return l.possible(&b)
}

// fail ends a task, and all that need it and were not started, as failed.
func (t *task) fail(l *loop, f *api.Failure) {
	type doomed struct {
		task    *task
		failure *api.Failure
	}
	work := []doomed{{t, f}}
	for len(work) > 0 {
		t, f := work[len(work)-1].task, work[len(work)-1].failure
		work = work[:len(work)-1]
		if l.tasks[t.drv] != t {
			continue
		}
		for d := range t.dependants.all() {
			d.inputs.remove(t)
			if d.run == nil && d.resume == nil && !d.available {
				work = append(work, doomed{d, dependencyFailure(t.drv, f)})
			}
		}
		t.dependants = taskSet{}
		t.endFailed(l, f)
	}
}

func dependencyFailure(input store.Path, f *api.Failure) *api.Failure {
	if f.Kind == api.KindDependency && f.Input != "" {
		input = f.Input
	}
	return &api.Failure{
		Culprit: f.Culprit, Phase: api.Waiting, Kind: api.KindDependency, Input: input,
		Message: fmt.Sprintf("%s, which it needs, failed", input),
	}
}

func (t *task) endFailed(l *loop, f *api.Failure) {
	state := api.Failed
	if f.Kind == string(store.FailedTimeout) || f.Kind == string(store.FailedSilence) {
		state = api.TimedOut
	}
	now := time.Now()
	for _, r := range t.builds {
		r.Failure, r.Stopped = f, &now
	}
	t.setState(l, state, f.Message)
	t.endBuilds(l)
	t.abandon(l, "the build failed")
	t.remove(l)
	t.releaseInputs(l)
}

// expansionFailure is the failure of a task whose graph cannot be read.
func expansionFailure(input store.Path, err error) *api.Failure {
	f := &api.Failure{Culprit: api.CulpritCoordinator, Phase: api.Queued, Message: err.Error()}
	if input != "" {
		f.Kind, f.Input = api.KindDependency, input
	}
	return f
}

// abandon ends the attempt that is under way, here and on its machine.
func (t *task) abandon(l *loop, why string) {
	r := t.run
	if r == nil {
		if t.resume != nil {
			m, id := t.resume, t.id
			l.durably(func() { m.forget(l, id) })
			t.resume = nil
		}
		return
	}
	t.run = nil
	r.stale = why
	r.cancel(errAbandoned)
	delete(r.machine.runs, r)
	m, id := r.machine, r.id
	if !r.fetchOnly {
		l.durably(func() { m.forget(l, id) })
	}
	l.placing = true
}

// cancel ends a task that is not final, and all its builds.
func (t *task) cancel(l *loop, reason string) {
	now := time.Now()
	for _, r := range t.builds {
		r.Stopped = &now
	}
	t.setState(l, api.Canceled, reason)
	t.endBuilds(l)
	t.abandon(l, reason)
	t.remove(l)
	t.releaseInputs(l)
}

// cancel cancels one build. Its task goes on if another needs it.
func (r *record) cancel(l *loop, reason string) {
	if r.check != nil {
		r.check.cancelBy(l, reason)
		return
	}
	t := r.task
	now := time.Now()
	r.Stopped, r.State, r.Reason = &now, api.Canceled, reason
	r.save(l, false)
	delete(l.builds, r.ID)
	t.builds = slices.DeleteFunc(t.builds, func(other *record) bool { return other == r })
	if len(t.builds) > 0 {
		t.withoutBuild(l)
		return
	}
	if t.available {
		// Only the fetching home was for the build.
		t.abandon(l, reason)
		t.dropUnneeded(l)
		return
	}
	if r.Parent == "" && t.dependants.size() > 0 {
		t.standIn(l, r)
		return
	}
	t.cancelDependants(l)
	t.cancel(l, reason)
}

// cancelDependants cancels what cannot go on since somebody does not want what it needs. That
// is no failure of it.
func (t *task) cancelDependants(l *loop) {
	work := []*task{t}
	for len(work) > 0 {
		t := work[len(work)-1]
		work = work[:len(work)-1]
		dependants := t.dependants
		t.dependants = taskSet{}
		for d := range dependants.all() {
			d.inputs.remove(t)
			if d.run != nil || d.resume != nil || d.available || l.tasks[d.drv] != d {
				continue
			}
			work = append(work, d)
			d.cancel(l, fmt.Sprintf("%s, which it needs, was canceled", t.drv))
		}
	}
}

// standIn gives a task whose last build was canceled, but that others need, a
// build of their own.
func (t *task) standIn(l *loop, canceled *record) {
	b := canceled.Build
	b.ID, b.State, b.Reason, b.Stopped, b.Offload = newID(), t.standing(), t.reason, nil, false
	b.Submitter = nil // who does not want it shall not have a hold on what others need
	for d := range t.dependants.all() {
		if len(d.builds) > 0 {
			b.Parent = d.builds[0].ID
			break
		}
	}
	r := t.join(l, b)
	record := r.Build
	l.change(ledger.Change{Build: &record, Create: true})
}
