package sshtest

import (
	"net"
	"sync"
)

// faultyConn is a server's end of a connection that can break off or stall.
type faultyConn struct {
	net.Conn
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex
	moves chan struct{} // closed when bytes may move
	left  int64         // bytes that may be written; below 0: any number
}

func newFaultyConn(c net.Conn, cutAt int64, stall bool) *faultyConn {
	f := &faultyConn{Conn: c, closed: make(chan struct{}), moves: make(chan struct{}), left: cutAt}
	if !stall {
		close(f.moves)
	}
	return f
}

func (f *faultyConn) setStall(stall bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.moves:
		if stall {
			f.moves = make(chan struct{})
		}
	default:
		if !stall {
			close(f.moves)
		}
	}
}

func (f *faultyConn) wait() {
	f.mu.Lock()
	moves := f.moves
	f.mu.Unlock()
	select {
	case <-moves:
	case <-f.closed:
	}
}

func (f *faultyConn) Read(p []byte) (int, error) {
	f.wait()
	n, err := f.Conn.Read(p)
	f.wait()
	return n, err
}

func (f *faultyConn) Write(p []byte) (int, error) {
	f.wait()
	f.mu.Lock()
	cut := f.left >= 0 && int64(len(p)) > f.left
	if cut {
		p = p[:f.left]
	}
	if f.left >= 0 {
		f.left -= int64(len(p))
	}
	f.mu.Unlock()
	n, err := f.Conn.Write(p)
	if cut {
		f.Close()
		return n, net.ErrClosed
	}
	return n, err
}

func (f *faultyConn) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Conn.Close()
}
