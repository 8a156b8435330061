package forecast_test

import (
	"compress/gzip"
	"context"
	"iter"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"lighter/scheduler"
	"lighter/scheduler/forecast"
	"lighter/scheduler/simulate"
)

// graph reads one of the graphs that package simulate is tested with.
func graph(t *testing.T, name string) *simulate.Graph {
	t.Helper()
	file, err := os.Open("../simulate/testdata/graphs/" + name + ".tsv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	g, err := simulate.ReadGraph(z)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// farmOf is what a coordinator knows of a graph before anything is built.
func farmOf(g *simulate.Graph, machines []simulate.Machine, known simulate.Estimate) *forecast.Farm {
	f := &forecast.Farm{Now: time.Unix(0, 0)}
	for _, m := range machines {
		f.Machines = append(f.Machines, scheduler.Machine{Name: m.Name, Systems: []string{"x86_64-linux", "i686-linux", "armhf-linux"}, Slots: m.Slots, Speed: m.Speed, FreeDisk: -1})
	}
	rank := make([]time.Duration, len(g.Nodes))
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		rank[i] += known(i).Duration
		for _, in := range g.Nodes[i].Inputs {
			rank[in] = max(rank[in], rank[i])
		}
	}
	for i := range g.Nodes {
		n, e := &g.Nodes[i], known(i)
		spread := math.Log(float64(e.High)/float64(max(1, e.Low))) / (2 * 1.2816)
		f.Tasks = append(f.Tasks, forecast.Task{
			Build:  scheduler.Build{ID: strconv.Itoa(i), System: n.System, Expected: e.Duration, Rank: rank[i], Seq: uint64(i)},
			Inputs: n.Inputs,
			Quantile: func(q float64) time.Duration {
				return time.Duration(float64(e.Duration) * math.Exp(spread*math.Sqrt2*math.Erfinv(2*min(0.999, max(0.001, q))-1)))
			},
		})
	}
	return f
}

// tasks are all of a graph.
func tasks(g *simulate.Graph) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		for i := range g.Nodes {
			if !yield(int32(i)) {
				return
			}
		}
	}
}

// TestEndsAreInTheirIntervals has the simulator build graphs whose durations are known from five earlier runs, and looks how many
// of the ends are where they were expected with four in five.
func TestEndsAreInTheirIntervals(t *testing.T) {
	within, all, last := 0, 0, 0
	const seeds = 8
	for seed := range uint64(seeds) {
		for _, machines := range [][]simulate.Machine{simulate.FleetA(), simulate.FleetB()} {
			g := graph(t, "hello")
			(&simulate.Model{Seed: seed}).Apply(g)
			known := simulate.Learnt(g, 5, seed)
			r, err := simulate.Run(t.Context(), simulate.Scenario{Graph: g, Machines: machines, Estimate: known, Seed: seed})
			if err != nil {
				t.Fatal(err)
			}
			futures, err := forecast.Of(t.Context(), farmOf(g, machines, known), 19, seed)
			if err != nil {
				t.Fatal(err)
			}
			whole, _ := futures.Last(tasks(g))
			for _, s := range r.Spans {
				if e := futures.End(s.Node); s.Outcome == simulate.Done {
					all++
					if e.Low <= s.Ended && s.Ended <= e.High {
						within++
					}
				}
			}
			if whole.Low <= r.Makespan && r.Makespan <= whole.High {
				last++
			}
			t.Logf("seed %d: %v, expected %v to %v", seed, r.Makespan, whole.Low, whole.High)
		}
	}
	t.Logf("%d of %d builds, %d of %d batches", within, all, last, 2*seeds)
	if part := float64(within) / float64(all); part < 0.7 || part > 0.93 {
		t.Errorf("%.2f of the ends are within the interval for 0.8", part)
	}
}

