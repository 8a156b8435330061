package sshtransport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// keepaliveRequest is a global request that every server answers, if only with a
// refusal (RFC 4254 section 4; the name is OpenSSH's).
const keepaliveRequest = "keepalive@openssh.com"

// link is one SSH connection. It is used until it is lost, once.
type link struct {
	cfg    *Config
	conn   *conn
	client *ssh.Client // set by run
	group  group
	slots  slots
	muxed  bool    // the connection is one to a master of the program ssh
	master *master // that ends with the link; nil if there is none

	lost chan struct{} // closed when the connection is over; cause is set by then

	mu       sync.Mutex
	cause    error // why it is, or will be in a moment, over
	streams  map[*stream]struct{}
	idle     bool // the other side closed it when it had no streams
	retired  bool // no new streams: close when the last one ends
	agent    agent
	restart  *restart      // under way, or nil
	deciding chan struct{} // holds a token while nobody tries out modes
}

func newLink(cfg *Config, c net.Conn) *link {
	l := &link{cfg: cfg, conn: newConn(c, readAhead), lost: make(chan struct{}), deciding: make(chan struct{}, 1), streams: make(map[*stream]struct{})}
	l.slots.limit = cfg.MaxSessions
	l.deciding <- struct{}{}
	return l
}

// run starts the goroutines of a link that is logged in. Its owner calls close.
func (l *link) run(client *ssh.Client) {
	l.client = client
	l.group.Go(func() {
		err := client.Wait()
		if errors.Is(err, io.EOF) {
			err = errors.New("the machine closed the connection")
		}
		l.mu.Lock()
		l.idle = l.cause == nil && len(l.streams) == 0
		l.mu.Unlock()
		if l.master != nil {
			if l.lostError() != nil { // we have closed it
				l.master.end()
			}
			err = l.master.lost()
		}
		l.fail(err)
		close(l.lost)
	})
	l.group.Go(l.keepAlive)
}

// server is what the SSH server calls itself, for people.
func (l *link) server() string {
	if l.muxed {
		return "by ssh" // a master does not tell
	}
	return printable(string(l.client.ServerVersion()))
}

// fail closes the connection. All that waits for it ends with the cause.
func (l *link) fail(cause error) {
	l.mu.Lock()
	if l.cause == nil {
		l.cause = harmless(cause)
	}
	l.mu.Unlock()
	l.conn.Close()
}

// close closes the connection and waits for all goroutines.
func (l *link) close(cause error) {
	l.fail(cause)
	l.group.wait()
}

// retire lets the connection end with its last stream.
func (l *link) retire(cause error) {
	l.mu.Lock()
	l.retired = true
	unused := len(l.streams) == 0
	l.mu.Unlock()
	if unused {
		l.fail(cause)
	}
}

// endedIdle reports whether the machine closed a connection that nobody used.
func (l *link) endedIdle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idle
}

// lostError returns why the connection is over, or nil.
func (l *link) lostError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		return nil
	}
	return &LinkError{Machine: l.cfg.Machine, Cause: l.cause}
}

// check finds out, after something ended, whether that was because the connection
// did: the library says io.EOF either way. It costs a round trip, but not with a master,
// which takes no global requests; its socket ends before what was on it.
func (l *link) check() error {
	if err := l.lostError(); err != nil {
		return err
	}
	if l.muxed {
		if l.conn.over.Load() {
			<-l.lost // which knows more
		}
		return l.lostError()
	}
	if _, _, err := l.client.SendRequest(keepaliveRequest, true, nil); err != nil {
		if errors.Is(err, io.EOF) {
			<-l.lost // which knows more
		}
		l.fail(err)
	}
	return l.lostError()
}

// explain returns err, or why the connection was lost if that is behind it.
func (l *link) explain(err error) error {
	var refused *ssh.OpenChannelError
	if err == nil || errors.As(err, &refused) {
		return err
	}
	if lost := l.check(); lost != nil {
		return lost
	}
	return err
}

// keepAlive asks the machine for a sign of life when it has been silent, and closes
// the connection if there is none.
func (l *link) keepAlive() {
	ask := func() { _, _, _ = l.client.SendRequest(keepaliveRequest, true, nil) } // if it fails, the link is lost
	if l.muxed {
		ask = l.askStream
	}
	if !l.conn.stayAlive(&l.group, l.cfg.KeepaliveInterval, l.cfg.KeepaliveTimeout, l.lost, ask) {
		l.fail(fmt.Errorf("no sign of life within %v", l.cfg.KeepaliveTimeout))
	}
}

// askStream asks by one of the streams, since masters take no global requests. Where there are
// none nobody waits; a master of ours asks by itself.
func (l *link) askStream() {
	l.mu.Lock()
	var some *stream
	for some = range l.streams {
		break
	}
	l.mu.Unlock()
	if some != nil {
		_, _ = some.ch.SendRequest(keepaliveRequest, true, nil) // it is refused, or the stream is over
	}
}

// await runs f, which nothing but the end of the connection interrupts, and waits for
// it as long as ctx lasts. Afterwards f goes on in the background, and discard gets
// what it returns.
func await[T any](ctx context.Context, l *link, f func() (T, error), discard func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result)
	gone := make(chan struct{})
	started := l.group.Go(func() {
		value, err := f()
		select {
		case done <- result{value, err}:
		case <-gone:
			if err == nil {
				discard(value)
			}
		}
	})
	var zero T
	if !started {
		return zero, l.lostError()
	}
	select {
	case r := <-done:
		return r.value, l.explain(r.err)
	case <-ctx.Done():
		close(gone)
		return zero, context.Cause(ctx)
	}
}

// within closes the connection if f takes longer than limit. It is for what happens
// before there are streams, or while there can be none.
func (l *link) within(limit time.Duration, what string, f func() error) error {
	timer := time.AfterFunc(limit, func() { l.fail(&timeoutError{what, limit}) })
	defer timer.Stop()
	return l.explain(f())
}

// newStream makes a stream of a channel and counts it.
func (l *link) newStream(ch ssh.Channel, src io.Reader) *stream {
	s := newStream(ch, src, &l.group, l.check)
	s.remote = addr(l.cfg.Machine)
	s.local = addr(l.cfg.User)
	s.onClose = func() { l.streamClosed(s) }
	l.mu.Lock()
	l.streams[s] = struct{}{}
	l.mu.Unlock()
	return s
}

func (l *link) streamClosed(s *stream) {
	l.mu.Lock()
	delete(l.streams, s)
	over := l.retired && len(l.streams) == 0
	l.mu.Unlock()
	if over {
		l.fail(errRetired)
	}
}

var errRetired = errors.New("its agent is gone")
