package sshtransport

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"lighter/sshtransport/sshtest"
)

// pipeConfig logs in, through pipes in memory, to a server that accepts it. What the
// server is given is in conns.
func pipeConfig(t *testing.T, serve func(net.Conn, *ssh.ServerConfig)) Config {
	t.Helper()
	key, file := sshtest.WriteKey(t)
	hostKey := sshtest.NewKey(t)
	config := &ssh.ServerConfig{
		ServerVersion: serverVersionPrefix,
		PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
			if !keysEqual(k, key.PublicKey()) {
				return nil, errors.New("another key")
			}
			return nil, nil
		},
	}
	config.AddHostKey(hostKey)
	return Config{
		Machine: "m", Addr: "m:22", User: "u", PrivateKey: file, HostKey: FormatHostKey(hostKey.PublicKey()),
		Dial: func(context.Context) (net.Conn, error) {
			ours, theirs := memoryPipe()
			go serve(theirs, config)
			return ours, nil
		},
	}
}

// acceptAll is a server that takes all channels and reads nothing. It answers global
// requests as long as there is something in answers.
func acceptAll(answers chan struct{}) func(net.Conn, *ssh.ServerConfig) {
	return func(c net.Conn, config *ssh.ServerConfig) {
		conn, channels, requests, err := ssh.NewServerConn(c, config)
		if err != nil {
			return
		}
		defer conn.Close()
		go func() {
			for req := range requests {
				if _, ok := <-answers; ok {
					req.Reply(false, nil)
				}
			}
		}()
		for ch := range channels {
			if _, requests, err := ch.Accept(); err == nil {
				go ssh.DiscardRequests(requests)
			}
		}
	}
}

// A machine that is silent for so long, and does not answer for so long, is lost.
func TestKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make(chan struct{}, 3)
		for range 3 {
			answers <- struct{}{}
		}
		cfg := pipeConfig(t, acceptAll(answers))
		cfg.KeepaliveInterval, cfg.KeepaliveTimeout = 10*time.Second, 5*time.Second
		c := New(cfg)
		conn, err := c.DialAgent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, err = conn.Read(make([]byte, 1))
		if !errors.Is(err, ErrLinkLost) || !strings.Contains(err.Error(), "link to machine m lost: no sign of life within 5s") {
			t.Errorf("error = %v", err)
		}
		// Three were answered at once; the fourth question may itself count as bytes that
		// moved.
		if got := time.Since(begin); got != 45*time.Second && got != 50*time.Second {
			t.Errorf("found out after %v", got)
		}
		if err := conn.SetDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		conn.Close()
		c.Close()
		close(answers)
	})
}

// Each call tries again: when that is worth it, the caller knows better.
func TestEachCallTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make(chan struct{})
		cfg := pipeConfig(t, acceptAll(answers))
		up, dialled := false, 0
		dial := cfg.Dial
		cfg.Dial = func(ctx context.Context) (net.Conn, error) {
			dialled++
			if !up {
				return nil, syscall.ECONNREFUSED
			}
			return dial(ctx)
		}
		c := New(cfg)
		for try := 1; try <= 3; try++ {
			if _, err := c.DialAgent(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) || dialled != try {
				t.Fatalf("try %d: %v, dialled %d times", try, err, dialled)
			}
		}
		up = true
		if _, err := c.DialAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.link.fail(errors.New("test"))
		synctest.Wait()
		if got := c.Status(); got != (Status{}) {
			t.Errorf("status = %+v", got)
		}
		if _, err := c.DialAgent(t.Context()); err != nil || dialled != 5 {
			t.Errorf("error = %v, dialled %d times", err, dialled)
		}
		c.Close()
		close(answers)
	})
}

// The pauses of a folder grow.
func TestFolderDownGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialled := 0
		cfg := Config{Machine: "m", Addr: "m:22", User: "u", HostKey: FormatHostKey(sshtest.NewKey(t).PublicKey())}
		cfg.Dial = func(context.Context) (net.Conn, error) {
			dialled++
			return nil, syscall.ECONNREFUSED
		}
		f := NewFolder(cfg, "x")
		pause := firstPause
		for try := 1; try <= 12; try++ {
			_, err := f.Stat(t.Context(), "y")
			var down *DownError
			if !errors.As(err, &down) || dialled != try {
				t.Fatalf("try %d: %v, dialled %d times", try, err, dialled)
			}
			left := time.Until(down.Next)
			if low, high := pause*3/4, pause; left < low || left > high {
				t.Errorf("try %d: pause %v is not from %v to %v", try, left, low, high)
			}
			pause = min(2*pause, maxPause)
			time.Sleep(left - 1)
			if _, err := f.Stat(t.Context(), "y"); !errors.Is(err, syscall.ECONNREFUSED) || dialled != try {
				t.Errorf("try %d: too early: %v, dialled %d times", try, err, dialled)
			}
			time.Sleep(1 * time.Nanosecond)
		}
		f.Close()
	})
}

