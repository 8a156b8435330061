package peer

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"lighter/store"
)

// Lane moves items in one direction, each once however many ask for it, over several streams at the
// same time. An item is moved once everything that it refers to has arrived, or is before it in
// the same batch.
type Lane struct {
	ctx      context.Context // of the streams
	group    *sync.WaitGroup // counts them
	maxBytes int64           // of a batch, unless its one item has more
	maxItems int
	// move moves one batch, references first, and returns when it has arrived.
	move func(ctx context.Context, batch []*store.Info) error

	mu      sync.Mutex
	streams int                   // the most at the same time
	cargo   map[store.Path]*cargo // everything that has not arrived yet
	waiting []*cargo              // not being moved yet, in the order in which it was asked for
	running int
	queued  int64 // NAR bytes of all cargo
	later   int64 // of these, of what nobody wants now
	idle    bool  // a stream moves what nobody wants now; there is one at most

	// When items arrived lately: somebody who heard before then that they are missing may still
	// ask for them.
	arrived  map[store.Path]time.Time
	arrivals []store.Path
}

// maxArrivals is how many arrived items a lane remembers: more than arrive between a machine's
// answer about what it lacks and the request for that.
const maxArrivals = 4096

// cargo is one item that somebody wants to be moved.
type cargo struct {
	info    *store.Info
	waiters int
	later   bool          // nobody wants it now
	batch   *cargoBatch   // once it is being moved
	done    chan struct{} // closed when it has arrived, or err says why not
	err     error
}

type cargoBatch struct {
	cargo   []*cargo
	waiters int // of all of them
	later   bool
	cancel  context.CancelCauseFunc
}

// errUnwanted is why a stream ends whose items nobody wants any more.
const errUnwanted = Ended("nobody waits for the items any more")

// newLane makes a lane of the peer. Panics in move are contained.
func (p *Peer) newLane(streams int, what string, move func(context.Context, []*store.Info) error) *Lane {
	limits := &p.config.Limits
	return &Lane{
		group: p.config.Group, streams: cmp.Or(streams, limits.Streams), maxBytes: limits.BatchBytes, maxItems: limits.BatchItems,
		cargo: make(map[store.Path]*cargo), arrived: make(map[store.Path]time.Time),
		move: func(ctx context.Context, batch []*store.Info) error {
			return p.Contain(what, func() error { return move(ctx, batch) })
		},
	}
}

// open sets the context of the lane's streams, which outlive whoever first wants an item.
func (l *Lane) open(ctx context.Context) { l.ctx = ctx }

// setStreams changes how many streams there are at most.
func (l *Lane) setStreams(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams = n
	l.startLocked()
}

// Want returns when all the items, given in any order, have arrived; and the NAR bytes of those that
// nobody had asked for before. They were missing at the time since; some may have arrived after
// that.
func (l *Lane) Want(ctx context.Context, infos []*store.Info, since time.Time) (fresh int64, err error) {
	return l.want(ctx, infos, since, false)
}

// WantLater is Want for items that nobody waits for: they are moved, by one stream, when nothing can
// be that somebody wants now.
func (l *Lane) WantLater(ctx context.Context, infos []*store.Info, since time.Time) (fresh int64, err error) {
	return l.want(ctx, infos, since, true)
}

func (l *Lane) want(ctx context.Context, infos []*store.Info, since time.Time, later bool) (fresh int64, err error) {
	sorted, err := store.SortInfos(infos)
	if err != nil {
		return 0, err
	}
	wanted, fresh := l.add(sorted, since, later) //nolint:contextcheck // streams live as long as the lane, not as the first who waits
	for i, w := range wanted {
		select {
		case <-w.done:
			err = w.err
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			l.leave(wanted[i:])
			return fresh, err
		}
	}
	return fresh, nil
}

func (l *Lane) add(infos []*store.Info, since time.Time, later bool) (wanted []*cargo, fresh int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted = make([]*cargo, 0, len(infos))
	for _, info := range infos {
		if l.arrived[info.Path].After(since) {
			continue
		}
		item := l.cargo[info.Path]
		if item == nil {
			item = &cargo{info: info, later: later, done: make(chan struct{})}
			l.cargo[info.Path] = item
			l.waiting = append(l.waiting, item)
			l.queued += info.NARSize
			fresh += info.NARSize
			if later {
				l.later += info.NARSize
			}
		}
		if item.later && !later {
			item.later = false
			l.later -= info.NARSize
		}
		item.waiters++
		if item.batch != nil {
			item.batch.waiters++
		}
		wanted = append(wanted, item)
	}
	l.startLocked()
	return wanted, fresh
}

