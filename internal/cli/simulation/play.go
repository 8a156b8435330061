package simulation

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"lighter/internal/coordinator/reserve"
	"lighter/internal/human"
	"lighter/scheduler"
	"lighter/scheduler/simulate"
)

// fleet is machines, and what they are called in what is shown.
type fleet struct {
	name     string
	machines []simulate.Machine
}

// played is one fleet with one policy, after all runs.
type played struct {
	fleet   *fleet
	policy  simulate.Policy
	results []*simulate.Result // of each run; only the first keeps its attempts
	graph   *simulate.Graph    // of the first run
}

// knowing says what is known of builds before they run.
type knowing string

// What can be known.
const (
	knowsWork    knowing = "perfect" // durations and sizes, or what is in the middle of those that are likely
	knowsLearnt  knowing = "learnt"  // what a ledger has after some runs that differed a little
	knowsNothing knowing = "nothing"
)

// play is what to play: each fleet with each policy, and each of these so many times.
type play struct {
	work     *work
	fleets   []*fleet
	policies []simulate.Policy
	seed     uint64
	runs     int
	knows    knowing
	weights  map[string]float64
	halfLife time.Duration
}

// maxBits bounds the memory in which the simulator notes what is where.
const maxBits = 4 << 30

// check finds what would take too much.
func (p *play) check() error {
	for _, f := range p.fleets {
		if n := len(p.work.graph.Nodes); n*(len(f.machines)+64) > maxBits {
			return fmt.Errorf("%s on %s are more than can be simulated: want fewer of either", human.Count(n, "build"), human.Count(len(f.machines), "machine"))
		}
	}
	return nil
}

// all plays them, and tells before each how far it is.
func (p *play) all(ctx context.Context, before func(done, all int, what string)) ([]*played, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	var list []*played
	total, done := len(p.fleets)*len(p.policies)*p.runs, 0
	for _, f := range p.fleets {
		for _, policy := range p.policies {
			one := &played{fleet: f, policy: policy}
			for run := range p.runs {
				before(done, total, one.name(p))
				r, g, err := p.one(ctx, one, run)
				if err != nil {
					if len(p.fleets) > 1 && ctx.Err() == nil {
						err = fmt.Errorf("%s: %w", f.name, err)
					}
					return nil, err
				}
				if run == 0 {
					one.graph = g
				} else {
					r.Spans = nil
				}
				one.results = append(one.results, r)
				done++
			}
			list = append(list, one)
		}
	}
	return list, nil
}

func (p *play) one(ctx context.Context, one *played, run int) (*simulate.Result, *simulate.Graph, error) {
	g, known := p.work.drawn(run, p.runs, p.seed, p.knows, one.fleet.fit)
	r, err := simulate.Run(ctx, simulate.Scenario{
		Graph: g, Machines: one.fleet.machines, Policy: one.policy, Estimate: known, Hook: p.work.hook,
		Weights: p.weights, HalfLife: p.halfLife, Seed: p.seed + uint64(run), // #nosec G115 -- not negative
	})
	return r, g, err
}

// fit has builds take the tokens that the fleet counts, and no more memory than its machines have: the
// largest that may take a build has always been enough.
func (f *fleet) fit(g *simulate.Graph) {
	static := make([]scheduler.Machine, len(f.machines))
	scarce := false
	for i := range f.machines {
		m := &f.machines[i]
		scarce = scarce || m.Memory > 0 || len(m.Tokens) > 0
		static[i] = scheduler.Machine{
			Name: m.Name, Systems: m.Systems, Features: m.Features, MandatoryFeatures: m.MandatoryFeatures,
			Slots: m.Slots, Speed: m.Speed, Memory: m.Memory, Tokens: m.Tokens, FreeDisk: -1,
		}
	}
	if !scarce {
		return
	}
	var farm reserve.Farm
	farm.Use(static, nil)
	for i := range static {
		f.machines[i].Tokens = static[i].Tokens
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		b := scheduler.Build{System: n.System, Features: n.Features}
		farm.Reserve(&b, reserve.Needs{Memory: reserve.Memory{Bytes: n.Memory, Source: reserve.Earlier}, Tokens: n.Tokens})
		n.Memory, n.Tokens = b.Memory, b.Tokens
	}
}