// Who waits may leave; when the last one does, the attempt ends, and is not a failure.
func TestWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began, ended atomic.Int64
		cfg := Config{Machine: "m", Addr: "m:22", User: "u", HostKey: FormatHostKey(sshtest.NewKey(t).PublicKey())}
		cfg.ConnectTimeout = time.Hour
		cfg.Dial = func(ctx context.Context) (net.Conn, error) {
			began.Add(1)
			<-ctx.Done()
			ended.Add(1)
			return nil, ctx.Err()
		}
		c := New(cfg)
		var wg sync.WaitGroup
		for seconds := range 3 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds+1)*time.Second)
				defer cancel()
				if _, err := c.DialAgent(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error = %v", err)
				}
			})
		}
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		if began.Load() != 1 || ended.Load() != 0 {
			t.Errorf("%d attempts, %d ended", began.Load(), ended.Load())
		}
		wg.Wait()
		synctest.Wait()
		if ended.Load() != 1 {
			t.Errorf("%d ended", ended.Load())
		}
		// One who waits when the client is closed is told.
		wg.Go(func() {
			if _, err := c.DialAgent(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("error = %v", err)
			}
		})
		synctest.Wait()
		c.Close()
		wg.Wait()
	})
}

// A transfer that fills the connection is a sign of life: the question waits behind it.
func TestKeepaliveBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := memoryPipe()
		defer theirs.Close()
		l := newLink(&Config{}, ours)
		over := make(chan struct{})
		go func() {
			for range 30 {
				time.Sleep(time.Second)
				l.conn.moved.Add(1)
			}
		}()
		begin := time.Now()
		if l.conn.answers(&l.group, 2*time.Second, func() { <-over }) {
			t.Error("it is taken to be alive")
		}
		if took := time.Since(begin); took < 30*time.Second || took > 34*time.Second {
			t.Errorf("lost after %v", took)
		}
		close(over)
		l.close(errors.New("test"))
	})
}

// memoryPipe is net.Pipe with buffers: in SSH, both sides begin by writing.
func memoryPipe() (a, b net.Conn) {
	there, back := newBuffer(), newBuffer()
	a, b = net.Pipe() // for what is not Read, Write and Close
	return &memoryConn{Conn: a, in: back, out: there}, &memoryConn{Conn: b, in: there, out: back}
}

type memoryConn struct {
	net.Conn
	in, out *buffer
}

func (c *memoryConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *memoryConn) Close() error {
	c.in.close()
	c.out.close()
	return c.Conn.Close()
}

// buffer holds 64 KiB that are on their way.
type buffer struct {
	mu     sync.Mutex
	change *sync.Cond
	bytes  []byte
	closed bool
}

func newBuffer() *buffer {
	b := new(buffer)
	b.change = sync.NewCond(&b.mu)
	return b
}

func (b *buffer) read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.bytes) == 0 {
		if b.closed {
			return 0, io.EOF
		}
		b.change.Wait()
	}
	n := copy(p, b.bytes)
	b.bytes = b.bytes[n:]
	b.change.Broadcast()
	return n, nil
}

func (b *buffer) write(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(p) > 0 {
		room := 64<<10 - len(b.bytes)
		switch {
		case b.closed:
			return n, net.ErrClosed
		case room == 0:
			b.change.Wait()
			continue
		}
		k := min(room, len(p))
		b.bytes = append(b.bytes, p[:k]...)
		n, p = n+k, p[k:]
		b.change.Broadcast()
	}
	return n, nil
}

func (b *buffer) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.change.Broadcast()
}

// Few connect to one address at the same time.
func TestStartupsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var under, most atomic.Int64
		cfg := Config{Machine: "m", Addr: "m:22", User: "u", HostKey: FormatHostKey(sshtest.NewKey(t).PublicKey())}
		cfg.Dial = func(ctx context.Context) (net.Conn, error) {
			most.Store(max(most.Load(), under.Add(1)))
			defer under.Add(-1)
			time.Sleep(time.Second)
			return nil, io.EOF
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				c := New(cfg)
				defer c.Close()
				if _, err := c.DialAgent(t.Context()); !errors.Is(err, io.EOF) {
					t.Errorf("error = %v", err)
				}
			})
		}
		wg.Wait()
		if most.Load() != startupsAtOnce {
			t.Errorf("%d at once", most.Load())
		}
		if len(startups.places) != 0 {
			t.Errorf("left: %v", startups.places)
		}
	})
}
