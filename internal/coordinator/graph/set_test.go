package graph

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

type task struct{ _ int }

// TestSet does the same to a set and to a map.
func TestSet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	tasks := make([]*task, 3*maxFew)
	for i := range tasks {
		tasks[i] = new(task)
	}
	for range 20 {
		var s Set[*task]
		want := make(map[*task]bool)
		some := tasks[:1+random.IntN(len(tasks))]
		compare := func() {
			t.Helper()
			got := make(map[*task]bool)
			for x := range s.All() {
				if got[x] {
					t.Fatal("a task is yielded twice")
				}
				got[x] = true
			}
			if !maps.Equal(got, want) || s.Size() != len(want) {
				t.Fatalf("it has %d, says that it has %d, and should have %d", len(got), s.Size(), len(want))
			}
			for _, x := range some {
				if s.Has(x) != want[x] {
					t.Fatal("Has is wrong")
				}
			}
		}
		for range 4 * len(some) {
			x := some[random.IntN(len(some))]
			if random.IntN(3) > 0 {
				s.Add(x)
				want[x] = true
			} else {
				s.Remove(x)
				delete(want, x)
			}
			compare()
		}
	}
}

// TestSetChanged changes the set while it is gone through.
func TestSetChanged(t *testing.T) {
	for _, n := range []int{2, maxFew, 2 * maxFew} {
		var s Set[*task]
		for range n {
			s.Add(new(task))
		}
		var gone []*task
		seen := 0
		for x := range s.All() {
			if slices.Contains(gone, x) {
				t.Fatalf("of %d: one that was removed is yielded", n)
			}
			seen++
			s.Remove(x)
			for other := range s.All() { // and some other
				s.Remove(other)
				gone = append(gone, other)
				break
			}
		}
		if seen != n/2 || s.Size() != 0 {
			t.Errorf("of %d: %d were yielded, %d are left", n, seen, s.Size())
		}
		for range s.All() {
			t.Errorf("of %d: an empty set yields something", n)
		}
	}
}
