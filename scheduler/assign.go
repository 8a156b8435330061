package scheduler

import (
	"math"
	"slices"
	"strings"
	"time"
)

// maxWaiting bounds how many builds of a class a round looks at without placing
// them, in multiples of all slots. Beyond it the class's free machines are so much
// slower than its busy ones that leaving them idle for this round costs at most
// 1/(1+maxWaiting) of what all machines together could do.
const maxWaiting = 8

// Assign decides one round: which builds start now, and where. It changes nothing but
// Input.Shares, which learns who is there; hand the plan to Queue.Apply.
func Assign(in Input) Plan {
	r := newRound(&in)
	if r.free > 0 {
		r.order = newOrder(r.lines(), r.backlogs(), in.Shares, r.used())
		r.keepForSoon()
	}
	for r.free > 0 && r.open > 0 {
		e := r.order.next()
		if e == nil {
			break
		}
		r.place(e)
	}
	r.again()
	return r.plan
}

// round is the state of one call of Assign.
type round struct {
	*Input
	machines *table
	demands  map[*demand]*eligible
	fits     map[*class]*fit
	order    *order
	free     int // slots of all machines together that can be taken now
	slots    int // of all machines together
	open     int // classes that are looked at and of which some machine is free
	// reserved counts the builds looked at that nothing free could take.
	reserved int
	searches int // see searchAll
	plan     Plan
}

// fit says which machines may take the builds of a class.
type fit struct {
	*eligible
	usable  group // for its demand, without those that the class avoids; made when it is needed
	cursor  int   // of those before it no slot is free
	open    bool  // counted in round.open
	waiting int   // builds looked at and not placed in this round
}

func newRound(in *Input) *round {
	r := &round{Input: in, machines: newTable(in.Machines), demands: make(map[*demand]*eligible), fits: make(map[*class]*fit)}
	for _, c := range r.machines.all {
		r.free += c.free
		r.slots += c.Slots
	}
	for _, k := range in.Queue.demands {
		r.demands[k] = r.machines.eligible(k)
	}
	var blocked []*class
	var room [8]int
	for _, c := range in.Queue.classes {
		e, skip := r.demands[c.demand], r.machines.places(room[:0], c.skip)
		idle := e.idle.outside(skip) > 0
		if !idle {
			blocked = append(blocked, c)
		}
		if r.free == 0 || e.usable.outside(skip) == 0 {
			continue
		}
		if idle {
			r.open++
		}
		r.fits[c] = &fit{eligible: e, open: idle}
	}
	slices.SortFunc(blocked, func(a, b *class) int { return strings.Compare(a.key, b.key) })
	r.plan.Blocked = make([]Blocked, 0, len(blocked))
	for _, c := range blocked {
		r.plan.Blocked = append(r.plan.Blocked, r.machines.blocked(c, r.demands[c.demand]))
	}
	return r
}

// lines returns those whose builds some machine can take, now or later.
func (r *round) lines() []*line {
	var lines []*line
	for c := range r.fits {
		for _, l := range c.lines {
			lines = append(lines, l)
		}
	}
	return lines
}

// used returns what each share that has builds has used, with what its running builds will use.
func (r *round) used() map[string]float64 {
	if r.Shares == nil {
		return nil
	}
	held := make(map[string]float64)
	for _, c := range r.Queue.classes {
		for share := range c.lines {
			held[share] = 0
		}
	}
	hosts := make(map[string]bool)
	for i := range r.Machines {
		m := &r.Machines[i]
		if m.Host != "" {
			if hosts[m.Host] {
				continue
			}
			hosts[m.Host] = true
		}
		for j := range m.Busy {
			if b := m.Busy[j].Build; b != nil {
				held[b.Share] += min(max(0, m.Busy[j].Remaining.Seconds()), turnHorizon.Seconds())
			}
		}
	}
	return r.Shares.arrive(held, r.Now)
}

func (r *round) fitOf(c *class) *fit {
	f := r.fits[c]
	if f.usable.set == nil {
		f.usable = f.eligible.usable
		if skip := r.machines.places(nil, c.skip); skip != nil {
			left := f.usable.without(skip)
			f.usable = group{left, left.size()}
		}
	}
	return f
}

// hasFree reports whether a slot of a machine that may take the builds of a class is free.
func (r *round) hasFree(f *fit) bool {
	f.cursor = f.usable.next(f.cursor)
	for f.cursor >= 0 && r.machines.all[f.cursor].free == 0 {
		f.cursor = f.usable.next(f.cursor + 1)
	}
	if f.cursor < 0 {
		f.cursor = len(r.machines.all)
		return false
	}
	return true
}

// choice is a machine for a build, with what follows from it. Times are in seconds from now.
type choice struct {
	*candidate
	lack   Lack
	begin  float64 // when it gets a slot
	end    float64 // when it is built
	finish float64 // when its outputs are where they are wanted; +Inf if there is no machine
}

