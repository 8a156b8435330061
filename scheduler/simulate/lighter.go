package simulate

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"lighter/scheduler"
)

// epoch is when every scenario starts, for code that wants a time of day.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	// justStarted is the age up to which the coordinator takes a build not to show in the load.
	justStarted = 30 * time.Second
	// lookAgain is how often it looks for builds that had better be begun again.
	lookAgain = time.Minute
	// askLoad is how often it asks machines for their load.
	askLoad = 5 * time.Second
	// maxNear is how many machines it names that have much of what a build needs.
	maxNear = 4
)

// lighter places builds as the coordinator does: with scheduler.Assign.
type lighter struct {
	*engine
	queue    *scheduler.Queue
	shares   *scheduler.Shares // nil if they don't count
	held     map[string]int    // slots, by share
	charged  time.Duration     // up to when the shares have been told
	machines []scheduler.Machine
	byName   map[string]*machineState
	rank     []time.Duration
	builds   []*scheduler.Build // by node, once it was ready
	due      time.Duration
	coming   map[int32]bool   // through the hook: made and not known to be at home
	sessions map[int]*session // through the hook, if their builds are limited
}

// session is one of guix-daemon, which has some builds under way and keeps others.
type session struct {
	under int
	kept  []int32
}

func newLighter(e *engine) *lighter {
	l := &lighter{
		engine: e, queue: scheduler.NewQueue(), machines: make([]scheduler.Machine, len(e.machines)),
		byName: make(map[string]*machineState), rank: make([]time.Duration, len(e.nodes)),
		builds: make([]*scheduler.Build, len(e.nodes)), due: never, coming: make(map[int32]bool), sessions: make(map[int]*session), held: make(map[string]int),
	}
	for _, m := range e.machines {
		l.byName[m.Name] = m
	}
	if !e.NoShares {
		l.shares = scheduler.NewShares(e.HalfLife, e.weight)
	}
	for i := len(l.rank) - 1; i >= 0; i-- {
		longest := time.Duration(0)
		if !e.Blind {
			for _, d := range e.dependants[i] {
				longest = max(longest, l.rank[d])
			}
		}
		l.rank[i] = longest + l.expected(int32(i)) //nolint:gosec // an index of a node
	}
	return l
}

// expected is how long a node should take at speed 1.
func (l *lighter) expected(node int32) time.Duration {
	if d := l.Estimate(int(node)).Duration; d > 0 {
		return d
	}
	return scheduler.DefaultDuration
}

func (l *lighter) ready(node int32) {
	if again := l.builds[node] != nil; !l.Hook || l.HookJobs == 0 || again {
		l.push(node)
		return
	}
	s := l.sessions[l.Graph.Nodes[node].Request]
	if s == nil {
		s = new(session)
		l.sessions[l.Graph.Nodes[node].Request] = s
	}
	s.kept = append(s.kept, node)
	l.offer(s)
}

// offer hands builds of a session to the hook, in the order of their names.
func (l *lighter) offer(s *session) {
	for s.under < l.HookJobs && len(s.kept) > 0 {
		first := slices.MinFunc(s.kept, func(a, b int32) int {
			return cmp.Or(cmp.Compare(l.Graph.Nodes[a].Name, l.Graph.Nodes[b].Name), cmp.Compare(a, b))
		})
		s.kept = slices.DeleteFunc(s.kept, func(n int32) bool { return n == first })
		s.under++
		l.push(first)
	}
}

func (l *lighter) delivered(node int32) {
	if s := l.sessions[l.Graph.Nodes[node].Request]; s != nil {
		s.under--
		l.offer(s)
		l.changed = true
	}
}

func (l *lighter) push(node int32) {
	b := l.build(node)
	l.builds[node] = b
	l.queue.Push(*b)
}

// build is what the scheduler is told of a node.
func (l *lighter) build(node int32) *scheduler.Build {
	n, known := &l.Graph.Nodes[node], l.Estimate(int(node))
	b := scheduler.Build{
		ID: l.ids[node], System: n.System, Features: n.Features, Skip: l.nodes[node].skip, Priority: n.Priority,
		Rank: l.rank[node], Seq: uint64(node), Expected: known.Duration, Output: known.Output, //nolint:gosec // an index is not negative
		Share: n.Share, Memory: known.Memory, Tokens: n.Tokens,
	}
	if !l.Blind {
		b.Dependants = len(l.dependants[node])
	}
	if killed := l.nodes[node].killed; killed > 0 {
		b.Memory = max(b.Memory, 2*killed)
	}
	if b.Memory > 0 { // more than the biggest machine has helps nobody
		b.Memory = min(b.Memory, l.largest(n, b.Memory))
	}
	return &b
}

// largest is the memory of the largest machine that may take a node; without limit, it is as given.
func (l *lighter) largest(n *Node, unlimited int64) (most int64) {
	for _, m := range l.engine.machines {
		if l.may(m, n) {
			if m.Memory == 0 {
				return unlimited
			}
			most = max(most, m.Memory)
		}
	}
	return most
}

func (l *lighter) gone(node int32) { l.queue.Remove(l.ids[node]) }

func (l *lighter) next() time.Duration { return l.due }

func (l *lighter) round() {
	l.due = never
	if l.queue.Len() == 0 && len(l.attempts) == 0 {
		return
	}
	l.describe()
	l.charge()
	plan := scheduler.Assign(scheduler.Input{
		Now: epoch.Add(l.now), Machines: l.machines, Queue: l.queue, Missing: l.missing, Near: l.near, Shares: l.shares, Soon: l.soon(),
	})
	l.queue.Apply(plan)
	for i := range plan.Assignments {
		a := &plan.Assignments[i]
		node := number(a.Build.ID)
		l.begins(node, a.Machine, a.Finish)
	}
	for i := range plan.Again {
		a := &plan.Again[i]
		node := number(a.Build.ID)
		l.tally.again++
		l.begins(node, a.To, a.Finish)
	}
	for i := range plan.Deferrals {
		if until := plan.Deferrals[i].Until.Sub(epoch); until > l.now {
			l.due = min(l.due, until)
		}
	}
	l.lookLater()
}

