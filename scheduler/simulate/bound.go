package simulate

import (
	"math"
	"slices"
	"time"
)

// areaSteps is how many heads and tails the area bound looks at.
const areaSteps = 60

// LowerBound returns a time in which no policy can be done: the greatest of the work of each class
// of builds over what the machines that may take it can do, the longest path on the fastest machine
// with the way home of what is asked for, and the work that can neither begin early nor end late.
func LowerBound(g *Graph, machines []Machine) time.Duration {
	return time.Duration(lowerBound(g, machines) * float64(time.Second))
}

func lowerBound(g *Graph, machines []Machine) float64 {
	classes := newClassSpeeds(g, machines)
	home := math.Inf(1) // the least time for a byte on its way home
	delay := math.Inf(1)
	for i := range machines {
		_, from := machines[i].bandwidths()
		home = min(home, 1/from)
		delay = min(delay, machines[i].Delay.Seconds())
	}
	head := make([]float64, len(g.Nodes)) // when it can begin at the earliest
	tail := make([]float64, len(g.Nodes)) // how long it takes until the end, after its own end
	own := make([]float64, len(g.Nodes))
	dependants, wanted := g.link(), g.wanted()
	work := make([]float64, len(classes.fastest))
	for i := range g.Nodes {
		n := &g.Nodes[i]
		own[i] = n.Duration.Seconds() / classes.fastest[classes.of[i]]
		work[classes.of[i]] += n.Duration.Seconds()
		head[i] = n.Submitted.Seconds()
		for _, in := range n.Inputs {
			head[i] = max(head[i], head[in]+own[in])
		}
	}
	bound := 0.0
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		if wanted[i] {
			tail[i] = float64(g.Nodes[i].Output)*home + delay
		}
		for _, d := range dependants[i] {
			tail[i] = max(tail[i], own[d]+tail[d])
		}
		bound = max(bound, head[i]+own[i]+tail[i])
	}
	for class := range work {
		bound = max(bound, work[class]/classes.capacity[class])
	}
	return max(bound, areaBound(g, head, tail, classes.all))
}

// classSpeeds says how fast the builds of each class can be done.
type classSpeeds struct {
	of                []int32 // class of each node
	fastest, capacity []float64
	all               float64 // capacity of all machines
}

func newClassSpeeds(g *Graph, machines []Machine) *classSpeeds {
	c := &classSpeeds{of: make([]int32, len(g.Nodes))}
	known := make(map[string]int32)
	for i := range machines {
		c.all += float64(machines[i].Slots) * machines[i].speed()
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		key := n.class()
		class, ok := known[key]
		if !ok {
			class = int32(len(c.fastest)) //nolint:gosec // at most one for each node
			known[key] = class
			fastest, capacity := 0.0, 0.0
			for j := range machines {
				if m := &machines[j]; m.takes(n) {
					fastest = max(fastest, m.speed())
					capacity += float64(m.Slots) * m.speed()
				}
			}
			c.fastest, c.capacity = append(c.fastest, fastest), append(c.capacity, capacity)
		}
		c.of[i] = class
	}
	return c
}

// areaBound is the greatest, over pairs of a head and a tail, of both together with the work of all
// builds that begin no earlier and have no less after them, done by all machines.
func areaBound(g *Graph, head, tail []float64, capacity float64) float64 {
	heads, tails := quantiles(head), quantiles(tail)
	var work [areaSteps][areaSteps]float64
	for i := range g.Nodes {
		h, _ := slices.BinarySearchFunc(heads, head[i], after)
		t, _ := slices.BinarySearchFunc(tails, tail[i], after)
		work[h-1][t-1] += g.Nodes[i].Duration.Seconds()
	}
	bound := 0.0
	var sums [areaSteps + 1]float64
	for h := areaSteps - 1; h >= 0; h-- {
		row := 0.0
		for t := areaSteps - 1; t >= 0; t-- {
			row += work[h][t]
			sums[t] += row
			if sums[t] > 0 {
				bound = max(bound, heads[h]+tails[t]+sums[t]/capacity)
			}
		}
	}
	return bound
}

// after has a binary search find the first step that is greater than a value.
func after(step, value float64) int {
	if step <= value {
		return -1
	}
	return 1
}

// quantiles returns areaSteps values, sorted, from the least one up.
func quantiles(values []float64) []float64 {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	steps := make([]float64, areaSteps)
	for i := range steps {
		steps[i] = sorted[i*len(sorted)/areaSteps]
	}
	return steps
}
