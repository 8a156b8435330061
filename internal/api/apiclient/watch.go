package apiclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lighter/internal/api"
)

// How long a coordinator may say nothing.
const (
	// quietTime is after how much silence, in an answer or before it, it is asked whether it
	// lives; that is no limit for a stream on which nothing happens.
	quietTime = 3 * time.Second
	// aliveTime is how long it may take to say so: much, as computers that build are slow.
	aliveTime = 15 * time.Second
)

// watch ends an exchange with a coordinator that does not live any more, such as one that is
// stopped. Whether it lives it says elsewhere, so that an exchange may be quiet forever.
type watch struct {
	c      *Client
	ctx    context.Context // of the exchange
	cancel context.CancelCauseFunc
	moved  atomic.Bool // something came since it was last looked

	mu    sync.Mutex
	timer *time.Timer
	ended bool
}

func (c *Client) watch(ctx context.Context) *watch {
	w := &watch{c: c}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(c.quietTime, w.look)
	return w
}

func (w *watch) look() {
	if !w.moved.Swap(false) {
		if err := w.c.alive(w.ctx); err != nil {
			w.cancel(err)
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.timer.Reset(w.c.quietTime)
	}
}

func (w *watch) end() {
	w.mu.Lock()
	w.ended = true
	w.timer.Stop()
	w.mu.Unlock()
	w.cancel(nil)
}

// watchedBody is the body of an answer that is watched until it is closed.
type watchedBody struct {
	io.ReadCloser
	*watch
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.moved.Store(true)
	}
	if err != nil && !errors.Is(err, io.EOF) && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

// alive returns an error if the coordinator does not answer at all. That it is gone is none:
// exchanges with it break off by themselves.
func (c *Client) alive(ctx context.Context) error {
	pid := int(c.pid.Load())
	if stopped(pid) {
		return fmt.Errorf("%w: the one at %s is stopped; kill -CONT %d lets it go on", api.ErrUnavailable, c.socket, pid)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.aliveTime, errSilent)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://coordinator/v1/version", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err == nil {
		resp.Body.Close()
		return nil
	}
	if errors.Is(context.Cause(ctx), errSilent) {
		return fmt.Errorf("%w: the one at %s does not answer", api.ErrUnavailable, c.socket)
	}
	return nil // the exchange that is watched says it better
}

var errSilent = errors.New("it says nothing")

// notePeer remembers which process listens at the other end of a connection.
func (c *Client) notePeer(conn net.Conn) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			c.pid.Store(cred.Pid)
		}
	})
}

// stopped reports whether a process is known to be stopped, by a signal or a debugger.
func stopped(pid int) bool {
	if pid <= 0 {
		return false
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	// The state is behind the name, which may have brackets itself; see proc_pid_stat(5).
	after := bytes.TrimSpace(text[bytes.LastIndexByte(text, ')')+1:])
	return len(after) > 0 && (after[0] == 'T' || after[0] == 't')
}
