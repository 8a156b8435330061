package simulate

import (
	"maps"
	"math"
	"slices"
	"time"
)

// Result is what happened.
type Result struct {
	// Makespan is when the last output that was asked for was at home; Bound is a time in which
	// nobody can be done (see LowerBound), and Ratio the first over the second.
	Makespan, Bound time.Duration
	Ratio           float64

	Machines []MachineUse
	Shares   []ShareUse // in order of their names
	Requests []Wait     // of the builds of requests other than 0, in order
	Spans    []Span     // every attempt, in order of placement

	Kills   int           // attempts that were killed for memory
	Retried int           // builds that had to be begun anew, for whatever reason
	Again   int           // builds that were begun a second time beside the first one
	Wasted  time.Duration // slot time of attempts that came to nothing
}

// Sent and Fetched are the bytes to and from all machines.
func (r *Result) Sent() (n int64) {
	for i := range r.Machines {
		n += r.Machines[i].Sent
	}
	return n
}

// Fetched is how many bytes came from the machines.
func (r *Result) Fetched() (n int64) {
	for i := range r.Machines {
		n += r.Machines[i].Fetched
	}
	return n
}

// NodeTime is how long all machines were there together.
func (r *Result) NodeTime() (d time.Duration) {
	for i := range r.Machines {
		d += r.Machines[i].Up
	}
	return d
}

// Cost is the price of that.
func (r *Result) Cost() (sum float64) {
	for i := range r.Machines {
		sum += r.Machines[i].Cost
	}
	return sum
}

// Use returns the parts of all slot time that slots were taken, and that builders ran.
func (r *Result) Use() (taken, building float64) {
	var all time.Duration
	for i := range r.Machines {
		m := &r.Machines[i]
		all += m.Up * time.Duration(m.Slots)
		taken += m.Taken.Seconds()
		building += m.Building.Seconds()
	}
	if all == 0 {
		return 0, 0
	}
	return taken / all.Seconds(), building / all.Seconds()
}

// MachineUse is what one machine did.
type MachineUse struct {
	Name          string
	Slots         int
	Builds        int           // attempts that ended well
	Taken         time.Duration // slot time
	Building      time.Duration // of that, with a builder
	Sent, Fetched int64         // bytes
	Up            time.Duration
	Cost          float64
	since         time.Duration // up, or 0
}

func (u *MachineUse) went(now time.Duration) { u.Up += now - u.since }
func (u *MachineUse) came(now time.Duration) { u.since = now }

// ShareUse is what one share had.
type ShareUse struct {
	Name   string
	Weight float64
	Hours  []time.Duration // slot time in each hour
	// Starved has the hours in which, for some time, it had no build that waited for a slot: there
	// it can't be said what it should have had.
	Starved []bool
	ready   int
	idle    time.Duration // since when it has none that waits
}

// Wait is how a small request fared.
type Wait struct {
	Request  int
	Wait     time.Duration // until the placement of its first attempt
	Took     time.Duration // from its submission until it was at home
	Slowdown float64       // that over what it takes on the fastest machine that idles
}

// Outcome is how an attempt ended.
type Outcome uint8

// The outcomes.
const (
	Done       Outcome = iota
	Failed             // by the machine's fault
	Lost               // the machine went away, or inputs did
	Killed             // it, with the others there, needed more memory than there is
	Superseded         // another attempt at it was done first
)

func (o Outcome) String() string {
	return [...]string{"done", "failed", "lost", "killed", "superseded"}[o]
}

// Span is one attempt at a build. Times are after the start.
type Span struct {
	Node     int32
	Machine  int
	Ready    time.Duration // when it could be placed
	Placed   time.Duration // its slot is taken
	Began    time.Duration // the builder starts; 0 if it never did
	Ended    time.Duration // the builder ends
	Released time.Duration // the slot is free
	Expected time.Duration // how long the placement thought it would take until Ended; 0 if it did not say
	Outcome  Outcome
}

// tally counts while a scenario is played.
type tally struct {
	shares   map[string]*ShareUse
	byNode   []*ShareUse
	homeAt   []time.Duration // of small requests
	firstAt  []time.Duration
	kills    int
	retried  int
	again    int
	wasted   time.Duration
	requests bool
}

func (t *tally) init(e *engine) {
	t.shares = make(map[string]*ShareUse)
	t.byNode = make([]*ShareUse, len(e.nodes))
	for i := range e.nodes {
		n := &e.Graph.Nodes[i]
		t.requests = t.requests || n.Request != 0
		share := t.shares[n.Share]
		if share == nil {
			share = &ShareUse{Name: n.Share, Weight: e.weight(n.Share)}
			t.shares[n.Share] = share
		}
		t.byNode[i] = share
	}
	if t.requests {
		t.homeAt, t.firstAt = make([]time.Duration, len(e.nodes)), make([]time.Duration, len(e.nodes))
		for i := range t.firstAt {
			t.firstAt[i] = -1
		}
	}
}

// weight is that of a share.
func (s *Scenario) weight(share string) float64 {
	if w, ok := s.Weights[share]; ok {
		return w
	}
	return 1
}

// ready counts the builds of a share that wait for a slot.
func (t *tally) ready(e *engine, node int32, n int) {
	s := t.byNode[node]
	if s.ready == 0 && e.now > s.idle {
		s.starve(s.idle, e.now)
	}
	s.ready += n
	if s.ready == 0 {
		s.idle = e.now
	}
}

