// Package simulate plays what a farm does with a graph of builds, without a farm: the very code
// that places builds ([scheduler.Assign]) against modelled machines, links and durations.
//
// A [Scenario] names the graph, the machines and the policy; [Run] plays it and says how long it
// took, beside a lower bound that no policy can beat, what each machine, link and share did, and,
// build by build, where and when. The policies of "guix offload", Nix, first come first served and
// HEFT can be played with the same graph on the same machines.
//
// It is pure: no file, no clock, no goroutine, and randomness only from a seed, so the same
// scenario always gives the same result.
//
// # What is modelled
//
// Times pass as they do in the coordinator: a build holds its slot from its placement to the end of
// its builder; inputs that only other machines have are fetched home first and then sent; each item
// crosses a link once; a machine has one lane in each direction, first in, first out; outputs stay
// where they were made until somebody needs them, those that were asked for come home. Machines go
// away with all that runs on them and come back; attempts fail; builds that need more memory than a
// machine has left are killed.
//
// Not modelled: compression, substitutes, disks that fill up, the time to set up a connection beyond
// the delay of the link, and the run-time closure of inputs (direct ones only).
package simulate

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Policy says who decides which build goes where, and what the machines' links are used for.
type Policy string

// The policies.
const (
	// Lighter is the scheduler of this house.
	Lighter Policy = "lighter"
	// Guix is "guix offload": the fastest machine with a free slot; builds in the order of their
	// names, those that found none are tried again every 5 s; all outputs come home before the slot
	// is free.
	Guix Policy = "guix"
	// Nix is the same with the least loaded machine for its speed.
	Nix Policy = "nix"
	// GuixPolicy and NixPolicy choose as those do, but at once, and with lighter's transfers.
	GuixPolicy Policy = "guix-policy"
	NixPolicy  Policy = "nix-policy"
	// FIFO takes builds as they become ready, each on the first machine with a free slot.
	FIFO Policy = "fifo"
	// HEFT plans everything in advance by upward ranks (Topcuoglu, Hariri, Wu 2002).
	HEFT Policy = "heft"
)

// Policies are all of them, lighter's first.
var Policies = []Policy{Lighter, Guix, Nix, GuixPolicy, NixPolicy, FIFO, HEFT}

// Scenario is what to play.
type Scenario struct {
	Graph    *Graph
	Machines []Machine
	Policy   Policy // empty is Lighter

	// Estimate says what is known of a build before it runs; nil is [Perfect].
	Estimate Estimate
	// Hook has the builds come through guix-daemon's build hook: each when its inputs are at home, and all
	// outputs come home. Each request is a daemon's session.
	Hook bool
	// Blind has nobody know who needs a build.
	Blind bool
	// HookJobs is how many builds one session has under way or waiting at a time (guix-daemon's
	// --max-jobs); 0 is no limit.
	HookJobs int
	// LazyHome leaves outputs that others need on machines with slow links (at most [SlowLink])
	// until somebody needs them. Otherwise they come home at once.
	LazyHome bool
	// Weights of the shares, and how fast what they used is forgotten (0: never).
	Weights  map[string]float64
	HalfLife time.Duration
	// NoShares plays lighter as if nobody's share was known.
	NoShares bool
	// Seed is for what happens by chance: attempts that fail.
	Seed uint64
}

// SlowLink is the bandwidth, in bytes/s, up to which outputs that others need come home as soon as
// they are made.
const SlowLink = 10e6

// maxEvents bounds a run, for each build: a scenario in which nothing gets done ends some time.
const maxEvents = 200

// Run plays the scenario. Its errors name what is wrong with the scenario, or the first build that
// no machine can ever take.
func Run(ctx context.Context, s Scenario) (*Result, error) {
	if s.Policy == "" {
		s.Policy = Lighter
	}
	if s.Estimate == nil {
		s.Estimate = Perfect(s.Graph)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	e := newEngine(&s)
	if err := e.run(ctx); err != nil {
		return nil, err
	}
	return e.result(), nil
}

func (s *Scenario) check() error {
	if s.Graph == nil || len(s.Graph.Nodes) == 0 {
		return fmt.Errorf("simulate: the graph is empty")
	}
	if err := s.Graph.check(); err != nil {
		return err
	}
	names := make(map[string]bool, len(s.Machines))
	for i := range s.Machines {
		m := &s.Machines[i]
		if names[m.Name] {
			return fmt.Errorf("simulate: there are two machines %q", m.Name)
		}
		names[m.Name] = true
		if err := m.check(); err != nil {
			return fmt.Errorf("simulate: machine %q: %w", m.Name, err)
		}
	}
	for share, weight := range s.Weights {
		if !(weight > 0) || math.IsInf(weight, 0) {
			return fmt.Errorf("simulate: share %q: weight %v: want more than 0", share, weight)
		}
	}
	switch s.Policy {
	case Lighter, Guix, Nix, GuixPolicy, NixPolicy, FIFO, HEFT:
	default:
		return fmt.Errorf("simulate: unknown policy %q", s.Policy)
	}
	return s.possible()
}

// possible returns an error that names the first build that no machine may ever take.
func (s *Scenario) possible() error {
	able := make(map[string][]*Machine) // by class
	for i := range s.Graph.Nodes {
		n := &s.Graph.Nodes[i]
		key := n.class()
		machines, ok := able[key]
		if !ok {
			for j := range s.Machines {
				if m := &s.Machines[j]; m.takes(n) {
					machines = append(machines, m)
				}
			}
			able[key] = machines
		}
		if len(machines) == 0 {
			requires := ""
			if len(n.Features) > 0 {
				requires = fmt.Sprintf(" and requires %q", n.Features)
			}
			return fmt.Errorf("simulate: no machine can take %s, which is for %s%s", n.Name, n.System, requires)
		}
		fits := slices.ContainsFunc(machines, func(m *Machine) bool {
			return (m.Memory == 0 || n.Memory <= m.Memory) && (len(n.Tokens) == 0 || m.hasTokens(n.Tokens))
		})
		if !fits {
			return fmt.Errorf("simulate: no machine that can take %s has the memory (%d bytes) and tokens (%v) for it", n.Name, n.Memory, n.Tokens)
		}
	}
	return nil
}

// random returns randomness of its own for a purpose, from a seed.
func random(seed uint64, purpose uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, purpose))
}
