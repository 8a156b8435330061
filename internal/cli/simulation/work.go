package simulation

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/graph"
	"lighter/internal/coordinator/headstore"
	"lighter/scheduler"
	"lighter/scheduler/estimate"
	"lighter/scheduler/simulate"
	"lighter/store"
)

// work is what is to be built.
type work struct {
	graph *simulate.Graph
	// dists has, for builds whose duration is not known, from which of all possible ones it is drawn;
	// nil for a graph whose durations are known.
	dists []estimate.Dist[time.Duration]
	// model gives the builds that have no entry in dists their durations; nil if all have.
	model *simulate.Model
	hook  bool // the builds come through guix-daemon's build hook

	measured, guessed int           // builds whose duration was measured, or that of their package; others
	notes             []string      // what is to be said of it
	took              time.Duration // what really happened took so long; 0 if it is still to come
}

// drawn returns the graph with the durations of one run, as fit makes it fit a fleet, and what is known of
// the builds before. With a single run, what is in the middle is true; with more, what is true is drawn.
func (w *work) drawn(run, runs int, seed uint64, knows knowing, fit func(*simulate.Graph)) (*simulate.Graph, simulate.Estimate) {
	seed += uint64(run) // #nosec G115 -- not negative
	g := w.graph.Clone()
	if w.model != nil {
		m := *w.model
		m.Seed = seed
		m.Apply(g)
		for i := range g.Nodes {
			if old := &w.graph.Nodes[i]; w.dists[i].Middle() > 0 {
				g.Nodes[i].Duration, g.Nodes[i].Output, g.Nodes[i].Memory = old.Duration, old.Output, old.Memory
			}
		}
	}
	fit(g)
	known := simulate.Perfect(g.Clone())
	if runs > 1 {
		rng := rand.New(rand.NewPCG(seed, 7)) // #nosec G404 -- chance, not a secret
		for i := range w.dists {
			if d := w.dists[i]; d.Middle() > 0 {
				// A part of what is in the middle is left of builds that run already.
				g.Nodes[i].Duration = time.Duration(float64(g.Nodes[i].Duration) * d.Quantile(rng.Float64()).Seconds() / d.Middle().Seconds())
			}
		}
	}
	switch knows {
	case knowsNothing:
		known = simulate.Nothing()
	case knowsLearnt:
		known = simulate.Learnt(g, learntRuns, seed)
	}
	return g, known
}

// learntRuns is how many earlier runs teach what is known.
const learntRuns = 5

// item is a build before it has its place in a graph.
type item struct {
	simulate.Node
	drv    store.Path
	id     string       // of the build; empty if there is none yet
	parent string       // id of the build that it is made for
	inputs []store.Path // derivations; nil if they are not known
	dist   estimate.Dist[time.Duration]
}

// assemble makes a graph of builds: inputs before what needs them. What is not among them is there
// already. Where a derivation can't be read any more, it needs the builds that were made for it.
func assemble(items []*item) *work {
	byDrv, byID := make(map[store.Path]*item, len(items)), make(map[string]*item, len(items))
	for _, it := range items {
		if byDrv[it.drv] == nil { // one that is built again is needed by none
			byDrv[it.drv] = it
		}
		if it.id != "" {
			byID[it.id] = it
		}
	}
	w := &work{graph: &simulate.Graph{}}
	needs := make(map[*item]map[*item]bool, len(items))
	unknown := 0
	for _, it := range items {
		if it.inputs == nil {
			unknown++
		}
		for _, in := range it.inputs {
			if input := byDrv[in]; input != nil {
				add(needs, it, input)
			}
		}
		if parent := byID[it.parent]; parent != nil && parent.inputs == nil {
			add(needs, parent, it)
		}
	}
	if unknown > 0 {
		w.notes = append(w.notes, fmt.Sprintf("the derivations of %d builds can't be read any more: what they needed is known as far as it was built for them", unknown))
	}
	sorted, circular := graph.Sort(items, func(it *item) iter.Seq[*item] { return maps.Keys(needs[it]) })
	if len(circular) > 0 {
		w.notes = append(w.notes, fmt.Sprintf("%d builds need each other in a circle: they count as if they needed nothing", len(circular)))
	}
	loose := make(map[*item]bool)
	for _, it := range circular {
		loose[it] = true
	}
	slices.Reverse(sorted)
	place := make(map[*item]int32, len(items))
	for _, it := range slices.Concat(circular, sorted) {
		n := it.Node
		if !loose[it] {
			for input := range needs[it] {
				n.Inputs = append(n.Inputs, place[input])
			}
			slices.Sort(n.Inputs)
		}
		place[it] = int32(w.graph.Add(n)) //nolint:gosec // bounded by maxBuilds
		w.dists = append(w.dists, it.dist)
	}
	nodes := w.graph.Nodes
	for i := range slices.Backward(nodes) { // what a build needs comes in at the latest with it
		for _, in := range nodes[i].Inputs {
			nodes[in].Submitted = min(nodes[in].Submitted, nodes[i].Submitted)
		}
	}
	return w
}

