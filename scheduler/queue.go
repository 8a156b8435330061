package scheduler

import (
	"iter"
	"slices"
	"strings"
	"time"
)

// Queue holds the builds that are ready to be placed, by class and urgency. Each
// change costs O(log n). It is not safe for concurrent use.
type Queue struct {
	builds  map[string]*entry
	classes map[string]*class
	demands map[string]*demand
}

// entry is a build in the queue.
type entry struct {
	Build
	line  *line
	index int       // in the line
	since time.Time // if not zero, it waits for a better machine since then
}

// demand is what builds ask for: a system and features.
type demand struct {
	key      string
	system   string
	features []string // sorted
	builds   int
	work     float64 // seconds that they are expected to take together at speed 1
}

// class is the set of builds with a demand that must avoid the same machines.
type class struct {
	*demand
	key    string
	skip   []string // sorted
	lines  map[string]*line
	builds int
}

// line has the builds of a class that are of one share, by urgency.
type line struct {
	class *class
	share string
	heap  heap[*entry]
}

// NewQueue returns an empty queue.
func NewQueue() *Queue {
	return &Queue{builds: make(map[string]*entry), classes: make(map[string]*class), demands: make(map[string]*demand)}
}

// Push adds a build, or replaces the one with the same ID. The queue keeps the
// slices and maps of the build; they must not be changed any more.
func (q *Queue) Push(b Build) {
	e := &entry{Build: b}
	if old := q.builds[b.ID]; old != nil {
		e.since = old.since
		q.Remove(b.ID)
	}
	e.line = q.lineOf(&b)
	e.line.heap.push(e)
	c := e.line.class
	c.builds++
	c.demand.builds++
	c.work += expected(&b)
	q.builds[b.ID] = e
}

// lineOf returns the line that a build belongs to; it makes what is not there yet.
func (q *Queue) lineOf(b *Build) *line {
	features, skip := sortedSet(b.Features), sortedSet(b.Skip)
	key := b.System + "\x00" + strings.Join(features, "\x01")
	k := q.demands[key]
	if k == nil {
		k = &demand{key: key, system: b.System, features: features}
		q.demands[key] = k
	}
	key += "\x00" + strings.Join(skip, "\x01")
	c := q.classes[key]
	if c == nil {
		c = &class{key: key, demand: k, skip: skip, lines: make(map[string]*line)}
		q.classes[key] = c
	}
	l := c.lines[b.Share]
	if l == nil {
		l = &line{class: c, share: b.Share}
		l.heap.less = func(a, b *entry) bool { return urgent(&a.Build, &b.Build) }
		l.heap.moved = func(e *entry, index int) { e.index = index }
		c.lines[b.Share] = l
	}
	return l
}

func sortedSet(words []string) []string {
	set := slices.Clone(words)
	slices.Sort(set)
	return slices.Compact(set)
}

// Remove takes a build out and reports whether it was there.
func (q *Queue) Remove(id string) bool {
	e := q.builds[id]
	if e == nil {
		return false
	}
	delete(q.builds, id)
	l, c := e.line, e.line.class
	l.heap.remove(e.index)
	c.builds--
	c.demand.builds--
	c.work -= expected(&e.Build)
	if len(l.heap.items) == 0 {
		delete(c.lines, l.share)
	}
	if c.builds == 0 {
		delete(q.classes, c.key)
	}
	if c.demand.builds == 0 {
		delete(q.demands, c.demand.key)
	}
	return true
}

// Reprioritise changes how urgent a build is and reports whether it was there.
func (q *Queue) Reprioritise(id string, priority int, rank time.Duration, dependants int) bool {
	e := q.builds[id]
	if e == nil {
		return false
	}
	if e.Priority == priority && e.Rank == rank && e.Dependants == dependants {
		return true
	}
	e.Priority, e.Rank, e.Dependants = priority, rank, dependants
	e.line.heap.fix(e.index)
	return true
}

// Get returns a build of the queue.
func (q *Queue) Get(id string) (Build, bool) {
	if e := q.builds[id]; e != nil {
		return e.Build, true
	}
	return Build{}, false
}

// Len returns the number of builds.
func (q *Queue) Len() int { return len(q.builds) }

// All yields the builds, the most urgent first, whoever they are of. The queue must not
// change meanwhile.
func (q *Queue) All() iter.Seq[Build] { return newOrder(q.lines(), nil, nil, nil).all() }

// InTurns yields the builds of the input's queue in about the order in which they will be looked at,
// the next one first: as All does, with its shares taking turns. The input does not change, and the
// queue must not meanwhile.
func InTurns(in Input) iter.Seq[Build] {
	if in.Shares != nil {
		in.Shares = in.Shares.clone()
	}
	r := &round{Input: &in}
	return newOrder(in.Queue.lines(), nil, in.Shares, r.used()).all()
}

// Apply takes the builds that the plan assigns out of the queue, and notes since
// when the deferred ones wait.
func (q *Queue) Apply(p Plan) {
	for i := range p.Assignments {
		q.Remove(p.Assignments[i].Build.ID)
	}
	for i := range p.Deferrals {
		if e := q.builds[p.Deferrals[i].Build.ID]; e != nil {
			e.since = p.Deferrals[i].Since
		}
	}
}

// lines returns all lines, in no order.
func (q *Queue) lines() []*line {
	lines := make([]*line, 0, len(q.classes))
	for _, c := range q.classes {
		for _, l := range c.lines {
			lines = append(lines, l)
		}
	}
	return lines
}
