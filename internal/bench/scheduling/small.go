package main

import (
	"context"
	"fmt"
	"time"

	"lighter/scheduler/simulate"
)

// cases plays what has been bad once.
func cases(ctx context.Context, _ *bench) error {
	t := table{title: "Cases that were bad once, or could be", head: []string{"case", "what", "policy", "makespan, s", "/ fifo", "/ bound", "GB", "wait of who asked, s"}}
	for _, c := range simulate.Cases() {
		var fifo *simulate.Result
		for _, policy := range []simulate.Policy{simulate.FIFO, simulate.Guix, simulate.Nix, simulate.Lighter} {
			r, err := simulate.Run(ctx, simulate.Scenario{Graph: c.Graph, Machines: c.Machines, Policy: policy, Estimate: c.Estimate})
			if err != nil {
				return fmt.Errorf("%s: %w", c.Name, err)
			}
			if policy == simulate.FIFO {
				fifo = r
			}
			var wait time.Duration
			for _, w := range r.Requests {
				wait = max(wait, w.Wait)
			}
			t.add(c.Name, c.About, string(policy), fmt.Sprintf("%.0f", r.Makespan.Seconds()), fmt.Sprintf("%.2f", r.Makespan.Seconds()/fifo.Makespan.Seconds()),
				fmt.Sprintf("%.2f", r.Ratio), fmt.Sprintf("%.2f", float64(r.Sent()+r.Fetched())/1e9), fmt.Sprintf("%.0f", wait.Seconds()))
		}
	}
	t.print()
	return nil
}

// randomSearch counts random graphs on which lighter is worse than first come, first served.
func randomSearch(ctx context.Context, b *bench) error {
	t := table{
		title: fmt.Sprintf("%d random graphs for each row", b.random),
		head:  []string{"machines", "known", "/ bound, mean", "over fifo by 5 %", "by 20 %", "/ fifo, worst", "seed", "over guix by 5 %", "/ guix, worst"},
	}
	for _, kind := range []struct {
		name string
		simulate.RandomKind
	}{
		{"equal, LAN", simulate.RandomKind{}},
		{"mixed, LAN", simulate.RandomKind{Mixed: true}},
		{"equal, WAN", simulate.RandomKind{WAN: true}},
		{"mixed, WAN", simulate.RandomKind{Mixed: true, WAN: true}},
	} {
		for _, known := range []contender{
			{name: "all"}, {name: "nothing", knows: knowsNothing}, {name: "x/3", knows: knowsNoisy},
		} {
			ratios := make([][3]float64, b.random)
			err := b.each(ctx, b.random, func(i int) error {
				g, machines := simulate.RandomCase(kind.RandomKind, uint64(i)) //nolint:gosec // small
				s := known.scenario(b, g, machines, uint64(i))                 //nolint:gosec // small
				var spans [3]float64
				for j, policy := range []simulate.Policy{simulate.Lighter, simulate.FIFO, simulate.Guix} {
					s.Policy = policy
					r, err := simulate.Run(ctx, s)
					if err != nil {
						return err
					}
					spans[j] = r.Makespan.Seconds()
					if policy == simulate.Lighter {
						ratios[i][0] = r.Ratio
					}
				}
				ratios[i][1], ratios[i][2] = spans[0]/spans[1], spans[0]/spans[2]
				return nil
			})
			if err != nil {
				return err
			}
			var bound, fifo, guix summary
			var over5, over20, overGuix, worst int
			for i, r := range ratios {
				bound.add(r[0])
				if r[1] > fifo.worst {
					worst = i
				}
				fifo.add(r[1])
				guix.add(r[2])
				over5 += oneIf(r[1] > 1.05)
				over20 += oneIf(r[1] > 1.2)
				overGuix += oneIf(r[2] > 1.05)
			}
			part := func(n int) string { return fmt.Sprintf("%.2f %%", 100*float64(n)/float64(b.random)) }
			t.add(kind.name, known.name, fmt.Sprintf("%.3f", bound.mean()), part(over5), part(over20), fmt.Sprintf("%.2f", fifo.worst), fmt.Sprint(worst),
				part(overGuix), fmt.Sprintf("%.2f", guix.worst))
		}
	}
	t.print()
	return nil
}

func oneIf(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
