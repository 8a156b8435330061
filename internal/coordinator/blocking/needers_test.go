package blocking

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// someTasks returns a graph in which a task needs some of those before it.
func someTasks(rng *rand.Rand, n, most int) (inputs [][]int32, builds []int) {
	for i := range n {
		var needs []int32
		for range min(i, rng.IntN(most+1)) {
			needs = append(needs, int32(rng.IntN(i)))
		}
		slices.Sort(needs)
		inputs, builds = append(inputs, slices.Compact(needs)), append(builds, rng.IntN(3))
	}
	return inputs, builds
}

// TestNeeders compares with a walk from each task.
func TestNeeders(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		inputs, builds := someTasks(rng, 1+rng.IntN(700), 3)
		var asked []int32
		for range rng.IntN(2 * len(inputs)) { // some twice, and sometimes more than are looked at together
			asked = append(asked, int32(rng.IntN(len(inputs))))
		}
		got, err := needers(t.Context(), inputs, builds, asked)
		if err != nil {
			t.Fatal(err)
		}
		for i, of := range asked {
			needs := map[int32]bool{of: true}
			want := 0
			for d := of + 1; int(d) < len(inputs); d++ {
				if slices.ContainsFunc(inputs[d], func(in int32) bool { return needs[in] }) {
					needs[d] = true
					want += builds[d]
				}
			}
			if got[i] != want {
				t.Fatalf("task %d of %d: %d, want %d", of, len(inputs), got[i], want)
			}
		}
	}
}

func TestNeedersOfACircle(t *testing.T) {
	// 1 and 2 need each other, 3 needs them; 4 and 5 are as they should be.
	inputs := [][]int32{{}, {0, 2}, {1}, {2}, {0}, {4}}
	got, err := needers(t.Context(), inputs, []int{1, 1, 1, 1, 1, 1}, []int32{0, 4, 1})
	if want := []int{2, 1, 0}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestNeedersEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := needers(ctx, [][]int32{{}}, []int{1}, []int32{0}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkNeeders counts for 10,000 of 70,000 tasks, with 1.6 million edges.
func BenchmarkNeeders(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	inputs, builds := someTasks(rng, 70_000, 46)
	for i := range 10_000 {
		inputs[i] = nil
	}
	var asked []int32
	edges := 0
	for i := range inputs {
		if edges += len(inputs[i]); len(inputs[i]) == 0 {
			asked = append(asked, int32(i))
		}
	}
	for b.Loop() {
		if _, err := needers(b.Context(), inputs, builds, asked); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(edges), "edges")
	b.ReportMetric(float64(len(asked)), "asked")
}
