package coordinator

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestTaskSet does the same to a taskSet and to a map.
func TestTaskSet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	tasks := make([]*task, 3*maxFew)
	for i := range tasks {
		tasks[i] = new(task)
	}
	for range 20 {
		var s taskSet
		want := make(map[*task]bool)
		some := tasks[:1+random.IntN(len(tasks))]
		compare := func() {
			t.Helper()
			got := make(map[*task]bool)
			for x := range s.all() {
				if got[x] {
					t.Fatal("a task is yielded twice")
				}
				got[x] = true
			}
			if !maps.Equal(got, want) || s.size() != len(want) {
				t.Fatalf("it has %d, says that it has %d, and should have %d", len(got), s.size(), len(want))
			}
			for _, x := range some {
				if s.has(x) != want[x] {
					t.Fatal("has is wrong")
				}
			}
		}
		for range 4 * len(some) {
			x := some[random.IntN(len(some))]
			if random.IntN(3) > 0 {
				s.add(x)
				want[x] = true
			} else {
				s.remove(x)
				delete(want, x)
			}
			compare()
		}
	}
}

// TestTaskSetChanged changes the set while it is gone through.
func TestTaskSetChanged(t *testing.T) {
	for _, n := range []int{2, maxFew, 2 * maxFew} {
		var s taskSet
		for range n {
			s.add(new(task))
		}
		var gone []*task
		seen := 0
		for x := range s.all() {
			if slices.Contains(gone, x) {
				t.Fatalf("of %d: one that was removed is yielded", n)
			}
			seen++
			s.remove(x)
			for other := range s.all() { // and some other
				s.remove(other)
				gone = append(gone, other)
				break
			}
		}
		if seen != n/2 || s.size() != 0 {
			t.Errorf("of %d: %d were yielded, %d are left", n, seen, s.size())
		}
		for range s.all() {
			t.Errorf("of %d: an empty set yields something", n)
		}
	}
}
