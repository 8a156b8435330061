package coordinator

import (
	"cmp"
	"math"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/explain"
	"lighter/internal/coordinator/inventory"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/reserve"
	"lighter/internal/coordinator/stage"
	"lighter/internal/coordinator/standstill"
	"lighter/internal/coordinator/turns"
	"lighter/internal/ledger"
	"lighter/internal/machinetest"
	"lighter/internal/quantity"
	"lighter/machines"
	"lighter/scheduler"
)

// justStarted is the age up to which a build may not show in the load average yet.
const justStarted = 30 * time.Second

// placeBy has the loop look at the queue at a time, at the latest.
func (l *loop) placeBy(at time.Time) {
	if l.placeAt.IsZero() || at.Before(l.placeAt) {
		l.placeAt = at
	}
}

// place starts what can be started now.
func (l *loop) place() {
	l.placing = false
	now := l.now()
	l.settleShares()
	if s := l.account.Save(now, false); s != nil {
		l.change(ledger.Change{Setting: s})
	}
	l.bringEarly()
	l.wake(now)
	l.endQuarantines(now)
	for _, m := range l.machines {
		if until := m.conduct.RestUntil(); now.Before(until) {
			l.placeBy(until) // anything earlier has taken its place
		}
	}
	if l.queue.Len() == 0 || l.whyPaused() != "" || l.grace != nil || l.recorder.Stalled() != nil {
		return
	}
	l.begin(l.plan(now))
}

// plan decides what starts now, and takes that out of the queue.
func (l *loop) plan(now time.Time) scheduler.Plan {
	l.account.Advance(now)
	plan := scheduler.Assign(l.input(now))
	l.queue.Apply(plan)
	l.standstill.Tell(l.log, plan.Blocked)
	for i := range plan.Deferrals {
		l.placeBy(plan.Deferrals[i].Until)
	}
	return plan
}

// input is what a decision depends on.
func (l *loop) input(now time.Time) scheduler.Input {
	described := l.schedulerMachines(now)
	return scheduler.Input{
		Now: now, Machines: described, Queue: l.queue, Missing: l.missing, Near: l.near, Shares: l.account.Shares(), Soon: l.soon(now, described),
	}
}

func (l *loop) begin(plan scheduler.Plan) {
	for i := range plan.Assignments {
		m := l.byName[plan.Assignments[i].Machine]
		m.host.coming++
		m.host.awaited = m.BuildCores == machines.BuildCoresAuto && reserve.Awaited(l.queue.All(), m.static())
	}
	for i := range plan.Assignments {
		a := &plan.Assignments[i]
		if t := l.byID[a.Build.ID]; t != nil {
			l.counts.Placements++
			l.latency.Observe(l.now().Sub(t.queuedAt).Seconds())
			reason := "it finishes earliest there"
			if t.estimate.Measured() {
				reason += ", in " + quantity.Duration(a.Finish)
			}
			t.place(l, l.byName[a.Machine], reason+t.failed.Before())
		}
		l.byName[a.Machine].host.coming--
	}
	for i := range plan.Again {
		l.beginAgain(&plan.Again[i])
	}
}

// schedulerMachines describes all machines. The result is valid until the next call.
func (l *loop) schedulerMachines(now time.Time) []scheduler.Machine {
	l.lacking = lackedItems{} // sizes, and what machines have, may have changed since the last round
	if n := len(l.machines); cap(l.described) < n {
		l.described = make([]scheduler.Machine, n)
	} else {
		l.described = l.described[:n]
	}
	for i, m := range l.machines {
		l.described[i] = m.schedulerMachine(now, l.described[i].Busy)
		l.described[i].Tokens = l.stock().Tokens(&l.described[i])
	}
	return l.described
}

