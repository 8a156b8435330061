package sshtransport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Client reaches the agent of one machine. Its methods may be called from several
// goroutines at the same time.
type Client struct {
	cfg     Config
	starter starter
	group   group // the attempts, and the ends of links

	mu      sync.Mutex
	closed  bool
	link    *link    // current one, or nil
	attempt *attempt // under way, or nil
	links   map[*link]struct{}
	idled   int // connections that the machine closed one after the other when nobody used them
}

// New returns a client for a machine. It connects when it is first used.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg.withDefaults(), links: make(map[*link]struct{})}
	c.starter.cfg = &c.cfg
	return c
}

// attempt is a connection being made, for all that wait for it.
type attempt struct {
	waiters int // under Client.mu
	cancel  context.CancelCauseFunc
	done    chan struct{}
	link    *link // valid then, or:
	err     error
}

// errNobodyWaits ends an attempt whose last waiter left.
var errNobodyWaits = errors.New("nobody is waiting for the connection")

// DialAgent opens a stream to the agent. It connects to the machine, uploads the agent
// and starts it, as needed; ctx bounds the wait for all that, and nothing after it. An
// attempt that others wait for too goes on without this caller.
//
// The error says why the machine could not be reached, or its agent not be started; it
// matches ErrLinkLost if the connection was lost meanwhile; or it is the context's cause.
// The next call tries again: how long to wait before it is the caller's to decide.
func (c *Client) DialAgent(ctx context.Context) (net.Conn, error) {
	l, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	s, err := l.dialAgent(ctx, &c.starter)
	if err == nil {
		return s, nil
	}
	var gone *agentError
	if errors.As(err, &gone) {
		// It was started again, in vain: who comes next makes a new connection.
		c.drop(l)
		l.retire(errRetired)
		return nil, err
	}
	if errors.Is(err, ErrLinkLost) || ctx.Err() != nil {
		return nil, err
	}
	return nil, fmt.Errorf("machine %s: %w", c.cfg.Machine, err)
}

// connected returns the link, when there is one.
func (c *Client) connected(ctx context.Context) (*link, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	switch {
	case c.closed:
		c.mu.Unlock()
		return nil, fmt.Errorf("machine %s: %w", c.cfg.Machine, ErrClosed)
	case c.link != nil && c.link.lostError() == nil:
		defer c.mu.Unlock()
		return c.link, nil
	}
	a := c.attempt
	if a == nil {
		a = c.startAttemptLocked(ctx)
	}
	a.waiters++
	c.mu.Unlock()
	select {
	case <-a.done:
		return a.link, a.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.waiters--; a.waiters == 0 && c.attempt == a {
		a.cancel(errNobodyWaits)
		c.attempt = nil // who comes now starts again
	}
	return nil, context.Cause(ctx)
}

// startAttemptLocked connects in a goroutine that outlives the caller.
func (c *Client) startAttemptLocked(ctx context.Context) *attempt {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	a := &attempt{cancel: cancel, done: make(chan struct{})}
	c.attempt = a
	c.group.Go(func() {
		defer cancel(nil)
		l, err := c.connect(ctx)
		c.finish(a, l, err)
	})
	return a
}

// connect makes a connection and starts the agent.
func (c *Client) connect(ctx context.Context) (*link, error) {
	l, err := connectInTurn(ctx, &c.cfg)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { l.fail(context.Cause(ctx)) })
	agent, err := c.starter.start(ctx, l)
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = l.explain(err)
		l.close(err)
		return nil, err
	}
	l.setAgent(agent)
	return l, nil
}

// finish tells all waiters how an attempt went.
func (c *Client) finish(a *attempt, l *link, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(a.done)
	current := c.attempt == a
	if current {
		c.attempt = nil
	}
	switch {
	case c.closed:
		err = fmt.Errorf("machine %s: %w", c.cfg.Machine, ErrClosed)
	case !current && err == nil:
		err = errNobodyWaits
	}
	if err != nil {
		a.err = err
		if l != nil {
			l.fail(err)
			c.group.Go(func() { l.close(err) })
		}
		return
	}
	c.link, a.link = l, l
	c.links[l] = struct{}{}
	if c.idled == 0 {
		c.cfg.Logger.Info("connected", "server", l.server())
	}
	c.group.Go(func() { c.watch(l) })
}

// watch waits for the end of a link.
func (c *Client) watch(l *link) {
	<-l.lost
	l.group.wait()
	err := l.lostError()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.links, l)
	if c.link != l {
		return
	}
	c.link = nil
	switch {
	case c.closed:
	case !l.endedIdle():
		c.idled = 0
		c.cfg.Logger.Warn("connection lost", "err", err)
	default:
		if c.idled++; c.idled == 1 {
			c.cfg.Logger.Info("the machine closes connections that are not used (UnusedConnectionTimeout in sshd_config?); they are made again when needed", "err", err)
		}
	}
}

// drop has the next caller make a new connection.
func (c *Client) drop(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		c.link = nil
	}
}

// Close closes the connection, and with it all streams, and waits until nothing runs
// any more. The agent goes on.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.attempt != nil {
		c.attempt.cancel(ErrClosed)
	}
	for l := range c.links {
		l.fail(ErrClosed)
	}
	c.mu.Unlock()
	c.group.wait()
	return nil
}