// name tells it from the others.
func (o *played) name(p *play) string {
	var parts []string
	if len(p.fleets) > 1 {
		parts = append(parts, o.fleet.name)
	}
	if len(p.policies) > 1 || parts == nil {
		parts = append(parts, string(o.policy))
	}
	return strings.Join(parts, ", ")
}

// mean is that of something over all runs.
func (o *played) mean(of func(r *simulate.Result) float64) float64 {
	sum := 0.0
	for _, r := range o.results {
		sum += of(r)
	}
	return sum / float64(len(o.results))
}

// most is the greatest of something.
func (o *played) most(of func(r *simulate.Result) float64) float64 {
	greatest := math.Inf(-1)
	for _, r := range o.results {
		greatest = max(greatest, of(r))
	}
	return greatest
}

func makespan(r *simulate.Result) float64 { return r.Makespan.Seconds() }
func bound(r *simulate.Result) float64    { return r.Bound.Seconds() }
func ratio(r *simulate.Result) float64    { return r.Ratio }
func nodeTime(r *simulate.Result) float64 { return r.NodeTime().Hours() }
func sent(r *simulate.Result) float64     { return float64(r.Sent()) }
func fetched(r *simulate.Result) float64  { return float64(r.Fetched()) }
func kills(r *simulate.Result) float64    { return float64(r.Kills) }
func retried(r *simulate.Result) float64  { return float64(r.Retried) }
func again(r *simulate.Result) float64    { return float64(r.Again) }
func wasted(r *simulate.Result) float64   { return r.Wasted.Seconds() }
func taken(r *simulate.Result) float64    { t, _ := r.Use(); return t }
func building(r *simulate.Result) float64 { _, b := r.Use(); return b }

// requestWaits is what the mean small request waits until something of it is placed, and the worst,
// in seconds, and by how much longer it takes than on an idle farm.
func requestWaits(r *simulate.Result) (mean, worst, slowdown float64) {
	for _, w := range r.Requests {
		mean += w.Wait.Seconds()
		worst = max(worst, w.Wait.Seconds())
		slowdown += w.Slowdown
	}
	n := float64(max(1, len(r.Requests)))
	return mean / n, worst, slowdown / n
}

// shareWait is how the builds of a share fared in one run.
type shareWait struct {
	name        string
	weight      float64
	builds      int
	slots       time.Duration
	mean, worst time.Duration // from when a build could be placed until it was
}

// shareWaits looks at the first attempt at each build.
func shareWaits(r *simulate.Result, g *simulate.Graph) []shareWait {
	byName := make(map[string]*shareWait)
	var list []*shareWait
	for i := range r.Shares {
		s := &r.Shares[i]
		one := &shareWait{name: s.Name, weight: s.Weight}
		for _, slots := range s.Hours {
			one.slots += slots
		}
		byName[s.Name], list = one, append(list, one)
	}
	seen := make([]bool, len(g.Nodes))
	for i := range r.Spans {
		span := &r.Spans[i]
		node := int(span.Node)
		if seen[node] {
			continue
		}
		seen[node] = true
		s := byName[g.Nodes[node].Share]
		wait := max(0, span.Placed-span.Ready)
		s.builds++
		s.mean += wait
		s.worst = max(s.worst, wait)
	}
	var waits []shareWait
	for _, s := range list {
		s.mean /= time.Duration(max(1, s.builds))
		waits = append(waits, *s)
	}
	return waits
}

// policiesOf reads names of policies; "all" is all of them.
func policiesOf(names []string) ([]simulate.Policy, error) {
	var list []simulate.Policy
	for _, name := range names {
		policy := simulate.Policy(name)
		switch {
		case name == "all":
			list = append(list, simulate.Policies...)
		case slices.Contains(simulate.Policies, policy):
			list = append(list, policy)
		default:
			var all []string
			for _, p := range simulate.Policies {
				all = append(all, string(p))
			}
			return nil, fmt.Errorf("no policy is called %.100q; they are %s, and all", name, strings.Join(all, ", "))
		}
	}
	var unique []simulate.Policy
	for _, p := range list {
		if !slices.Contains(unique, p) {
			unique = append(unique, p)
		}
	}
	return unique, nil
}
