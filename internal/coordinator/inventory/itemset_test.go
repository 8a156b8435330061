package inventory

import (
	"fmt"
	"testing"

	"lighter/store"
)

func TestItemSets(t *testing.T) {
	path := func(i int) store.Path { return store.Path(fmt.Sprintf("/gnu/store/%032d-item", i)) }
	x := NewNumbers()
	x.limit = 100
	a, b := x.NewSet(nil), x.NewSet(nil)
	for i := range 100 {
		if i%2 == 0 {
			a.Add(path(i))
		} else {
			b.Add(path(i), path(i))
		}
	}
	for i := range 120 {
		if got := contains(a, path(i)); got != (i < 100 && i%2 == 0) {
			t.Errorf("a has %d: %v", i, got)
		}
		if got := contains(b, path(i)); got != (i < 100 && i%2 == 1) {
			t.Errorf("b has %d: %v", i, got)
		}
	}
	a.Clear()
	a.Add(path(7))
	if contains(a, path(8)) || !contains(a, path(7)) || !contains(b, path(7)) {
		t.Error("clear of one set")
	}
	a.Add(path(1000)) // one too many: all is forgotten, and numbers are given anew
	for i := range 100 {
		if contains(a, path(i)) || contains(b, path(i)) {
			t.Errorf("%d is not forgotten", i)
		}
	}
	b.Add(path(3))
	if !contains(a, path(1000)) || contains(b, path(1000)) || contains(a, path(3)) || !contains(b, path(3)) {
		t.Error("after it was forgotten")
	}
	if n := len(x.numbers); n != 2 {
		t.Errorf("%d numbers", n)
	}
}

func contains(s *Set, p store.Path) bool {
	n, ok := s.items.Of(p)
	return ok && s.Has(n)
}
