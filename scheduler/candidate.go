package scheduler

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
)

// candidate is a machine during a round. Times are in seconds from now.
type candidate struct {
	*Machine
	index     int           // of all, the fastest first
	others    []*candidate  // of the same host
	free      int           // slots that can be taken now
	ends      heap[float64] // when builds of the host end; of these, the Slots last ones
	started   int           // builds placed here in this round
	pending   float64       // bytes queued on the link
	fetching  float64       // bytes queued in the other direction
	speed     float64       // never 0
	bandwidth float64       // never 0
	back      float64       // bandwidth in the other direction; never 0
	stock     *stock        // of the host
	kept      []*Soon       // for which a free slot each is kept
	why       string        // see obstacle
}

// stock is what the builds of a host use of its memory and tokens.
type stock struct {
	memory int64
	tokens map[string]int
	held   []holding
	claims []claim
}

// holding is what a build uses until it ends.
type holding struct {
	end    float64
	memory int64
	tokens map[string]int
}

// claim reserves memory and tokens for a build that waits for them: whatever begins before and does
// not end by then must fit beside it.
type claim struct {
	at, end float64
	memory  int64 // that is left beside it
	tokens  map[string]int
}

func newCandidate(m *Machine) *candidate {
	c := new(candidate)
	c.init(m, make([]float64, 0, len(m.Busy)))
	return c
}

// init makes c the candidate of a machine, with room for the ends of its slots.
func (c *candidate) init(m *Machine, ends []float64) {
	*c = candidate{Machine: m, speed: m.Speed, bandwidth: m.Bandwidth, back: m.FetchBandwidth, pending: float64(m.Pending), fetching: float64(m.Fetching)}
	if !(c.speed > 0) {
		c.speed = 1
	}
	if !(c.bandwidth > 0) {
		c.bandwidth = DefaultBandwidth
	}
	if !(c.back > 0) {
		c.back = c.bandwidth
	}
	c.ends = heap[float64]{items: ends, less: earlier}
	for i := range m.Busy {
		c.ends.push(max(0, m.Busy[i].Remaining.Seconds()))
	}
	c.trim()
	if m.occupied(nil, 0, 0) == "" {
		c.free = m.Slots - len(m.Busy)
	}
	if m.Memory > 0 || len(m.Tokens) > 0 {
		c.stock = newStock(m)
	}
}

// trim keeps of the ends those that must come before a slot is free.
func (c *candidate) trim() {
	for len(c.ends.items) > max(1, c.Slots) {
		c.ends.pop()
	}
}

func earlier(a, b float64) bool { return a < b }

func newStock(m *Machine) *stock {
	s := &stock{}
	for i := range m.Busy {
		if b := m.Busy[i].Build; b != nil {
			s.hold(b, max(0, m.Busy[i].Remaining.Seconds()))
		}
	}
	return s
}

func (s *stock) hold(b *Build, end float64) {
	if b.Memory <= 0 && len(b.Tokens) == 0 {
		return
	}
	s.memory += b.Memory
	for name, n := range b.Tokens {
		if s.tokens == nil {
			s.tokens = make(map[string]int)
		}
		s.tokens[name] += n
	}
	s.held = append(s.held, holding{end, b.Memory, b.Tokens})
}

// usable reports whether the machine can take a build now or when one of its
// builds ends. One that is overloaded by others is left alone.
func (c *candidate) usable() bool {
	return c.free > 0 || c.Unavailable == "" && c.Refuses == "" && !c.diskFull(0) && len(c.Busy) > 0
}

// wait returns the seconds until a slot is free.
func (c *candidate) wait() float64 {
	if c.free > 0 {
		return 0
	}
	if len(c.ends.items) == 0 {
		return math.Inf(1)
	}
	return c.ends.items[0]
}

// needs reports whether memory or tokens decide about a build here.
func (c *candidate) needs(b *Build) bool {
	return c.stock != nil && (b.Memory > 0 && c.Memory > 0 || len(b.Tokens) > 0)
}

// begin returns the seconds until a slot is free and what else the build needs. took is how long it
// would hold them.
func (c *candidate) begin(b *Build, took float64) float64 {
	at := c.wait()
	if !c.needs(b) {
		return at
	}
	if !c.fits(b, c.stock.memory, c.stock.tokens) {
		at = max(at, c.whenFits(b))
	}
	for _, claim := range c.stock.claims { // by time
		if at < claim.end && at+took > claim.at && (b.Memory > claim.memory || !enough(claim.tokens, b.Tokens)) {
			at = claim.end
		}
	}
	return at
}

// whenFits returns when enough builds have ended that hold what a build needs; +Inf if that never is.
func (c *candidate) whenFits(b *Build) float64 {
	memory, tokens := c.stock.memory, maps.Clone(c.stock.tokens)
	slices.SortFunc(c.stock.held, func(x, y holding) int { return cmp.Compare(x.end, y.end) })
	for _, h := range c.stock.held {
		memory -= h.memory
		for name, n := range h.tokens {
			tokens[name] -= n
		}
		if c.fits(b, memory, tokens) {
			return h.end
		}
	}
	return math.Inf(1)
}

// fits reports whether the machine has what a build needs beside what is in use.
func (c *candidate) fits(b *Build, memory int64, tokens map[string]int) bool {
	if c.Memory > 0 && b.Memory > 0 && memory+b.Memory > c.Memory {
		return false
	}
	for name, n := range b.Tokens {
		if tokens[name]+n > c.Tokens[name] {
			return false
		}
	}
	return true
}

