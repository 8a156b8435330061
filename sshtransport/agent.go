package sshtransport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// Mode is how streams get to the agent.
type Mode string

// The modes; the package comment explains them. Before the first stream it is unknown
// which of them a server allows.
const (
	ModeUnknown     Mode = ""
	ModeStreamLocal Mode = "streamlocal"
	ModeSession     Mode = "session"
)

// agent is what a link knows of the agent behind it.
type agent struct {
	mode       Mode
	socket     string // for ModeStreamLocal; empty for a forced command
	connect    string // the command of ModeSession
	fixed      bool   // there is nothing to be started
	generation int    // counts how often it was started on this link
}

// agentError says that no stream to the agent could be opened though the connection
// is fine: the agent has probably ended.
type agentError struct{ cause error }

func (e *agentError) Error() string { return fmt.Sprintf("its agent does not answer: %v", e.cause) }
func (e *agentError) Unwrap() error { return e.cause }

// restart is an agent being started again; those who need it share it.
type restart struct {
	done chan struct{}
	err  error // valid then
}

// dialAgent opens a stream. If the agent is gone it is started again, once.
func (l *link) dialAgent(ctx context.Context, s *starter) (*stream, error) {
	a := l.currentAgent()
	conn, err := l.open(ctx, a)
	var gone *agentError
	if !errors.As(err, &gone) || a.fixed {
		return conn, err
	}
	l.cfg.Logger.Info("the agent does not answer and is started again", "err", gone.cause)
	if err := l.startAgain(ctx, s, a.generation); err != nil {
		return nil, err
	}
	return l.open(ctx, l.currentAgent())
}

func (l *link) currentAgent() agent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.agent
}

// startAgain starts the agent, unless that has been done since the generation, and
// waits for it as long as ctx lasts.
func (l *link) startAgain(ctx context.Context, s *starter, generation int) error {
	l.mu.Lock()
	if l.agent.generation != generation {
		l.mu.Unlock()
		return nil
	}
	r := l.restart
	if r == nil {
		r = &restart{done: make(chan struct{})}
		started := l.group.Go(func() { l.runRestart(context.WithoutCancel(ctx), s, r) })
		if !started {
			l.mu.Unlock()
			return l.lostError()
		}
		l.restart = r
	}
	l.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// runRestart ends at the latest with the connection.
func (l *link) runRestart(ctx context.Context, s *starter, r *restart) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	l.group.Go(func() {
		select {
		case <-l.lost:
			cancel()
		case <-ended:
		}
	})
	a, err := s.start(ctx, l)
	if err != nil {
		err = &agentError{l.explain(err)}
		if lost := l.lostError(); lost != nil {
			err = lost
		}
	}
	l.mu.Lock()
	if err == nil {
		l.setAgentLocked(a)
	}
	r.err = err
	l.restart = nil
	l.mu.Unlock()
	close(r.done)
}

func (l *link) setAgent(a agent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setAgentLocked(a)
}

func (l *link) setAgentLocked(a agent) {
	if a.mode == ModeUnknown {
		a.mode = l.agent.mode // what the server allows does not change
	}
	a.generation = l.agent.generation + 1
	l.agent = a
}

