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
func (l *loop) ended(r *run, out *outcome, err error) {
	delete(r.machine.runs, r)
	l.placing = true
	t := r.task
	if t.check != nil && t.run == r {
		l.checkEnded(r, out, err)
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
		l.bring(t)
	case err != nil:
		l.attemptFailed(r, out, err)
	default:
		l.attemptSucceeded(r, out)
	}
}

func (l *loop) attemptSucceeded(r *run, out *outcome) {
	t, m := r.task, r.machine
	if r.deliver != nil {
		l.delivered(r)
		return
	}
	l.measure(r, out)
	l.succeeded(m)
	l.disagree(t, m)
	var size int64
	for _, info := range out.outputs {
		size += info.NARSize
		m.has.add(info.Path)
	}
	m.has.add(t.inputPaths...)
	if t.offloaded() || t.wantedHome() && (!out.home || !covers(out.names, t.requestedOutputs())) {
		// Build hooks wait, or somebody asked for outputs after the run looked who
		// wanted what.
		l.keep(t, m, out.made)
		l.noteBuilt(t, out, size)
		l.bring(t)
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
		l.keep(t, m, out.made)
	case t.kept == nil:
		id := r.id
		l.durably(func() { l.forget(m, id) })
	}
	l.finish(t, *out)
}

