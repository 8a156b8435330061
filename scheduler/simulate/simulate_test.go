package simulate_test

import (
	"cmp"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"lighter/scheduler/simulate"
)

func load(t testing.TB, name string) *simulate.Graph {
	t.Helper()
	f, err := os.Open("testdata/graphs/" + name + ".tsv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	g, err := simulate.ReadGraph(z)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestReadGraph(t *testing.T) {
	for name, want := range map[string]int{"hello": 228, "inkscape": 2207, "six": 4021, "all": 71764} {
		if got := len(load(t, name).Nodes); got != want {
			t.Errorf("%s: %d builds, want %d", name, got, want)
		}
	}
	g, err := simulate.ReadGraph(strings.NewReader("# comment\n0\ta\tx86_64-linux\tFL\t\t\n1\tb\ti686-linux\tR\tkvm,big\t0\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []simulate.Node{
		{Name: "a", System: "x86_64-linux", Source: true, Local: true},
		{Name: "b", System: "i686-linux", Wanted: true, Features: []string{"kvm", "big"}, Inputs: []int32{0}},
	}
	if !reflect.DeepEqual(g.Nodes, want) {
		t.Errorf("got %+v, want %+v", g.Nodes, want)
	}
}

func TestReadGraphErrors(t *testing.T) {
	const first = "0\ta\ts\t\t\t\n"
	for text, want := range map[string]string{
		"a":                        `graph, line 1: 1 columns: want 6: index, name, system, flags, features, inputs`,
		first + "2\tb\ts\t\t\t":    `graph, line 2: index "2": want 1`,
		first + "1\tb\ts\tX\t\t":   `graph, line 2: flag 'X': want F, L or R`,
		first + "1\tb\ts\t\t\t1":   `graph, line 2: input "1": want the index of a line before it`,
		first + "1\tb\ts\t\t\t-1":  `graph, line 2: input "-1": want the index of a line before it`,
		first + "1\t\ts\t\t\t":     `graph, line 2: a name and a system of 1 to 4096 bytes are wanted`,
		strings.Repeat("x", 2<<20): `graph: bufio.Scanner: token too long`,
	} {
		_, err := simulate.ReadGraph(strings.NewReader(text))
		if fmt.Sprint(err) != want {
			t.Errorf("%.40q: got %v, want %s", text, err, want)
		}
	}
}

// randomGraph has builds of a few classes, with shares, memory and tokens, that come in at times.
func randomGraph(rng *rand.Rand, n int) *simulate.Graph {
	g := &simulate.Graph{}
	for i := range n {
		node := simulate.Node{
			Name: fmt.Sprintf("p%d", rng.IntN(n)), System: "x86_64-linux", Source: rng.IntN(5) == 0,
			Duration: time.Duration(1+rng.IntN(600)) * time.Second, Output: int64(rng.IntN(200e6)),
			Memory: int64(rng.IntN(3 << 30)), Wanted: rng.IntN(4) == 0, Share: fmt.Sprintf("share%d", rng.IntN(3)),
		}
		if rng.IntN(6) == 0 {
			node.Features = []string{"kvm"}
		}
		if rng.IntN(8) == 0 {
			node.Tokens = map[string]int{"gpu": 1 + rng.IntN(2)}
		}
		for in := range i {
			if rng.IntN(1+i/2) == 0 {
				node.Inputs = append(node.Inputs, int32(in))
				node.Submitted = max(node.Submitted, g.Nodes[in].Submitted)
			}
		}
		if rng.IntN(5) == 0 {
			node.Submitted += time.Duration(rng.IntN(3600)) * time.Second
		}
		if len(node.Inputs) == 0 && rng.IntN(4) == 0 {
			node.Request = i + 1
		}
		g.Nodes = append(g.Nodes, node)
	}
	return g
}

func randomFleet(rng *rand.Rand, away bool) []simulate.Machine {
	fleet := make([]simulate.Machine, 2+rng.IntN(3))
	for i := range fleet {
		fleet[i] = simulate.Machine{
			Name: fmt.Sprintf("m%d", i), Slots: 1 + rng.IntN(4), Speed: []float64{0.5, 1, 2}[rng.IntN(3)],
			Bandwidth: []float64{2e6, 10e6, 100e6}[rng.IntN(3)], Delay: time.Duration(rng.IntN(100)) * time.Millisecond,
			Memory: 4 << 30, Price: 1,
		}
		if i == 0 {
			fleet[i].Features, fleet[i].Tokens = []string{"kvm"}, map[string]int{"gpu": 2}
			continue // all can always be done there
		}
		if away {
			fleet[i].Fails = 0.1
			at := time.Duration(0)
			for range rng.IntN(4) {
				at += time.Duration(1+rng.IntN(1800)) * time.Second
				back := at + time.Duration(1+rng.IntN(1800))*time.Second
				fleet[i].Away = append(fleet[i].Away, simulate.Interval{From: at, To: back})
				at = back
			}
		}
	}
	return fleet
}

// TestProperties plays random scenarios with every policy: everything is built, after its inputs,
// where it may be, with no more slots, memory and tokens than there are, and not faster than is
// possible.
func TestProperties(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 0))
		g := randomGraph(rng, 2+rng.IntN(60))
		away := seed%2 == 1
		fleet := randomFleet(rng, away)
		for _, policy := range simulate.Policies {
			for _, hook := range []bool{false, true} {
				if hook && policy != simulate.Lighter {
					continue
				}
				s := simulate.Scenario{
					Graph: g, Machines: fleet, Policy: policy, Hook: hook, HookJobs: 3, Seed: seed, LazyHome: seed%3 == 0,
					Estimate: simulate.Noisy(g, 3, seed),
				}
				r, err := simulate.Run(t.Context(), s)
				if err != nil {
					t.Fatalf("seed %d, %s: %v", seed, policy, err)
				}
				checkResult(t, fmt.Sprintf("seed %d, %s", seed, policy), &s, r)
				if again, err := simulate.Run(t.Context(), s); err != nil || !reflect.DeepEqual(r, again) {
					t.Errorf("seed %d, %s: the same scenario gives another result (%v)", seed, policy, err)
				}
			}
		}
	}
}