func enough(have, need map[string]int) bool {
	for name, n := range need {
		if have[name] < n {
			return false
		}
	}
	return true
}

// transfer returns the seconds until that has been sent which a machine lacks.
func (c *candidate) transfer(lack Lack) float64 {
	return lack.Gather.Seconds() + (c.pending+float64(lack.Bytes))/c.bandwidth
}

// build returns the seconds that the build itself takes.
func (c *candidate) build(b *Build) float64 { return expected(b) / c.speed }

// home returns the seconds that the outputs take to where they are wanted.
func (c *candidate) home(b *Build) float64 {
	if b.Output <= 0 {
		return 0
	}
	return (c.fetching + float64(b.Output)) / c.back
}

func expected(b *Build) float64 {
	if b.Expected <= 0 {
		return DefaultDuration.Seconds()
	}
	return b.Expected.Seconds()
}

// start takes a slot, and what else the build needs, from now on. It returns how many fewer slots
// of the host's machines can be taken now.
func (c *candidate) start(b *Build, end float64, lack Lack) (taken int) {
	if c.stock != nil {
		c.stock.hold(b, end)
		for i := range c.stock.claims {
			c.stock.claims[i].share(b, end)
		}
	}
	taken = c.take(end, lack, true)
	for _, other := range c.others {
		taken += other.take(end, lack, true)
	}
	return taken
}

// share takes what a build that outlasts the beginning of a claim leaves beside it.
func (cl *claim) share(b *Build, end float64) {
	if end <= cl.at {
		return
	}
	cl.memory -= b.Memory
	if len(b.Tokens) > 0 {
		cl.tokens = maps.Clone(cl.tokens)
		for name, n := range b.Tokens {
			cl.tokens[name] -= n
		}
	}
}

// reserve takes for later the slot that is free first, and what else the build needs then. It returns how many
// fewer slots of the host's machines can be taken now.
func (c *candidate) reserve(b *Build, at, end float64, lack Lack) (taken int) {
	if c.needs(b) {
		c.claim(b, at, end)
	}
	if c.free > 0 { // it waits for something else than a slot
		return 0
	}
	taken = c.take(end, lack, false)
	for _, other := range c.others {
		if other.free == 0 { // what waits takes no slot that it could not have itself
			taken += other.take(end, lack, false)
		}
	}
	return taken
}

// claim reserves what a build needs from a time on.
func (c *candidate) claim(b *Build, at, end float64) {
	memory, tokens := c.Memory-b.Memory, maps.Clone(c.Tokens)
	for name, n := range b.Tokens {
		tokens[name] -= n
	}
	for _, h := range c.stock.held {
		if h.end <= at {
			continue
		}
		memory -= h.memory
		for name, n := range h.tokens {
			tokens[name] -= n
		}
	}
	if c.Memory == 0 {
		memory = math.MaxInt64 / 2
	}
	c.stock.claims = append(c.stock.claims, claim{at, end, memory, tokens})
	slices.SortStableFunc(c.stock.claims, func(x, y claim) int { return cmp.Compare(x.at, y.at) })
}

// take notes a build that holds the candidate's host until end, and starts now or later.
func (c *candidate) take(end float64, lack Lack, starts bool) (taken int) {
	before := c.free
	c.pending += float64(lack.Bytes)
	c.ends.push(end)
	if c.free > 0 {
		c.free--
	}
	if c.free == 0 {
		c.trim()
	}
	if starts {
		if c.started++; c.overloaded(c.started) {
			c.free = 0
		}
	}
	return before - c.free
}

// newCandidates makes all candidates of a round, the fastest first, then by name, and in the given
// order.
func newCandidates(list []Machine) (all, given []*candidate) {
	room := 0
	for i := range list {
		room += len(list[i].Busy) + max(0, list[i].Slots)
	}
	// A round is short, and there are many: it takes its memory in a few pieces, and
	// sorts numbers, since to move pointers is dear while garbage is collected.
	ends := make([]float64, room)
	unsorted := make([]candidate, len(list))
	order := make([]int32, len(list))
	given = make([]*candidate, len(list))
	for i := range list {
		m := &list[i]
		n := len(m.Busy) + max(0, m.Slots)
		unsorted[i].init(m, ends[:0:n])
		ends = ends[n:]
		order[i], given[i] = int32(i), &unsorted[i]
	}
	slices.SortFunc(order, func(a, b int32) int {
		x, y := &unsorted[a], &unsorted[b]
		switch {
		case x.speed > y.speed:
			return -1
		case x.speed < y.speed:
			return 1
		}
		return strings.Compare(x.Name, y.Name)
	})
	all = make([]*candidate, len(list))
	for i, n := range order {
		all[i] = &unsorted[n]
	}
	shareHosts(unsorted)
	return all, given
}

// shareHosts tells candidates which others are of the same host, and gives them one stock.
func shareHosts(all []candidate) {
	var hosts map[string][]*candidate
	for i := range all {
		if host := all[i].Host; host != "" {
			if hosts == nil {
				hosts = make(map[string][]*candidate)
			}
			hosts[host] = append(hosts[host], &all[i])
		}
	}
	for _, same := range hosts {
		var stock *stock
		for _, c := range same {
			stock = cmp.Or(stock, c.stock)
		}
		for _, c := range same {
			c.stock = stock
			for _, other := range same {
				if other != c {
					c.others = append(c.others, other)
				}
			}
		}
	}
}
