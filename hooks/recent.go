package hooks

import (
	"context"
	"errors"
	"slices"
	"sync"

	"lighter/internal/api"
)

// recent has the last events that any hook has read. Most hooks are at the end of the
// events, and so each event is decoded once and not once for each of them.
type recent struct {
	ledger Ledger
	max    int // events

	mu     sync.Mutex
	from   uint64      // the events below have all of this number and above
	next   uint64      // and below this one; 0 if nothing was read
	events []api.Event // never changed in place
}

// read calls fn for each event from a number on, up to the last of which is known now.
func (r *recent) read(ctx context.Context, from, last uint64, fn func(api.Event) error) error {
	for from <= last {
		events, next, err := r.piece(ctx, from, last)
		if err != nil {
			return err
		}
		for i := range events {
			if err := fn(events[i]); err != nil {
				return err
			}
		}
		from = next
	}
	return nil
}

// piece returns events from a number on, and the number from which to go on.
func (r *recent) piece(ctx context.Context, from, last uint64) ([]api.Event, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from < r.from {
		last = min(last, r.from-1)
		r.mu.Unlock() // a hook far behind does not disturb the others
		defer r.mu.Lock()
		return r.fetch(ctx, from, last)
	}
	if from >= r.next {
		if from > r.next {
			r.from, r.events = from, nil
		}
		events, next, err := r.fetch(ctx, from, last)
		if err != nil {
			return nil, 0, err
		}
		r.events, r.next = slices.Concat(r.events, events), next
		if over := len(r.events) - r.max; over > 0 {
			r.events = slices.Clone(r.events[over:])
			r.from = r.events[0].Seq
		}
	}
	at, _ := slices.BinarySearchFunc(r.events, from, func(ev api.Event, seq uint64) int {
		switch {
		case ev.Seq < seq:
			return -1
		case ev.Seq > seq:
			return 1
		}
		return 0
	})
	return r.events[at:], r.next, nil
}

// fetch reads at most max events from the ledger.
func (r *recent) fetch(ctx context.Context, from, last uint64) ([]api.Event, uint64, error) {
	var events []api.Event
	next := last + 1
	err := r.ledger.Events(ctx, from, false, func(ev api.Event) error {
		if ev.Seq > last {
			return errEnough
		}
		if len(events) == r.max {
			next = ev.Seq
			return errEnough
		}
		events = append(events, ev)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, 0, err
	}
	return events, next, nil
}
