package coordinator

import "lighter/store"

// maxItems bounds what is remembered of which items machines have, all machines together.
const maxItems = 1 << 18

// itemNumbers gives items small numbers, so that a set of items is a row of bits: what
// a machine has is asked of every machine for every build that is placed. It belongs to
// the loop.
type itemNumbers struct {
	numbers map[store.Path]uint32
	limit   int
	// generation counts how often all was forgotten, because there were too many.
	generation int
}

func newItemNumbers(limit int) *itemNumbers {
	return &itemNumbers{numbers: make(map[store.Path]uint32), limit: limit}
}

// of returns the number of an item that some set had at some time.
func (x *itemNumbers) of(p store.Path) (number uint32, ok bool) {
	number, ok = x.numbers[p]
	return number, ok
}

// take returns the number of an item, which it gets now if it has none.
func (x *itemNumbers) take(p store.Path) uint32 {
	if n, ok := x.numbers[p]; ok {
		return n
	}
	if len(x.numbers) >= x.limit {
		clear(x.numbers)
		x.generation++
	}
	n := uint32(len(x.numbers)) //nolint:gosec // less than limit
	x.numbers[p] = n
	return n
}

// itemSet is a set of items. It may forget: when there are too many items altogether,
// all sets are empty.
type itemSet struct {
	items      *itemNumbers
	generation int
	bits       []uint64
}

func (x *itemNumbers) newSet() *itemSet { return &itemSet{items: x, generation: x.generation} }

func (s *itemSet) add(paths ...store.Path) {
	for _, p := range paths {
		n := s.items.take(p)
		s.catchUp()
		for int(n/64) >= len(s.bits) {
			s.bits = append(s.bits, 0)
		}
		s.bits[n/64] |= 1 << (n % 64)
	}
}

// catchUp forgets what has numbers of before.
func (s *itemSet) catchUp() {
	if s.generation != s.items.generation {
		s.clear()
	}
}

func (s *itemSet) contains(p store.Path) bool {
	n, ok := s.items.of(p)
	return ok && s.has(n)
}

// has is contains by number.
func (s *itemSet) has(n uint32) bool {
	s.catchUp()
	return int(n/64) < len(s.bits) && s.bits[n/64]&(1<<(n%64)) != 0
}

func (s *itemSet) clear() {
	clear(s.bits)
	s.bits, s.generation = s.bits[:0], s.items.generation
}
