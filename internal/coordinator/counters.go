package coordinator

import (
	"context"
	"maps"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/scheduler"
)

// Limits on what is counted and kept in memory.
const (
	maxSystems     = 64     // that are told apart; what is beyond counts as otherSystem
	maxFailures    = 20     // that a status has
	failuresLooked = 2000   // builds of the ledger among which those of a start are looked for
	maxSampled     = 10_000 // tasks whose expected durations a status adds up
)

const otherSystem = "other"

// counters is what the loop counts. Nothing of it is in the ledger.
type counters struct {
	live       map[string]*liveCounts // by system
	ended      map[string]*hour       // by system
	finals     map[api.State]uint64   // builds that became final, by state
	failed     map[api.Culprit]uint64 // attempts
	placements uint64
	failures   []api.Build // that failed last, the newest first
}

// liveCounts are the builds of a system that are not final.
type liveCounts struct{ queued, waiting, running int }

// countedAs says where a build is counted.
type countedAs struct {
	state  api.State // Queued, Waiting, or Building for all that run; empty: nowhere
	system string
}

func newCounters() counters {
	return counters{
		live: make(map[string]*liveCounts), ended: make(map[string]*hour),
		finals: make(map[api.State]uint64), failed: make(map[api.Culprit]uint64),
	}
}

// count counts a build as what it is now.
func (n *counters) count(r *liveBuild) {
	var as countedAs
	switch {
	case r.State.Final():
	case r.State.Running():
		as = countedAs{api.Building, n.known(r.System)}
	case r.State == api.Waiting:
		as = countedAs{api.Waiting, n.known(r.System)}
	default:
		as = countedAs{api.Queued, n.known(r.System)}
	}
	if as != r.counted {
		n.add(r.counted, -1)
		n.add(as, 1)
		r.counted = as
	}
}

// known returns the name under which a system is counted.
func (n *counters) known(system string) string {
	if n.live[system] == nil {
		if len(n.live) >= maxSystems {
			system = otherSystem
		}
		if n.live[system] == nil {
			n.live[system], n.ended[system] = &liveCounts{}, &hour{}
		}
	}
	return system
}

func (n *counters) add(as countedAs, d int) {
	switch l := n.live[as.system]; as.state {
	case api.Queued:
		l.queued += d
	case api.Waiting:
		l.waiting += d
	case api.Building:
		l.running += d
	}
}

// countFinal counts a build whose record is about to be saved. It is called for every change;
// only what is new counts.
func (r *liveBuild) countFinal(l *loop) {
	n := &l.counts
	was := r.counted
	n.count(r)
	if !r.State.Final() || was == (countedAs{}) {
		return
	}
	n.finals[r.State]++
	n.ended[was.system].add(l.now())
	if listedFailure(&r.Build) {
		n.failures = slices.Insert(n.failures, 0, r.Build)
		n.failures = n.failures[:min(len(n.failures), maxFailures)]
	}
}

// listedFailure reports whether a build is one of those that a status shows: it failed
// itself, and not for another's sake.
func listedFailure(b *api.Build) bool {
	return (b.State == api.Failed || b.State == api.TimedOut) && (b.Failure == nil || b.Failure.Kind != api.KindDependency)
}

// recoverFailures finds the failures that a status shows in the ledger.
func (l *loop) recoverFailures(ctx context.Context) error {
	filter := ledger.Filter{Filter: api.Filter{States: []api.State{api.Failed, api.TimedOut}}, Limit: failuresLooked}
	for b, err := range l.ledger.Builds(ctx, filter) {
		if err != nil {
			return err
		}
		if listedFailure(b) {
			l.counts.failures = append(l.counts.failures, *b)
		}
		if len(l.counts.failures) == maxFailures {
			break
		}
	}
	slices.SortStableFunc(l.counts.failures, func(a, b api.Build) int { return stopped(&b).Compare(stopped(&a)) })
	return nil
}

func stopped(b *api.Build) time.Time {
	if b.Stopped != nil {
		return *b.Stopped
	}
	return b.Submitted
}

func (n *counters) attemptFailed(by api.Culprit) { n.failed[by]++ }

// hour counts what happened in the last 60 minutes.
type hour struct {
	minutes [60]int
	last    int64 // minute of the newest count, since 1970
}

func (h *hour) add(now time.Time) {
	h.advance(now)
	h.minutes[h.last%60]++
}

func (h *hour) sum(now time.Time) int {
	h.advance(now)
	sum := 0
	for _, n := range h.minutes {
		sum += n
	}
	return sum
}

func (h *hour) advance(now time.Time) {
	minute := now.Unix() / 60
	if minute-h.last >= 60 {
		h.minutes = [60]int{}
		h.last = minute
	}
	for ; h.last < minute; h.last++ {
		h.minutes[(h.last+1)%60] = 0
	}
}

// queues says what there is to do, by system.
func (l *loop) queues(now time.Time) []api.SystemQueue {
	since := min(now.Sub(l.started), time.Hour).Hours()
	left := l.workLeft(now)
	var list []api.SystemQueue
	for _, system := range slices.Sorted(maps.Keys(l.counts.live)) {
		live := l.counts.live[system]
		q := api.SystemQueue{System: system, Queued: live.queued, Waiting: live.waiting, Running: live.running}
		// What was counted in a moment says nothing of an hour.
		q.Rate = float64(l.counts.ended[system].sum(now)) / max(since, time.Minute.Hours())
		if live.queued+live.waiting+live.running > 0 {
			q.Empty = api.Seconds(l.timeFor(system, left[system]).Seconds())
		} else if q.Rate == 0 {
			continue
		}
		list = append(list, q)
	}
	return list
}

// work is what is to be done for one system, as it would take at speed 1.
type work struct{ all, path time.Duration }

// workLeft adds up the expected durations of what is to be built, and finds the longest path
// of builds that need each other. Of very many it takes a sample.
func (l *loop) workLeft(now time.Time) map[string]*work {
	left := make(map[string]*work)
	looked := 0
	for _, t := range l.tasks {
		if looked++; looked > maxSampled {
			break
		}
		if t.available() || len(t.builds) == 0 {
			continue
		}
		system := l.counts.known(t.builds[0].System)
		w := left[system]
		if w == nil {
			w = &work{}
			left[system] = w
		}
		expected := t.expected
		if expected == 0 {
			expected = scheduler.DefaultDuration
		}
		w.path = max(w.path, t.rank)
		if t.underWay != nil {
			expected = max(0, expected-now.Sub(t.underWay.began))
		}
		w.all += expected
	}
	if n := len(l.tasks); n > maxSampled {
		for _, w := range left {
			w.all = time.Duration(float64(w.all) * float64(n) / maxSampled)
		}
	}
	return left
}

// timeFor says how long the machines that take builds now need for work; 0 if there are
// none.
func (l *loop) timeFor(system string, w *work) time.Duration {
	var speed, fastest float64
	for _, m := range l.machines {
		if m.unavailable() == "" && slices.Contains(m.Systems, system) {
			s := m.speed.Speed(m.Speed)
			speed += s * float64(m.ParallelBuilds)
			fastest = max(fastest, s)
		}
	}
	if w == nil || speed <= 0 {
		return 0
	}
	return time.Duration(max(float64(w.all)/speed, float64(w.path)/fastest))
}
