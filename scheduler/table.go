package scheduler

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// set is a set of machines, by their place in table.all. Nil is empty.
type set []uint64

func (s set) add(i int) { s[i/64] |= 1 << (i % 64) }

// next returns the first member that is not before i, or -1.
func (s set) next(i int) int {
	if i < 0 || i/64 >= len(s) {
		return -1
	}
	for w, word := i/64, s[i/64]>>(i%64)<<(i%64); ; word = s[w] {
		if word != 0 {
			return w*64 + bits.TrailingZeros64(word)
		}
		if w++; w == len(s) {
			return -1
		}
	}
}

func (s set) has(i int) bool { return i/64 < len(s) && s[i/64]&(1<<(i%64)) != 0 }

func (s set) size() (n int) {
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

// within reports whether all members are in other.
func (s set) within(other set) bool {
	for w, word := range s {
		if w < len(other) {
			word &^= other[w]
		}
		if word != 0 {
			return false
		}
	}
	return true
}

func (s set) without(places []int) set {
	left := slices.Clone(s)
	for _, i := range places {
		left[i/64] &^= 1 << (i % 64)
	}
	return left
}

// and keeps the members that are in other too.
func (s set) and(other set) {
	for w := range s {
		if w < len(other) {
			s[w] &= other[w]
		} else {
			s[w] = 0
		}
	}
}

// table has the machines of a round, and which of them have what.
type table struct {
	all       []*candidate   // the fastest first, then by name
	given     []*candidate   // in the given order
	index     map[string]int // in all, by name
	systems   map[string]set
	features  map[string]set
	mandatory []*candidate // with features that a build must require
	idle      set          // that take a build now which lacks nothing
	usable    set          // see candidate.usable
	available set
}

func newTable(machines []Machine) *table {
	t := &table{index: make(map[string]int, len(machines)), systems: make(map[string]set), features: make(map[string]set)}
	t.all, t.given = newCandidates(machines)
	t.idle, t.usable, t.available = t.none(), t.none(), t.none()
	for i, c := range t.all {
		c.index, t.index[c.Name] = i, i
		for _, s := range c.Systems {
			t.note(t.systems, s, i)
		}
		for _, f := range c.Features {
			t.note(t.features, f, i)
		}
		for _, f := range c.MandatoryFeatures {
			t.note(t.features, f, i)
		}
		if len(c.MandatoryFeatures) > 0 {
			t.mandatory = append(t.mandatory, c)
		}
		if c.occupied(nil, 0, 0) == "" {
			t.idle.add(i)
		}
		if c.usable() {
			t.usable.add(i)
		}
		if c.Unavailable == "" {
			t.available.add(i)
		}
	}
	return t
}

func (t *table) none() set { return make(set, (len(t.all)+63)/64) }

func (t *table) note(sets map[string]set, word string, i int) {
	s := sets[word]
	if s == nil {
		s = t.none()
		sets[word] = s
	}
	s.add(i)
}

// eligible has the machines that may take builds with a demand.
type eligible struct {
	*demand
	possible  group // by their entries
	idle      group // of these, those that take one now which lacks nothing
	usable    group // those that take one when a build ends
	available group
	buckets   []*bucket
	first     []*candidate   // possible ones that a reason names
	reasons   map[int]string // of classes that avoid none of these, by how many machines are possible
}

// shown is how many machines a reason names.
const shown = 5

// group is a set of known size.
type group struct {
	set
	size int
}

// outside returns how many members are not among some machines, which are different ones.
func (g *group) outside(some []int) int {
	n := g.size
	for _, i := range some {
		if g.has(i) {
			n--
		}
	}
	return n
}

// eligible applies Machine.excludes to all machines at once.
func (t *table) eligible(k *demand) *eligible {
	possible := t.none()
	copy(possible, t.systems[k.system])
	for _, f := range k.features {
		possible.and(t.features[f])
	}
	for _, c := range t.mandatory {
		if possible.has(c.index) && c.excludes(k.system, k.features, nil) != "" {
			possible[c.index/64] &^= 1 << (c.index % 64)
		}
	}
	of := func(also set) group {
		s := slices.Clone(possible)
		s.and(also)
		return group{s, s.size()}
	}
	e := &eligible{
		demand: k, possible: of(possible), idle: of(t.idle), usable: of(t.usable), available: of(t.available), reasons: make(map[int]string),
	}
	e.first = t.firstOf(e, nil)
	return e
}

// firstOf returns the first machines in the given order that may take builds with a demand, without some.
func (t *table) firstOf(e *eligible, without []int) []*candidate {
	first := make([]*candidate, 0, shown)
	for _, c := range t.given {
		if len(first) == shown {
			break
		}
		if e.possible.has(c.index) && !slices.Contains(without, c.index) {
			first = append(first, c)
		}
	}
	return first
}

// places appends where machines with names are in table.all.
func (t *table) places(places []int, names []string) []int {
	for _, name := range names {
		if i, ok := t.index[name]; ok {
			places = append(places, i)
		}
	}
	return places
}

// blocked says why no machine can take the builds of a class now.
func (t *table) blocked(c *class, e *eligible) Blocked {
	var room [8]int
	skip := t.places(room[:0], c.skip)
	b := Blocked{System: c.system, Features: c.features, Skip: c.skip, Builds: c.builds, Absent: e.available.outside(skip) == 0}
	n := e.possible.outside(skip)
	if n == 0 {
		b.Never, b.Reason = true, t.neverReason(c)
		return b
	}
	if slices.ContainsFunc(e.first, func(m *candidate) bool { return slices.Contains(skip, m.index) }) {
		b.Reason = reason(t.firstOf(e, skip), n)
		return b
	}
	if e.reasons[n] == "" {
		e.reasons[n] = reason(e.first, n)
	}
	b.Reason = e.reasons[n]
	return b
}

// reason says what is in the way on the first of n machines.
func reason(first []*candidate, n int) string {
	var texts []string
	for _, m := range first {
		texts = append(texts, m.obstacle())
	}
	if more := n - len(first); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, "; ")
}

// obstacle says what keeps the machine from taking any build now.
func (c *candidate) obstacle() string {
	if c.why == "" {
		_, actual := c.words(c.occupied(nil, 0, 0), nil, 0)
		c.why = c.Name + ": " + actual
	}
	return c.why
}

// neverReason names the rule that the machines which come closest fail.
func (t *table) neverReason(c *class) string {
	excluded := make(map[Rule]bool)
	for _, m := range t.all {
		excluded[m.excludes(c.system, c.features, c.skip)] = true
	}
	switch {
	case len(t.all) == 0:
		return "there is no machine"
	case excluded[RuleSkip]:
		return "none is left of the machines that could take it: it is not to use " + list(c.skip) + " again"
	case excluded[RuleMandatory]:
		return fmt.Sprintf("every machine for %s that could take it is reserved for builds that require other features", c.system)
	case excluded[RuleFeatures]:
		return fmt.Sprintf("no machine for %s offers %s", c.system, list(c.features))
	}
	return "no machine builds for " + c.system
}

// key is the same for equal sets.
func (s set) key() string {
	key := make([]byte, 0, len(s)*8)
	for _, word := range s {
		key = binary.LittleEndian.AppendUint64(key, word)
	}
	return string(key)
}
