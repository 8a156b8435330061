package simulate

import (
	"fmt"
	"time"
)

// Case is a small scenario in which some policy does badly.
type Case struct {
	Name     string
	About    string // in a line
	Graph    *Graph
	Machines []Machine
	Estimate Estimate // what lighter knows
}

// caseGraph is the graph of a case.
type caseGraph struct{ Graph }

const caseSystem = "x86_64-linux"

// builds adds n builds and returns their indices.
func (g *caseGraph) builds(n int, name string, takes time.Duration, output int64, inputs ...int32) (added []int32) {
	for i := range n {
		added = append(added, int32(g.Add(Node{ //nolint:gosec // small
			Name: fmt.Sprintf("%s-%d", name, i+1), System: caseSystem, Duration: takes, Output: output, Inputs: inputs,
		})))
	}
	return added
}

// chains adds n chains of builds, each of so many, after the inputs.
func (g *caseGraph) chains(n, length int, name string, takes time.Duration, output int64, inputs ...int32) (ends []int32) {
	for i := range n {
		last := inputs
		for j := range length {
			last = g.builds(1, fmt.Sprintf("%s-%d-%d", name, i+1, j+1), takes, output, last...)
		}
		ends = append(ends, last...)
	}
	return ends
}

// asked marks builds as somebody's request.
func (g *caseGraph) asked(request int, at time.Duration, nodes ...int32) {
	for _, n := range nodes {
		g.Nodes[n].Request, g.Nodes[n].Submitted, g.Nodes[n].Share = request, at, "other"
	}
}

func (g *caseGraph) require(feature string, nodes ...int32) {
	for _, n := range nodes {
		g.Nodes[n].Features = []string{feature}
	}
}

const (
	mib = 1 << 20
	lan = 100e6 // bytes/s
	wan = 2e6
)

