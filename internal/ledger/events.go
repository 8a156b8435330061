package ledger

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// LastEvent returns the number of the last event, 0 if there is none.
func (l *Ledger) LastEvent() uint64 {
	last, _ := l.news()
	return last
}

// news returns the number of the last event and a channel that is closed when
// there are more.
func (l *Ledger) news() (uint64, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.changed
}

// eventChunk is how many events are read at a time. No resources are held while
// the caller looks at them.
const eventChunk = 256

// Events calls fn for every event with number from (0 counts as 1) and above, in
// order, none missed and none twice, and returns fn's error if it returns one. Those
// that Prune has removed are skipped.
// With follow it goes on with events to come, until the context ends (its error is
// returned) or the ledger is closed (ErrClosed).
func (l *Ledger) Events(ctx context.Context, from uint64, follow bool, fn func(api.Event) error) error {
	next := max(from, 1)
	for {
		last, changed := l.news()
		for next <= last {
			if err := ctx.Err(); err != nil {
				return err
			}
			events, err := l.readEvents(next, last)
			if err != nil {
				return err
			}
			for _, e := range events {
				if err := fn(e); err != nil {
					return err
				}
				next = e.Seq + 1
			}
			if len(events) < eventChunk {
				next = last + 1
			}
		}
		if !follow {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.failed:
			return l.Err()
		case <-l.closing:
			return fmt.Errorf("ledger %s: %w", l.dir, ErrClosed)
		}
	}
}

// readEvents returns the events from first to last, or as many of them as are read at a
// time. All of them exist, but for those that were removed.
func (l *Ledger) readEvents(first, last uint64) (events []api.Event, err error) {
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.end()
	iter, err := l.db.NewIter(&pebble.IterOptions{LowerBound: keyEvent(first), UpperBound: keyEvent(last + 1)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	removed := l.watermark().event // of after the iterator was made
	missing := func(want, found uint64) error {
		if found > want && found > removed+1 {
			return fmt.Errorf("ledger %s: event %d is missing", l.dir, max(want, removed+1))
		}
		return nil
	}
	next := first
	for iter.First(); iter.Valid() && len(events) < eventChunk; iter.Next() {
		value, err := iter.ValueAndErr()
		if err != nil {
			return nil, err
		}
		e, err := decodeEvent(iter.Key(), value)
		if err != nil {
			return nil, err
		}
		if err := missing(next, e.Seq); err != nil {
			return nil, err
		}
		events, next = append(events, e), e.Seq+1
	}
	if err := iter.Error(); err != nil {
		return nil, err
	}
	if len(events) < eventChunk {
		return events, missing(next, last+1)
	}
	return events, nil
}

func decodeEvent(key, value []byte) (api.Event, error) {
	if len(key) != 9 || len(value) < 8 {
		return api.Event{}, corrupt(key)
	}
	seq := binary.BigEndian.Uint64(key[1:])
	var s storedEvent
	if err := json.Unmarshal(value[8:], &s); err != nil {
		return api.Event{}, fmt.Errorf("event %d: %w", seq, err)
	}
	nanoseconds := int64(binary.BigEndian.Uint64(value)) // #nosec G115 -- written by the same conversion
	return api.Event{
		Seq: seq, Time: time.Unix(0, nanoseconds).UTC(),
		Kind: s.Kind, Build: s.Build, State: s.State, Attempt: s.Attempt, Machine: s.Machine, Reason: s.Reason, Failure: s.Failure,
	}, nil
}

// BuildEvents returns the history of one build, oldest first, or an error that
// matches ErrNotFound.
func (l *Ledger) BuildEvents(ctx context.Context, id string) ([]api.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.end()
	h, err := l.head(l.db, id)
	if err != nil {
		return nil, err
	}
	var events []api.Event
	err = l.scan(historyPrefix(h.number), func(key, _ []byte) error {
		if len(key) != 17 {
			return corrupt(key)
		}
		eventKey := keyEvent(binary.BigEndian.Uint64(key[9:]))
		value, err := l.get(l.db, eventKey)
		if err != nil {
			return fmt.Errorf("history of build %s: %w", id, err)
		}
		e, err := decodeEvent(eventKey, value)
		events = append(events, e)
		return err
	})
	return events, err
}
