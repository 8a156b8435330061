package main

import (
	"context"
	"fmt"
	"time"

	"lighter/scheduler/simulate"
)

// shares has several ask for much at once, with weights.
func shares(ctx context.Context, b *bench) error {
	const hours = 8
	t := table{
		title: fmt.Sprintf("What each had in an hour beside what its weight asks for, %d seeds", b.seeds),
		head:  []string{"weights", "fleet", "known", "most that one had too much or too little, %", "hours looked at"},
	}
	var known []contender
	for _, name := range []string{"lighter-perfect", "lighter-learnt", "lighter-none"} {
		if b.contender.MatchString(name) {
			known = append(known, contenderOf(name))
		}
	}
	for _, w := range [][]float64{{1, 1}, {3, 1}, {1, 2, 4}, {1, 1, 1, 1, 1, 2, 2, 2, 4, 4}} {
		for _, fleet := range b.fleets {
			for _, c := range known {
				deviations := make([]float64, b.seeds)
				looked := 0
				err := b.each(ctx, b.seeds, func(seed int) error {
					machines := simulate.Fleets()[fleet]
					s := c.scenario(b, submitters(w, machines, hours, uint64(seed+1)), machines, uint64(seed+1)) //nolint:gosec // small
					s.Weights, s.HalfLife = make(map[string]float64), 24*time.Hour
					for i := range w {
						s.Weights[shareName(i)] = w[i]
					}
					r, err := simulate.Run(ctx, s)
					if err != nil {
						return err
					}
					var n int
					deviations[seed], n = r.Deviation()
					if seed == 0 {
						looked = n
					}
					return nil
				})
				if err != nil {
					return err
				}
				worst := 0.0
				for _, d := range deviations {
					worst = max(worst, d)
				}
				t.add(fmt.Sprint(w), fleet, c.name, fmt.Sprintf("%.1f", 100*worst), fmt.Sprint(looked))
			}
		}
	}
	t.print()
	return nil
}

func shareName(i int) string { return fmt.Sprintf("user%02d", i+1) }

// submitters makes a graph in which each has work enough for its part of the machines for so many
// hours: builds of packages that need nothing, some with a second one after them.
func submitters(weights []float64, machines []simulate.Machine, hours float64, seed uint64) *simulate.Graph {
	capacity, sum := 0.0, 0.0
	for _, m := range machines {
		capacity += float64(m.Slots) * m.Speed
	}
	for _, w := range weights {
		sum += w
	}
	g := &simulate.Graph{}
	for i, w := range weights {
		left := time.Duration(hours * capacity * w / sum * float64(time.Hour))
		part := &simulate.Graph{}
		for n := 0; part.Work() < left; n += 100 {
			part = &simulate.Graph{}
			for j := range n + 100 {
				part.Add(simulate.Node{Name: fmt.Sprintf("p%d-%d", i, j), System: "x86_64-linux", Wanted: true, Share: shareName(i)})
				if j%3 == 2 {
					part.Nodes[j].Inputs = []int32{int32(j - 1)}
				}
			}
			(&simulate.Model{Seed: seed}).Apply(part)
		}
		first := int32(len(g.Nodes)) //nolint:gosec // small
		for _, n := range part.Nodes {
			for k := range n.Inputs {
				n.Inputs[k] += first
			}
			g.Add(n)
		}
	}
	return g
}

