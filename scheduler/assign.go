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

// Assign decides one round: which builds start now, and where. It changes nothing;
// hand the plan to Queue.Apply.
func Assign(in Input) Plan {
	r := newRound(in)
	for r.free > 0 {
		e := r.merge.next()
		if e == nil {
			break
		}
		r.place(e)
	}
	return r.plan
}

// candidate is a machine during a round. Times are in seconds from now.
type candidate struct {
	*Machine
	others    []*candidate  // of the same host
	free      int           // slots that can be taken now
	ends      heap[float64] // when builds of the host end; of these, the Slots last ones
	started   int           // builds placed here in this round
	pending   float64       // bytes queued on the link
	speed     float64       // never 0
	bandwidth float64       // never 0
}

func newCandidate(m *Machine) *candidate {
	c := new(candidate)
	c.init(m, make([]float64, 0, len(m.Busy)))
	return c
}

// init makes c the candidate of a machine, with room for the ends of its slots.
func (c *candidate) init(m *Machine, ends []float64) {
	*c = candidate{Machine: m, speed: m.Speed, bandwidth: m.Bandwidth, pending: float64(m.Pending)}
	if !(c.speed > 0) {
		c.speed = 1
	}
	if !(c.bandwidth > 0) {
		c.bandwidth = DefaultBandwidth
	}
	c.ends = heap[float64]{items: ends, less: earlier}
	for i := range m.Busy {
		c.ends.push(max(0, m.Busy[i].Remaining.Seconds()))
	}
	for len(c.ends.items) > max(1, m.Slots) { // a slot is free only once these have ended too
		c.ends.pop()
	}
	if m.occupied(0, 0) == "" {
		c.free = m.Slots - len(m.Busy)
	}
}

func earlier(a, b float64) bool { return a < b }

// usable reports whether the machine can take a build now or when one of its
// builds ends. One that is overloaded by others is left alone.
func (c *candidate) usable() bool {
	return c.free > 0 || c.Unavailable == "" && c.Refuses == "" && !c.diskFull(0) && len(c.Busy) > 0
}

// wait returns the seconds until a slot is free.
func (c *candidate) wait() float64 {
	if c.free > 0 {
		return 0
	}
	if len(c.ends.items) == 0 {
		return math.Inf(1)
	}
	return c.ends.items[0]
}

// transfer returns the seconds that sending that many bytes takes, behind those
// that are queued already.
func (c *candidate) transfer(missing int64) float64 {
	return (c.pending + float64(missing)) / c.bandwidth
}

// build returns the seconds that the build itself takes.
func (c *candidate) build(b *Build) float64 { return expected(b) / c.speed }

func expected(b *Build) float64 {
	if b.Expected <= 0 {
		return DefaultDuration.Seconds()
	}
	return b.Expected.Seconds()
}

// reserve takes the slot that is free first until finish. It returns how many fewer slots of the
// host's machines can be taken now.
func (c *candidate) reserve(finish float64, missing int64) (taken int) {
	starts := c.free > 0
	taken = c.take(finish, missing, starts)
	for _, other := range c.others {
		if starts || other.free == 0 { // what waits takes no slot that it could not have itself
			taken += other.take(finish, missing, starts)
		}
	}
	return taken
}

// take notes a build that holds the candidate's host until finish, and starts now or later.
func (c *candidate) take(finish float64, missing int64, starts bool) (taken int) {
	before := c.free
	c.pending += float64(missing)
	c.ends.push(finish)
	if c.free > 0 {
		c.free--
	} else if len(c.ends.items) > max(1, c.Slots) {
		c.ends.pop()
	}
	if starts {
		if c.started++; c.overloaded(c.started) {
			c.free = 0
		}
	}
	return before - c.free
}

// round is the state of one call of Assign.
type round struct {
	now     time.Time
	missing func(b *Build, machine string) Lack
	merge   *merge
	fits    map[*class]*fit
	free    int // slots of all machines together that can be taken now
	slots   int // of all machines together
	// reserved counts the builds looked at that nothing free could take.
	reserved int
	plan     Plan
}

// fit says which machines may take the builds of a class.
type fit struct {
	candidates []*candidate // fastest first, then by name
	waiting    int          // builds looked at and not placed in this round
}

func newRound(in Input) *round {
	r := &round{now: in.Now, missing: in.Missing, fits: make(map[*class]*fit)}
	all, machines := newCandidates(in.Machines)
	for _, c := range all {
		r.free += c.free
		r.slots += c.Slots
	}
	var classes []*class
	for _, c := range in.Queue.sorted() {
		if b := blocked(c, machines); b != nil {
			r.plan.Blocked = append(r.plan.Blocked, *b)
		}
		f := &fit{candidates: make([]*candidate, 0, len(all))}
		for _, m := range all {
			if m.usable() && m.excludes(c.system, c.features, c.skip) == "" {
				f.candidates = append(f.candidates, m)
			}
		}
		if len(f.candidates) > 0 {
			r.fits[c] = f
			classes = append(classes, c)
		}
	}
	r.merge = newMerge(classes)
	return r
}

