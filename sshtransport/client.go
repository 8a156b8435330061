package sshtransport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// State is whether a machine can be reached, as far as is known.
type State string

// The states.
const (
	StateUnknown    State = "unknown" // nobody has tried
	StateConnecting State = "connecting"
	StateUp         State = "up"
	StateDown       State = "down"
)

// Status is what a Client knows of its machine.
type Status struct {
	State State
	// Err says why the machine is down, or was when last tried; nil if it is up.
	Err error
	// Permanent says that Err looks as if a person must do something about it.
	Permanent bool
	// Since is when State was entered; NextTry is until when DialAgent fails at once.
	// Zero means that nothing happened yet, and that the next call tries.
	Since, NextTry time.Time
	// ServerVersion is the identification of the SSH server, and Mode how streams get
	// to the agent, while State is up.
	ServerVersion string
	Mode          Mode
	Streams       int // that are open
}

// Client reaches the agent of one machine. Its methods may be called from several
// goroutines at the same time.
type Client struct {
	cfg     Config
	starter starter
	group   group // the attempts, and the ends of links

	mu      sync.Mutex
	closed  bool
	state   State
	since   time.Time
	err     error
	nextTry time.Time
	backoff backoff
	link    *link    // current one, or nil
	attempt *attempt // under way, or nil
	links   map[*link]struct{}
}

// New returns a client for a machine. It connects when it is first used.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg.withDefaults(), state: StateUnknown, links: make(map[*link]struct{})}
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
var errNobodyWaits = errors.New("nobody waits for the connection any more")

// DialAgent opens a stream to the agent. It connects to the machine, uploads the agent
// and starts it, as needed; ctx bounds the wait for all that, and nothing after it. An
// attempt that others wait for too goes on without this caller.
//
// The error is a *DownError if the machine could not be reached, now or lately; it
// matches ErrLinkLost if the connection was lost meanwhile; or it is the context's cause.
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
		// It was started again, in vain. First it is noted: the end of the link would
		// hide why.
		err = c.failed(l, err)
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
	case c.attempt == nil && time.Now().Before(c.nextTry):
		defer c.mu.Unlock()
		return nil, &DownError{Machine: c.cfg.Machine, Cause: c.err, Next: c.nextTry}
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
		c.attempt = nil // who comes now starts anew
		c.enterLocked(c.idleStateLocked())
	}
	return nil, context.Cause(ctx)
}

// startAttemptLocked connects in a goroutine that outlives the caller.
func (c *Client) startAttemptLocked(ctx context.Context) *attempt {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	a := &attempt{cancel: cancel, done: make(chan struct{})}
	c.attempt = a
	c.enterLocked(StateConnecting)
	c.group.Go(func() {
		defer cancel(nil)
		l, err := c.connect(ctx)
		c.finish(a, l, err)
	})
	return a
}

// connect makes a connection and starts the agent.
func (c *Client) connect(ctx context.Context) (*link, error) {
	l, err := connect(ctx, &c.cfg)
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

// finish tells everybody how an attempt went.
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
	case current && err != nil:
		a.err = c.downLocked(err)
		return
	}
	if err != nil {
		a.err = err
		if l != nil {
			l.fail(err)
			c.group.Go(func() { l.close(err) })
		}
		return
	}
	c.backoff = backoff{}
	c.err, c.nextTry = nil, time.Time{}
	c.link, a.link = l, l
	c.links[l] = struct{}{}
	c.enterLocked(StateUp)
	c.cfg.Logger.Info("connected", "server", printable(string(l.client.ServerVersion())))
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
	if !c.closed {
		c.err = err
		c.enterLocked(StateDown)
		c.cfg.Logger.Warn("connection lost", "err", err)
	}
}

// failed notes that no stream to the agent can be had through a link.
func (c *Client) failed(l *link, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != l {
		return fmt.Errorf("machine %s: %w", c.cfg.Machine, err) // noted by another, or lost
	}
	c.link = nil
	return c.downLocked(err)
}

// downLocked notes a failure and when to try again.
func (c *Client) downLocked(err error) error {
	pause := c.backoff.next(Permanent(err), rand.Float64())
	c.err, c.nextTry = err, time.Now().Add(pause)
	c.enterLocked(StateDown)
	c.cfg.Logger.Debug("machine is down", "err", err, "pause", pause)
	return &DownError{Machine: c.cfg.Machine, Cause: err, Next: c.nextTry}
}

func (c *Client) enterLocked(s State) {
	if c.state != s {
		c.state, c.since = s, time.Now()
	}
}

// idleStateLocked is the state when nothing goes on.
func (c *Client) idleStateLocked() State {
	if c.err != nil {
		return StateDown
	}
	return StateUnknown
}

// Retry forgets that the machine was down: the next DialAgent tries at once.
func (c *Client) Retry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextTry = time.Time{}
	c.backoff = backoff{}
}

// Status returns what is known, without asking the machine.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{State: c.state, Err: c.err, Permanent: Permanent(c.err), Since: c.since, NextTry: c.nextTry}
	if l := c.link; l != nil {
		l.mu.Lock()
		s.Mode, s.Streams = l.agent.mode, l.streams
		l.mu.Unlock()
		s.ServerVersion = printable(string(l.client.ServerVersion()))
	}
	return s
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
	c.enterLocked(StateUnknown)
	c.mu.Unlock()
	c.group.wait()
	return nil
}