func (s *ShareUse) starve(from, to time.Duration) {
	for h := int(from / time.Hour); h <= int((to-1)/time.Hour); h++ {
		for len(s.Starved) <= h {
			s.Starved = append(s.Starved, false)
		}
		s.Starved[h] = true
	}
}

// release counts an attempt whose slot is free now.
func (t *tally) release(e *engine, a *attempt) {
	a.Released = e.now
	u := &a.m.use
	u.Taken += e.now - a.Placed
	if a.Outcome == Done {
		u.Builds++
	} else {
		t.wasted += e.now - a.Placed
	}
	if a.Began > 0 || a.Ended > a.Placed && a.Outcome == Done {
		u.Building += a.Ended - a.Began
	}
	s := t.byNode[a.Node]
	for from := a.Placed; from < e.now; {
		hour := int(from / time.Hour)
		to := min(e.now, time.Duration(hour+1)*time.Hour)
		for len(s.Hours) <= hour {
			s.Hours = append(s.Hours, 0)
		}
		s.Hours[hour] += to - from
		from = to
	}
	if t.requests && t.firstAt[a.Node] < 0 {
		t.firstAt[a.Node] = a.Placed
	}
}

func (t *tally) delivered(e *engine, node int32) {
	if t.requests {
		t.homeAt[node] = e.now
	}
}

func (e *engine) result() *Result {
	t := &e.tally
	r := &Result{
		Makespan: e.now, Bound: LowerBound(e.Graph, e.Scenario.Machines),
		Kills: t.kills, Retried: t.retried, Again: t.again, Wasted: t.wasted,
	}
	if r.Bound > 0 {
		r.Ratio = r.Makespan.Seconds() / r.Bound.Seconds()
	}
	for _, m := range e.machines {
		u := m.use
		if !m.away {
			u.went(e.now)
		}
		u.Name, u.Slots, u.Sent, u.Fetched = m.Name, m.Slots, m.to.bytes, m.from.bytes
		u.Cost = u.Up.Hours() * m.Price
		r.Machines = append(r.Machines, u)
	}
	for _, name := range slices.Sorted(maps.Keys(t.shares)) {
		s := t.shares[name]
		if s.ready == 0 {
			s.starve(s.idle, e.now)
		}
		r.Shares = append(r.Shares, *s)
	}
	for i := range e.attempts {
		r.Spans = append(r.Spans, e.attempts[i].Span)
	}
	if t.requests {
		r.Requests = e.waits()
	}
	return r
}

// waits is how the small requests fared.
func (e *engine) waits() []Wait {
	byRequest := make(map[int]*Wait)
	ideal := make(map[int]float64)
	submitted := make(map[int]time.Duration)
	for i := range e.nodes {
		n := &e.Graph.Nodes[i]
		if n.Request == 0 {
			continue
		}
		w := byRequest[n.Request]
		if w == nil {
			w = &Wait{Request: n.Request, Wait: never}
			byRequest[n.Request] = w
			submitted[n.Request] = n.Submitted
		}
		w.Wait = min(w.Wait, e.tally.firstAt[i]-n.Submitted)
		w.Took = max(w.Took, e.tally.homeAt[i]-submitted[n.Request])
		ideal[n.Request] += e.alone(n)
	}
	var waits []Wait
	for _, number := range slices.Sorted(maps.Keys(byRequest)) {
		w := byRequest[number]
		w.Slowdown = w.Took.Seconds() / ideal[number]
		waits = append(waits, *w)
	}
	return waits
}

// alone is how many seconds a build takes on the fastest machine, if that idles, with the way home.
func (e *engine) alone(n *Node) float64 {
	least := math.Inf(1)
	for _, m := range e.machines {
		if m.takes(n) {
			_, from := m.bandwidths()
			least = min(least, n.Duration.Seconds()/m.speed()+float64(n.Output)/from+m.Delay.Seconds())
		}
	}
	return least
}

// Deviation is the most by which what a share had in one hour differs from what its weight asks
// for, as a part of that, in hours in which all shares had enough work; and how many these are.
func (r *Result) Deviation() (worst float64, hours int) {
	for hour := 0; ; hour++ {
		var sum time.Duration
		var weights float64
		all := true
		for i := range r.Shares {
			s := &r.Shares[i]
			if hour < len(s.Starved) && s.Starved[hour] {
				all = false
			}
			if hour < len(s.Hours) {
				sum += s.Hours[hour]
			}
			weights += s.Weight
		}
		if time.Duration(hour+1)*time.Hour > r.Makespan {
			return worst, hours
		}
		if !all || sum == 0 {
			continue
		}
		hours++
		for i := range r.Shares {
			s := &r.Shares[i]
			had := 0.0
			if hour < len(s.Hours) {
				had = s.Hours[hour].Seconds() / sum.Seconds()
			}
			asked := s.Weight / weights
			worst = max(worst, math.Abs(had-asked)/asked)
		}
	}
}

// loadAverage is a machine's of one minute, as its own builds make it.
type loadAverage struct {
	average float64
	running int
	at      time.Duration
}

// changed brings the average up to date, before the number of builders changes.
func (l *loadAverage) changed(e *engine, m *machineState) {
	if m.Cores == 0 {
		return
	}
	l.value(e.now)
	l.running = 0
	for _, number := range m.busy {
		if e.attempts[number].building {
			l.running++
		}
	}
}

func (l *loadAverage) value(now time.Duration) float64 {
	l.average = float64(l.running) + (l.average-float64(l.running))*math.Exp(-(now-l.at).Minutes())
	l.at = now
	return l.average
}