// newCandidates makes all candidates of a round, the fastest first, then by name. The
// machines are in the given order.
func newCandidates(list []Machine) (all []*candidate, machines []*Machine) {
	room := 0
	for i := range list {
		room += len(list[i].Busy) + max(0, list[i].Slots)
	}
	// A round is short, and there are many: it takes its memory in a few pieces, and
	// sorts numbers, since to move pointers is dear while garbage is collected.
	ends := make([]float64, room)
	unsorted := make([]candidate, len(list))
	order := make([]int32, len(list))
	machines = make([]*Machine, len(list))
	for i := range list {
		m := &list[i]
		n := len(m.Busy) + max(0, m.Slots)
		unsorted[i].init(m, ends[:0:n])
		ends = ends[n:]
		order[i], machines[i] = int32(i), m
	}
	slices.SortFunc(order, func(a, b int32) int {
		x, y := &unsorted[a], &unsorted[b]
		switch {
		case x.speed > y.speed:
			return -1
		case x.speed < y.speed:
			return 1
		}
		return strings.Compare(x.Name, y.Name)
	})
	all = make([]*candidate, len(list))
	for i, n := range order {
		all[i] = &unsorted[n]
	}
	share(unsorted)
	return all, machines
}

// share tells candidates which others are of the same host.
func share(all []candidate) {
	var hosts map[string][]*candidate
	for i := range all {
		if host := all[i].Host; host != "" {
			if hosts == nil {
				hosts = make(map[string][]*candidate)
			}
			hosts[host] = append(hosts[host], &all[i])
		}
	}
	for _, same := range hosts {
		for _, c := range same {
			for _, other := range same {
				if other != c {
					c.others = append(c.others, other)
				}
			}
		}
	}
}

// choice is a machine for a build, with what follows from it.
type choice struct {
	*candidate
	missing int64
	finish  float64 // seconds from now; +Inf if there is none
}

// better reports whether a machine that finishes at the given time is better than
// the choice: earlier, or at the same time with more of its slots free.
func (o *choice) better(c *candidate, finish float64) bool {
	if finish != o.finish || o.candidate == nil {
		return finish < o.finish
	}
	return c.free*o.Slots > o.free*c.Slots
}

// place decides about one build.
func (r *round) place(e *entry) {
	f := r.fits[e.class]
	best, free := r.choose(e, f)
	switch {
	case free.candidate == nil:
		r.hold(e, f, best)
	case best.candidate != free.candidate && r.worthWaiting(e, best, free):
		r.hold(e, f, best)
		r.plan.Deferrals = append(r.plan.Deferrals, r.deferral(e, best, free))
	default:
		r.assign(e, free)
	}
}

// choose returns the machine where the build would be finished first, and the one
// among those with a free slot.
func (r *round) choose(e *entry, f *fit) (best, free choice) {
	best.finish, free.finish = math.Inf(1), math.Inf(1)
	for _, c := range f.candidates {
		// What is missing costs a look-up, so it is only asked where the machine
		// could win with nothing missing.
		finish := c.wait() + c.transfer(0) + c.build(&e.Build)
		canBest, canFree := best.better(c, finish), c.free > 0 && free.better(c, finish)
		if !canBest && !canFree {
			continue
		}
		var missing int64
		if r.missing != nil {
			missing = max(0, r.missing(&e.Build, c.Name).Bytes)
			finish += float64(missing) / c.bandwidth
		}
		if c.FreeDisk >= 0 && float64(c.FreeDisk-c.MinFreeDisk) < c.pending+float64(missing) {
			continue
		}
		if best.better(c, finish) {
			best = choice{c, missing, finish}
		}
		if c.free > 0 && free.better(c, finish) {
			free = choice{c, missing, finish}
		}
	}
	return best, free
}

func (r *round) worthWaiting(e *entry, best, free choice) bool {
	if !e.until.IsZero() && !r.now.Before(e.until) {
		return false
	}
	return free.finish-best.finish >= WaitMargin*free.finish
}

// hold lets the build wait, and counts the slot that it waits for as taken.
func (r *round) hold(e *entry, f *fit, best choice) {
	if best.candidate != nil {
		r.free -= best.reserve(best.finish, best.missing)
	}
	f.waiting++
	if slices.ContainsFunc(f.candidates, func(c *candidate) bool { return c.free > 0 }) {
		if f.waiting >= maxWaiting*r.slots {
			r.merge.drop(e.class)
		}
		return
	}
	// Nothing of this class can start in this round. Its builds are looked at only
	// for the slots that they will take from those that wait for the same machines.
	r.reserved++
	if f.waiting >= r.slots || r.reserved >= maxWaiting*r.slots {
		r.merge.drop(e.class)
	}
}

func (r *round) assign(e *entry, to choice) {
	r.free -= to.reserve(to.finish, to.missing)
	r.plan.Assignments = append(r.plan.Assignments, Assignment{
		Build: &e.Build, Machine: to.Name, Missing: to.missing, Finish: duration(to.finish),
	})
}

func (r *round) deferral(e *entry, best, free choice) Deferral {
	until := e.until
	if until.IsZero() {
		until = r.now.Add(duration(free.finish))
	}
	wait := best.finish - best.build(&e.Build)
	return Deferral{
		Build: &e.Build, Machine: best.Name, Wait: duration(wait), Finish: duration(best.finish),
		Instead: free.Name, InsteadFinish: duration(free.finish), Until: until,
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
