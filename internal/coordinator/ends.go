package coordinator

import (
	"fmt"
	"slices"

	"lighter/internal/api"
	"lighter/internal/coordinator/failing"
	"lighter/internal/coordinator/graph"
	"lighter/internal/coordinator/stage"
	"lighter/internal/ledger"
	"lighter/store"
)

// ends.go is how builds, tasks and attempts end: each kind through one door.

// end is the door through which every build leaves: it becomes final, and the loop no longer
// has it.
func (lb *liveBuild) end(l *loop, s api.State, reason string) {
	now := l.now()
	lb.Stopped, lb.State, lb.Reason = &now, s, reason
	lb.save(l, false)
	delete(l.builds, lb.ID)
}

// leave ends a build while its task goes on.
func (lb *liveBuild) leave(l *loop, s api.State, reason string) {
	lb.end(l, s, reason)
	lb.task.builds = slices.DeleteFunc(lb.task.builds, func(other *liveBuild) bool { return other == lb })
	lb.task.doubt(l)
}

// endBuilds ends all builds of a task.
func (t *task) endBuilds(l *loop, s api.State, reason string) {
	t.state, t.reason = s, reason
	for _, lb := range t.builds {
		t.identify(lb)
		lb.end(l, s, reason)
	}
	t.builds = nil
}

// detach takes an attempt from its task and its machine: because it is over, or for the reason
// why it is given up. What it reports after that is not believed.
func (a *attempt) detach(l *loop, why string) {
	t := a.task
	if t.underWay = nil; a.FetchOnly {
		l.coming.Lost(t.drv)
		t.enter(l, stage.Made)
	} else {
		t.enter(l, stage.Undecided)
		a.release(l)
	}
	delete(a.host.attempts, a)
	if a.Later {
		a.host.early.Over(t)
		l.placing = true // what is next may come
	}
	if why == "" {
		a.Cancel(nil)
		return
	}
	a.stale = why
	a.Cancel(errAbandoned)
}

// ---- tasks ---------------------------------------------------------------------------------

// finish ends a task, and its builds, with success.
func (t *task) finish(l *loop, reason string) {
	t.setAvailable(l)
	t.endBuilds(l, api.Succeeded, reason)
	t.releaseInputs(l)
	t.dropUnneeded(l)
	l.placing = true
}

// setAvailable notes that a task's outputs exist, and lets tasks go on that waited for nothing
// else.
func (t *task) setAvailable(l *loop) {
	if t.stage.Available() {
		return
	}
	t.enter(l, stage.Made)
	for d := range t.dependants.All() {
		if d.waiting--; d.waiting == 0 && d.stage == stage.Waiting {
			d.makeReady(l)
		}
	}
}

// releaseInputs notes that a task that is over no longer needs its inputs.
func (t *task) releaseInputs(l *loop) {
	inputs := t.inputs
	t.inputs = graph.Set[*task]{}
	for in := range inputs.All() {
		in.dependants.Remove(t)
		in.doubt(l)
		in.dropUnneeded(l)
	}
}

// dropUnneeded removes a task that nobody needs and nobody asked for, with whatever is kept of
// its outputs or still being done for it.
func (t *task) dropUnneeded(l *loop) {
	if t.dependants.Size() > 0 || t.stage == stage.Over || t.builds.wantedHome() || t.builds.offloaded() {
		return
	}
	if !t.stage.Available() {
		t.cancel(l, "nobody needs it any more")
		return
	}
	t.abandon(l, "nobody needs the outputs any more")
	t.enter(l, stage.Over)
	if m := t.kept; m != nil {
		t.release(l, m)
	}
	t.releaseInputs(l)
}

// end ends an unfinished task and all its builds; why is what its attempt is told.
func (t *task) end(l *loop, s api.State, reason, why string) {
	t.endBuilds(l, s, reason)
	t.abandon(l, why)
	t.enter(l, stage.Over)
	if m := t.kept; m != nil {
		t.release(l, m)
	}
	t.releaseInputs(l)
}

// cancel ends a task that is not final, and all its builds.
func (t *task) cancel(l *loop, reason string) { t.end(l, api.Canceled, reason, reason) }