// Cases are the scenarios in which a scheduler of this kind has been bad, or could be.
func Cases() []Case {
	var cases []Case
	add := func(name, about string, known func(g *Graph) Estimate, machines []Machine, fill func(g *caseGraph)) {
		g := &caseGraph{}
		fill(g)
		cases = append(cases, Case{name, about, &g.Graph, machines, known(&g.Graph)})
	}
	nothing := func(*Graph) Estimate { return Nothing() }
	const s, m, h = time.Second, time.Minute, time.Hour

	giant := func(g *caseGraph) {
		g.builds(1, "giant", 2*h, mib)
		g.builds(50, "small", 2*s, mib)
	}
	slowFirst := []Machine{{Name: "slow", Slots: 4, Speed: 0.25, Bandwidth: lan}, {Name: "swift", Slots: 4, Speed: 1, Bandwidth: lan}}
	add("P1", "a giant of which nothing is known, and a slow machine first in the file", nothing, slowFirst, giant)
	add("P1k", "the same, known", Perfect, slowFirst, giant)
	add("P2", "heavy outputs, each needed by one short build, near and behind a slow link", Perfect,
		[]Machine{{Name: "far", Slots: 4, Speed: 1, Bandwidth: wan}, {Name: "near", Slots: 2, Speed: 1, Bandwidth: lan}},
		func(g *caseGraph) { g.chains(30, 2, "heavy", m, 2100*mib) })
	add("P3", "one heavy output that every machine must get", Perfect,
		[]Machine{{Name: "far", Slots: 8, Speed: 1, Bandwidth: 5e6}, {Name: "near", Slots: 2, Speed: 1, Bandwidth: lan}},
		func(g *caseGraph) { g.builds(16, "user", m, mib, g.builds(1, "header", m, 3000*mib)...) })
	add("P4", "giants of which nothing is known, half of which start on a slow machine", nothing,
		[]Machine{{Name: "swift", Slots: 2, Speed: 1, Bandwidth: lan}, {Name: "slow", Slots: 2, Speed: 0.25, Bandwidth: lan}},
		func(g *caseGraph) { g.builds(4, "giant", h, mib) })
	add("P5", "many inputs that come over one link", Perfect,
		[]Machine{{Name: "m1", Slots: 4, Speed: 1, Bandwidth: 20e6}, {Name: "m2", Slots: 4, Speed: 2, Bandwidth: 20e6}},
		func(g *caseGraph) { g.builds(4, "user", m, mib, g.builds(20, "part", 5*s, 100*mib)...) })
	rare := func(g *caseGraph) {
		g.require("kvm", g.builds(48, "kvm", 5*m, mib)...)
		g.builds(24, "any", 10*m, mib)
		last := g.builds(1, "asked", 5*m, mib)
		g.require("kvm", last...)
		g.asked(1, 10*m, last...)
	}
	add("P6", "builds that only one machine may do, of low rank, beside others that could go anywhere", Perfect,
		[]Machine{{Name: "plain", Slots: 2, Speed: 1, Bandwidth: lan}, {Name: "rare", Slots: 2, Speed: 1, Bandwidth: lan, Features: []string{"kvm"}}}, rare)
	add("P7", "the same, and the rare machine is the fastest", Perfect,
		[]Machine{{Name: "plain", Slots: 4, Speed: 1, Bandwidth: lan}, {Name: "rare", Slots: 2, Speed: 2, Bandwidth: lan, Features: []string{"kvm"}}}, rare)
	add("P8", "one build beside a stream that is a little more than the machine can do", Perfect,
		[]Machine{{Name: "m1", Slots: 4, Speed: 1, Bandwidth: lan}},
		func(g *caseGraph) {
			for i := range 24 * 36 {
				for _, n := range g.chains(4, 2, fmt.Sprintf("stream-%d", i), 52*s, 1024) {
					g.Nodes[n].Submitted = time.Duration(i) * 100 * s
					g.Nodes[n-1].Submitted = g.Nodes[n].Submitted
				}
			}
			g.asked(1, h, g.builds(1, "asked", m, 1024)...)
		})
	add("P9", "one chain", Perfect, []Machine{{Name: "m1", Slots: 2, Speed: 1, Bandwidth: lan}, {Name: "m2", Slots: 2, Speed: 1, Bandwidth: lan}},
		func(g *caseGraph) { g.chains(1, 20, "chain", m, 1024) })
	mixed := func(g *caseGraph) {
		for i := range 60 {
			source := g.builds(1, fmt.Sprintf("source%d", i), 3*s, 3*mib)
			g.builds(1, fmt.Sprintf("package%d", i), time.Duration(20+i*i/6)*s, 3*mib, source...)
		}
	}
	two := []Machine{{Name: "m1", Slots: 2, Speed: 1, Bandwidth: lan}, {Name: "m2", Slots: 2, Speed: 2, Bandwidth: lan}}
	add("P10", "sources and packages that are taken for one another", func(g *Graph) Estimate {
		return func(node int) Expectation {
			other := node ^ 1
			return Expectation{Duration: (g.Nodes[node].Duration + g.Nodes[other].Duration) / 2, Output: 3 * mib, Measured: true}
		}
	}, two, mixed)
	add("P10k", "the same, told apart", Perfect, two, mixed)
	add("P11", "a heavy output, made on one of two idle machines, and the link of one is slow", Perfect,
		[]Machine{{Name: "near", Slots: 4, Speed: 1, Bandwidth: lan}, {Name: "far0", Slots: 4, Speed: 1, Bandwidth: wan}},
		func(g *caseGraph) { g.builds(4, "user", m, mib, g.builds(1, "header", m, 2000*mib)...) })
	fast := []Machine{
		{Name: "fast", Slots: 1, Speed: 4, Bandwidth: lan}, {Name: "fair", Slots: 1, Speed: 2, Bandwidth: lan}, {Name: "slow", Slots: 1, Speed: 0.25, Bandwidth: lan},
	}
	late := func(g *caseGraph) {
		g.builds(2, "short", 4*m, mib)
		g.builds(3, "long", 450*s, mib)
		g.builds(6, "other", 2*m, mib)
	}
	add("P12", "a fast machine that is worth waiting for, and a slow one that idles when the wait is long", Perfect, fast, late)
	add("P13", "the same, and nothing is known", nothing, fast, late)
	return cases
}

// RandomKind says of what kind a random case is.
type RandomKind struct {
	Mixed bool // machines have different speeds
	WAN   bool // some have slow links
}

// RandomCase makes a graph of 5 to 64 builds for 2 to 4 machines.
func RandomCase(kind RandomKind, seed uint64) (*Graph, []Machine) {
	rng := random(seed, 5)
	g := &Graph{}
	n := 5 + rng.IntN(60)
	edges := rng.Float64() * 4 // to builds before, on average
	for i := range n {
		node := Node{
			Name: fmt.Sprintf("p%02d", rng.IntN(100)), System: caseSystem,
			Duration: seconds(packageMedian * lognormal(rng, 1.3)), Output: int64(min(1e9, outputMedian*lognormal(rng, outputSigma))),
		}
		for in := range i {
			if rng.Float64() < edges/float64(i) {
				node.Inputs = append(node.Inputs, int32(in))
			}
		}
		g.Nodes = append(g.Nodes, node)
	}
	machines := make([]Machine, 2+rng.IntN(3))
	for i := range machines {
		m := Machine{Name: fmt.Sprintf("m%d", i+1), Slots: 1 + rng.IntN(4), Speed: 1, Bandwidth: lan}
		if kind.Mixed {
			m.Speed = []float64{0.25, 0.5, 1, 2, 4}[rng.IntN(5)]
		}
		if kind.WAN {
			m.Bandwidth = []float64{wan, 10e6, lan}[rng.IntN(3)]
		}
		machines[i] = m
	}
	return g, machines
}
