package coordinator

import (
	"fmt"
	"testing"

	"lighter/store"
)

func TestItemSets(t *testing.T) {
	path := func(i int) store.Path { return store.Path(fmt.Sprintf("/gnu/store/%032d-item", i)) }
	x := newItemNumbers(100)
	a, b := x.newSet(), x.newSet()
	for i := range 100 {
		if i%2 == 0 {
			a.add(path(i))
		} else {
			b.add(path(i), path(i))
		}
	}
	for i := range 120 {
		if got := a.contains(path(i)); got != (i < 100 && i%2 == 0) {
			t.Errorf("a has %d: %v", i, got)
		}
		if got := b.contains(path(i)); got != (i < 100 && i%2 == 1) {
			t.Errorf("b has %d: %v", i, got)
		}
	}
	a.clear()
	a.add(path(7))
	if a.contains(path(8)) || !a.contains(path(7)) || !b.contains(path(7)) {
		t.Error("clear of one set")
	}
	a.add(path(1000)) // one too many: all is forgotten, and numbers are given anew
	for i := range 100 {
		if a.contains(path(i)) || b.contains(path(i)) {
			t.Errorf("%d is not forgotten", i)
		}
	}
	b.add(path(3))
	if !a.contains(path(1000)) || b.contains(path(1000)) || a.contains(path(3)) || !b.contains(path(3)) {
		t.Error("after it was forgotten")
	}
	if n := len(x.numbers); n != 2 {
		t.Errorf("%d numbers", n)
	}
}
