package inventory

import (
	"lighter/internal/coordinator/peer"
	"lighter/store"
)

// maxNumbers bounds how many items are remembered as being on some machine.
const maxNumbers = 1 << 18

// Numbers gives items small numbers, so that a set of items is a row of bits: whether a machine has
// an item is asked for every build and every machine. It belongs to one goroutine, with all its
// sets.
type Numbers struct {
	numbers    map[store.Path]uint32
	holders    []*Set // by number: the set that got the item last
	limit      int
	generation int
}

// NewNumbers returns numbers that no item has yet.
func NewNumbers() *Numbers {
	return &Numbers{numbers: make(map[store.Path]uint32), limit: maxNumbers}
}

// Generation counts how often all items were forgotten because there were too many.
func (x *Numbers) Generation() int { return x.generation }

// Of returns the number of an item, if it has one: some set has or had it then.
func (x *Numbers) Of(p store.Path) (number uint32, ok bool) {
	number, ok = x.numbers[p]
	return number, ok
}

// take returns the number of an item, which it gets now if it has none.
func (x *Numbers) take(p store.Path) uint32 {
	if n, ok := x.numbers[p]; ok {
		return n
	}
	if len(x.numbers) >= x.limit {
		clear(x.numbers)
		x.holders = x.holders[:0]
		x.generation++
	}
	n := uint32(len(x.numbers)) //nolint:gosec // less than limit
	x.numbers[p] = n
	x.holders = append(x.holders, nil)
	return n
}

// Set is a set of items. It may forget: when there are too many items altogether,
// all sets are empty.
type Set struct {
	items      *Numbers
	machine    *peer.Peer
	generation int
	bits       []uint64
}

// NewSet returns an empty set of the items of a machine.
func (x *Numbers) NewSet(of *peer.Peer) *Set {
	return &Set{items: x, machine: of, generation: x.generation}
}

// Add adds items.
func (s *Set) Add(paths ...store.Path) {
	for _, p := range paths {
		n := s.items.take(p)
		s.catchUp()
		for int(n/64) >= len(s.bits) {
			s.bits = append(s.bits, 0)
		}
		s.bits[n/64] |= 1 << (n % 64)
		s.items.holders[n] = s
	}
}

// catchUp empties the set if its numbers are from an earlier generation.
func (s *Set) catchUp() {
	if s.generation != s.items.generation {
		s.Clear()
	}
}

// Has reports whether the set has the item with a number.
func (s *Set) Has(n uint32) bool {
	s.catchUp()
	return int(n/64) < len(s.bits) && s.bits[n/64]&(1<<(n%64)) != 0
}

// Clear removes all.
func (s *Set) Clear() {
	clear(s.bits)
	s.bits, s.generation = s.bits[:0], s.items.generation
}