// TestWhatCannotBeTold has a build that nothing can take, one that needs it, and one that runs.
func TestWhatCannotBeTold(t *testing.T) {
	const system = "x86_64-linux"
	running := scheduler.Build{ID: "running", System: system, Expected: time.Minute}
	f := &forecast.Farm{
		Now: time.Unix(0, 0),
		Machines: []scheduler.Machine{{
			Name: "m", Systems: []string{system}, Slots: 1, Speed: 2, FreeDisk: -1,
			Busy: []scheduler.Running{{Build: &running, Remaining: 20 * time.Second}},
		}},
		Tasks: []forecast.Task{
			{Build: running, On: "m", Elapsed: 10 * time.Second},
			{Build: scheduler.Build{ID: "next", System: system, Expected: 2 * time.Minute}, Inputs: []int32{0}},
			{Build: scheduler.Build{ID: "later", System: system, Expected: 2 * time.Minute}, After: time.Hour},
			{Build: scheduler.Build{ID: "nowhere", System: "riscv64-linux", Expected: time.Minute}},
			{Build: scheduler.Build{ID: "after nowhere", System: system, Expected: time.Minute}, Inputs: []int32{3}},
		},
	}
	futures, err := forecast.Of(t.Context(), f, 9, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []time.Duration{20 * time.Second, 80 * time.Second, time.Hour + time.Minute, 0, 0} {
		end, start := futures.End(int32(i)), futures.Start(int32(i))
		if got := end.Middle; got < want*9/10 || got > want*11/10 || end.Low > got || end.High < got {
			t.Errorf("%s: %v, want about %v", f.Tasks[i].Build.ID, end, want)
		}
		begins := max(0, want-f.Tasks[i].Build.Expected/2)
		if got := start.Middle; got < begins*9/10 || got > begins*11/10 {
			t.Errorf("%s begins after %v, want about %v", f.Tasks[i].Build.ID, start, begins)
		}
	}
	if last, untold := futures.Last(slices.Values([]int32{0, 1, 2, 3, 4})); last.Middle < time.Hour || untold != 2 {
		t.Errorf("the last: %v, without %d; want an hour, and two that are never done", last, untold)
	}
	if last, untold := futures.Last(slices.Values([]int32{3})); last != (forecast.End{}) || untold != 1 {
		t.Errorf("one that is never done: %v, %d", last, untold)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := forecast.Of(ctx, f, 9, 1); err == nil {
		t.Error("canceled, and no error")
	}
}

// TestFewDrawings has as many intervals hold a further drawing as they should, however few they are made from.
func TestFewDrawings(t *testing.T) {
	f := &forecast.Farm{
		Now:      time.Unix(0, 0),
		Machines: []scheduler.Machine{{Name: "m", Systems: []string{"s"}, Slots: 1, Speed: 1, FreeDisk: -1}},
		Tasks: []forecast.Task{{
			Build:    scheduler.Build{ID: "b", System: "s", Expected: time.Hour},
			Quantile: func(q float64) time.Duration { return time.Hour + time.Duration(q*float64(time.Hour)) },
		}},
	}
	for _, times := range []int{3, 5, 8, 9, 19} {
		const n = 400
		within := 0
		for seed := range uint64(n) {
			futures, err := forecast.Of(t.Context(), f, times, seed)
			if err != nil {
				t.Fatal(err)
			}
			further, err := forecast.Of(t.Context(), f, 1, seed+n)
			if err != nil {
				t.Fatal(err)
			}
			if e, one := futures.End(0), further.End(0).Middle; e.Low <= one && one <= e.High {
				within++
			}
		}
		t.Logf("%d drawings: %.2f", times, float64(within)/n)
		if part := float64(within) / n; part < 0.7 || part > 0.9 {
			t.Errorf("of %d drawings each, %.2f of the intervals hold a further one, want 0.8", times, part)
		}
	}
}

// TestHost has two entries of one host with a slot: what they take, they take from each other.
func TestHost(t *testing.T) {
	f := &forecast.Farm{Now: time.Unix(0, 0)}
	for _, system := range []string{"x86_64-linux", "i686-linux"} {
		f.Machines = append(f.Machines, scheduler.Machine{Name: system, Host: "h", Systems: []string{system}, Slots: 1, Speed: 1, FreeDisk: -1})
		f.Tasks = append(f.Tasks, forecast.Task{Build: scheduler.Build{ID: system, System: system, Expected: time.Minute}})
	}
	futures, err := forecast.Of(t.Context(), f, 9, 1)
	if err != nil {
		t.Fatal(err)
	}
	if all, _ := futures.Last(slices.Values([]int32{0, 1})); all.Middle < 110*time.Second || all.Middle > 130*time.Second {
		t.Errorf("%v, want about two minutes", all)
	}
}

func BenchmarkOf(b *testing.B) {
	file, err := os.Open("../simulate/testdata/graphs/six.tsv.gz")
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		b.Fatal(err)
	}
	g, err := simulate.ReadGraph(z)
	if err != nil {
		b.Fatal(err)
	}
	(&simulate.Model{Seed: 1}).Apply(g)
	f := farmOf(g, simulate.FleetB(), simulate.Learnt(g, 1, 1))
	for b.Loop() {
		if _, err := forecast.Of(b.Context(), f, 1, 1); err != nil {
			b.Fatal(err)
		}
	}
}
