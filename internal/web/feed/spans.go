package feed

import (
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

// Bounds of the attempts that are kept: how long ago, and how many of all machines.
const (
	spansTime = 25 * time.Hour
	maxSpans  = 50_000
)

// Span is the time in which an attempt held a slot of a machine.
type Span struct {
	Build      string     `json:"build"`
	Derivation store.Path `json:"derivation,omitempty"` // empty if the build is not known any more
	Machine    string     `json:"machine"`
	Attempt    int        `json:"attempt"`
	From       time.Time  `json:"from"`
	To         time.Time  `json:"to,omitzero"` // zero while it goes on
	// State is that in which it ended: fetching or succeeded if the outputs were made.
	State api.State `json:"state"`
}

// attemptID names an attempt.
type attemptID struct {
	build  string
	number int
}

// spans are the attempts of the last day, by their events.
type spans struct {
	list  []*Span // in the order in which they were begun
	open  map[attemptID]*Span
	since time.Time // from when on none is missing
}

func newSpans() spans { return spans{open: make(map[attemptID]*Span)} }

// take notes an event.
func (s *spans) take(ev *api.Event) {
	if s.since.IsZero() {
		s.since = ev.Time
	}
	if ev.Build == "" || ev.Attempt == 0 {
		return
	}
	id := attemptID{ev.Build, ev.Attempt}
	span := s.open[id]
	switch {
	case span == nil && ev.Machine != "" && holdsSlot(ev.State):
		span = &Span{Build: ev.Build, Derivation: ev.Derivation, Machine: ev.Machine, Attempt: ev.Attempt, From: ev.Time, State: ev.State}
		s.list, s.open[id] = append(s.list, span), span
		s.drop(ev.Time)
	case span != nil && holdsSlot(ev.State):
		span.State = ev.State
	case span != nil:
		span.State, span.To = ev.State, ev.Time
		delete(s.open, id)
	}
}

// holdsSlot reports whether an attempt holds its slot in a state: outputs travel without one.
func holdsSlot(s api.State) bool { return s.Running() && s != api.Fetching }

// drop forgets the oldest attempts where there are too many, or they were too long ago.
func (s *spans) drop(now time.Time) {
	n := 0
	for n < len(s.list) && (len(s.list)-n > maxSpans || now.Sub(s.list[n].From) > spansTime) {
		n++
	}
	if n == 0 || n < len(s.list)/8 && len(s.list) <= maxSpans {
		return // later, many at a time
	}
	if len(s.list) > maxSpans {
		n = max(n, maxSpans/8)
	}
	for _, span := range s.list[:n] {
		delete(s.open, attemptID{span.Build, span.Attempt})
		s.since = span.From
	}
	s.list = slices.Clone(s.list[n:])
}

func (s *spans) of(machine string, since time.Time) ([]Span, time.Time) {
	var list []Span
	for _, span := range s.list {
		if span.Machine == machine && (span.To.IsZero() || span.To.After(since)) {
			list = append(list, *span)
		}
	}
	if since.Before(s.since) {
		since = s.since
	}
	return list, since
}
