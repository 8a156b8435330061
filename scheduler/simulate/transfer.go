package simulate

import (
	"math"
	"math/bits"
	"time"
)

// lane is one direction of a machine's link: first in, first out.
type lane struct {
	free  time.Duration // when all that is queued has passed
	bytes int64         // that have passed, or are queued
}

// pass queues an item and returns when it has passed.
func (l *lane) pass(now time.Duration, bytes int64, bandwidth float64) time.Duration {
	l.bytes += bytes
	l.free = max(now, l.free) + time.Duration(float64(bytes)/bandwidth*float64(time.Second))
	return l.free
}

// queued is how many bytes have not passed yet.
func (l *lane) queued(now time.Duration, bandwidth float64) int64 {
	if l.free <= now || math.IsInf(bandwidth, 1) {
		return 0
	}
	return int64((l.free - now).Seconds() * bandwidth)
}

// items knows where outputs are. Place 0 is home, the others are the machines.
type items struct {
	words  int
	known  []uint64 // a bit for each node and place: it is there, and the coordinator knows that
	onWay  map[way]time.Duration
	makers []int32         // where each was made
	home   map[int32]fetch // on their way home
	fetchN int32
	// homeward is how many that were asked for are not at home yet.
	homeward int
}

// way is that of an item to a machine.
type way struct{ node, machine int32 }

// fetch is an item on its way home.
type fetch struct {
	from    int32
	number  int32
	waiters []int32 // attempts that wait for it
}

func (it *items) init(nodes, places int) {
	it.words = (places + 63) / 64
	it.known = make([]uint64, nodes*it.words)
	it.makers = make([]int32, nodes)
	it.onWay, it.home = make(map[way]time.Duration), make(map[int32]fetch)
}

func (it *items) has(node, place int32) bool {
	return it.known[int(node)*it.words+int(place>>6)]>>(place&63)&1 != 0
}

func (it *items) add(node, place int32) {
	it.known[int(node)*it.words+int(place>>6)] |= 1 << (place & 63)
}

func (it *items) drop(node, place int32) {
	it.known[int(node)*it.words+int(place>>6)] &^= 1 << (place & 63)
}

// learn notes that a build has succeeded somewhere: its inputs and its outputs are there.
func (it *items) learn(node int32, inputs []int32, place int32) {
	it.add(node, place)
	it.makers[node] = place
	for _, in := range inputs {
		if !it.has(in, place) {
			it.add(in, place)
			delete(it.onWay, way{in, place})
		}
	}
}

// places yields the machines that have an item.
func (it *items) places(node int32, yield func(place int32) bool) {
	for w, word := range it.known[int(node)*it.words : (int(node)+1)*it.words] {
		if w == 0 {
			word &^= 1 // home
		}
		for ; word != 0; word &= word - 1 {
			if !yield(int32(w*64 + bits.TrailingZeros64(word))) { //nolint:gosec // a machine's number
				return
			}
		}
	}
}

// source returns a machine that is up and has the item: that which made it, if possible.
func (e *engine) source(node int32) *machineState {
	if p := e.items.makers[node]; p > 0 && e.items.has(node, p) && !e.machines[p-1].away {
		return e.machines[p-1]
	}
	var found *machineState
	e.items.places(node, func(place int32) bool {
		if m := e.machines[place-1]; !m.away {
			found = m
		}
		return found == nil
	})
	return found
}

// bringInputs has a machine get what an attempt needs.
func (e *engine) bringInputs(number int32) {
	a := &e.attempts[number]
	a.lackedAt = e.now
	for _, in := range e.Graph.Nodes[a.Node].Inputs {
		if e.items.has(in, a.m.index) {
			continue
		}
		if e.items.has(in, 0) {
			e.send(a, in)
			continue
		}
		if at, ok := e.items.onWay[way{in, a.m.index}]; ok {
			a.lackedAt = max(a.lackedAt, at)
			continue
		}
		a.waits++
		if _, ok := e.items.home[in]; !ok {
			e.fetchHome(in, e.source(in))
		}
		f := e.items.home[in]
		f.waiters = append(f.waiters, number)
		e.items.home[in] = f
	}
	e.inputsSent(number)
}

// send has an item that is at home go to the attempt's machine, unless it is on its way already.
func (e *engine) send(a *attempt, node int32) {
	key := way{node, a.m.index}
	at, ok := e.items.onWay[key]
	if !ok {
		to, _ := a.m.bandwidths()
		at = a.m.to.pass(e.now, e.Graph.Nodes[node].Output, to) + a.m.Delay
		e.items.onWay[key] = at
	}
	a.lackedAt = max(a.lackedAt, at)
}

// inputsSent has the builder start when the last input has come, once all are on their way.
func (e *engine) inputsSent(number int32) {
	if a := &e.attempts[number]; a.waits == 0 {
		e.events.add(max(e.now, a.lackedAt)+a.m.Overhead, inputsThere, number, 0)
	}
}

