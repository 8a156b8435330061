package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lighter/scheduler/simulate"
)

// cell is what is known of a contender on a graph and a fleet.
type cell struct {
	ratio           summary
	gb              summary
	taken, building summary
}

// ratios compares makespans with the lower bound.
func ratios(ctx context.Context, b *bench) error {
	for _, graph := range b.graphs {
		if err := b.ratiosOf(ctx, graph); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) ratiosOf(ctx context.Context, graph string) error {
	wanted := b.contenders()
	results := make([]*simulate.Result, b.seeds*len(b.fleets)*len(wanted))
	for seed := range b.seeds { // the graphs of one seed are in memory at a time
		g, err := b.graph(graph, uint64(seed+1))
		if err != nil {
			return err
		}
		estimates := make([]simulate.Scenario, len(wanted))
		for i := range wanted {
			estimates[i] = wanted[i].scenario(b, g, nil, uint64(seed+1))
		}
		simulate.LowerBound(g, simulate.FleetA()) // links the graph, once
		err = b.each(ctx, len(b.fleets)*len(wanted), func(i int) error {
			s := estimates[i%len(wanted)]
			s.Machines = simulate.Fleets()[b.fleets[i/len(wanted)]]
			r, err := simulate.Run(ctx, s)
			if err != nil {
				return fmt.Errorf("%s on %s, fleet %s, seed %d: %w", wanted[i%len(wanted)].name, graph, b.fleets[i/len(wanted)], seed+1, err)
			}
			r.Spans = nil
			results[seed*len(b.fleets)*len(wanted)+i] = r
			return nil
		})
		if err != nil {
			return err
		}
	}
	ratio := table{title: fmt.Sprintf("Makespan / lower bound, mean (worst) of %d seeds: %s", b.seeds, graph), head: append([]string{"contender"}, b.fleets...)}
	use := table{title: "GB moved / % of slot time taken / % building: " + graph, head: ratio.head}
	for i := range wanted {
		ratios, uses := []string{wanted[i].name}, []string{wanted[i].name}
		for f := range b.fleets {
			var c cell
			for seed := range b.seeds {
				r := results[(seed*len(b.fleets)+f)*len(wanted)+i]
				c.ratio.add(r.Ratio)
				c.gb.add(float64(r.Sent()+r.Fetched()) / 1e9)
				taken, building := r.Use()
				c.taken.add(100 * taken)
				c.building.add(100 * building)
			}
			ratios = append(ratios, fmt.Sprintf("%.3f (%.2f)", c.ratio.mean(), c.ratio.worst))
			uses = append(uses, fmt.Sprintf("%.0f / %.0f / %.0f", c.gb.mean(), c.taken.mean(), c.building.mean()))
		}
		ratio.add(ratios...)
		use.add(uses...)
	}
	ratio.print()
	use.print()
	return nil
}

const smallBuilds = 20

// withSmall returns a graph with small builds of another share that come in while it is built.
func withSmall(g *simulate.Graph, machines []simulate.Machine) *simulate.Graph {
	bound := simulate.LowerBound(g, machines)
	g = g.Clone()
	for i := range smallBuilds {
		g.Add(simulate.Node{
			Name: fmt.Sprintf("asked-%02d", i), System: "x86_64-linux", Wanted: true, Duration: time.Minute, Output: 2 << 20, Memory: 64 << 20,
			Submitted: bound/5 + time.Duration(i)*bound/2/smallBuilds, Request: i + 1, Share: "other",
		})
	}
	return g
}

// waits looks at small builds in the middle of everything.
func waits(ctx context.Context, b *bench) error {
	wanted := slices.DeleteFunc(b.contenders(), func(c contender) bool { return c.policy == simulate.HEFT }) // it plans before they come
	type played struct{ with, without *simulate.Result }
	results := make([]played, b.seeds*len(b.fleets)*len(wanted))
	for seed := range b.seeds {
		g, err := b.graph("all", uint64(seed+1))
		if err != nil {
			return err
		}
		simulate.LowerBound(g, simulate.FleetA()) // links the graph, once
		err = b.each(ctx, len(b.fleets)*len(wanted), func(i int) error {
			c := &wanted[i%len(wanted)]
			machines := simulate.Fleets()[b.fleets[i/len(wanted)]]
			alone, err := simulate.Run(ctx, c.scenario(b, g, machines, uint64(seed+1))) //nolint:gosec // small
			if err != nil {
				return err
			}
			both, err := simulate.Run(ctx, c.scenario(b, withSmall(g, machines), machines, uint64(seed+1))) //nolint:gosec // small
			if err != nil {
				return err
			}
			alone.Spans, both.Spans = nil, nil
			results[seed*len(b.fleets)*len(wanted)+i] = played{both, alone}
			return nil
		})
		if err != nil {
			return err
		}
	}
	t := table{
		title: fmt.Sprintf("%d builds of a minute in the middle of \"all\", equal priority, %d seeds", smallBuilds, b.seeds),
		head:  []string{"fleet", "contender", "slowdown, mean", "worst", "longest wait, min", "makespan with / without"},
	}
	for f, fleet := range b.fleets {
		for i := range wanted {
			var slow, wait, changed summary
			for seed := range b.seeds {
				r := results[(seed*len(b.fleets)+f)*len(wanted)+i]
				for _, w := range r.with.Requests {
					slow.add(w.Slowdown)
					wait.add(w.Wait.Minutes())
				}
				changed.add(r.with.Makespan.Seconds() / r.without.Makespan.Seconds())
			}
			t.add(fleet, wanted[i].name, fmt.Sprintf("%.1f", slow.mean()), fmt.Sprintf("%.1f", slow.worst), fmt.Sprintf("%.1f", wait.worst), fmt.Sprintf("%.4f", changed.mean()))
		}
	}
	t.print()
	return nil
}