// noteBuilt notes in a task's builds what was built.
func (c *Coordinator) noteBuilt(t *task, out *outcome, size int64) {
	for _, rec := range t.builds {
		rec.OutputPaths, rec.Failure = t.node.outputMap(), nil
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
func (l *loop) measure(r *run, out *outcome) {
	if out.cached || !out.measured || out.buildTime <= 0 {
		return
	}
	t, m := r.task, r.machine
	l.change(ledger.Change{Duration: &ledger.Duration{
		Name: t.node.packageName(), System: t.node.system,
		Sample: ledger.Sample{Machine: m.Name, Speed: m.Speed, Seconds: out.buildTime.Seconds(), Time: time.Now()},
	}})
	if t.expectedKnown {
		m.speed.Observe(m.Speed, t.expected, out.buildTime)
	}
	m.learnt = true
}

// finish ends a task, and its builds, with success.
func (l *loop) finish(t *task, out outcome) {
	l.setAvailable(t)
	l.queue.Remove(t.id)
	l.setState(t, api.Succeeded, out.reason)
	l.endBuilds(t)
	l.releaseInputs(t)
	l.dropUnneeded(t)
	l.placing = true
}

// setAvailable says that a task's outputs exist, and lets those that waited for them
// alone go on.
func (l *loop) setAvailable(t *task) {
	if t.available {
		return
	}
	t.available = true
	for d := range t.dependants.all() {
		if d.run != nil || d.available {
			continue
		}
		if d.waiting--; d.waiting == 0 && !d.expanding && d.resume == nil {
			l.makeReady(d)
		}
	}
}

// endBuilds forgets the builds of a task, which are final and in the ledger.
func (l *loop) endBuilds(t *task) {
	for _, r := range t.builds {
		delete(l.builds, r.ID)
	}
	t.builds = nil
}

// releaseInputs says that a task which is over needs its inputs no more.
func (l *loop) releaseInputs(t *task) {
	inputs := t.inputs
	t.inputs = taskSet{}
	for in := range inputs.all() {
		in.dependants.remove(t)
		l.dropUnneeded(in)
	}
}

// dropUnneeded removes a task that nobody needs and no client asked for: what is kept
// of its outputs, or what is still to be done for it.
func (l *loop) dropUnneeded(t *task) {
	if t.dependants.size() > 0 || l.tasks[t.drv] != t || t.wantedHome() || t.offloaded() {
		return
	}
	if !t.available {
		l.cancelTask(t, "nobody needs it any more")
		return
	}
	l.remove(t)
	if m := t.kept; m != nil {
		l.release(t, m)
	}
	l.releaseInputs(t)
}

// attemptFailed decides what follows from an attempt that came to nothing.
func (l *loop) attemptFailed(r *run, out *outcome, err error) {
	t, m := r.task, r.machine
	lost := lostInputs(err)
	l.head.forget(lost...)
	if lost != nil && !r.fetchOnly {
		l.log.Warn("inputs were lost", "build", r.id, "machine", m.Name, "err", err)
		l.inputsLost(r, lost)
		return
	}
	f := r.failure(err)
	l.counts.attemptFailed(f.Culprit)
	for _, rec := range t.builds {
		rec.Failure = f
	}
	if r.fetchOnly || out != nil && f.Culprit == api.CulpritCoordinator {
		l.fetchFailed(r, out, f)
		return
	}
	id := r.id
	l.durably(func() { l.forget(m, id) })
	if f.Final() {
		if !l.retryOwn(r, f) {
			l.fail(t, f)
		}
		return
	}
	t.failures = append(t.failures, *f)
	t.blamed++
	l.log.Warn("attempt failed", "build", t.id, "derivation", t.drv, "attempt", r.attempt, "machine", m.Name,
		"culprit", f.Culprit, "phase", f.Phase, "err", f.Message)
	if t.blamed >= l.limits.MaxAttempts {
		l.fail(t, l.allFailed(t, f))
		return
	}
	if f.Culprit == api.CulpritMachine {
		l.mishap(m, t, f)
	}
	if f.Culprit == api.CulpritMachine || f.Culprit == api.CulpritLink {
		mark(&t.skip, m.Name)
	}
	l.retryLater(t, f)
}

// fetchFailed decides what follows where a build is done, but its outputs could not be
// brought home.
func (l *loop) fetchFailed(r *run, out *outcome, f *api.Failure) {
	t, m := r.task, r.machine
	if !r.fetchOnly {
		l.keep(t, m, out.made)
	}
	t.failures = append(t.failures, *f)
	t.blamed++
	l.log.Warn("outputs could not be fetched", "build", t.id, "derivation", t.drv, "machine", m.Name, "culprit", f.Culprit, "err", f.Message)
	switch {
	case t.blamed >= l.limits.MaxAttempts:
		l.lose(t, f.Message)
		l.fail(t, l.allFailed(t, f))
	case f.Culprit == api.CulpritCoordinator:
		l.delay(t, f)
		l.delayed[t] = true
		l.placeBy(t.notBefore)
	default:
		if f.Culprit == api.CulpritMachine {
			l.mishap(m, t, f)
			mark(&t.skip, m.Name)
		}
		l.lose(t, f.Message)
		if !l.elsewhere(t) {
			clear(t.skip)
			l.delay(t, f)
		}
	}
}

// delay puts the next attempt off, for a time that grows.
func (l *loop) delay(t *task, f *api.Failure) {
	delay := min(l.limits.AttemptDelay<<min(t.rounds, 20), maxAttemptDelay)
	t.rounds++
	t.notBefore = time.Now().Add(delay)
	l.setState(t, api.Queued, fmt.Sprintf("tried again in %s: %s", delay, f.Error()))
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
func (l *loop) retryLater(t *task, f *api.Failure) {
	if f.Culprit == api.CulpritCoordinator || !l.elsewhere(t) {
		clear(t.skip)
		l.delay(t, f)
	} else {
		t.notBefore = time.Time{}
		l.setState(t, api.Queued, "tried again elsewhere: "+f.Error())
	}
	l.expand(t) // the outputs, or inputs, may have come or gone meanwhile
}

// elsewhere reports whether a machine is left on which the task may be tried.
func (l *loop) elsewhere(t *task) bool {
	b := l.schedulerBuild(t)
	return l.possible(&b)
}

// fail ends a task, and all that need it and were not started, as failed.
func (l *loop) fail(t *task, f *api.Failure) {
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
		l.endFailed(t, f)
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

func (l *loop) endFailed(t *task, f *api.Failure) {
	state := api.Failed
	if f.Kind == string(store.FailedTimeout) || f.Kind == string(store.FailedSilence) {
		state = api.TimedOut
	}
	now := time.Now()
	for _, r := range t.builds {
		r.Failure, r.Stopped = f, &now
	}
	l.setState(t, state, f.Message)
	l.endBuilds(t)
	l.abandon(t, "the build failed")
	l.remove(t)
	l.releaseInputs(t)
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
func (l *loop) abandon(t *task, why string) {
	r := t.run
	if r == nil {
		if t.resume != nil {
			m, id := t.resume, t.id
			l.durably(func() { l.forget(m, id) })
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
		l.durably(func() { l.forget(m, id) })
	}
	l.placing = true
}

// cancelTask ends a task that is not final, and all its builds.
func (l *loop) cancelTask(t *task, reason string) {
	now := time.Now()
	for _, r := range t.builds {
		r.Stopped = &now
	}
	l.setState(t, api.Canceled, reason)
	l.endBuilds(t)
	l.abandon(t, reason)
	l.remove(t)
	l.releaseInputs(t)
}

// cancelBuild cancels one build. Its task goes on if another needs it.
func (l *loop) cancelBuild(r *record, reason string) {
	if r.check != nil {
		l.cancelCheck(r.check, reason)
		return
	}
	t := r.task
	now := time.Now()
	r.Stopped, r.State, r.Reason = &now, api.Canceled, reason
	l.save(r, false)
	delete(l.builds, r.ID)
	t.builds = slices.DeleteFunc(t.builds, func(other *record) bool { return other == r })
	if len(t.builds) > 0 {
		l.withoutBuild(t)
		return
	}
	if t.available {
		// Only the fetching home was for the build.
		l.abandon(t, reason)
		l.dropUnneeded(t)
		return
	}
	if r.Parent == "" && t.dependants.size() > 0 {
		l.substitute(t, r)
		return
	}
	l.cancelDependants(t)
	l.cancelTask(t, reason)
}

// cancelDependants cancels what cannot go on since somebody does not want what it needs. That
// is no failure of it.
func (l *loop) cancelDependants(t *task) {
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
			l.cancelTask(d, fmt.Sprintf("%s, which it needs, was canceled", t.drv))
		}
	}
}

// substitute gives a task whose last build was canceled, but that others need, a
// build of their own.
func (l *loop) substitute(t *task, canceled *record) {
	b := canceled.Build
	b.ID, b.State, b.Reason, b.Stopped, b.Offload = newID(), t.standing(), t.reason, nil, false
	b.Submitter = nil // who does not want it shall not have a hold on what others need
	for d := range t.dependants.all() {
		if len(d.builds) > 0 {
			b.Parent = d.builds[0].ID
			break
		}
	}
	r := l.join(t, b)
	record := r.Build
	l.change(ledger.Change{Build: &record, Create: true})
}
