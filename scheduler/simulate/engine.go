package simulate

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"lighter/scheduler"
)

// engine plays one scenario. Times are after the start.
type engine struct {
	*Scenario
	dependants [][]int32
	wanted     []bool
	now        time.Duration
	events     events
	nodes      []nodeState
	ids        []string // of the nodes, for the scheduler
	machines   []*machineState
	attempts   []attempt
	items      items
	mays       map[class]bool
	policy     policy
	rng        *rand.Rand
	left       int  // nodes that are not done
	changed    bool // something has happened that may let a build start
	tally      tally
}

// policy is who decides. Its methods are called when all that happens at an instant has happened.
type policy interface {
	// ready tells of a build that can be placed.
	ready(node int32)
	// round places what can be placed.
	round()
	// next is when a round is due even if nothing happens; never if that is not known.
	next() time.Duration
	// delivered tells that a build's outputs are at home, where dependants wait for that.
	delivered(node int32)
	// released tells that an attempt's slot is free.
	released(a *attempt)
	// gone tells that a build that was ready is not any more.
	gone(node int32)
}

const never = time.Duration(math.MaxInt64)

type nodeStage uint8

const (
	absent nodeStage = iota // not submitted
	blocked
	ready
	running
	made
)

type nodeState struct {
	stage    nodeStage
	told     bool  // those that need it know that it is there
	missing  int32 // inputs that are not made (through the hook: not at home)
	attempts [2]int32
	under    int8 // attempts under way
	readyAt  time.Duration
	skip     []string
	killed   int64 // memory that was not enough
}

type machineState struct {
	*Machine
	index   int32
	busy    []int32 // attempts that hold a slot
	away    bool
	to      lane // from the head to it
	from    lane
	tokens  map[string]int // taken
	correct scheduler.SpeedEstimate
	use     MachineUse
	load    loadAverage
}

func (m *machineState) free() int {
	if m.away {
		return 0
	}
	return m.Slots - len(m.busy)
}

// hasFree reports whether the machine has so many tokens left.
func (m *machineState) hasFree(tokens map[string]int) bool {
	for name, n := range tokens {
		if m.Tokens[name]-m.tokens[name] < n {
			return false
		}
	}
	return true
}

// may reports whether a node may be built on the machine.
func (e *engine) may(m *machineState, n *Node) bool {
	if !m.hasTokens(n.Tokens) || m.Memory > 0 && n.Memory > m.Memory {
		return false
	}
	key := class{n.class(), m.index}
	may, ok := e.mays[key]
	if !ok {
		may = m.takes(n)
		e.mays[key] = may
	}
	return may
}

// class is what decides whether a machine may take a build, and that machine.
type class struct {
	builds  string
	machine int32
}

type attempt struct {
	Span
	m        *machineState
	peers    bool // the slot is held until the outputs are home
	over     bool
	building bool
	peak     bool  // it uses the memory that it needs, as it does from the middle of its time on
	waits    int32 // inputs that are still on their way home
	lackedAt time.Duration
	build    *scheduler.Build
	expected time.Duration
}

func newEngine(s *Scenario) *engine {
	e := &engine{
		Scenario: s, dependants: s.Graph.link(), wanted: s.Graph.wanted(), nodes: make([]nodeState, len(s.Graph.Nodes)),
		ids: make([]string, len(s.Graph.Nodes)), rng: random(s.Seed, 3), left: len(s.Graph.Nodes), mays: make(map[class]bool),
	}
	for i := range s.Machines {
		e.machines = append(e.machines, &machineState{Machine: &s.Machines[i], index: int32(i + 1), tokens: make(map[string]int)})
	}
	e.items.init(len(s.Graph.Nodes), len(s.Machines)+1)
	e.tally.init(e)
	for i := range e.nodes {
		e.ids[i] = strconv.Itoa(i)
		e.nodes[i].missing = int32(len(s.Graph.Nodes[i].Inputs)) //nolint:gosec // fewer than there are nodes
		if e.wanted[i] {
			e.items.homeward++
		}
	}
	switch s.Policy {
	case Lighter:
		e.policy = newLighter(e)
	case HEFT:
		e.policy = newHEFT(e)
	default:
		e.policy = newPeer(e)
	}
	return e
}

// eventKind says what happens.
type eventKind uint8

const (
	submitted   eventKind = iota // node
	itemHome                     // node, from a machine
	inputsThere                  // attempt has its inputs
	halfBuilt                    // attempt uses most memory from now on
	ended                        // attempt
	failed                       // attempt, by the machine's fault
	goes                         // machine
	comes                        // machine
)

// event is what happens at a time. Those at the same time happen in the order in which they were
// made.
type event struct {
	at   time.Duration
	seq  uint64
	kind eventKind
	a, b int32
}

// events is a binary heap.
type events struct {
	heap []event
	seq  uint64
}

