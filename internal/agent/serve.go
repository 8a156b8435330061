package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits of a connection. Its keeper is the client, whose own idle limit is shorter.
const (
	headerTimeout  = time.Minute
	idleTimeout    = 10 * time.Minute
	maxHeaderBytes = 64 << 10
	// closeTimeout is how long requests under way may take when the server ends.
	closeTimeout = 5 * time.Second
)

func (a *Agent) server() *http.Server {
	return &http.Server{
		Handler: a, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug), ConnContext: connContext,
	}
}

// Serve answers on the connections that the listener gives until the context ends. They
// are of the account itself, but for those that begin with the introduction of a Head. It
// closes the listener, lets requests that are under way finish for a few seconds,
// closes all connections and returns nil then. Builds go on; Shutdown ends them.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	return a.serve(ctx, introduced{l})
}

func (a *Agent) serve(ctx context.Context, l net.Listener) error {
	server := a.server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		if ctx.Err() != nil {
			err = nil
		}
		return errors.Join(err, server.Close())
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if server.Shutdown(closing) != nil {
		_ = server.Close() // nothing is lost: who asked will ask again
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// ServeConn answers on one connection until either side closes it or the context ends,
// and closes it. It is that of a head, or of the account itself if head is nil.
func (a *Agent) ServeConn(ctx context.Context, conn net.Conn, head *Head) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if head != nil {
		conn = &headConn{Conn: conn, head: head}
	}
	return a.serve(ctx, &oneConn{conn: &closeConn{Conn: conn, closed: cancel}, ctx: ctx})
}

// oneConn is a listener with one connection.
type oneConn struct {
	ctx  context.Context // ends with the connection
	mu   sync.Mutex
	conn net.Conn // nil once it was accepted
}

func (l *oneConn) Accept() (net.Conn, error) {
	l.mu.Lock()
	conn := l.conn
	l.conn = nil
	l.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	<-l.ctx.Done()
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error { return nil }

// Addr is asked for by http.Server's log alone.
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "stream", Net: "unix"} }

// closeConn says when it is closed.
type closeConn struct {
	net.Conn
	closed func()
}

func (c *closeConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
