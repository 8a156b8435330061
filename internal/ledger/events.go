package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// LastEvent returns the number of the last event, 0 if there is none.
func (l *Ledger) LastEvent() uint64 {
	last, _ := l.published.news()
	return last
}

// eventChunk is how many events are read at a time. No resources are held while
// the caller looks at them.
const eventChunk = 256

// Events calls fn for every event from a number on (0 counts as 1), in order, none missed
// and none twice, and returns fn's error if there is one. Events that Prune has removed are
// skipped. With follow it goes on with new events until the context ends (then it returns
// the context's error) or the ledger is closed (ErrClosed).
func (l *Ledger) Events(ctx context.Context, from uint64, follow bool, fn func(api.Event) error) error {
	next := max(from, 1)
	for {
		last, changed := l.published.news()
		for next <= last {
			events, err := l.readEvents(ctx, next, last)
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
		case <-l.db.failed:
			return l.db.err()
		case <-l.db.closing:
			return fmt.Errorf("ledger %s: %w", l.db.dir, ErrClosed)
		}
	}
}

// readEvents returns the events from first to last, or as many of them as are read at a
// time. All of them exist except those that were removed.
func (l *Ledger) readEvents(ctx context.Context, first, last uint64) (events []api.Event, err error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	iter, err := l.db.NewIter(&pebble.IterOptions{LowerBound: keyEvent(first), UpperBound: keyEvent(last + 1)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	removed := l.published.watermark().event // from after the iterator was made
	missing := func(want, found uint64) error {
		if found > want && found > removed+1 {
			return fmt.Errorf("ledger %s: event %d is missing", l.db.dir, max(want, removed+1))
		}
		return nil
	}
	next := first
	for iter.First(); iter.Valid() && len(events) < eventChunk; iter.Next() {
		value, err := iter.ValueAndErr()
		if err != nil {
			return nil, err
		}
		if len(iter.Key()) != 9 {
			l.db.setAside(corrupt(iter.Key()))
			continue
		}
		e := l.db.readEvent(iter.Key(), value)
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

// readEvent returns an event, or one that stands for an event that can't be used: whoever
// follows events must not miss a number, nor be stopped by one.
func (db *database) readEvent(key, value []byte) api.Event {
	e, err := decodeEvent(key, value)
	if err != nil {
		db.setAside(err)
		e.Kind, e.Reason = api.KindUnusable, api.Cut("the ledger has an event here that can't be used: "+err.Error(), api.MaxReason)
	}
	return e
}

// decodeEvent reads an event whose key has the right length. With an error, a
// *RecordError, it returns only number and time. It cuts texts from older versions that are
// longer than is allowed now.
func decodeEvent(key, value []byte) (api.Event, error) {
	e := api.Event{Seq: binary.BigEndian.Uint64(key[1:])}
	if len(value) < 8 {
		return e, unusable(errors.New("corrupt entry"), "event %d", e.Seq)
	}
	e.Time = time.Unix(0, int64(binary.BigEndian.Uint64(value))).UTC() // #nosec G115 -- written by the same conversion
	s, err := decode(value[8:], func(s *storedEvent) error {
		texts := api.Event{Reason: s.Reason, Failure: s.Failure}
		texts.Shorten()
		s.Reason, s.Failure = texts.Reason, texts.Failure
		return s.valid()
	})
	if err != nil {
		return e, unusable(err, "event %d", e.Seq)
	}
	e.Kind, e.Build, e.State, e.Attempt, e.Machine, e.Reason, e.Failure = s.Kind, s.Build, s.State, s.Attempt, s.Machine, s.Reason, s.Failure
	return e, nil
}

// BuildEvents returns the history of one build, oldest first, or an error that
// matches ErrNotFound.
func (l *Ledger) BuildEvents(ctx context.Context, id string) ([]api.Event, error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	h, err := readHead(l.db, id)
	if err != nil {
		return nil, err
	}
	var events []api.Event
	err = scan(l.db, historyPrefix(h.number), func(key, _ []byte) error {
		if len(key) != 17 {
			l.db.setAside(corrupt(key))
			return nil
		}
		eventKey := keyEvent(binary.BigEndian.Uint64(key[9:]))
		value, err := get(l.db, eventKey)
		if errors.Is(err, pebble.ErrNotFound) {
			l.db.setAside(unusable(errors.New("it is missing"), "event %d", binary.BigEndian.Uint64(key[9:])))
			return nil
		}
		if err != nil {
			return fmt.Errorf("history of build %s: %w", id, err)
		}
		events = append(events, l.db.readEvent(eventKey, value))
		return nil
	})
	return events, err
}