func (q *events) add(at time.Duration, kind eventKind, a, b int32) {
	q.seq++
	q.heap = append(q.heap, event{})
	h, e := q.heap, event{at, q.seq, kind, a, b}
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !e.before(&h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

func (q *events) pop() event {
	h := q.heap
	top, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	q.heap = h
	if len(h) == 0 {
		return top
	}
	i := 0
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1].before(&h[child]) {
			child++
		}
		if !h[child].before(&last) {
			break
		}
		h[i] = h[child]
		i = child
	}
	h[i] = last
	return top
}

func (q *events) next() time.Duration {
	if len(q.heap) == 0 {
		return never
	}
	return q.heap[0].at
}

// run plays until everything is made and at home.
func (e *engine) run(ctx context.Context) error {
	for i := range e.nodes {
		if at := e.Graph.Nodes[i].Submitted; at > 0 {
			e.events.add(at, submitted, int32(i), 0)
		} else {
			e.submit(int32(i))
		}
	}
	for _, m := range e.machines {
		for _, away := range m.Away {
			e.events.add(away.From, goes, m.index, 0)
			e.events.add(away.To, comes, m.index, 0)
		}
	}
	e.changed = true
	limit := maxEvents*len(e.nodes) + 1_000_000
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if n > limit {
			return fmt.Errorf("simulate: %d of %d builds are not done after %d events (at %s): the machines lose more than they make", e.left, len(e.nodes), n, e.now)
		}
		for e.events.next() <= e.now {
			e.happen(e.events.pop())
		}
		if e.changed {
			e.changed = false
			e.policy.round()
		}
		if e.left == 0 && e.items.homeward == 0 {
			return nil
		}
		at := min(e.events.next(), e.policy.next())
		if at == never {
			return fmt.Errorf("simulate: %d of %d builds can't be done: nothing more happens at %s", e.left, len(e.nodes), e.now)
		}
		if e.policy.next() <= at {
			e.changed = true
		}
		e.now = max(e.now, at)
	}
}

func (e *engine) happen(ev event) {
	switch ev.kind {
	case submitted:
		e.submit(ev.a)
	case itemHome:
		e.home(ev.a, ev.b)
	case inputsThere:
		e.begin(ev.a)
	case halfBuilt:
		e.peak(ev.a)
	case ended:
		e.end(ev.a)
	case failed:
		e.fail(ev.a)
	case goes:
		e.lose(e.machines[ev.a-1])
	case comes:
		m := e.machines[ev.a-1]
		m.away = false
		m.use.came(e.now)
		e.changed = true
	}
}

func (e *engine) submit(node int32) {
	e.nodes[node].stage = blocked
	e.nodes[node].readyAt = e.now
	if e.nodes[node].missing == 0 {
		e.makeReady(node)
	}
}

func (e *engine) makeReady(node int32) {
	s := &e.nodes[node]
	s.stage, s.readyAt = ready, e.now
	e.changed = true
	e.tally.ready(e, node, 1)
	e.policy.ready(node)
}

// homeFirst reports whether dependants wait until the outputs are at home.
func (e *engine) homeFirst() bool { return e.Hook || e.Policy == Guix || e.Policy == Nix }

// available has those that need a node know that it is there.
func (e *engine) available(node int32) {
	e.nodes[node].told = true
	for _, d := range e.dependants[node] {
		s := &e.nodes[d]
		if s.missing--; s.missing == 0 && s.stage == blocked {
			e.makeReady(d)
		}
	}
}

// place has a build begin on a machine: its slot is taken from now on.
func (e *engine) place(node int32, m *machineState, build *scheduler.Build, expected, finish time.Duration) {
	s := &e.nodes[node]
	number := int32(len(e.attempts)) //nolint:gosec // bounded by the number of events
	if s.stage == ready {
		e.tally.ready(e, node, -1)
	}
	s.stage = running
	s.attempts[s.under] = number
	s.under++
	e.attempts = append(e.attempts, attempt{
		Span: Span{Node: node, Machine: int(m.index - 1), Ready: s.readyAt, Placed: e.now, Expected: finish},
		m:    m, peers: e.Policy == Guix || e.Policy == Nix, build: build, expected: expected,
	})
	m.busy = append(m.busy, number)
	for name, n := range e.Graph.Nodes[node].Tokens {
		m.tokens[name] += n
	}
	e.bringInputs(number)
}

// begin starts the builder.
func (e *engine) begin(number int32) {
	a := &e.attempts[number]
	if a.over || a.building || a.waits > 0 {
		return
	}
	n, m := &e.Graph.Nodes[a.Node], a.m
	a.Began, a.building = e.now, true
	m.load.changed(e, m)
	takes := time.Duration(float64(n.Duration) / m.speed())
	if m.Fails > 0 && e.rng.Float64() < m.Fails {
		e.events.add(e.now+time.Duration(e.rng.Float64()*float64(takes)), failed, number, 0)
	} else {
		e.events.add(e.now+takes, ended, number, 0)
	}
	if m.Memory > 0 {
		e.events.add(e.now+takes/2, halfBuilt, number, 0)
	}
}

