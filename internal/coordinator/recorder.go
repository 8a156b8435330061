package coordinator

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"lighter/internal/coordinator/mailbox"
	"lighter/internal/ledger"
)

// batch is a piece of history: changes, and what to call when they are durable.
type batch struct {
	changes []ledger.Change
	after   []func()
}

// recorder writes what the loop changed into the ledger, in order. While it waits
// for the disk the loop goes on, and what piles up meanwhile is written at once.
type recorder struct {
	c       *Coordinator
	mail    *mailbox.Mailbox[batch]
	pending batch
	// stalled says since when the ledger takes nothing, and why.
	stalled atomic.Pointer[stall]
	// dead, if set, drops everything: tests use it as kill -9.
	dead atomic.Bool
}

type stall struct {
	since time.Time
	err   error
}

func newRecorder(c *Coordinator) *recorder { return &recorder{c: c, mail: mailbox.New[batch]()} }

// maxApply bounds how many changes go to the ledger at once.
const maxApply = 4096

// stallRetry is the time between two tries when the disk is full.
const stallRetry = time.Second

func (r *recorder) run(ctx context.Context) {
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

func (r *recorder) collect() {
	for _, b := range r.mail.Take() {
		r.pending.changes = append(r.pending.changes, b.changes...)
		r.pending.after = append(r.pending.after, b.after...)
	}
}

// write writes what is pending, and waits for room on the disk if there is none.
// It reports whether to go on.
func (r *recorder) write(ctx context.Context) bool {
	for {
		err := r.apply(ctx)
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil, errors.Is(err, errStopping):
			return false
		case !errors.Is(err, ledger.ErrDiskFull):
			r.c.stop(err)
			return false
		}
		if r.stalled.CompareAndSwap(nil, &stall{time.Now(), err}) {
			r.c.log.Error("the ledger takes no changes; nothing new is started until it does", "err", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(stallRetry):
		}
		r.collect()
	}
}

func (r *recorder) apply(ctx context.Context) error {
	if r.dead.Load() {
		return errStopping
	}
	for len(r.pending.changes) > 0 {
		n := min(len(r.pending.changes), maxApply)
		done, refused, err := r.c.ledger.ApplyEach(ctx, r.pending.changes[:n], true)
		r.refused(refused)
		r.pending.changes = r.pending.changes[done:]
		if err != nil {
			return err
		}
	}
	if r.stalled.Swap(nil) != nil {
		r.c.log.Info("the ledger takes changes again")
		r.c.post(func(l *loop) { l.placing = true })
	}
	after := r.pending.after
	r.pending = batch{}
	if len(after) > 0 {
		r.c.post(func(l *loop) {
			for _, f := range after {
				f()
			}
		})
	}
	return nil
}

// lastWrite bounds the time that a coordinator which stops gives the ledger.
const lastWrite = 5 * time.Second

// flush writes what is left, after run is over.
func (r *recorder) flush() {
	r.collect()
	if len(r.pending.changes) == 0 || r.dead.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastWrite)
	defer cancel()
	done, refused, err := r.c.ledger.ApplyEach(ctx, r.pending.changes, true)
	for i := range refused {
		r.c.log.Error("the ledger refuses a change", "err", refused[i].Err)
	}
	if err != nil {
		// Nothing acknowledged is lost: what is unknown is asked of machines again.
		r.c.log.Warn("the last changes are not in the ledger", "changes", len(r.pending.changes)-done, "err", err)
	}
}