// leave notes that a waiter is gone. Items that nobody else wants are not moved, and a stream that
// moves nothing else ends.
func (l *Lane) leave(wanted []*cargo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, item := range wanted {
		item.waiters--
		switch b := item.batch; {
		case b != nil:
			if b.waiters--; b.waiters == 0 {
				b.cancel(errUnwanted)
				for _, item := range b.cargo {
					l.removeLocked(item)
				}
			}
		case item.waiters == 0:
			l.removeLocked(item)
		}
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(item *cargo) bool { return item.waiters == 0 })
}

// removeLocked takes an item out, so that it is moved again when it is wanted again.
func (l *Lane) removeLocked(item *cargo) {
	if l.cargo[item.info.Path] == item {
		delete(l.cargo, item.info.Path)
		l.queued -= item.info.NARSize
		if item.later {
			l.later -= item.info.NARSize
		}
	}
}

// Pending returns how many NAR bytes have not arrived yet.
func (l *Lane) Pending() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queued
}

// Ahead returns how many NAR bytes go before what is wanted next.
func (l *Lane) Ahead() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queued - l.later
}

// Coming reports whether the bytes of an item are among those that Ahead counts.
func (l *Lane) Coming(p store.Path) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	item := l.cargo[p]
	return item != nil && !item.later
}

func (l *Lane) startLocked() {
	for l.running < l.streams && len(l.waiting) > 0 {
		b := l.batchLocked(false)
		if len(b.cargo) == 0 && !l.idle {
			b = l.batchLocked(true)
		}
		if len(b.cargo) == 0 {
			return // all that waits needs what is being moved, or may wait for it
		}
		l.idle = l.idle || b.later
		ctx, cancel := context.WithCancelCause(l.ctx)
		b.cancel = cancel
		l.running++
		l.group.Go(func() { l.carry(ctx, b) })
	}
}

// batchLocked takes the next batch out of the waiting items: of those that somebody wants now, or of
// the others.
func (l *Lane) batchLocked(later bool) *cargoBatch {
	b := &cargoBatch{later: later}
	var bytes int64
	l.waiting = slices.DeleteFunc(l.waiting, func(item *cargo) bool {
		full := len(b.cargo) >= l.maxItems || len(b.cargo) > 0 && bytes+item.info.NARSize > l.maxBytes
		if full || item.later != later || !l.movableLocked(item, b) {
			return false
		}
		item.batch = b
		b.cargo = append(b.cargo, item)
		b.waiters += item.waiters
		bytes += item.info.NARSize
		return true
	})
	return b
}

// movableLocked reports whether all that the item refers to has arrived, or is in the batch.
func (l *Lane) movableLocked(item *cargo, b *cargoBatch) bool {
	for _, ref := range item.info.References {
		if other := l.cargo[ref]; other != nil && other != item && other.batch != b {
			return false
		}
	}
	return true
}

func (l *Lane) carry(ctx context.Context, b *cargoBatch) {
	infos := make([]*store.Info, len(b.cargo))
	for i, item := range b.cargo {
		infos[i] = item.info
	}
	err := l.move(ctx, infos)
	b.cancel(nil)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	l.idle = l.idle && !b.later
	for _, item := range b.cargo {
		l.endLocked(item, err)
	}
	if err != nil {
		l.failDependantsLocked(b, err)
	} else {
		l.arriveLocked(infos)
	}
	l.startLocked() //nolint:contextcheck // the next stream is not this one's
}

func (l *Lane) arriveLocked(infos []*store.Info) {
	now := time.Now()
	for _, info := range infos {
		if _, again := l.arrived[info.Path]; !again {
			l.arrivals = append(l.arrivals, info.Path)
		}
		l.arrived[info.Path] = now
	}
	for len(l.arrivals) > maxArrivals {
		delete(l.arrived, l.arrivals[0])
		l.arrivals = l.arrivals[1:]
	}
}

func (l *Lane) endLocked(item *cargo, err error) {
	l.removeLocked(item)
	item.err = err
	close(item.done)
}

// failDependantsLocked ends waiting items that refer to items of a batch that did not arrive.
func (l *Lane) failDependantsLocked(b *cargoBatch, err error) {
	failed := make(map[store.Path]bool)
	for _, item := range b.cargo {
		failed[item.info.Path] = true
	}
	for more := true; more; {
		more = false
		l.waiting = slices.DeleteFunc(l.waiting, func(item *cargo) bool {
			if !slices.ContainsFunc(item.info.References, func(p store.Path) bool { return failed[p] }) {
				return false
			}
			failed[item.info.Path] = true
			more = true
			l.endLocked(item, err)
			return true
		})
	}
}