// peak has an attempt use the memory that it needs.
func (e *engine) peak(number int32) {
	a := &e.attempts[number]
	if a.over || !a.building {
		return
	}
	a.peak = true
	e.short(a.m)
}

// short kills builds, those that began last, while the machine has not enough memory. (The kernel
// takes the biggest; then two could kill each other for ever.)
func (e *engine) short(m *machineState) {
	for m.Memory > 0 {
		var sum int64
		worst := int32(-1)
		for _, number := range m.busy {
			a := &e.attempts[number]
			if !a.peak || !a.building {
				continue
			}
			sum += e.Graph.Nodes[a.Node].Memory
			if worst < 0 || a.Began >= e.attempts[worst].Began {
				worst = number
			}
		}
		if sum <= m.Memory || worst < 0 {
			return
		}
		a := &e.attempts[worst]
		s := &e.nodes[a.Node]
		need := e.Graph.Nodes[a.Node].Memory
		if a.build != nil && a.build.Memory > 0 {
			need = a.build.Memory
		}
		s.killed = max(s.killed, need)
		e.tally.kills++
		e.finish(worst, Killed)
		if e.Policy != Lighter || m.HideMemory { // who does not know why tries it elsewhere
			e.avoid(a.Node, m)
		}
		e.retry(a.Node)
	}
}

// end is when the builder has made the outputs.
func (e *engine) end(number int32) {
	a := &e.attempts[number]
	if a.over || !a.building {
		return
	}
	node := a.Node
	a.Ended = e.now
	a.building = false
	e.items.learn(node, e.Graph.Nodes[node].Inputs, a.m.index)
	a.m.load.changed(e, a.m)
	e.observe(a)
	if a.peers {
		e.fetchHome(node, a.m)
		return // the slot is free when they are home
	}
	e.finish(number, Done)
	e.done(node)
	if !e.homeFirst() {
		e.available(node)
	}
	if e.homeFirst() || e.wanted[node] || e.eager(node, a.m) {
		e.fetchHome(node, a.m)
	}
}

// observe learns how fast a machine is.
func (e *engine) observe(a *attempt) {
	if n := &e.Graph.Nodes[a.Node]; e.Estimate(int(a.Node)).Measured && !n.Source {
		a.m.correct.Observe(a.m.configured(), a.expected, a.Ended-a.Began)
	}
}

// eager reports whether what was made on a machine comes home before anybody asks for it.
func (e *engine) eager(node int32, m *machineState) bool {
	_, from := m.bandwidths()
	return !e.LazyHome && from <= SlowLink && e.Policy == Lighter && len(e.dependants[node]) > 0
}

// done notes that a node is made.
func (e *engine) done(node int32) {
	s := &e.nodes[node]
	s.stage = made
	e.left--
	e.changed = true
	for s.under > 0 { // the others are not needed any more
		e.finish(s.attempts[0], Superseded)
	}
}

// finish ends an attempt and frees its slot.
func (e *engine) finish(number int32, how Outcome) {
	a := &e.attempts[number]
	a.over, a.Outcome = true, how
	a.building = false
	if how != Done {
		a.Ended = e.now
	}
	m, s := a.m, &e.nodes[a.Node]
	m.busy = slices.DeleteFunc(m.busy, func(n int32) bool { return n == number })
	m.load.changed(e, m)
	for name, n := range e.Graph.Nodes[a.Node].Tokens {
		m.tokens[name] -= n
	}
	for i := range s.under {
		if s.attempts[i] == number {
			s.attempts[i] = s.attempts[s.under-1]
			s.under--
			break
		}
	}
	e.tally.release(e, a)
	e.policy.released(a)
	e.changed = true
}

// fail is when an attempt ends early.
func (e *engine) fail(number int32) {
	a := &e.attempts[number]
	if a.over {
		return
	}
	node := a.Node
	e.finish(number, Failed)
	e.avoid(node, a.m)
	e.retry(node)
}

// avoid has a node be tried elsewhere next, and anywhere again when it was tried everywhere.
func (e *engine) avoid(node int32, m *machineState) {
	s := &e.nodes[node]
	if s.skip = append(slices.Clone(s.skip), m.Name); !e.elsewhere(node, s.skip) {
		s.skip = nil
	}
}

// elsewhere reports whether a machine that is not to be skipped may take the node.
func (e *engine) elsewhere(node int32, skip []string) bool {
	return slices.ContainsFunc(e.machines, func(m *machineState) bool {
		return !slices.Contains(skip, m.Name) && e.may(m, &e.Graph.Nodes[node])
	})
}

// retry puts a node back into the queue, unless another attempt at it is under way.
func (e *engine) retry(node int32) {
	s := &e.nodes[node]
	if s.under > 0 || s.stage == made {
		return
	}
	e.tally.retried++
	s.stage = blocked
	if s.missing == 0 {
		e.makeReady(node)
	}
}