func add(needs map[*item]map[*item]bool, it, input *item) {
	if it == input {
		return
	}
	if needs[it] == nil {
		needs[it] = make(map[*item]bool)
	}
	needs[it][input] = true
}

const (
	// maxBuilds bounds what is simulated, besides the bounds of files.
	maxBuilds = 500_000
	// longestBuild is what a build takes at most, whatever a machine says.
	longestBuild = 30 * 24 * time.Hour
)

// nodeOf finds what is needed of a derivation in the head's store; nil if it is not there.
type nodeOf func(drv store.Path) *headstore.Node

// fromFile reads a graph. Its names have durations that were measured, where they were; the others
// are modelled.
func fromFile(r io.Reader, k *knowledge) (*work, error) {
	g, err := simulate.ReadGraph(r)
	if err != nil {
		return nil, err
	}
	w := &work{graph: g, model: &simulate.Model{}, dists: make([]estimate.Dist[time.Duration], len(g.Nodes))}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		e := k.Of(estimate.KeyOf(estimate.Build{Name: n.Name, System: n.System, Fixed: n.Source, Inputs: func(yield func(string) bool) {
			for _, in := range n.Inputs {
				if !yield(g.Nodes[in].Name) {
					return
				}
			}
		}}))
		if !e.Measured() {
			w.guessed++
			continue
		}
		w.measured++
		w.dists[i] = e.Duration
		expect(n, &e)
	}
	return w, nil
}

// expect gives a build what is expected of it.
func expect(n *simulate.Node, e *estimate.Estimate) {
	n.Duration, n.Output = e.Duration.Middle(), e.Output.Middle()
	if e.Memory.Known() >= estimate.FromTable {
		n.Memory = e.Memory.Middle()
	}
}

// replayed has what is to be done by what a ledger's builds took: what was built, was asked for, and when.
// speed is that of a machine, with which durations become those at speed 1.
func replayed(builds []*api.Build, node nodeOf, speed func(machine string) float64) *work {
	slices.SortStableFunc(builds, func(a, b *api.Build) int { return a.Submitted.Compare(b.Submitted) })
	byID := make(map[string]*api.Build, len(builds))
	for _, b := range builds {
		byID[b.ID] = b
	}
	var items []*item
	made := make(map[string]*item)
	var open, there, checks, hooked int
	var first, last time.Time
	for _, b := range builds {
		took := min(b.BuildTime.Duration(), longestBuild)
		if took <= 0 && b.State.FailedItself() && b.Started != nil && b.Stopped != nil {
			took = min(b.Stopped.Sub(*b.Started), longestBuild)
		}
		switch {
		case !b.State.Final():
			open++
			continue
		case b.Check > 0:
			checks++
			continue
		case b.Shares != "" && made[b.Shares] != nil:
			made[b.Shares].Wanted = made[b.Shares].Wanted || b.Parent == ""
			continue
		case took <= 0:
			there++
			continue
		}
		it := &item{drv: b.Derivation, id: b.ID, parent: b.Parent, Node: simulate.Node{
			Name: api.DerivationName(b.Derivation), System: b.System, Features: b.Features, Wanted: b.Parent == "",
			Duration: time.Duration(took.Seconds() * speed(b.Machine) * float64(time.Second)), Output: max(0, b.OutputSize), Share: b.Share, Priority: b.Priority, Tokens: b.Tokens,
		}}
		if first.IsZero() {
			first = b.Submitted
		}
		it.Submitted = max(0, b.Submitted.Sub(first))
		if b.Stopped != nil && b.Stopped.After(last) {
			last = *b.Stopped
		}
		if b.Measured != nil {
			it.Memory = max(0, b.Measured.PeakMemory)
		}
		if n := node(b.Derivation); n != nil {
			it.inputs, it.Source = nonNil(n.Inputs), n.Fixed
		}
		if b.Offload {
			hooked++
		}
		items, made[b.ID] = append(items, it), it
		if b.Shares != "" {
			made[b.Shares] = it
		}
	}
	numberRequests(items, byID)
	w := assemble(items)
	w.measured, w.took = len(items), max(0, last.Sub(first))
	if w.hook = hooked > len(items)/2; w.hook {
		// guix-daemon asks for a build when all that it needs is at home. In another fleet that is another time.
		for i := range w.graph.Nodes {
			n := &w.graph.Nodes[i]
			for j, in := range n.Inputs {
				if s := w.graph.Nodes[in].Submitted; j == 0 || s > n.Submitted {
					n.Submitted = s
				}
			}
		}
	}
	for _, left := range []struct {
		n    int
		what string
	}{{open, "are not over yet"}, {there, "were not built: canceled, failed before, or there already"}, {checks, "are checks"}} {
		if left.n > 0 {
			w.notes = append(w.notes, fmt.Sprintf("%d builds are left out, which %s", left.n, left.what))
		}
	}
	return w
}

