package recorder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/ledger"
)

// book is a ledger that takes changes as it is told.
type book struct {
	mu     sync.Mutex
	fault  error    // of all changes but the first
	lines  []string // the reasons of events that it took
	calls  []int    // how many changes it was given at a time
	events []string // what else happened
}

func (b *book) apply(_ context.Context, changes []ledger.Change) (done int, refused []ledger.Refusal, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, len(changes))
	for i, ch := range changes {
		switch {
		case b.fault != nil && i > 0:
			return i, refused, b.fault
		case ch.Event.Reason == "bad":
			refused = append(refused, ledger.Refusal{Index: i, Err: errors.New("too bad")})
		default:
			b.lines = append(b.lines, ch.Event.Reason)
		}
	}
	return len(changes), refused, nil
}

func (b *book) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, fmt.Sprintf(format, args...))
}

func (b *book) setFault(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = err
}

func newRecorder(b *book) *Recorder {
	return New(Options{
		Apply: b.apply, Logger: slog.New(slog.DiscardHandler),
		Durable: func(after []func()) {
			for _, f := range after {
				f()
			}
		},
		Refused:   func(ch ledger.Change, err error) { b.note("%s: %v", ch.Event.Reason, err) },
		Unstalled: func() { b.note("resumed") },
		Failed:    func(err error) { b.note("failed: %v", err) },
	})
}

func (r *Recorder) put(b *book, reasons ...string) {
	var changes []ledger.Change
	for _, reason := range reasons {
		changes = append(changes, ledger.Change{Event: &api.Event{Reason: reason}})
	}
	r.Put(changes, []func(){func() { b.note("after %s", reasons[len(reasons)-1]) }})
}

func (b *book) want(t *testing.T, lines, events []string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.lines, lines) || !slices.Equal(b.events, events) {
		t.Errorf("took %q, want %q; %q happened, want %q", b.lines, lines, b.events, events)
	}
}

func TestRefusedChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b book
		r := newRecorder(&b)
		r.put(&b, "a", "bad", "b") // and the next are written at once
		r.put(&b, "c")
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { r.Run(ctx) })
		synctest.Wait()
		b.want(t, []string{"a", "b", "c"}, []string{"bad: too bad", "after b", "after c"})
		if !slices.Equal(b.calls, []int{4}) {
			t.Errorf("written in portions of %d", b.calls)
		}
		cancel()
		group.Wait()
		r.put(&b, "d", "bad")
		r.Flush()
		b.want(t, []string{"a", "b", "c", "d"}, []string{"bad: too bad", "after b", "after c"})
	})
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book{fault: ledger.ErrDiskFull}
		r := newRecorder(&b)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.Run(ctx)
		r.put(&b, "a", "b", "c", "d")
		synctest.Wait()
		b.want(t, []string{"a"}, nil)
		if err := r.Stalled(); !errors.Is(err, ledger.ErrDiskFull) {
			t.Errorf("stalled: %v", err)
		}
		r.put(&b, "e")
		b.setFault(nil)
		time.Sleep(stallRetry) // of the bubble's time
		synctest.Wait()
		b.want(t, []string{"a", "b", "c", "d", "e"}, []string{"resumed", "after d", "after e"})
		if err := r.Stalled(); err != nil {
			t.Errorf("stalled: %v", err)
		}
	})
}

func TestFailedLedger(t *testing.T) {
	b := book{fault: errors.New("broken")}
	r := newRecorder(&b)
	r.put(&b, "a", "b")
	r.Run(t.Context())
	b.want(t, []string{"a"}, []string{"failed: broken"})
}
