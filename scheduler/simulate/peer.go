package simulate

import (
	"cmp"
	"slices"
	"time"
)

// poll is how often guix-daemon and Nix try builds again that found no machine.
const poll = 5 * time.Second

// peer places builds as guix-daemon, Nix, or nobody in particular does.
type peer struct {
	*engine
	order    []int32            // of each node among the names
	queues   map[int]*peerQueue // by request; one for all without polling
	requests []int              // in order of their first build
	pickFrom func(int32) *machineState
}

// peerQueue has the builds of one session.
type peerQueue struct {
	builds []int32 // in order
	fresh  bool    // some became ready since they were tried
	due    time.Duration
}

func newPeer(e *engine) *peer {
	p := &peer{engine: e, queues: make(map[int]*peerQueue)}
	switch e.Policy {
	case Guix, GuixPolicy:
		p.pickFrom = p.fastest
	case Nix, NixPolicy:
		p.pickFrom = p.leastLoaded
	default:
		p.pickFrom = p.first
		return p
	}
	byName := make([]int32, len(e.nodes))
	for i := range byName {
		byName[i] = int32(i)
	}
	slices.SortFunc(byName, func(a, b int32) int {
		return cmp.Or(cmp.Compare(e.Graph.Nodes[a].Name, e.Graph.Nodes[b].Name), cmp.Compare(a, b))
	})
	p.order = make([]int32, len(e.nodes))
	for i, n := range byName {
		p.order[n] = int32(i)
	}
	return p
}

func (p *peer) polls() bool { return p.Policy == Guix || p.Policy == Nix }

func (p *peer) ready(node int32) {
	request := 0
	if p.polls() {
		request = p.Graph.Nodes[node].Request
	}
	q := p.queues[request]
	if q == nil {
		q = &peerQueue{due: never}
		p.queues[request] = q
		p.requests = append(p.requests, request)
	}
	q.fresh = true
	if p.order == nil {
		q.builds = append(q.builds, node)
		return
	}
	i, _ := slices.BinarySearchFunc(q.builds, node, func(a, b int32) int { return cmp.Compare(p.order[a], p.order[b]) })
	q.builds = slices.Insert(q.builds, i, node)
}

func (p *peer) gone(node int32) {
	for _, q := range p.queues {
		q.builds = slices.DeleteFunc(q.builds, func(n int32) bool { return n == node })
	}
}

func (p *peer) released(*attempt) {}
func (p *peer) delivered(int32)   {}

func (p *peer) next() time.Duration {
	due := never
	for _, q := range p.queues {
		due = min(due, q.due)
	}
	return due
}

func (p *peer) round() {
	for _, request := range p.requests {
		q := p.queues[request]
		if p.polls() && q.due > p.now && !q.fresh {
			continue
		}
		p.try(q)
	}
}

// try offers a session's builds to the machines, one after the other.
func (p *peer) try(q *peerQueue) {
	free := 0
	for _, m := range p.machines {
		free += max(0, m.free())
	}
	kept := q.builds[:0]
	full := make(map[string]bool) // classes that found no machine
	for i, node := range q.builds {
		if free == 0 {
			kept = append(kept, q.builds[i:]...)
			break
		}
		n := &p.Graph.Nodes[node]
		class := ""
		if plain := len(n.Tokens) == 0 && len(p.nodes[node].skip) == 0; plain {
			if class = n.class(); full[class] {
				kept = append(kept, node)
				continue
			}
		}
		m := p.pickFrom(node)
		if m == nil {
			if class != "" {
				full[class] = true
			}
			kept = append(kept, node)
			continue
		}
		free--
		p.place(node, m, nil, 0, 0)
	}
	q.builds, q.fresh, q.due = kept, false, never
	if p.polls() && len(kept) > 0 {
		q.due = p.now + poll
	}
}

// open reports whether the machine can take the node now.
func (p *peer) open(m *machineState, node int32) bool {
	n := &p.Graph.Nodes[node]
	if m.free() <= 0 || slices.Contains(p.nodes[node].skip, m.Name) || !p.may(m, n) {
		return false
	}
	return m.hasFree(n.Tokens)
}

func (p *peer) first(node int32) *machineState {
	for _, m := range p.machines {
		if p.open(m, node) {
			return m
		}
	}
	return nil
}

func (p *peer) fastest(node int32) *machineState {
	var best *machineState
	for _, m := range p.machines {
		if p.open(m, node) && (best == nil || m.configured() > best.configured()) {
			best = m
		}
	}
	return best
}

// leastLoaded is Nix's choice: the least load for its speed, then the faster, then the less loaded.
func (p *peer) leastLoaded(node int32) *machineState {
	var best *machineState
	for _, m := range p.machines {
		if !p.open(m, node) {
			continue
		}
		if best == nil {
			best = m
			continue
		}
		load, least := float64(len(m.busy)), float64(len(best.busy))
		if cmp.Or(cmp.Compare(load/m.configured(), least/best.configured()), cmp.Compare(best.configured(), m.configured()), cmp.Compare(load, least)) < 0 {
			best = m
		}
	}
	return best
}
