package scheduler

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
)

// Queue holds the builds that are ready to be placed, by class and urgency. Each
// change costs O(log n). It is not safe for concurrent use.
type Queue struct {
	builds  map[string]*entry
	classes map[string]*class
}

// entry is a build in the queue.
type entry struct {
	Build
	class *class
	index int       // in the class's heap
	until time.Time // if not zero, it waits no longer for a better machine
}

// class is the set of builds that the same machines may take.
type class struct {
	key      string
	system   string
	features []string // sorted
	skip     []string // sorted
	heap     heap[*entry]
}

// NewQueue returns an empty queue.
func NewQueue() *Queue {
	return &Queue{builds: make(map[string]*entry), classes: make(map[string]*class)}
}

// Push adds a build, or replaces the one with the same ID. The queue keeps the
// slices of the build; they must not be changed any more.
func (q *Queue) Push(b Build) {
	old := q.builds[b.ID]
	e := &entry{Build: b}
	if old != nil {
		e.until = old.until
		q.Remove(b.ID)
	}
	features, skip := sortedSet(b.Features), sortedSet(b.Skip)
	key := b.System + "\x00" + strings.Join(features, "\x01") + "\x00" + strings.Join(skip, "\x01")
	e.class = q.classes[key]
	if e.class == nil {
		e.class = &class{key: key, system: b.System, features: features, skip: skip}
		e.class.heap.less = func(a, b *entry) bool { return urgent(&a.Build, &b.Build) }
		e.class.heap.moved = func(e *entry, index int) { e.index = index }
		q.classes[key] = e.class
	}
	e.class.heap.push(e)
	q.builds[b.ID] = e
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
	e.class.heap.remove(e.index)
	if len(e.class.heap.items) == 0 {
		delete(q.classes, e.class.key)
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
	e.class.heap.fix(e.index)
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

// All yields the builds, the most urgent first. The queue must not change meanwhile.
func (q *Queue) All() iter.Seq[Build] {
	return func(yield func(Build) bool) {
		m := newMerge(q.sorted())
		for e := m.next(); e != nil; e = m.next() {
			if !yield(e.Build) {
				return
			}
		}
	}
}

// Apply takes the builds that the plan assigns out of the queue, and notes until
// when the deferred ones may wait.
func (q *Queue) Apply(p Plan) {
	for i := range p.Assignments {
		q.Remove(p.Assignments[i].Build.ID)
	}
	for i := range p.Deferrals {
		if e := q.builds[p.Deferrals[i].Build.ID]; e != nil {
			e.until = p.Deferrals[i].Until
		}
	}
}

// sorted returns the classes in an order that depends on nothing but their keys.
func (q *Queue) sorted() []*class {
	return slices.SortedFunc(maps.Values(q.classes), func(a, b *class) int { return strings.Compare(a.key, b.key) })
}

// merge yields the entries of several classes in order of urgency.
type merge struct {
	heads heap[*head]
}

// head is how far a merge has come in one class.
type head struct {
	walk  *walk[*entry]
	class *class
	entry *entry // the next one
}

func newMerge(classes []*class) *merge {
	m := &merge{}
	m.heads.less = func(a, b *head) bool { return urgent(&a.entry.Build, &b.entry.Build) }
	for _, c := range classes {
		h := &head{walk: c.heap.walk(), class: c}
		if h.entry, _ = h.walk.peek(); h.entry != nil {
			m.heads.push(h)
		}
	}
	return m
}

// next returns nil at the end.
func (m *merge) next() *entry {
	if len(m.heads.items) == 0 {
		return nil
	}
	h := m.heads.items[0]
	e := h.entry
	h.walk.next()
	var ok bool
	if h.entry, ok = h.walk.peek(); ok {
		m.heads.fix(0)
	} else {
		m.heads.remove(0)
	}
	return e
}

// drop ends the class that the last entry came from, unless it has ended already.
func (m *merge) drop(c *class) {
	for i, h := range m.heads.items {
		if h.class == c {
			m.heads.remove(i)
			return
		}
	}
}