// soon finds the builds that wait for a single one, which will be done soon or is on its way home.
func (l *lighter) soon() []scheduler.Soon {
	if l.Blind {
		return nil
	}
	in := make(map[int32]time.Duration)
	add := func(node int32, ready time.Duration) {
		for _, d := range l.dependants[node] {
			if s := &l.nodes[d]; s.stage == blocked && s.missing == 1 && l.Estimate(int(d)).Measured {
				in[d] = ready
			}
		}
	}
	for i := range l.machines {
		for j := range l.machines[i].Busy {
			b := &l.machines[i].Busy[j]
			if node := number(b.Build.ID); b.Remaining <= scheduler.SoonWindow && !l.Hook && l.Estimate(int(node)).Measured {
				add(node, b.Remaining)
			}
		}
	}
	for node := range l.coming {
		if l.nodes[node].told || l.nodes[node].stage != made {
			delete(l.coming, node)
		} else {
			add(node, time.Second)
		}
	}
	list := make([]scheduler.Soon, 0, len(in))
	for _, d := range slices.Sorted(maps.Keys(in)) {
		list = append(list, scheduler.Soon{Build: l.build(d), Ready: in[d]})
	}
	slices.SortStableFunc(list, func(a, b scheduler.Soon) int { return cmp.Compare(b.Build.Rank, a.Build.Rank) })
	return list
}

// lookLater has a round take place where time alone may change the decision.
func (l *lighter) lookLater() {
	idle, works := false, false
	for _, m := range l.engine.machines {
		idle = idle || m.free() > 0
		works = works || len(m.busy) > 0
		if m.OverloadThreshold > 0 && m.free() > 0 && l.queue.Len() > 0 {
			l.due = min(l.due, l.now+askLoad)
		}
	}
	if idle && works {
		l.due = min(l.due, l.now+lookAgain)
	}
}

// number is the node of a build's ID.
func number(id string) int32 {
	n, _ := strconv.Atoi(id) // they are all made by strconv.Itoa
	return int32(n)          //nolint:gosec // an index of a node
}

// describe fills in what the coordinator knows of the machines now.
func (l *lighter) describe() {
	for i, m := range l.engine.machines {
		busy := l.machines[i].Busy[:0]
		s := m.static()
		s.Speed = m.correct.Speed(m.configured())
		s.Pending = m.to.queued(l.now, s.Bandwidth)
		s.Fetching = m.from.queued(l.now, s.FetchBandwidth)
		if m.away {
			s.Unavailable = "away"
		}
		s.Load, s.OverloadThreshold, s.Cores = m.Load, m.OverloadThreshold, m.Cores
		if m.Cores > 0 {
			s.OwnLoad, s.OwnKnown = m.load.value(l.now)*max(1, m.BuildCores)/float64(m.Cores), true
			s.Load += s.OwnLoad
		}
		for _, number := range m.busy {
			a := &l.attempts[number]
			expected := time.Duration(float64(l.expected(a.Node)) / s.Speed)
			busy = append(busy, scheduler.Running{
				Build: a.build, Remaining: scheduler.Remaining(expected, l.now-a.Placed), Elapsed: l.now - a.Placed,
				Once: l.nodes[a.Node].under > 1,
			})
			if l.now-a.Placed < justStarted {
				s.JustStarted++
			}
		}
		s.Busy = busy
		l.machines[i] = s
	}
}

func (l *lighter) missing(b *scheduler.Build, machine string) scheduler.Lack {
	bytes, gather := l.lack(number(b.ID), l.byName[machine])
	return scheduler.Lack{Bytes: bytes, Gather: gather}
}

// near names the machines that made most of what a build needs.
func (l *lighter) near(b *scheduler.Build) []string {
	type part struct {
		m     *machineState
		bytes int64
	}
	var parts []part
	for _, in := range l.Graph.Nodes[number(b.ID)].Inputs {
		m := l.source(in)
		if m == nil {
			continue
		}
		i := slices.IndexFunc(parts, func(p part) bool { return p.m == m })
		if i < 0 {
			i = len(parts)
			parts = append(parts, part{m: m})
		}
		parts[i].bytes += l.Graph.Nodes[in].Output
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(b.bytes, a.bytes) })
	var names []string
	for _, p := range parts[:min(len(parts), maxNear)] {
		names = append(names, p.m.Name)
	}
	return names
}

// released frees a share of a slot.
func (l *lighter) released(a *attempt) {
	if l.Hook {
		l.coming[a.Node] = true
	}
	l.charge()
	l.held[l.Graph.Nodes[a.Node].Share]--
}

// charge counts the slots that are held for the time since it was called last.
func (l *lighter) charge() {
	passed := l.now - l.charged
	l.charged = l.now
	if l.shares == nil || passed == 0 {
		return
	}
	for share, slots := range l.held {
		l.shares.Use(share, time.Duration(slots)*passed, epoch.Add(l.now))
	}
}

// begins places a build, and has its share hold the slot.
func (l *lighter) begins(node int32, on string, finish time.Duration) {
	l.held[l.Graph.Nodes[node].Share]++
	l.place(node, l.byName[on], l.builds[node], l.Estimate(int(node)).Duration, finish)
}
