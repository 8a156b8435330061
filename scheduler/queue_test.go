package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestQueueAgainstSlice compares the queue with a sorted slice under random changes.
func TestQueueAgainstSlice(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	queue := NewQueue()
	model := make(map[string]Build)
	for step := range 5000 {
		id := fmt.Sprint(rng.IntN(200))
		switch rng.IntN(4) {
		case 0, 1:
			b := Build{
				ID: id, System: fmt.Sprint(rng.IntN(3)), Priority: rng.IntN(3),
				Rank: time.Duration(rng.IntN(5)), Dependants: rng.IntN(3), Seq: uint64(rng.IntN(100)),
			}
			queue.Push(b)
			model[id] = b
		case 2:
			_, want := model[id]
			if got := queue.Remove(id); got != want {
				t.Fatalf("step %d: remove %s: got %t", step, id, got)
			}
			delete(model, id)
		case 3:
			b, want := model[id]
			b.Priority, b.Rank, b.Dependants = rng.IntN(3), time.Duration(rng.IntN(5)), rng.IntN(3)
			if got := queue.Reprioritise(id, b.Priority, b.Rank, b.Dependants); got != want {
				t.Fatalf("step %d: reprioritise %s: got %t", step, id, got)
			}
			if want {
				model[id] = b
			}
		}
		if queue.Len() != len(model) {
			t.Fatalf("step %d: %d builds, want %d", step, queue.Len(), len(model))
		}
		if step%50 != 0 {
			continue
		}
		var want, got []string
		var builds []Build
		for _, b := range model {
			builds = append(builds, b)
		}
		slices.SortFunc(builds, func(a, b Build) int {
			if urgent(&a, &b) {
				return -1
			}
			return 1
		})
		for _, b := range builds {
			want = append(want, b.ID)
		}
		for b := range queue.All() {
			got = append(got, b.ID)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("step %d: order %v, want %v", step, got, want)
		}
	}
	for id, b := range model {
		if got, ok := queue.Get(id); !ok || got.Priority != b.Priority {
			t.Errorf("get %s: %v, %t", id, got, ok)
		}
		queue.Remove(id)
	}
	if queue.Len() != 0 || len(queue.classes) != 0 {
		t.Errorf("%d builds and %d classes are left", queue.Len(), len(queue.classes))
	}
	if _, ok := queue.Get("1"); ok {
		t.Error("an empty queue has a build")
	}
}

// A class is a set of features: neither their order nor repetitions matter.
func TestQueueClasses(t *testing.T) {
	queue := NewQueue()
	queue.Push(Build{ID: "1", Features: []string{"a", "b"}})
	queue.Push(Build{ID: "2", Features: []string{"b", "a", "b"}})
	queue.Push(Build{ID: "3", Features: []string{"a"}, Skip: []string{"b"}})
	if len(queue.classes) != 2 {
		t.Errorf("%d classes, want 2", len(queue.classes))
	}
}

func TestInTurns(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	q := NewQueue()
	push := func(id, share string, priority int) {
		q.Push(Build{ID: id, System: "x86_64-linux", Share: share, Priority: priority, Rank: time.Hour, Expected: time.Minute, Seq: uint64(q.Len())})
	}
	for _, id := range []string{"a1", "a2", "a3", "a4"} {
		push(id, "alice", 0)
	}
	push("b1", "bob", 0)
	push("b2", "bob", 0)
	push("urgent", "alice", 1)
	shares := NewShares(0, func(share string) float64 { return map[string]float64{"alice": 2, "bob": 1}[share] })
	shares.Use("alice", 10*time.Minute, now)
	shares.Use("bob", 6*time.Minute, now)
	in := Input{Now: now, Queue: q, Shares: shares}
	ids := func() (ids []string) {
		for b := range InTurns(in) {
			ids = append(ids, b.ID)
		}
		return ids
	}
	// Used, for its weight: alice 5 with nothing, 5.5 with the urgent one, and half a minute more
	// with each; bob 6, and one more with each.
	want := []string{"urgent", "a1", "a2", "b1", "a3", "a4", "b2"}
	if got := ids(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := ids(); !slices.Equal(got, want) || shares.present != nil || shares.Used("bob", now) != 6*time.Minute {
		t.Errorf("asking has changed the shares: now %q", got)
	}
	in.Shares = nil
	if got, want := ids(), []string{"urgent", "a1", "a2", "a3", "a4", "b1", "b2"}; !slices.Equal(got, want) {
		t.Errorf("without shares: got %q, want %q", got, want)
	}
}