// memory gives machines 2 GiB for each slot, and builds peaks.
func memory(ctx context.Context, b *bench) error {
	const perSlot = 2 << 30
	t := table{
		title: fmt.Sprintf("Memory: machines with 2 GiB for each slot, six packages without giants, %d seeds", b.seeds),
		head:  []string{"fleet", "contender", "killed", "% of builds", "makespan / without limits"},
	}
	hide := func(machines []simulate.Machine) []simulate.Machine {
		for i := range machines {
			machines[i].HideMemory = true
		}
		return machines
	}
	after := func(runs int) func(*bench, *simulate.Graph, uint64) simulate.Estimate {
		return func(_ *bench, g *simulate.Graph, seed uint64) simulate.Estimate {
			return simulate.Learnt(g, runs, seed)
		}
	}
	for _, fleet := range b.fleets {
		limited := simulate.WithMemory(simulate.Fleets()[fleet], perSlot)
		for _, c := range []struct {
			contender
			machines []simulate.Machine
		}{
			{contender{name: "lighter, slots alone", knows: after(3)}, hide(simulate.WithMemory(simulate.Fleets()[fleet], perSlot))},
			{contender{name: "lighter, first run", knows: after(0)}, limited},
			{contender{name: "lighter, after 1 run", knows: after(1)}, limited},
			{contender{name: "lighter, after 3 runs", knows: after(3)}, limited},
			{contender{name: "guix", policy: simulate.Guix}, limited},
			{contender{name: "fifo", policy: simulate.FIFO}, limited},
		} {
			var kills, nodes int
			var ratio summary
			results := make([][2]*simulate.Result, b.seeds)
			err := b.each(ctx, b.seeds, func(seed int) error {
				g, err := b.graph(light, uint64(seed+1)) //nolint:gosec // small
				if err != nil {
					return err
				}
				s := c.scenario(b, g, c.machines, uint64(seed+1)) //nolint:gosec // small
				s.Graph = g.OtherRun(uint64(seed + 1))            //nolint:gosec // small
				if results[seed][0], err = simulate.Run(ctx, s); err != nil {
					return err
				}
				s.Machines = simulate.Fleets()[fleet]
				results[seed][1], err = simulate.Run(ctx, s)
				return err
			})
			if err != nil {
				return err
			}
			for _, r := range results {
				kills += r[0].Kills
				nodes += len(r[0].Spans) - r[0].Retried - r[0].Again
				ratio.add(r[0].Makespan.Seconds() / r[1].Makespan.Seconds())
			}
			t.add(fleet, c.name, fmt.Sprint(kills), fmt.Sprintf("%.2f", 100*float64(kills)/float64(nodes)), fmt.Sprintf("%.3f", ratio.mean()))
		}
	}
	t.print()
	return nil
}

// ends looks how often a builder ends when its placement thought that it would.
func ends(ctx context.Context, b *bench) error {
	t := table{
		title: "Ends of builds beside the expected ones",
		head:  []string{"graph", "fleet", "known", "% of durations within the interval of 80 %", "% of ends, from the placement", "median of took / expected", "off by more than 2x, %"},
	}
	for _, graph := range b.graphs {
		for _, fleet := range b.fleets {
			for _, c := range []contender{contenderOf("lighter-learnt"), contenderOf("lighter-first")} {
				g, err := b.graph(graph, 1)
				if err != nil {
					return err
				}
				s := c.scenario(b, g, simulate.Fleets()[fleet], 1)
				s.Graph = g.OtherRun(1)
				r, err := simulate.Run(ctx, s)
				if err != nil {
					return err
				}
				within, ended, off, n := 0, 0, 0, 0
				var factors []float64
				for _, span := range r.Spans {
					if span.Outcome != simulate.Done || span.Expected == 0 {
						continue
					}
					n++
					known, node := s.Estimate(int(span.Node)), &s.Graph.Nodes[span.Node]
					within += oneIf(known.Low <= node.Duration && node.Duration <= known.High)
					took, speed := span.Ended-span.Placed, simulate.Fleets()[fleet][span.Machine].Speed
					at := func(d time.Duration) time.Duration { // when it ends if the builder takes so long at speed 1
						return span.Expected + time.Duration(float64(d-known.Duration)/speed)
					}
					ended += oneIf(at(known.Low) <= took && took <= at(known.High))
					factor := (span.Ended - span.Placed).Seconds() / span.Expected.Seconds()
					off += oneIf(factor > 2 || factor < 0.5)
					factors = append(factors, factor)
				}
				t.add(graph, fleet, c.name, fmt.Sprintf("%.1f", 100*float64(within)/float64(n)), fmt.Sprintf("%.1f", 100*float64(ended)/float64(n)), fmt.Sprintf("%.2f", median(factors)), fmt.Sprintf("%.1f", 100*float64(off)/float64(n)))
			}
		}
	}
	t.print()
	return nil
}