func nonNil(paths []store.Path) []store.Path {
	if paths == nil {
		return []store.Path{}
	}
	return paths
}

const (
	// maxDepth bounds for how many others a build is made, one for the other.
	maxDepth = 1000
	// together is how close builds of one submission come one after the other.
	together = 2 * time.Second
)

// numberRequests numbers the small requests: what somebody asked for at a time, with what was built for
// it, unless that is more than a twentieth of all. byID has all builds, and items are in the order in
// which they came.
func numberRequests(items []*item, byID map[string]*api.Build) {
	type asker struct{ user, share, tags string }
	type request struct {
		last  time.Time
		items []*item
	}
	byRoot := make(map[string]*request)
	lately := make(map[asker]*request)
	var all []*request
	for _, it := range items {
		root := byID[it.id]
		for range maxDepth { // a ledger could have a circle
			parent := byID[root.Parent]
			if parent == nil {
				break
			}
			root = parent
		}
		r := byRoot[root.ID]
		if r == nil {
			who := asker{share: root.Share, tags: fmt.Sprint(root.Tags)}
			if root.Submitter != nil {
				who.user = root.Submitter.String()
			}
			if r = lately[who]; r == nil || root.Submitted.Sub(r.last) > together {
				r = &request{}
				all = append(all, r)
			}
			r.last, byRoot[root.ID], lately[who] = root.Submitted, r, r
		}
		r.items = append(r.items, it)
	}
	number := 0
	for _, r := range all {
		if len(r.items)*20 > len(items) {
			continue
		}
		number++
		for _, it := range r.items {
			it.Request = number
		}
	}
}

// remaining has what is left to do of builds that are not over, of those that chosen selects and what they need.
func remaining(builds []*api.Build, chosen func(*api.Build) bool, node nodeOf, k *knowledge, speed func(machine string) float64, now time.Time) *work {
	byDrv := make(map[store.Path]*item)
	children := make(map[string][]*item)
	var queue, items []*item
	running := 0
	for _, b := range builds {
		it := byDrv[b.Derivation]
		if it == nil {
			it = &item{drv: b.Derivation, id: b.ID, parent: b.Parent, Node: simulate.Node{
				Name: api.DerivationName(b.Derivation), System: b.System, Features: b.Features, Share: b.Share, Priority: b.Priority,
			}}
			byDrv[b.Derivation] = it
			children[b.Parent] = append(children[b.Parent], it)
			e := k.ofName(it.Name, it.System)
			if n := node(b.Derivation); n != nil {
				it.inputs, it.Source = nonNil(n.Inputs), n.Fixed
				e = k.Of(n.Key())
			}
			it.dist = e.Duration
			expect(&it.Node, &e)
			if b.State == api.Building && b.Started != nil {
				running++
				s := speed(b.Machine)
				left := scheduler.Remaining(time.Duration(float64(it.Duration)/s), now.Sub(*b.Started))
				it.Duration = time.Duration(float64(left) * s)
			}
		}
		it.Priority = max(it.Priority, b.Priority)
		if it.Tokens == nil {
			it.Tokens = make(map[string]int)
		}
		for name, n := range b.Tokens {
			it.Tokens[name] = max(it.Tokens[name], n)
		}
		if chosen(b) && !it.Wanted {
			it.Wanted = true
			queue = append(queue, it)
		}
	}
	seen := make(map[*item]bool)
	for len(queue) > 0 {
		it := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if it == nil || seen[it] {
			continue
		}
		seen[it] = true
		items = append(items, it)
		for _, in := range it.inputs {
			queue = append(queue, byDrv[in])
		}
		if it.inputs == nil {
			queue = append(queue, children[it.id]...)
		}
	}
	slices.SortFunc(items, func(a, b *item) int { return cmp.Compare(a.drv, b.drv) })
	w := assemble(items)
	w.countKnown()
	if running > 0 {
		w.notes = append(w.notes, "of what is being built now, what is probably left counts; it could be on any machine")
	}
	return w
}

// countKnown counts what comes from measurements.
func (w *work) countKnown() {
	for i := range w.dists {
		if w.dists[i].Known() >= estimate.FromPackage {
			w.measured++
		} else {
			w.guessed++
		}
	}
}