// schedulerMachine describes a machine. Its Busy reuses the memory of busy, which may be nil.
func (m *machine) schedulerMachine(now time.Time, busy []scheduler.Running) scheduler.Machine {
	s := scheduler.Machine{
		Name: m.Name, Systems: m.systems(), Features: m.Offers(), MandatoryFeatures: m.MandatoryFeatures,
		Slots: m.ParallelBuilds, Memory: m.memory(), Tokens: m.Tokens, Speed: m.speed.Speed(m.Speed), Bandwidth: m.peer.Bandwidth.Value(), Pending: m.peer.Sending.Pending(),
		FetchBandwidth: m.peer.FetchBandwidth.Value(), Fetching: m.peer.Fetching.Ahead(),
		OverloadThreshold: m.OverloadThreshold, FreeDisk: -1, MinFreeDisk: m.MinFreeDisk, Unavailable: m.unavailable(),
		Refuses: m.admission.Refuses, Busy: busy[:0],
	}
	if len(m.host.machines) > 1 {
		s.Host = m.host.name()
	}
	if m.Local {
		s.Bandwidth, s.FetchBandwidth = math.Inf(1), math.Inf(1)
	}
	if m.info != nil {
		s.FreeDisk, s.Cores = m.info.FreeDisk, m.info.Cores
		cores := float64(max(1, m.info.Cores))
		s.Load, s.OwnLoad, s.OwnKnown = m.info.Load/cores, m.info.OwnLoad/cores, m.tellsOwnLoad
	}
	for a := range m.attempts {
		if a.FetchOnly {
			continue
		}
		elapsed := now.Sub(a.began)
		expected := time.Duration(float64(a.task.expected()) / max(s.Speed, 0.01))
		s.Busy = append(s.Busy, scheduler.Running{
			Build: a.build, Remaining: scheduler.Remaining(expected, elapsed), Elapsed: elapsed, Once: !a.mayRunAgain(m.c),
		})
		if elapsed < justStarted {
			s.JustStarted++
		}
	}
	return s
}

// missing estimates how many bytes of a build's inputs a machine lacks, and how long it takes to get
// those home that are on other machines.
func (l *loop) missing(b *scheduler.Build, machine string) scheduler.Lack {
	t, m := l.byID[b.ID], l.byName[machine]
	if t == nil || m == nil {
		return scheduler.Lack{}
	}
	bytes, gather := l.inputsOf(t).LackedBy(m.has)
	if m.Local {
		bytes = 0 // they are where they are needed as soon as they are home
	}
	return scheduler.Lack{Bytes: bytes, Gather: gather}
}

// near names machines that have much of what a build needs.
func (l *loop) near(b *scheduler.Build) (names []string) {
	const few = 8
	t := l.byID[b.ID]
	if t == nil {
		return nil
	}
	for _, p := range l.inputsOf(t).Near(few) {
		names = append(names, p.Name())
	}
	return names
}

// inputsOf has what a task's build needs looked up once.
func (l *loop) inputsOf(t *task) *inventory.Wanted {
	if l.lacking.task != t || l.lacking.Stale() {
		l.lacking = lackedItems{l.inventory.Want(l.items, t.inputPaths, homeRate), t}
	}
	return l.lacking.Wanted
}

// homeRate returns how many bytes a second come home from a machine, as far as that is known.
func homeRate(p *peer.Peer) float64 {
	if p.Local {
		return math.Inf(1)
	}
	return cmp.Or(p.HomeRate(), scheduler.DefaultBandwidth)
}

// lackedItems has the inputs of a build as missing needs them: missing is asked about one
// machine after the other.
type lackedItems struct {
	*inventory.Wanted
	task *task
}

// neverReason says why no machine in the machines file could ever take a task; empty if one
// could.
func (t *task) neverReason(l *loop) string {
	b := t.schedulerBuild(l)
	// Where it failed once it may still be tried again, unless it can't be built there.
	b.Skip = slices.DeleteFunc(b.Skip, func(name string) bool { return t.allows(name) && !t.failed.Unable.Has(name) })
	if n := len(l.staticMachines()); n > 0 && len(b.Skip) >= n {
		return "no machine can take it: none of those that it may use is in the machines file"
	}
	return l.neverTakes(&b)
}

// neverTakes is neverReason for any build.
func (l *loop) neverTakes(b *scheduler.Build) string {
	if len(l.machines) == 0 {
		return "no machine can take it: there are none"
	}
	return explain.Never(b, l.staticMachines(), l.foreign)
}

// foreign says that a machine does not build for a system that its entry names; empty if it names another.
func (l *loop) foreign(machine, system string) string {
	if m := l.byName[machine]; slices.Contains(m.Systems, system) {
		return machinetest.Unlike(m.info, system)
	}
	return ""
}

// staticMachines describes the machines by their entries in the machines file, and the systems that
// they have said to build for.
func (l *loop) staticMachines() []scheduler.Machine {
	if l.static == nil {
		unknown := make(map[string]bool)
		for _, m := range l.machines {
			if m.removed {
				continue
			}
			l.static = append(l.static, m.static())
			unknown[m.Name] = m.info == nil && m.Memory == 0
		}
		l.farm.Use(l.static, unknown)
	}
	return l.static
}

// stock is what reservations are made of, by staticMachines.
func (l *loop) stock() *reserve.Farm {
	l.staticMachines()
	return &l.farm
}

// static describes a machine for staticMachines.
func (m *machine) static() scheduler.Machine {
	return scheduler.Machine{
		Name: m.Name, Systems: m.systems(), Features: m.Offers(), MandatoryFeatures: m.MandatoryFeatures,
		Slots: m.ParallelBuilds, Memory: m.memory(), Tokens: m.Tokens, FreeDisk: -1,
	}
}

