// Package recorder writes the changes of a coordinator's loop into the ledger, in order. While it
// waits for the disk the loop goes on, and what piles up meanwhile is written in one go.
package recorder

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"lighter/internal/backoff"
	"lighter/internal/coordinator/mailbox"
	"lighter/internal/ledger"
)

// Options are what a Recorder works with. All of them are required, but one of the first two will do. Run
// calls the functions from its goroutine.
type Options struct {
	Ledger *ledger.Ledger
	// Apply makes changes durable, each by itself, as [ledger.Ledger.ApplyEach] does; nil is the Ledger's.
	Apply  func(context.Context, []ledger.Change) (done int, refused []ledger.Refusal, err error)
	Logger *slog.Logger
	// Durable is given the functions that were put with changes that are durable now.
	Durable func(after []func())
	// Refused is told of a change that the ledger refuses. The other changes are made.
	Refused func(ledger.Change, error)
	// Unstalled is called when the ledger takes changes again: see [Recorder.Stalled].
	Unstalled func()
	// Failed is called when the ledger can no longer be used. Run returns then.
	Failed func(error)
}

// Recorder is described in the package comment.
type Recorder struct {
	Options
	mail    *mailbox.Mailbox[batch]
	pending batch
	stalled atomic.Pointer[error] // why the ledger takes nothing
}

// batch is a number of changes, and what to call when they are durable.
type batch struct {
	changes []ledger.Change
	after   []func()
}

// New returns a Recorder that has not started anything.
func New(opts Options) *Recorder {
	if opts.Apply == nil {
		opts.Apply = func(ctx context.Context, changes []ledger.Change) (int, []ledger.Refusal, error) {
			return opts.Ledger.ApplyEach(ctx, changes, true)
		}
	}
	return &Recorder{Options: opts, mail: mailbox.New[batch]()}
}

// maxApply bounds how many changes go to the ledger at once.
const maxApply = 4096

// stallRetry is the time between two tries when the disk is full.
const stallRetry = time.Second

// Put has changes written, after all that were put before, and then functions given to Durable. It
// never waits. The changes belong to the Recorder from now on.
func (r *Recorder) Put(changes []ledger.Change, after []func()) { r.mail.Put(batch{changes, after}) }

// Stalled says why the ledger takes no changes at present; nil if it does. Any goroutine may call
// it.
func (r *Recorder) Stalled() error {
	if err := r.stalled.Load(); err != nil {
		return *err
	}
	return nil
}

// Run writes until ctx ends or the ledger fails.
func (r *Recorder) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.mail.Ready():
		}
		for r.collect(); !r.pending.empty(); r.collect() {
			if !r.write(ctx) {
				return
			}
		}
	}
}

func (b *batch) empty() bool { return len(b.changes) == 0 && len(b.after) == 0 }

func (r *Recorder) collect() {
	for _, b := range r.mail.Take() {
		r.pending.changes = append(r.pending.changes, b.changes...)
		r.pending.after = append(r.pending.after, b.after...)
	}
}

// write writes what is pending, and waits while the disk is full. It reports whether to go on.
func (r *Recorder) write(ctx context.Context) bool {
	for {
		err := r.apply(ctx)
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil:
			return false
		case !errors.Is(err, ledger.ErrDiskFull):
			r.Failed(err)
			return false
		}
		if r.stalled.CompareAndSwap(nil, &err) {
			r.Logger.Error("the ledger takes no changes; nothing new is started until it does", "err", err)
		}
		if backoff.Wait(ctx, stallRetry) != nil {
			return false
		}
		r.collect()
	}
}

func (r *Recorder) apply(ctx context.Context) error {
	for len(r.pending.changes) > 0 {
		changes := r.pending.changes[:min(len(r.pending.changes), maxApply)]
		done, refused, err := r.Apply(ctx, changes)
		for _, one := range refused {
			r.Logger.Error("the ledger refuses a change", "err", one.Err)
			r.Refused(changes[one.Index], one.Err)
		}
		r.pending.changes = r.pending.changes[done:]
		if err != nil {
			return err
		}
	}
	if r.stalled.Swap(nil) != nil {
		r.Logger.Info("the ledger takes changes again")
		r.Unstalled()
	}
	if len(r.pending.after) > 0 {
		r.Durable(r.pending.after)
	}
	r.pending = batch{}
	return nil
}

// lastWrite bounds how long a coordinator that stops waits for the ledger.
const lastWrite = 5 * time.Second

// Flush writes what is left after Run has returned. None of the functions is called.
func (r *Recorder) Flush() {
	r.collect()
	if len(r.pending.changes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastWrite)
	defer cancel()
	done, refused, err := r.Apply(ctx, r.pending.changes)
	for i := range refused {
		r.Logger.Error("the ledger refuses a change", "err", refused[i].Err)
	}
	if err != nil {
		// Nothing acknowledged is lost: the machines are asked for the rest after the next start.
		r.Logger.Warn("the last changes are not in the ledger", "changes", len(r.pending.changes)-done, "err", err)
	}
}
