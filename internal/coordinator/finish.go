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
func (c *Coordinator) ended(r *run, out *outcome, err error) {
	delete(r.machine.runs, r)
	c.placing = true
	t := r.task
	if t.check != nil && t.run == r {
		c.checkEnded(r, out, err)
		return
	}
	if t.run != r {
		if r.stale == "" {
			c.log.Warn("an old attempt reported late; it is not believed", "build", r.id, "attempt", r.attempt, "machine", r.machine.Name, "err", err)
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
		c.bring(t)
	case err != nil:
		c.attemptFailed(r, out, err)
	default:
		c.attemptSucceeded(r, out)
	}
}

func (c *Coordinator) attemptSucceeded(r *run, out *outcome) {
	t, m := r.task, r.machine
	if r.deliver != nil {
		c.delivered(r)
		return
	}
	c.measure(r, out)
	c.succeeded(m)
	c.disagree(t, m)
	var size int64
	for _, info := range out.outputs {
		size += info.NARSize
		m.has.add(info.Path)
	}
	m.has.add(t.inputPaths...)
	if t.offloaded() || t.wantedHome() && (!out.home || !covers(out.names, t.requestedOutputs())) {
		// Build hooks wait, or somebody asked for outputs after the run looked who
		// wanted what.
		c.keep(t, m, out.made)
		c.noteBuilt(t, out, size)
		c.bring(t)
		return
	}
	now := time.Now()
	for _, rec := range t.builds {
		rec.Stopped = &now
		if !out.home {
			rec.OutputsOn = m.Name
		}
	}
	c.noteBuilt(t, out, size)
	switch {
	case !out.home:
		c.keep(t, m, out.made)
	case t.kept == nil:
		id := r.id
		c.durably(func() { c.forget(m, id) })
	}
	c.finish(t, *out)
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
func (c *Coordinator) measure(r *run, out *outcome) {
	if out.cached || !out.measured || out.buildTime <= 0 {
		return
	}
	t, m := r.task, r.machine
	c.change(ledger.Change{Duration: &ledger.Duration{
		Name: t.node.packageName(), System: t.node.system,
		Sample: ledger.Sample{Machine: m.Name, Speed: m.Speed, Seconds: out.buildTime.Seconds(), Time: time.Now()},
	}})
	if t.expectedKnown {
		m.speed.Observe(m.Speed, t.expected, out.buildTime)
	}
	m.learnt = true
}

// finish ends a task, and its builds, with success.
func (c *Coordinator) finish(t *task, out outcome) {
	c.setAvailable(t)
	c.queue.Remove(t.id)
	c.setState(t, api.Succeeded, out.reason)
	c.endBuilds(t)
	c.releaseInputs(t)
	c.dropUnneeded(t)
	c.placing = true
}

// setAvailable says that a task's outputs exist, and lets those that waited for them
// alone go on.
func (c *Coordinator) setAvailable(t *task) {
	if t.available {
		return
	}
	t.available = true
	for d := range t.dependants.all() {
		if d.run != nil || d.available {
			continue
		}
		if d.waiting--; d.waiting == 0 && !d.expanding && d.resume == nil {
			c.makeReady(d)
		}
	}
}

// endBuilds forgets the builds of a task, which are final and in the ledger.
func (c *Coordinator) endBuilds(t *task) {
	for _, r := range t.builds {
		delete(c.builds, r.ID)
	}
	t.builds = nil
}

// releaseInputs says that a task which is over needs its inputs no more.
func (c *Coordinator) releaseInputs(t *task) {
	inputs := t.inputs
	t.inputs = taskSet{}
	for in := range inputs.all() {
		in.dependants.remove(t)
		c.dropUnneeded(in)
	}
}

// dropUnneeded removes a task that nobody needs and no client asked for: what is kept
// of its outputs, or what is still to be done for it.
func (c *Coordinator) dropUnneeded(t *task) {
	if t.dependants.size() > 0 || c.tasks[t.drv] != t || t.wantedHome() || t.offloaded() {
		return
	}
	if !t.available {
		c.cancelTask(t, "nobody needs it any more")
		return
	}
	c.remove(t)
	if m := t.kept; m != nil {
		c.release(t, m)
	}
	c.releaseInputs(t)
}

// attemptFailed decides what follows from an attempt that came to nothing.
func (c *Coordinator) attemptFailed(r *run, out *outcome, err error) {
	t, m := r.task, r.machine
	lost := lostInputs(err)
	c.head.forget(lost...)
	if lost != nil && !r.fetchOnly {
		c.log.Warn("inputs were lost", "build", r.id, "machine", m.Name, "err", err)
		c.inputsLost(r, lost)
		return
	}
	f := r.failure(err)
	c.counts.attemptFailed(f.Culprit)
	for _, rec := range t.builds {
		rec.Failure = f
	}
	if r.fetchOnly || out != nil && f.Culprit == api.CulpritCoordinator {
		c.fetchFailed(r, out, f)
		return
	}
	id := r.id
	c.durably(func() { c.forget(m, id) })
	if f.Final() {
		if !c.retryOwn(r, f) {
			c.fail(t, f)
		}
		return
	}
	t.failures = append(t.failures, *f)
	t.blamed++
	c.log.Warn("attempt failed", "build", t.id, "derivation", t.drv, "attempt", r.attempt, "machine", m.Name,
		"culprit", f.Culprit, "phase", f.Phase, "err", f.Message)
	if t.blamed >= c.limits.MaxAttempts {
		c.fail(t, c.allFailed(t, f))
		return
	}
	if f.Culprit == api.CulpritMachine {
		c.mishap(m, t, f)
	}
	if f.Culprit == api.CulpritMachine || f.Culprit == api.CulpritLink {
		mark(&t.skip, m.Name)
	}
	c.retryLater(t, f)
}

// fetchFailed decides what follows where a build is done, but its outputs could not be
// brought home.
func (c *Coordinator) fetchFailed(r *run, out *outcome, f *api.Failure) {
	t, m := r.task, r.machine
	if !r.fetchOnly {
		c.keep(t, m, out.made)
	}
	t.failures = append(t.failures, *f)
	t.blamed++
	c.log.Warn("outputs could not be fetched", "build", t.id, "derivation", t.drv, "machine", m.Name, "culprit", f.Culprit, "err", f.Message)
	switch {
	case t.blamed >= c.limits.MaxAttempts:
		c.lose(t, f.Message)
		c.fail(t, c.allFailed(t, f))
	case f.Culprit == api.CulpritCoordinator:
		c.delay(t, f)
		c.delayed[t] = true
		c.placeBy(t.notBefore)
	default:
		if f.Culprit == api.CulpritMachine {
			c.mishap(m, t, f)
			mark(&t.skip, m.Name)
		}
		c.lose(t, f.Message)
		if !c.elsewhere(t) {
			clear(t.skip)
			c.delay(t, f)
		}
	}
}

// delay puts the next attempt off, for a time that grows.
func (c *Coordinator) delay(t *task, f *api.Failure) {
	delay := min(c.limits.AttemptDelay<<min(t.rounds, 20), maxAttemptDelay)
	t.rounds++
	t.notBefore = time.Now().Add(delay)
	c.setState(t, api.Queued, fmt.Sprintf("tried again in %s: %s", delay, f.Error()))
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
func (c *Coordinator) retryLater(t *task, f *api.Failure) {
	if f.Culprit == api.CulpritCoordinator || !c.elsewhere(t) {
		clear(t.skip)
		c.delay(t, f)
	} else {
		t.notBefore = time.Time{}
		c.setState(t, api.Queued, "tried again elsewhere: "+f.Error())
	}
	c.expand(t) // the outputs, or inputs, may have come or gone meanwhile
}

// elsewhere reports whether a machine is left on which the task may be tried.
func (c *Coordinator) elsewhere(t *task) bool {
	b := c.schedulerBuild(t)
	return c.possible(&b)
}

// fail ends a task, and all that need it and were not started, as failed.
func (c *Coordinator) fail(t *task, f *api.Failure) {
	type doomed struct {
		task    *task
		failure *api.Failure
	}
	work := []doomed{{t, f}}
	for len(work) > 0 {
		t, f := work[len(work)-1].task, work[len(work)-1].failure
		work = work[:len(work)-1]
		if c.tasks[t.drv] != t {
			continue
		}
		for d := range t.dependants.all() {
			d.inputs.remove(t)
			if d.run == nil && d.resume == nil && !d.available {
				work = append(work, doomed{d, dependencyFailure(t.drv, f)})
			}
		}
		t.dependants = taskSet{}
		c.endFailed(t, f)
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

func (c *Coordinator) endFailed(t *task, f *api.Failure) {
	state := api.Failed
	if f.Kind == string(store.FailedTimeout) || f.Kind == string(store.FailedSilence) {
		state = api.TimedOut
	}
	now := time.Now()
	for _, r := range t.builds {
		r.Failure, r.Stopped = f, &now
	}
	c.setState(t, state, f.Message)
	c.endBuilds(t)
	c.abandon(t, "the build failed")
	c.remove(t)
	c.releaseInputs(t)
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
func (c *Coordinator) abandon(t *task, why string) {
	r := t.run
	if r == nil {
		if t.resume != nil {
			m, id := t.resume, t.id
			c.durably(func() { c.forget(m, id) })
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
		c.durably(func() { c.forget(m, id) })
	}
	c.placing = true
}

// cancelTask ends a task that is not final, and all its builds.
func (c *Coordinator) cancelTask(t *task, reason string) {
	now := time.Now()
	for _, r := range t.builds {
		r.Stopped = &now
	}
	c.setState(t, api.Canceled, reason)
	c.endBuilds(t)
	c.abandon(t, reason)
	c.remove(t)
	c.releaseInputs(t)
}

// cancelBuild cancels one build. Its task goes on if another needs it.
func (c *Coordinator) cancelBuild(r *record, reason string) {
	if r.check != nil {
		c.cancelCheck(r.check, reason)
		return
	}
	t := r.task
	now := time.Now()
	r.Stopped, r.State, r.Reason = &now, api.Canceled, reason
	c.save(r, false)
	delete(c.builds, r.ID)
	t.builds = slices.DeleteFunc(t.builds, func(other *record) bool { return other == r })
	if len(t.builds) > 0 {
		c.withoutBuild(t)
		return
	}
	if t.available {
		// Only the fetching home was for the build.
		c.abandon(t, reason)
		c.dropUnneeded(t)
		return
	}
	if r.Parent == "" && t.dependants.size() > 0 {
		c.substitute(t, r)
		return
	}
	c.cancelDependants(t)
	c.cancelTask(t, reason)
}

// cancelDependants cancels what cannot go on since somebody does not want what it needs. That
// is no failure of it.
func (c *Coordinator) cancelDependants(t *task) {
	work := []*task{t}
	for len(work) > 0 {
		t := work[len(work)-1]
		work = work[:len(work)-1]
		dependants := t.dependants
		t.dependants = taskSet{}
		for d := range dependants.all() {
			d.inputs.remove(t)
			if d.run != nil || d.resume != nil || d.available || c.tasks[d.drv] != d {
				continue
			}
			work = append(work, d)
			c.cancelTask(d, fmt.Sprintf("%s, which it needs, was canceled", t.drv))
		}
	}
}

// substitute gives a task whose last build was canceled, but that others need, a
// build of their own.
func (c *Coordinator) substitute(t *task, canceled *record) {
	b := canceled.Build
	b.ID, b.State, b.Reason, b.Stopped, b.Offload = newID(), t.standing(), t.reason, nil, false
	b.Submitter = nil // who does not want it shall not have a hold on what others need
	for d := range t.dependants.all() {
		if len(d.builds) > 0 {
			b.Parent = d.builds[0].ID
			break
		}
	}
	r := c.join(t, b)
	record := r.Build
	c.change(ledger.Change{Build: &record, Create: true})
}