// open opens a stream in the mode that the server allows, and finds that out first if
// nobody has yet.
func (l *link) open(ctx context.Context, a agent) (*stream, error) {
	ctx, cancel := withTimeout(ctx, l.cfg.OpenTimeout, "opening a stream to the agent")
	defer cancel()
	switch a.mode {
	case ModeStreamLocal:
		return l.openStreamLocal(ctx, a)
	case ModeSession:
		return l.openSession(ctx, a)
	}
	select {
	case <-l.deciding:
		defer func() { l.deciding <- struct{}{} }()
	case <-l.lost:
		return nil, l.lostError()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	a = l.currentAgent()
	if a.mode != ModeUnknown {
		return l.open(ctx, a)
	}
	return l.decide(ctx, a)
}

// decide tries stream-local forwarding, then a session. OpenSSH says the same of a
// socket that nothing listens on and of forwarding that it forbids, so only a session
// that works shows which of them it was.
func (l *link) decide(ctx context.Context, a agent) (*stream, error) {
	s, err := l.openStreamLocal(ctx, a)
	if err == nil {
		l.setMode(ModeStreamLocal)
		return s, nil
	}
	var gone *agentError
	if !errors.As(err, &gone) {
		return nil, err
	}
	s, sessionErr := l.openSession(ctx, a)
	if sessionErr != nil {
		if errors.As(sessionErr, &gone) {
			return nil, &agentError{fmt.Errorf("%w; and %w", err, gone.cause)}
		}
		return nil, sessionErr
	}
	l.setMode(ModeSession)
	l.cfg.Logger.Info("stream-local forwarding does not work: streams are sessions", "err", gone.cause, "sessions", l.cfg.MaxSessions)
	return s, nil
}

func (l *link) setMode(m Mode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.agent.mode = m
}

// directStreamLocal is what a channel to a Unix socket is opened with (OpenSSH's
// PROTOCOL, section 2.4).
type directStreamLocal struct {
	Socket    string
	Reserved  string
	Reserved2 uint32
}

const streamLocalChannel = "direct-streamlocal@openssh.com"

func (l *link) openStreamLocal(ctx context.Context, a agent) (*stream, error) {
	type opened struct {
		ch       ssh.Channel
		requests <-chan *ssh.Request
	}
	o, err := await(ctx, l, func() (opened, error) {
		ch, requests, err := l.client.OpenChannel(streamLocalChannel, ssh.Marshal(directStreamLocal{Socket: a.socket}))
		return opened{ch, requests}, err
	}, func(o opened) {
		o.ch.Close()
		ssh.DiscardRequests(o.requests)
	})
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) {
		return nil, &agentError{fmt.Errorf("socket %s: %s", printable(a.socket), describeRefusal(refused))}
	}
	if err != nil {
		return nil, err
	}
	l.group.Go(func() { ssh.DiscardRequests(o.requests) })
	return l.newStream(o.ch, o.ch), nil
}

func describeRefusal(e *ssh.OpenChannelError) string {
	return fmt.Sprintf("%s (%s)", e.Reason, truncate(printable(e.Message), 200))
}

// openSession opens a stream through a session. The number of those is bounded, by
// the configuration and by what the server turns out to allow.
func (l *link) openSession(ctx context.Context, a agent) (*stream, error) {
	if a.connect == "" {
		return nil, &agentError{errors.New("no command for sessions is known")}
	}
	for {
		if err := l.slots.acquire(ctx, l.lost); err != nil {
			if lost := l.lostError(); lost != nil {
				return nil, lost
			}
			return nil, fmt.Errorf("wait for one of the sessions: %w", err)
		}
		// From here on the slot is execConnect's business.
		c, err := await(ctx, l, func() (*command, error) { return l.execConnect(a) }, (*command).close)
		if err == nil {
			return l.newStream(c.ch, c.stdout), nil
		}
		var full *sessionsError
		var failed *CommandError
		switch {
		case errors.As(err, &full) && full.limit > 0:
			l.cfg.Logger.Warn("the server allows few sessions (MaxSessions in sshd_config): streams wait for each other", "sessions", full.limit)
		case errors.As(err, &full), errors.As(err, &failed), errors.Is(err, ErrNoCommands):
			return nil, &agentError{err}
		default:
			return nil, err
		}
	}
}

// execConnect starts "connect", in a slot, and reads its magic line. When the session
// is over, or if it does not come about, the slot is free again.
func (l *link) execConnect(a agent) (*command, error) {
	c, err := l.exec(a.connect)
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) {
		return nil, &sessionsError{limit: l.slots.refused(), cause: refused}
	}
	if err != nil {
		l.slots.release()
		return nil, err
	}
	l.group.Go(func() {
		<-c.ended
		l.slots.release()
	})
	slow := time.AfterFunc(l.cfg.OpenTimeout, c.close)
	defer slow.Stop()
	line, err := readMagic(c.stdout)
	switch {
	case errors.Is(err, errNoMagic):
		return nil, c.failure(err.Error())
	case err != nil:
		c.close()
		return nil, err
	case line != magicConnect:
		c.close()
		return nil, c.failure(fmt.Sprintf("it answers with %q", truncate(line, 100)))
	}
	return c, nil
}

// sessionsError says that the server refuses to open a session.
type sessionsError struct {
	limit int // how many it seems to allow; 0 if there are none of ours
	cause *ssh.OpenChannelError
}

func (e *sessionsError) Error() string { return "session: " + describeRefusal(e.cause) }
func (e *sessionsError) Unwrap() error { return e.cause }