// abandon ends the attempt that is under way, here and on its machine.
func (t *task) abandon(l *loop, why string) {
	t.dropElder(l)
	a := t.underWay
	if a == nil {
		if t.takeUpOn != nil {
			m, id := t.takeUpOn, t.id
			l.durably(func() { m.forget(l, id) })
			t.takeUpOn = nil
		}
		return
	}
	a.detach(l, why)
	m, id := a.machine, a.ID
	if !a.FetchOnly {
		l.durably(func() { m.forget(l, id) })
	}
	l.placing = true
}

// ---- failures ------------------------------------------------------------------------------

// fail ends a task as failed, with all that need it, directly or not, and have not begun.
func (t *task) fail(l *loop, f *api.Failure) {
	doomed := []*task{t}
	seen := map[*task]bool{t: true}
	dependents := 0 // builds
	for i := 0; i < len(doomed); i++ {
		t := doomed[i]
		for d := range t.dependants.All() {
			d.inputs.Remove(t)
			if !d.begun() && d.stage != stage.Over && !seen[d] {
				seen[d] = true
				doomed = append(doomed, d)
				dependents += len(d.builds)
			}
		}
		t.dependants = graph.Set[*task]{}
	}
	for _, lb := range t.builds {
		lb.Dependents = dependents
	}
	t.endFailed(l, f)
	of := failing.OfInput(t.drv, f)
	for _, d := range doomed[1:] {
		d.endFailed(l, of)
	}
}

func (t *task) endFailed(l *loop, f *api.Failure) {
	state := api.Failed
	switch {
	case f.OfDependency():
		state = api.DependencyFailed
	case f.Kind == string(store.FailedTimeout) || f.Kind == string(store.FailedSilence):
		state = api.TimedOut
	}
	for _, lb := range t.builds {
		lb.Failure = f
	}
	t.end(l, state, f.Message, "the build failed")
}

// ---- what nobody wants ---------------------------------------------------------------------

// cancel cancels one build. Its task goes on if another needs it; if that takes a stand-in, its id is
// returned.
func (lb *liveBuild) cancel(l *loop, reason string) (standIn string) {
	if lb.check != nil {
		lb.check.cancelBy(l, reason)
		return ""
	}
	lb.leave(l, api.Canceled, reason)
	return lb.unwanted(l, reason)
}

// unwanted ends the task of a build that has left it, unless others need it; see cancel.
func (lb *liveBuild) unwanted(l *loop, reason string) (standIn string) {
	t := lb.task
	if len(t.builds) > 0 {
		t.withoutBuild(l)
		return ""
	}
	if t.stage.Available() {
		// Only the fetching home was for the build.
		t.abandon(l, reason)
		t.dropUnneeded(l)
		return ""
	}
	if lb.Parent == "" && t.dependants.Size() > 0 {
		return t.standIn(l, lb)
	}
	t.cancelDependants(l)
	t.cancel(l, reason)
	return ""
}

// timeOut ends one build that took too long, as cancel does.
func (lb *liveBuild) timeOut(l *loop, f *api.Failure) {
	lb.Failure = f
	lb.leave(l, api.TimedOut, f.Message)
	lb.unwanted(l, f.Message)
}

// cancelDependants cancels tasks that cannot go on because what they need is no longer wanted.
// That is not a failure.
func (t *task) cancelDependants(l *loop) {
	work := []*task{t}
	for len(work) > 0 {
		t := work[len(work)-1]
		work = work[:len(work)-1]
		dependants := t.dependants
		t.dependants = graph.Set[*task]{}
		for d := range dependants.All() {
			d.inputs.Remove(t)
			if d.begun() || d.stage == stage.Over {
				continue
			}
			work = append(work, d)
			d.cancel(l, fmt.Sprintf("needs %s, which was canceled", api.DerivationName(t.drv)))
		}
	}
}

// standIn gives a task that others need a new build when its last one was canceled, and returns its id.
func (t *task) standIn(l *loop, canceled *liveBuild) (id string) {
	b := canceled.Build
	b.ID, b.State, b.Reason, b.Stopped, b.Offload = newID(), t.joinState(), t.reason, nil, false
	b.Failure = nil
	b.Submitter = nil // who does not want it shall not have a hold on what others need
	for d := range t.dependants.All() {
		if len(d.builds) > 0 {
			b.Parent = d.builds[0].ID
			break
		}
	}
	lb := t.join(l, b)
	record := lb.Build
	l.change(ledger.Change{Build: &record, Create: true})
	return b.ID
}