// checkResult looks whether what happened is possible.
func checkResult(t *testing.T, name string, s *simulate.Scenario, r *simulate.Result) {
	t.Helper()
	if r.Makespan < r.Bound {
		t.Errorf("%s: makespan %s is below the bound %s", name, r.Makespan, r.Bound)
	}
	if s.Policy == simulate.Lighter && r.Kills > 0 { // it was told what each needs
		t.Errorf("%s: %d builds were killed for memory", name, r.Kills)
	}
	firstDone := make([]time.Duration, len(s.Graph.Nodes))
	for i := range firstDone {
		firstDone[i] = -1
	}
	for _, span := range r.Spans {
		if span.Outcome == simulate.Done && (firstDone[span.Node] < 0 || span.Ended < firstDone[span.Node]) {
			firstDone[span.Node] = span.Ended
		}
	}
	type step struct {
		at   time.Duration
		sign int
		node *simulate.Node
	}
	steps := make([][]step, len(s.Machines))
	for _, span := range r.Spans {
		n, m := &s.Graph.Nodes[span.Node], &s.Machines[span.Machine]
		if span.Placed < n.Submitted || span.Released < span.Placed {
			t.Errorf("%s: %s was submitted at %s, placed at %s, and its slot free at %s", name, n.Name, n.Submitted, span.Placed, span.Released)
		}
		for _, in := range n.Inputs {
			if done := firstDone[in]; done < 0 || done > span.Placed {
				t.Errorf("%s: %s was placed at %s, its input at %s", name, n.Name, span.Placed, done)
			}
		}
		if len(n.Features) > 0 && len(m.Features) == 0 {
			t.Errorf("%s: %s can't be built on %s", name, n.Name, m.Name)
		}
		if span.Outcome == simulate.Done {
			takes := time.Duration(float64(n.Duration) / m.Speed)
			if got := span.Ended - span.Began; got != takes || span.Began < span.Placed {
				t.Errorf("%s: %s took %s on %s, want %s", name, n.Name, got, m.Name, takes)
			}
		}
		for _, away := range m.Away {
			if span.Placed < away.To && span.Released > away.From {
				t.Errorf("%s: %s held a slot of %s while that was away", name, n.Name, m.Name)
			}
		}
		steps[span.Machine] = append(steps[span.Machine], step{at: span.Placed, sign: 1, node: n}, step{at: span.Released, sign: -1, node: n})
	}
	for i, list := range steps {
		slices.SortStableFunc(list, func(a, b step) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.sign, b.sign)) })
		slots, gpus := 0, 0
		for _, st := range list {
			slots += st.sign
			gpus += st.sign * st.node.Tokens["gpu"]
			if m := &s.Machines[i]; slots > m.Slots || gpus > m.Tokens["gpu"] {
				t.Errorf("%s: %d slots and %d tokens taken on %s at %s", name, slots, gpus, m.Name, st.at)
			}
		}
	}
	for i, done := range firstDone {
		if done < 0 {
			t.Errorf("%s: %s was never built", name, s.Graph.Nodes[i].Name)
		}
	}
}

