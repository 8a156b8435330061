package simulate

import (
	"math"
	"time"
)

// Expectation is what is known of a build before it runs.
type Expectation struct {
	Duration time.Duration // at speed 1; 0 is not known
	Output   int64         // bytes; 0 is not known
	Memory   int64         // bytes to reserve; 0 is not known
}

// Estimate says what is known of a node of the graph. It must always say the same.
type Estimate func(node int) Expectation

// Perfect knows all; memory is reserved as it is used.
func Perfect(g *Graph) Estimate {
	return func(node int) Expectation {
		n := &g.Nodes[node]
		return Expectation{Duration: n.Duration, Output: n.Output, Memory: n.Memory}
	}
}

// Nothing is known.
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
			Duration: time.Duration(float64(n.Duration) * off()), Output: int64(float64(n.Output) * off()), Memory: n.Memory,
		}
	}
	return func(node int) Expectation { return known[node] }
}
