package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// idleTime is how long an unused connection is kept, and warmTime a warm
	// one.
	idleTime = time.Minute
	warmTime = 10 * time.Minute
	// rootedTime is how old a connection that protects items may be to be kept.
	rootedTime = 5 * time.Minute
)

// kind is what a connection is wanted for.
type kind int

const (
	plain kind = iota
	withHelper
	forBuild
)

// pool keeps idle connections.
type pool struct {
	dial    func(context.Context) (*conn, error)
	maxIdle int          // of each sort
	stamp   func() stamp // of the ACL now

	mu     sync.Mutex // owns all below
	idle   []*idleConn
	closed bool
}

type idleConn struct {
	*conn
	timer *time.Timer // ends it
}

// take returns an idle connection that fits, the one that was used last, or a new one.
func (p *pool) take(ctx context.Context, want kind, options string) (*conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for {
		c, err := p.pop(want, options)
		if err != nil {
			return nil, err
		}
		if c == nil {
			return p.dial(ctx)
		}
		// A helper reads the ACL when it starts, and never again.
		if c.alive() && (!c.warm || c.acl == p.stamp()) {
			return c, nil
		}
		c.close()
	}
}

func (p *pool) pop(want kind, options string) (*conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	best, bestFit := -1, 0
	for i, c := range p.idle {
		if fit := c.fit(want, options); fit > 0 && fit >= bestFit {
			best, bestFit = i, fit
		}
	}
	if best < 0 {
		return nil, nil //nolint:nilnil // there is none
	}
	c := p.idle[best]
	c.timer.Stop()
	p.idle = slices.Delete(p.idle, best, best+1)
	return c.conn, nil
}

// fit says how well an idle connection serves; 0 is not at all. Options that were set
// stay, so a connection with other options is of no use for a build.
func (c *conn) fit(want kind, options string) int {
	switch {
	case want == forBuild && (c.warm || c.options != "" && c.options != options):
		return 0
	case want == withHelper && c.warm:
		return 3
	case want == forBuild && c.options == options:
		return 3
	case !c.warm:
		return 2
	}
	return 1
}

// put keeps a connection for reuse if it is worth it, or closes it.
func (p *pool) put(c *conn) {
	c.reused = true
	if c.broken || (c.rooted && time.Since(c.born) > rootedTime) {
		c.close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	same := 0
	for _, other := range p.idle {
		if other.warm == c.warm {
			same++
		}
	}
	if p.closed || same >= p.maxIdle {
		c.close()
		return
	}
	keep := idleTime
	if c.warm {
		keep = warmTime
	}
	if c.rooted {
		keep = min(keep, max(0, rootedTime-time.Since(c.born)))
	}
	i := &idleConn{conn: c}
	i.timer = time.AfterFunc(keep, func() { p.drop(i) })
	p.idle = append(p.idle, i)
}

// drop closes a connection that was unused for long.
func (p *pool) drop(c *idleConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.idle, c); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
		c.close()
	}
}

// clear closes idle connections, all or those of which drop says so.
func (p *pool) clear(drop func(*conn) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = slices.DeleteFunc(p.idle, func(c *idleConn) bool {
		if drop != nil && !drop(c.conn) {
			return false
		}
		c.timer.Stop()
		c.close()
		return true
	})
}

// close closes what is idle. Nothing is taken or kept after that.
func (p *pool) close() {
	p.clear(nil)
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.clear(nil)
}

// with calls f with a connection that nobody else uses. If the connection is one that was
// idle and is found dead before the daemon has answered anything, f is called once more
// with a new one.
func (s *Store) with(ctx context.Context, want kind, options string, f func(*conn) error) error {
	c, err := s.pool.take(ctx, want, options)
	if err != nil {
		return err
	}
	err = c.guarded(ctx, func() error { return f(c) })
	if errors.Is(err, errLost) && c.reused && !c.answered && ctx.Err() == nil {
		c.close()
		if c, err = s.pool.dial(ctx); err != nil {
			return err
		}
		err = c.guarded(ctx, func() error { return f(c) })
	}
	s.pool.put(c)
	return err
}

// do is with for what needs no special connection.
func (s *Store) do(ctx context.Context, f func(*conn) error) error { return s.with(ctx, plain, "", f) }