// TestCases plays what has been bad once: nothing is slower than first come, first served by more
// than a twentieth, and nobody who asks for little waits long.
func TestCases(t *testing.T) {
	for _, c := range simulate.Cases() {
		s := simulate.Scenario{Graph: c.Graph, Machines: c.Machines, Estimate: c.Estimate}
		lighter, err := simulate.Run(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		s.Policy = simulate.FIFO
		fifo, err := simulate.Run(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if lighter.Makespan.Seconds() > 1.05*fifo.Makespan.Seconds() {
			t.Errorf("%s (%s): %s, first come first served %s", c.Name, c.About, lighter.Makespan, fifo.Makespan)
		}
		for _, w := range lighter.Requests {
			if w.Wait > 15*time.Minute {
				t.Errorf("%s (%s): request %d waits %s", c.Name, c.About, w.Request, w.Wait)
			}
		}
	}
}

// TestRandomCases looks how often lighter is slower than first come, first served.
func TestRandomCases(t *testing.T) {
	const n = 200
	for _, kind := range []simulate.RandomKind{{}, {Mixed: true}, {WAN: true}, {Mixed: true, WAN: true}} {
		slower := 0
		for seed := range uint64(n) {
			g, machines := simulate.RandomCase(kind, seed)
			lighter, err := simulate.Run(t.Context(), simulate.Scenario{Graph: g, Machines: machines})
			if err != nil {
				t.Fatal(err)
			}
			fifo, err := simulate.Run(t.Context(), simulate.Scenario{Graph: g, Machines: machines, Policy: simulate.FIFO})
			if err != nil {
				t.Fatal(err)
			}
			if lighter.Makespan.Seconds() > 1.05*fifo.Makespan.Seconds() {
				slower++
			}
		}
		if slower > n/50 {
			t.Errorf("%+v: %d of %d graphs take a twentieth longer than first come, first served", kind, slower, n)
		}
	}
}

// TestGraphs plays the packages of six, whose path binds, near the bound on all fleets.
func TestGraphs(t *testing.T) {
	g := load(t, "six")
	(&simulate.Model{Seed: 1}).Apply(g)
	for name, fleet := range simulate.Fleets() {
		for known, estimate := range map[string]simulate.Estimate{"all": simulate.Perfect(g), "learnt": simulate.Learnt(g, 2, 1)} {
			r, err := simulate.Run(t.Context(), simulate.Scenario{Graph: g, Machines: fleet, Estimate: estimate})
			if err != nil {
				t.Fatal(err)
			}
			if r.Ratio > 1.05 {
				t.Errorf("fleet %s, %s known: %.3f times the bound", name, known, r.Ratio)
			}
		}
	}
}

// TestLearnt looks at what is known after some runs.
func TestLearnt(t *testing.T) {
	g := load(t, "six")
	(&simulate.Model{Seed: 1}).Apply(g)
	other := g.OtherRun(2)
	for _, runs := range []int{0, 1, 5} {
		known := simulate.Learnt(g, runs, 1)
		within := 0
		for i := range g.Nodes {
			if e := known(i); e.Low <= other.Nodes[i].Duration && other.Nodes[i].Duration <= e.High {
				within++
			}
		}
		if part := float64(within) / float64(len(g.Nodes)); part < 0.75 {
			t.Errorf("after %d runs %.2f of the durations lie within the interval for 0.8", runs, part)
		}
	}
}
