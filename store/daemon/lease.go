package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lighter/store"
)

const (
	// Leases that are started within anchorTime of one another, and anchorLeases of them
	// at most, share a connection.
	anchorTime   = time.Minute
	anchorLeases = 32
	// lookInterval is how often a lease checks that what protects its items is still there.
	lookInterval = 2 * time.Second
)

// Lease implements store.Leaser. The daemon protects items for a connection, for which it has
// a process, and cannot be told to protect less. So leases that start at about the same time
// share a connection, and what one of them protects stays until all of them are released.
//
// When the daemon is restarted, leases are renewed as soon as it is back; a garbage
// collection before that finds nothing protected.
func (s *Store) Lease(ctx context.Context, name string) (store.Lease, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return &lease{store: s, name: name, paths: make(map[store.Path]bool)}, nil
}

// lease is a number of paths that an anchor holds.
type lease struct {
	store *Store
	name  string

	mu       sync.Mutex // owns all below; taken before leases.mu
	anchor   *anchor    // nil until something is added
	paths    map[store.Path]bool
	released bool
}

// Add implements store.Lease. It waits while garbage is collected.
func (l *lease) Add(ctx context.Context, paths ...store.Path) error {
	if err := l.add(ctx, paths); err != nil {
		return fmt.Errorf("lease %s: %w", l.name, err)
	}
	return nil
}

func (l *lease) add(ctx context.Context, paths []store.Path) error {
	if err := l.store.check(paths...); err != nil {
		return err
	}
	a, fresh, err := l.prepare(paths)
	if err != nil || len(fresh) == 0 {
		return err
	}
	if err := a.add(ctx, fresh); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return errReleased
	}
	for _, p := range fresh {
		l.paths[p] = true
	}
	return nil
}

var errReleased = errors.New("it was released")

// prepare returns the lease's anchor, and those of the paths that it does not hold yet.
func (l *lease) prepare(paths []store.Path) (*anchor, []store.Path, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return nil, nil, errReleased
	}
	var fresh []store.Path
	for _, p := range paths {
		if !l.paths[p] {
			fresh = append(fresh, p)
		}
	}
	if l.anchor == nil && len(fresh) > 0 {
		a, err := l.store.leases.join()
		if err != nil {
			return nil, nil, err
		}
		l.anchor = a
	}
	return l.anchor, fresh, nil
}

// Release implements store.Lease.
func (l *lease) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = true
	if l.anchor != nil {
		l.store.leases.leave(l.anchor)
		l.anchor = nil
	}
	return nil
}

// leases are the anchors of a store.
type leases struct {
	store *Store
	ctx   context.Context // ends with the store
	end   context.CancelFunc
	group sync.WaitGroup // the anchors

	mu      sync.Mutex // owns all below
	current *anchor    // that new leases join
	closed  bool
}

func (ls *leases) init(s *Store) {
	ls.store = s
	ls.ctx, ls.end = context.WithCancel(context.Background())
}

// join finds an anchor for one more lease.
func (ls *leases) join() (*anchor, error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed {
		return nil, errClosed
	}
	a := ls.current
	if a == nil || a.ctx.Err() != nil || a.joined >= anchorLeases || time.Since(a.born) > anchorTime {
		a = ls.newAnchorLocked()
		ls.current = a
	}
	a.joined++
	a.leases++
	return a, nil
}

func (ls *leases) newAnchorLocked() *anchor {
	a := &anchor{store: ls.store, born: time.Now(), requests: make(chan *rooting), holds: make(map[store.Path]bool)}
	a.ctx, a.end = context.WithCancel(ls.ctx)
	ls.group.Go(a.run)
	return a
}

// leave ends the anchor with its last lease.
func (ls *leases) leave(a *anchor) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if a.leases--; a.leases > 0 {
		return
	}
	if ls.current == a {
		ls.current = nil
	}
	a.end()
}

func (ls *leases) close() {
	ls.mu.Lock()
	ls.closed = true
	ls.mu.Unlock()
	ls.end()
	ls.group.Wait()
}

// anchor is a connection that protects items. Its goroutine, run, owns it: the end of a
// caller's context must not close what others depend on.
type anchor struct {
	store    *Store
	born     time.Time
	ctx      context.Context // ends with the last lease
	end      context.CancelFunc
	requests chan *rooting

	joined, leases int // leases.mu owns them: all, and those not released

	// The rest is run's.
	holds map[store.Path]bool
	conn  *conn
}

// rooting is a request to protect items.
type rooting struct {
	paths []store.Path
	done  chan error // with room for the answer
}

// add protects items. If the context ends first, they may or may not be protected.
func (a *anchor) add(ctx context.Context, paths []store.Path) error {
	r := &rooting{paths: paths, done: make(chan error, 1)}
	select {
	case a.requests <- r:
	case <-a.ctx.Done():
		return errReleased
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run serves requests, and protects everything again when the connection has ended.
func (a *anchor) run() {
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for {
		select {
		case <-a.ctx.Done():
			a.drop()
			return
		case r := <-a.requests:
			r.done <- a.protect(r.paths)
		case <-look.C:
			a.renew()
		}
	}
}

// renew makes another connection if the one that protects items has ended.
func (a *anchor) renew() {
	if len(a.holds) == 0 || a.conn != nil && a.conn.alive() {
		return
	}
	if a.conn != nil {
		a.drop()
		a.store.logger.Warn("the connection that protects items from garbage collection has ended; another one is made", "socket", a.store.socket)
	}
	if err := a.protect(nil); err != nil {
		a.store.logger.Debug("items are not protected from garbage collection", "items", len(a.holds), "err", err)
		return
	}
	a.store.logger.Info("items are protected from garbage collection again", "items", len(a.holds))
}

// protect adds to what the anchor holds.
func (a *anchor) protect(paths []store.Path) error {
	if a.conn != nil && a.conn.alive() {
		err := a.send(paths)
		if !errors.Is(err, errLost) {
			return err
		}
	}
	a.drop()
	var err error
	if a.conn, err = a.store.pool.dial(a.ctx); err != nil {
		return err
	}
	if len(a.holds) > 0 {
		all := make([]store.Path, 0, len(a.holds))
		for p := range a.holds {
			all = append(all, p)
		}
		if err := a.send(all); err != nil {
			return err
		}
	}
	return a.send(paths)
}

func (a *anchor) send(paths []store.Path) error {
	err := a.conn.guarded(a.ctx, func() error { return a.conn.addTempRoots(paths) })
	if a.conn.broken {
		a.drop()
	}
	if err != nil {
		return err
	}
	for _, p := range paths {
		a.holds[p] = true
	}
	return nil
}

// drop ends the connection.
func (a *anchor) drop() {
	if a.conn != nil {
		a.conn.close()
		a.conn = nil
	}
}

// addTempRoots protects items for the time of the connection.
func (c *conn) addTempRoots(paths []store.Path) error {
	c.rooted = c.rooted || len(paths) > 0
	put := func(c *conn, p store.Path) {
		c.op(opAddTempRoot)
		c.putPath(p)
	}
	return c.each(paths, put, func(int) error { return c.getDone() }, func(_ int, err *Error) error { return err })
}
