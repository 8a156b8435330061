package coordinator

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/scheduler"
)

// justStarted is the age up to which a build may not show in the load average.
const justStarted = 30 * time.Second

// placeBy has the loop look at the queue at that time at the latest.
func (c *Coordinator) placeBy(at time.Time) {
	if c.placeAt.IsZero() || at.Before(c.placeAt) {
		c.placeAt = at
	}
}

// place starts what can be started now.
func (c *Coordinator) place() {
	c.placing = false
	now := time.Now()
	c.wake(now)
	c.endQuarantines(now)
	for _, m := range c.machines {
		if until := m.conduct.restUntil; now.Before(until) {
			c.placeBy(until) // anything earlier has taken its place
		}
	}
	if c.queue.Len() == 0 || c.held() != "" || c.grace != nil || c.recorder.stalled.Load() != nil {
		return
	}
	c.begin(c.plan(now))
}

// plan decides what starts now, and takes that out of the queue.
func (c *Coordinator) plan(now time.Time) scheduler.Plan {
	plan := scheduler.Assign(scheduler.Input{
		Now: now, Machines: c.schedulerMachines(now), Queue: c.queue, Missing: c.missing,
	})
	c.queue.Apply(plan)
	for i := range plan.Deferrals {
		c.placeBy(plan.Deferrals[i].Until)
	}
	return plan
}

func (c *Coordinator) begin(plan scheduler.Plan) {
	for i := range plan.Assignments {
		a := &plan.Assignments[i]
		if t := c.byID[a.Build.ID]; t != nil {
			c.counts.placed(time.Since(t.queuedAt))
			c.attempt(t, c.byName[a.Machine], fmt.Sprintf("finished earliest there, in %s", a.Finish.Round(time.Millisecond)))
		}
	}
}

// schedulerMachines describes all machines. The result is valid until the next call.
func (c *Coordinator) schedulerMachines(now time.Time) []scheduler.Machine {
	c.lacking = nil // sizes, and what machines have, may be others since the last round
	if n := len(c.machines); cap(c.described) < n {
		c.described = make([]scheduler.Machine, n)
	} else {
		c.described = c.described[:n]
	}
	for i, m := range c.machines {
		c.described[i] = c.schedulerMachine(m, now, c.described[i].Busy)
	}
	return c.described
}

// schedulerMachine describes a machine, in the memory of an earlier Busy, which may be nil.
func (c *Coordinator) schedulerMachine(m *machine, now time.Time, busy []time.Duration) scheduler.Machine {
	s := scheduler.Machine{
		Name: m.Name, Systems: m.Systems, Features: m.Features, MandatoryFeatures: m.MandatoryFeatures,
		Slots: m.ParallelBuilds, Speed: m.speed.Speed(m.Speed), Bandwidth: m.bandwidth.value(), Pending: m.sending.pending(),
		OverloadThreshold: m.OverloadThreshold, FreeDisk: -1, MinFreeDisk: m.MinFreeDisk, Unavailable: m.unavailable(),
		Refuses: m.refuses, Busy: busy[:0],
	}
	if m.Local {
		s.Bandwidth = math.Inf(1)
	}
	if m.info != nil {
		s.FreeDisk, s.Cores = m.info.FreeDisk, m.info.Cores
		s.Load = m.info.Load / float64(max(1, m.info.Cores))
	}
	for r := range m.runs {
		if r.fetchOnly {
			continue
		}
		elapsed := now.Sub(r.began)
		expected := time.Duration(float64(r.task.expected) / max(s.Speed, 0.01))
		s.Busy = append(s.Busy, scheduler.Remaining(expected, elapsed))
		if elapsed < justStarted {
			s.JustStarted++
		}
	}
	return s
}

// missing estimates how many bytes of a build's inputs a machine lacks.
func (c *Coordinator) missing(b *scheduler.Build, machine string) int64 {
	t, m := c.byID[b.ID], c.byName[machine]
	if t == nil || m == nil || m.Local {
		return 0
	}
	lacked := c.lacking
	if lacked == nil || lacked.task != t || lacked.generation != c.items.generation {
		lacked = c.lackedItems(t)
		c.lacking = lacked
	}
	sum := lacked.everywhere
	for i := range lacked.items {
		if !m.has.has(lacked.items[i].number) {
			sum += lacked.items[i].size
		}
	}
	return sum
}

// lackedItems has the inputs of a build as missing needs them: it asks about each
// machine in turn.
type lackedItems struct {
	task       *task
	generation int
	items      []numberedItem
	everywhere int64 // bytes of those that no machine has
}

type numberedItem struct {
	number uint32
	size   int64 // bytes
}

func (c *Coordinator) lackedItems(t *task) *lackedItems {
	lacked := &lackedItems{task: t, generation: c.items.generation, items: make([]numberedItem, 0, len(t.inputPaths))}
	for _, p := range t.inputPaths {
		size := c.sizeOf(p)
		if n, ok := c.items.of(p); ok {
			lacked.items = append(lacked.items, numberedItem{n, size})
		} else {
			lacked.everywhere += size
		}
	}
	return lacked
}

// neverReason says why no machine of the list could ever take a task; it is empty if
// one could.
func (c *Coordinator) neverReason(t *task) string {
	b := c.schedulerBuild(t)
	b.Skip = slices.DeleteFunc(b.Skip, t.allows) // where it failed once it may still be tried again
	if n := len(c.staticMachines()); n > 0 && len(b.Skip) >= n {
		return "no machine can take it: none of those that it may use is in the machines file"
	}
	return c.neverTakes(&b)
}