// fetchHome has an item come home from a machine.
func (e *engine) fetchHome(node int32, m *machineState) {
	if e.items.has(node, 0) {
		return
	}
	if _, ok := e.items.home[node]; ok {
		return
	}
	_, from := m.bandwidths()
	at := m.from.pass(e.now, e.Graph.Nodes[node].Output, from) + m.Delay
	e.items.fetchN++
	e.items.home[node] = fetch{from: m.index, number: e.items.fetchN}
	e.events.add(at, itemHome, node, e.items.fetchN)
}

// home is when an item has come home.
func (e *engine) home(node, number int32) {
	f, ok := e.items.home[node]
	if !ok || f.number != number {
		return // the machine went away meanwhile
	}
	delete(e.items.home, node)
	e.items.add(node, 0)
	if e.wanted[node] {
		e.items.homeward--
		e.changed = true
	}
	for _, n := range f.waiters {
		if a := &e.attempts[n]; !a.over {
			e.send(a, node)
			a.waits--
			e.inputsSent(n)
		}
	}
	e.tally.delivered(e, node)
	if s := &e.nodes[node]; s.stage == running { // a slot was held for this
		e.finish(s.attempts[0], Done)
		e.done(node)
	}
	if e.homeFirst() {
		e.available(node)
		e.policy.delivered(node)
	}
}

// lose is when a machine goes away. What runs there is lost, and so is what only it has.
func (e *engine) lose(m *machineState) {
	m.away = true
	m.use.went(e.now)
	m.to.free, m.from.free = e.now, e.now
	for key, at := range e.items.onWay {
		if key.machine == m.index && at > e.now {
			delete(e.items.onWay, key)
		}
	}
	for len(m.busy) > 0 {
		number := m.busy[0]
		e.finish(number, Lost)
		e.retry(e.attempts[number].Node)
	}
	for node := range e.nodes {
		n := int32(node)
		if f, ok := e.items.home[n]; ok && f.from == m.index {
			e.refetch(n, f)
		}
		if e.items.has(n, m.index) {
			e.unmake(n)
		}
	}
}

// refetch has an item come home from another machine, or has those that wait for it wait for it to
// be made again.
func (e *engine) refetch(node int32, f fetch) {
	delete(e.items.home, node)
	if m := e.source(node); m != nil {
		e.fetchHome(node, m)
		again := e.items.home[node]
		again.waiters = f.waiters
		e.items.home[node] = again
		return
	}
	for _, number := range f.waiters {
		if a := &e.attempts[number]; !a.over {
			e.finish(number, Lost)
			e.retry(a.Node)
		}
	}
}

// unmake has an item be made again that is nowhere any more, if somebody needs it.
func (e *engine) unmake(node int32) {
	s := &e.nodes[node]
	if s.stage != made || e.items.has(node, 0) || e.source(node) != nil || !e.needed(node) {
		return
	}
	e.items.places(node, func(place int32) bool { e.items.drop(node, place); return true })
	e.left++
	s.stage = blocked
	if s.told {
		s.told = false
		for _, d := range e.dependants[node] {
			n := &e.nodes[d]
			if n.missing++; n.stage == ready {
				n.stage = blocked
				e.tally.ready(e, d, -1)
				e.policy.gone(d)
			}
		}
	}
	for _, in := range e.Graph.Nodes[node].Inputs {
		e.unmake(in)
	}
	e.retry(node)
}

// needed reports whether an item that is made is still to go somewhere.
func (e *engine) needed(node int32) bool {
	if e.wanted[node] {
		return true
	}
	for _, d := range e.dependants[node] {
		if e.nodes[d].stage != made {
			return true
		}
	}
	return false
}

// lack is what a machine lacks of a build's inputs, as the coordinator counts it.
func (e *engine) lack(node int32, m *machineState) (bytes int64, gather time.Duration) {
	var sums [8]struct {
		m     *machineState
		bytes int64
	}
	kinds := 0
	for _, in := range e.Graph.Nodes[node].Inputs {
		if e.items.has(in, m.index) {
			continue
		}
		size := e.Graph.Nodes[in].Output
		bytes += size
		if e.items.has(in, 0) {
			continue
		}
		if f, ok := e.items.home[in]; ok {
			from := e.machines[f.from-1]
			gather = max(gather, from.from.free+from.Delay-e.now)
			continue
		}
		from := e.source(in)
		if from == nil {
			continue
		}
		i := 0
		for i < kinds && sums[i].m != from {
			i++
		}
		if i == len(sums) {
			continue // so many machines: the others say enough
		}
		if i == kinds {
			sums[i].m = from
			kinds++
		}
		sums[i].bytes += size
	}
	for _, s := range sums[:kinds] {
		_, bandwidth := s.m.bandwidths()
		gather = max(gather, max(0, s.m.from.free-e.now)+s.m.Delay+time.Duration(float64(s.bytes)/bandwidth*float64(time.Second)))
	}
	return bytes, gather
}