// mayMake reports whether a machine may make a task's outputs, by its entry in the machines file
// and by the builds that want them.
func (m *machine) mayMake(t *task) bool {
	b := scheduler.Build{}
	switch {
	case t.node != nil:
		b.System, b.Features = t.node.System, t.node.Features
	case len(t.builds) > 0: // a start found it, and it was not expanded yet
		b.System, b.Features = t.builds[0].System, t.builds[0].Features
	}
	return t.allows(m.Name) && m.possible(&b)
}

// possible reports whether the machine's entry in the machines file allows a build.
func (m *machine) possible(b *scheduler.Build) bool {
	return scheduler.Possible(b, []scheduler.Machine{m.static()})
}

// lookForIdleMachines makes sure that no build waits that a free machine could take. The loop
// places builds whenever something has changed, so whatever is found here is a bug.
func (l *loop) lookForIdleMachines() {
	if l.grace != nil || l.recorder.Stalled() != nil || l.queue.Len() == 0 && l.limits.RunOnce || l.whyPaused() != "" {
		return
	}
	now := l.now()
	plan := l.plan(now)
	l.standstill.Idle(l.log, plan, now, l.limits.IdleAlarm, func(id string) (q standstill.Queued, ok bool) {
		if t := l.byID[id]; t != nil {
			return standstill.Queued{Derivation: t.drv.String(), Since: t.queuedAt}, true
		}
		return q, false
	})
	l.begin(plan)
}

// why explains where a build stands.
func (t *task) why(l *loop, lb *liveBuild) *api.Why {
	w := &api.Why{Build: lb.Build, Summary: lb.Reason, Attempts: t.failed.List}
	for in := range t.inputs.All() {
		if !in.stage.Available() && len(in.builds) > 0 && len(w.WaitsFor) < api.MaxListed {
			w.WaitsFor = append(w.WaitsFor, in.builds[0].Build)
		}
	}
	if t.state == api.Fetching && l.room.Low() != "" {
		w.Summary = l.whyPaused()
	}
	if t.estimate.Measured() && t.machine != nil && t.state.Running() {
		w.Expected = api.Seconds(t.expected().Seconds() / max(t.machine.speed.Speed(t.machine.Speed), 0.01))
	}
	if t.node == nil {
		return w
	}
	b := t.schedulerBuild(l)
	if a := t.underWay; a != nil && a.build != nil {
		b = *a.build
	}
	w.Memory, w.MemoryReason, w.Tokens = b.Memory, t.needs().Why(b.Memory, t.node.Key().Name), b.Tokens
	if t.state != api.Queued {
		return w
	}
	now := l.now()
	t.placeInQueue(l, w)
	var could []string
	w.Machines, could = explain.Machines(&b, scheduler.Explain(&b, l.schedulerMachines(now), l.missing), l.foreign)
	if why := l.whyPaused(); why != "" {
		w.Summary = why
	}
	if w.Summary == "" {
		w.Summary = t.waitReason(l, could, w.Shares, now)
	}
	return w
}

// placeInQueue says how many builds are more urgent than a task's, and which of them are the most urgent.
func (t *task) placeInQueue(l *loop, w *api.Why) {
	const few = 3
	place, now := 1, l.now()
	var queue turns.Queue
	l.account.Advance(now)
	for b := range scheduler.InTurns(l.input(now)) {
		queue.Note(b.Share, b.ID != t.id, b.Priority == t.priority)
		if b.ID == t.id {
			w.Place, w.Shares = place, l.account.Turns(&queue, now)
			return
		}
		if other := l.byID[b.ID]; other != nil && len(other.builds) > 0 && len(w.Ahead) < few {
			w.Ahead = append(w.Ahead, other.builds[0].Build)
		}
		place++
	}
	w.Ahead = nil // it is not in the queue yet
}

func (t *task) waitReason(l *loop, could []string, turns []api.Share, now time.Time) string {
	if err := l.recorder.Stalled(); err != nil {
		return "the ledger takes no changes: " + err.Error()
	}
	switch {
	case t.stage == stage.Looking && l.grace != nil:
		return "the coordinator has just started and asks its machines what they have"
	case t.stage == stage.Looking:
		return "its inputs are being looked at"
	case now.Before(t.notBefore):
		return "it is tried again at " + t.notBefore.Format(time.TimeOnly)
	case len(could) == 0:
		return "no machine can take it now"
	}
	return explain.Waits(t.id, t.share, could, scheduler.Assign(l.input(now)), turns)
}