// neverTakes is neverReason for any build.
func (c *Coordinator) neverTakes(b *scheduler.Build) string {
	if scheduler.Possible(b, c.staticMachines()) {
		return ""
	}
	var closest string
	for _, v := range scheduler.Explain(b, c.staticMachines(), nil) {
		switch v.Rule {
		case scheduler.RuleSystem, scheduler.RuleSkip:
		case scheduler.RuleFeatures, scheduler.RuleMandatory:
			closest = v.String()
		default:
			return ""
		}
	}
	switch {
	case closest != "":
		return "no machine can take it: " + closest
	case len(c.machines) == 0:
		return "no machine can take it: there is none"
	}
	return "no machine can take it: none builds for " + b.System
}

// possible reports whether a machine of the list may take a build, idle and up.
func (c *Coordinator) possible(b *scheduler.Build) bool {
	return scheduler.Possible(b, c.staticMachines())
}

// possibleOn is possible for one machine.
func (c *Coordinator) possibleOn(b *scheduler.Build, machine string) bool {
	verdicts := scheduler.Explain(b, c.staticMachines(), nil)
	return slices.ContainsFunc(verdicts, func(v scheduler.Verdict) bool { return v.Machine == machine && v.OK() })
}

// staticMachines has of the machines what stands in their file alone.
func (c *Coordinator) staticMachines() []scheduler.Machine {
	if c.static == nil {
		for _, m := range c.machines {
			if m.removed {
				continue
			}
			c.static = append(c.static, m.static())
		}
	}
	return c.static
}

// static has of the machine what stands in the machines file alone.
func (m *machine) static() scheduler.Machine {
	return scheduler.Machine{
		Name: m.Name, Systems: m.Systems, Features: m.Features, MandatoryFeatures: m.MandatoryFeatures,
		Slots: m.ParallelBuilds, FreeDisk: -1,
	}
}

// lookForIdleMachines checks that no build waits which a free machine could take.
// The loop places whenever something changed, so what is found here is a bug.
func (c *Coordinator) lookForIdleMachines() {
	if c.grace != nil || c.recorder.stalled.Load() != nil || c.queue.Len() == 0 || c.held() != "" {
		return
	}
	now := time.Now()
	plan := c.plan(now)
	for i := range plan.Assignments {
		a := &plan.Assignments[i]
		if t := c.byID[a.Build.ID]; t != nil && now.Sub(t.queuedAt) >= c.limits.IdleAlarm {
			c.log.Error("a build waited though a machine was free; this is a bug in lighter",
				"build", t.id, "derivation", t.drv, "machine", a.Machine, "waited", now.Sub(t.queuedAt))
		}
	}
	c.begin(plan)
	for i := range plan.Deferrals {
		d := &plan.Deferrals[i]
		t := c.byID[d.Build.ID]
		if t == nil || now.Sub(t.queuedAt) < c.limits.IdleAlarm || now.Sub(c.alarmed[t.id]) < 10*c.limits.IdleAlarm {
			continue
		}
		c.alarmed[t.id] = now
		c.log.Info("a build waits though a machine is free", "build", t.id, "derivation", t.drv, "why", d.Reason())
	}
}

// why explains where a build stands.
func (c *Coordinator) why(t *task, r *record) *api.Why {
	w := &api.Why{Build: r.Build, Summary: r.Reason, Attempts: t.failures}
	for in := range t.inputs.all() {
		if !in.available && len(in.builds) > 0 && len(w.WaitsFor) < maxListed {
			w.WaitsFor = append(w.WaitsFor, in.builds[0].Build)
		}
	}
	if t.state == api.Fetching && c.headLow != "" {
		w.Summary = c.held()
	}
	if t.node == nil || t.state != api.Queued {
		return w
	}
	now := time.Now()
	b := c.schedulerBuild(t)
	var could []string
	verdicts := scheduler.Explain(&b, c.schedulerMachines(now), c.missing)
	for i := range verdicts {
		v := &verdicts[i]
		w.Machines = append(w.Machines, api.MachineVerdict{
			Machine: v.Machine, OK: v.OK(), Rule: string(v.Rule), Wanted: v.Wanted, Actual: v.Actual,
			Finish: api.Seconds(v.Finish.Seconds()),
		})
		if v.OK() {
			could = append(could, v.Machine)
		}
	}
	if held := c.held(); held != "" {
		w.Summary = held
	}
	if w.Summary == "" {
		w.Summary = c.waitReason(t, could, now)
	}
	return w
}

// maxListed bounds the lists that are for people.
const maxListed = 100

func (c *Coordinator) waitReason(t *task, could []string, now time.Time) string {
	if s := c.recorder.stalled.Load(); s != nil {
		return "the ledger takes no changes: " + s.err.Error()
	}
	switch {
	case t.expanding && c.grace != nil:
		return "the coordinator has just started and asks its machines what they have"
	case t.expanding:
		return "its inputs are being looked at"
	case now.Before(t.notBefore):
		return "it is tried again at " + t.notBefore.Format(time.TimeOnly)
	case len(could) == 0:
		return "no machine can take it now"
	}
	b := c.schedulerBuild(t)
	plan := scheduler.Assign(scheduler.Input{Now: now, Machines: c.schedulerMachines(now), Queue: c.queue, Missing: c.missing})
	for i := range plan.Deferrals {
		if plan.Deferrals[i].Build.ID == b.ID {
			return plan.Deferrals[i].Reason()
		}
	}
	return "more urgent builds come first on " + strings.Join(could, ", ")
}
