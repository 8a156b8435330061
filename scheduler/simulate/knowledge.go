package simulate

import (
	"iter"
	"math"
	"math/rand/v2"
	"time"

	"lighter/scheduler/estimate"
)

// Expectation is what is known of a build before it runs.
type Expectation struct {
	Duration time.Duration // at speed 1; 0 is not known
	Output   int64         // bytes; 0 is not known
	Memory   int64         // bytes to reserve; 0 is not known
	// Measured reports that its package was measured: then it says how fast a machine is.
	Measured bool
	// Low and High are an interval in which four in five durations are; 0 if that is not known.
	Low, High time.Duration
}

// Estimate says what is known of a node of the graph. It must always say the same.
type Estimate func(node int) Expectation

// Perfect knows all; memory is reserved as it is used.
func Perfect(g *Graph) Estimate {
	return func(node int) Expectation {
		n := &g.Nodes[node]
		return Expectation{Duration: n.Duration, Output: n.Output, Memory: n.Memory, Measured: true, Low: n.Duration, High: n.Duration}
	}
}

// Nothing is known at all: not even what the scheduler supposes of a package that it never built.
func Nothing() Estimate {
	return func(int) Expectation { return Expectation{} }
}

// Noisy knows durations and sizes up to a factor: what is known lies between what is true divided
// by it and multiplied with it, its logarithm evenly.
func Noisy(g *Graph, factor float64, seed uint64) Estimate {
	rng := random(seed, 2)
	known := make([]Expectation, len(g.Nodes))
	off := func() float64 { return math.Pow(factor, 2*rng.Float64()-1) }
	for i := range g.Nodes {
		n := &g.Nodes[i]
		known[i] = Expectation{
			Duration: time.Duration(float64(n.Duration) * off()), Output: int64(float64(n.Output) * off()), Memory: n.Memory, Measured: true,
		}
	}
	return func(node int) Expectation { return known[node] }
}

const (
	// durationJitter and memoryJitter are how much durations and peaks differ between runs: the
	// deviations of their logarithms.
	durationJitter = 0.2
	memoryJitter   = 0.05
	// defaultMemory is reserved for a build that nothing is known of, and similarPart of the peaks
	// of others with its build system is for one of which that is all that is known. The
	// coordinator does so.
	defaultMemory = 512 << 20
	similarPart   = 0.75
)

// Learnt knows what a ledger would have kept of so many earlier runs of the graph, in each of
// which durations and peaks differed a little. With no run, it knows what is supposed of packages
// that were never built.
func Learnt(g *Graph, runs int, seed uint64) Estimate {
	book := estimate.NewBook()
	keys := make([]estimate.Key, len(g.Nodes))
	for i := range keys {
		keys[i] = g.key(int32(i))
	}
	rng := random(seed, 4)
	for range runs {
		for _, i := range rng.Perm(len(g.Nodes)) { // builds end in no particular order
			n, k := &g.Nodes[i], &keys[i]
			s := estimate.Sample{System: k.System, Version: k.Version, Speed: 1, Output: n.Output}
			s.Duration, s.Memory = n.jitter(rng)
			book.Add(*k, s)
		}
	}
	known := make([]Expectation, len(keys))
	for i := range keys {
		e := book.Of(keys[i])
		known[i] = Expectation{Duration: e.Duration.Middle(), Output: e.Output.Middle(), Measured: e.Measured(), Memory: reservation(e.Memory)}
		known[i].Low, known[i].High = e.Duration.Interval()
	}
	return func(node int) Expectation { return known[node] }
}

// jitter returns what a node takes in another run.
func (n *Node) jitter(rng *rand.Rand) (time.Duration, int64) {
	return time.Duration(float64(n.Duration) * lognormal(rng, durationJitter)), int64(float64(n.Memory) * lognormal(rng, memoryJitter))
}

// OtherRun returns a copy of the graph in which durations and peaks differ as they do between the
// runs that are learnt from.
func (g *Graph) OtherRun(seed uint64) *Graph {
	other, rng := g.Clone(), random(seed, 6)
	for i := range other.Nodes {
		n := &other.Nodes[i]
		n.Duration, n.Memory = n.jitter(rng)
	}
	return other
}

// reservation is what is reserved for a build of which so much is known.
func reservation(peak estimate.Dist[int64]) int64 {
	switch peak.Known() {
	case estimate.FromVersion, estimate.FromPackage, estimate.FromTable:
		return peak.High()
	case estimate.FromBuildSystem:
		return peak.Quantile(similarPart)
	}
	return defaultMemory
}

// key is what tells an estimate of a node.
func (g *Graph) key(node int32) estimate.Key {
	n := &g.Nodes[node]
	inputs := iter.Seq[string](func(yield func(string) bool) {
		for _, in := range n.Inputs {
			if !yield(g.Nodes[in].Name) {
				return
			}
		}
	})
	return estimate.KeyOf(estimate.Build{Name: n.Name, System: n.System, Fixed: n.Source, Inputs: inputs})
}