// better reports whether a machine that finishes at the given time is better than the choice:
// earlier, or at the same time with a better link, or with more of its slots free.
func (o *choice) better(c *candidate, finish float64) bool {
	switch {
	case finish != o.finish || o.candidate == nil:
		return finish < o.finish
	case c.back != o.back:
		return c.back > o.back
	}
	return c.free*o.Slots > o.free*c.Slots
}

// place decides about one build.
func (r *round) place(e *entry) {
	f := r.fitOf(e.line.class)
	best, free := r.choose(e, f)
	r.order.charge(expected(&e.Build) / speedOf(best.candidate))
	switch {
	case free.candidate == nil:
		r.hold(e, f, best)
	case best.candidate != free.candidate && r.worthWaiting(e, best, free):
		r.hold(e, f, best)
		r.plan.Deferrals = append(r.plan.Deferrals, r.deferral(e, best, free))
	default:
		r.free -= free.start(&e.Build, free.end, free.lack)
		r.plan.Assignments = append(r.plan.Assignments, Assignment{
			Build: &e.Build, Machine: free.Name, Missing: free.lack.Bytes, Finish: duration(free.finish),
		})
	}
	if f.open && (!r.order.more(e.line.class) || !r.hasFree(f)) {
		f.open = false
		r.open--
	}
}

func speedOf(c *candidate) float64 {
	if c == nil {
		return 1
	}
	return c.speed
}

// choose returns the machine where the build would be finished first, and the one
// among those that can begin now.
func (r *round) choose(e *entry, f *fit) (best, free choice) {
	best.finish, free.finish = math.Inf(1), math.Inf(1)
	if f.usable.size > maxExact {
		r.chooseOfMany(e, f, &best, &free)
		return best, free
	}
	for i := f.usable.next(0); i >= 0; i = f.usable.next(i + 1) {
		r.consider(&e.Build, r.machines.all[i], &best, &free)
	}
	return best, free
}

// consider improves the choices by a machine if that is better. It reports whether the machine could take the
// build, as far as it looked.
func (r *round) consider(b *Build, c *candidate, best, free *choice) bool {
	// What is missing costs a look-up, so it is only asked where the machine
	// could win with nothing missing.
	took, home := c.build(b), c.home(b)
	least := c.freeAt() + took + home
	if c.free > 0 && !c.spares(b, c.freeAt()+took) {
		return false
	}
	if !best.better(c, least) && !(c.free > 0 && free.better(c, least)) {
		return true
	}
	if c.tooSmall(b) != "" {
		return false
	}
	var lack Lack
	if r.Missing != nil {
		lack = r.Missing(b, c.Name)
		lack.Bytes, lack.Gather = max(0, lack.Bytes), max(0, lack.Gather)
	}
	if c.FreeDisk >= 0 && float64(c.FreeDisk-c.MinFreeDisk) < c.pending+float64(lack.Bytes) {
		return false
	}
	took += c.transfer(lack)
	begin := c.begin(b, took)
	end := begin + took
	if best.better(c, end+home) {
		*best = choice{c, lack, begin, end, end + home}
	}
	if c.free > 0 && begin == 0 && c.spares(b, end) && free.better(c, end+home) {
		*free = choice{c, lack, begin, end, end + home}
	}
	return true
}

// worthWaiting reports whether a build should wait for a better machine than the free one: it would
// be finished there so much earlier, and has not waited yet for as long as the free one needs.
func (r *round) worthWaiting(e *entry, best, free choice) bool {
	if !e.since.IsZero() && r.Now.Sub(e.since).Seconds() >= free.finish {
		return false
	}
	return free.finish-best.finish >= WaitMargin*free.finish
}

// hold lets the build wait, and counts the slot that it waits for as taken.
func (r *round) hold(e *entry, f *fit, best choice) {
	if best.candidate != nil {
		r.free -= best.reserve(&e.Build, best.begin, best.end, best.lack)
	}
	f.waiting++
	if r.hasFree(f) {
		if f.waiting >= maxWaiting*r.slots {
			r.order.drop(e.line.class)
		}
		return
	}
	// Nothing of this class can start in this round. Its builds are looked at only
	// for the slots that they will take from those that wait for the same machines.
	r.reserved++
	if f.waiting >= r.slots || r.reserved >= maxWaiting*r.slots {
		r.order.drop(e.line.class)
	}
}

func (r *round) deferral(e *entry, best, free choice) Deferral {
	since := e.since
	if since.IsZero() {
		since = r.Now
	}
	return Deferral{
		Build: &e.Build, Machine: best.Name, Wait: duration(best.begin), Finish: duration(best.finish),
		Instead: free.Name, InsteadFinish: duration(free.finish), Since: since, Until: since.Add(duration(free.finish)),
	}
}

// duration converts seconds, without overflow.
func duration(seconds float64) time.Duration {
	if seconds >= math.MaxInt64/1e9 {
		return math.MaxInt64
	}
	return time.Duration(seconds * 1e9)
}

// round3 is a duration for people, with about three digits.
func round3(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
