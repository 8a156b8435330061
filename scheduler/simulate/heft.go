package simulate

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// heft plans everything before the first build starts (heterogeneous earliest finish time): in the
// order of the upward ranks, with mean times of builds and links, each build goes to the slot where
// it ends first, also into a gap between others. Then each machine does what was planned for it, in
// the planned order as far as builds are ready.
type heft struct {
	*engine
	machine []int32   // planned, by node
	start   []float64 // planned, by node
	queues  [][]int32 // by machine, in order of the planned start
}

func newHEFT(e *engine) *heft {
	h := &heft{engine: e, machine: make([]int32, len(e.nodes)), start: make([]float64, len(e.nodes)), queues: make([][]int32, len(e.machines))}
	h.plan()
	return h
}

// takes is how many seconds a node is expected to take at speed 1.
func (h *heft) takes(node int32) float64 {
	if d := h.Estimate(int(node)).Duration; d > 0 {
		return d.Seconds()
	}
	return 60
}

// ranks are the longest paths to the end, with mean times.
func (h *heft) ranks() []float64 {
	var slowness, link float64
	for _, m := range h.machines {
		slowness += 1 / m.configured()
		to, from := m.bandwidths()
		link += 1/to + 1/from
	}
	slowness /= float64(len(h.machines))
	link /= float64(len(h.machines))
	ranks := make([]float64, len(h.nodes))
	for i := len(ranks) - 1; i >= 0; i-- {
		after := 0.0
		for _, d := range h.dependants[i] {
			after = max(after, ranks[d])
		}
		if len(h.dependants[i]) > 0 {
			after += float64(h.Estimate(i).Output) * link
		}
		ranks[i] = h.takes(int32(i))*slowness + after //nolint:gosec // an index of a node
	}
	return ranks
}

func (h *heft) plan() {
	ranks := h.ranks()
	order := make([]int32, len(h.nodes))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return cmp.Or(cmp.Compare(ranks[b], ranks[a]), cmp.Compare(a, b)) })
	slots := make([][]timetable, len(h.machines))
	for i, m := range h.machines {
		slots[i] = make([]timetable, m.Slots)
	}
	end := make([]float64, len(h.nodes))
	for _, node := range order {
		n := &h.Graph.Nodes[node]
		best, where, slot := math.Inf(1), -1, 0
		for i, m := range h.machines {
			if !h.may(m, n) {
				continue
			}
			to, _ := m.bandwidths()
			ready := n.Submitted.Seconds()
			for _, in := range n.Inputs {
				at := end[in]
				if other := h.machine[in]; int(other) != i {
					_, from := h.machines[other].bandwidths()
					at += float64(h.Estimate(int(in)).Output) * (1/to + 1/from)
				}
				ready = max(ready, at)
			}
			takes := h.takes(node) / m.configured()
			for s := range slots[i] {
				if at := slots[i][s].gap(ready, takes); at+takes < best {
					best, where, slot = at+takes, i, s
				}
			}
		}
		takes := h.takes(node) / h.machines[where].configured()
		slots[where][slot].take(best-takes, best)
		h.machine[node], h.start[node], end[node] = int32(where), best-takes, best
	}
}

// timetable has the times that a slot is taken, in order. What is near the beginning is merged.
type timetable []stretch

type stretch struct{ from, to float64 }

// gap returns when so much time is free, from ready on.
func (t timetable) gap(ready, takes float64) float64 {
	i, _ := slices.BinarySearchFunc(t, ready, func(s stretch, ready float64) int { return cmp.Compare(s.to, ready) })
	at := ready
	for ; i < len(t); i++ {
		if t[i].from-at >= takes {
			return at
		}
		at = max(at, t[i].to)
	}
	return at
}

func (t *timetable) take(from, to float64) {
	i, _ := slices.BinarySearchFunc(*t, from, func(s stretch, from float64) int { return cmp.Compare(s.from, from) })
	if i > 0 && (*t)[i-1].to == from {
		(*t)[i-1].to = to
		if i < len(*t) && (*t)[i].from == to {
			(*t)[i-1].to = (*t)[i].to
			*t = slices.Delete(*t, i, i+1)
		}
		return
	}
	*t = slices.Insert(*t, i, stretch{from, to})
}

func (h *heft) ready(node int32) {
	m := h.machine[node]
	skip := h.nodes[node].skip
	if len(skip) > 0 || h.machines[m].away { // the plan has failed
		for i, other := range h.machines {
			if !other.away && !slices.Contains(skip, other.Name) && h.may(other, &h.Graph.Nodes[node]) {
				m = int32(i)
				break
			}
		}
		h.machine[node] = m
	}
	i, _ := slices.BinarySearchFunc(h.queues[m], node, func(a, b int32) int {
		return cmp.Or(cmp.Compare(h.start[a], h.start[b]), cmp.Compare(a, b))
	})
	h.queues[m] = slices.Insert(h.queues[m], i, node)
}

func (h *heft) gone(node int32) {
	for i := range h.queues {
		h.queues[i] = slices.DeleteFunc(h.queues[i], func(n int32) bool { return n == node })
	}
}

func (h *heft) released(*attempt)   {}
func (h *heft) delivered(int32)     {}
func (h *heft) next() time.Duration { return never }

func (h *heft) round() {
	for i, m := range h.machines {
		kept := h.queues[i][:0]
		for j, node := range h.queues[i] {
			if m.free() <= 0 {
				kept = append(kept, h.queues[i][j:]...)
				break
			}
			if !m.hasFree(h.Graph.Nodes[node].Tokens) {
				kept = append(kept, node)
				continue
			}
			h.place(node, m, nil, 0, 0)
		}
		h.queues[i] = kept
	}
}
