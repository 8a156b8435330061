// Package tally counts what becomes of builds: how many there are now, by system, and what
// happened since the coordinator's start. Of that only the book of the farm's history is kept in the ledger.
package tally

import (
	"context"
	"maps"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/history"
	"lighter/internal/ledger"
)

// Limits on what is counted and kept in memory.
const (
	maxSystems     = 64   // that are told apart; others count as otherSystem
	failuresLooked = 2000 // how many failed builds of the ledger Recover looks at

	// MaxFailures is how many failures are kept.
	MaxFailures = 20
)

const otherSystem = "other"

// Counts are what is counted. They belong to one goroutine.
type Counts struct {
	Finals     map[api.State]uint64   // builds that became final, by state
	Failed     map[api.Culprit]uint64 // attempts
	Placements uint64
	Failures   []api.Build // the last builds that failed, the newest first
	// Book is where what ends is noted for the history of the farm. Before Recover nothing is kept of it.
	Book *history.Book

	live  map[string]*live // by system
	ended map[string]*hour // by system: those that ran
}

// live are the builds of a system that are not final.
type live struct{ queued, waiting, running int }

// As says as what a build is counted; the zero value means that it is not counted.
type As struct {
	state  api.State // Queued, Waiting, or Building for all that run
	system string
}

// New returns Counts of nothing.
func New() *Counts {
	return &Counts{
		Finals: make(map[api.State]uint64), Failed: make(map[api.Culprit]uint64),
		live: make(map[string]*live), ended: make(map[string]*hour), Book: history.NewBook(time.Time{}, nil),
	}
}

// Count counts a build as what it is now, and no longer as what it was.
func (n *Counts) Count(b *api.Build, was *As) {
	var as As
	switch {
	case b.State.Final():
	case b.State.Running():
		as = As{api.Building, n.System(b.System)}
	case b.State == api.Waiting:
		as = As{api.Waiting, n.System(b.System)}
	default:
		as = As{api.Queued, n.System(b.System)}
	}
	if as != *was {
		n.add(*was, -1)
		n.add(as, 1)
		*was = as
	}
}

// System returns the name under which a system is counted.
func (n *Counts) System(system string) string {
	if n.live[system] == nil {
		if len(n.live) >= maxSystems {
			system = otherSystem
		}
		if n.live[system] == nil {
			n.live[system], n.ended[system] = &live{}, &hour{}
		}
	}
	return system
}

func (n *Counts) add(as As, d int) {
	switch l := n.live[as.system]; as.state {
	case api.Queued:
		l.queued += d
	case api.Waiting:
		l.waiting += d
	case api.Building:
		l.running += d
	}
}

// Changed counts a build that has changed, and its end if it has become final.
func (n *Counts) Changed(b *api.Build, as *As, now time.Time) {
	was := *as
	n.Count(b, as)
	if !b.State.Final() || was == (As{}) {
		return
	}
	n.Finals[b.State]++
	ran := b.Attempt > 0 || b.Check > 0
	n.Book.Ended(was.system, b.State, ran)
	if ran && (b.State == api.Succeeded || b.State.FailedItself()) {
		n.ended[was.system].add(now)
	}
	if b.State.FailedItself() {
		n.Failures = slices.Insert(n.Failures, 0, *b)
		n.Failures = n.Failures[:min(len(n.Failures), MaxFailures)]
	}
}

// Recover finds the last failures in the ledger, and begins the book, where an earlier one ended if that was in the same hour.
func (n *Counts) Recover(ctx context.Context, records *ledger.Ledger, now time.Time) error {
	var last *history.Hour
	hour := history.HourOf(now)
	if err := records.Hours(ctx, hour, hour, func(h *history.Hour) error {
		last = h
		return nil
	}); err != nil {
		return err
	}
	n.Book = history.NewBook(now, last)
	filter := ledger.Filter{Filter: api.Filter{States: []api.State{api.Failed, api.TimedOut}}, Limit: failuresLooked}
	for b, err := range records.Builds(ctx, filter) {
		if err != nil {
			return err
		}
		n.Failures = append(n.Failures, *b)
		if len(n.Failures) == MaxFailures {
			break
		}
	}
	slices.SortStableFunc(n.Failures, func(a, b api.Build) int { return stopped(&b).Compare(stopped(&a)) })
	return nil
}

func stopped(b *api.Build) time.Time {
	if b.Stopped != nil {
		return *b.Stopped
	}
	return b.Submitted
}

// Queues says how many builds there are, and at what rate machines made or failed them in the last
// hour, or since the start, by system. It does not know when a queue will be empty.
func (n *Counts) Queues(now, start time.Time) []api.SystemQueue {
	// A count over a moment says nothing about an hour.
	hours := max(min(now.Sub(start), time.Hour), time.Minute).Hours()
	var list []api.SystemQueue
	for _, system := range slices.Sorted(maps.Keys(n.live)) {
		l := n.live[system]
		q := api.SystemQueue{
			System: system, Queued: l.queued, Waiting: l.waiting, Running: l.running,
			Rate: float64(n.ended[system].sum(now)) / hours,
		}
		if *l != (live{}) || q.Rate > 0 {
			list = append(list, q)
		}
	}
	return list
}
