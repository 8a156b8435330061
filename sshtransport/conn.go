package sshtransport

import (
	"bufio"
	"net"
	"sync/atomic"
	"time"
)

// readAhead is how much one read from the network may bring. The SSH library reads
// through 4 KiB, and so needs two system calls for each packet of 32 KiB, where this
// needs one for several.
const readAhead = 256 << 10

// conn is the network connection under an SSH connection. It notes when bytes move.
// One goroutine reads from it.
type conn struct {
	net.Conn
	r        *bufio.Reader
	lastRead atomic.Int64 // Unix nanoseconds
	moved    atomic.Int64 // bytes, both ways
}

func newConn(c net.Conn) *conn {
	x := &conn{Conn: c}
	x.r = bufio.NewReaderSize(meter{x}, readAhead)
	x.lastRead.Store(time.Now().UnixNano())
	return x
}

func (c *conn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.moved.Add(int64(n))
	return n, err
}

// silence is how long nothing has come.
func (c *conn) silence() time.Duration { return time.Since(time.Unix(0, c.lastRead.Load())) }

// meter reads from below the buffer.
type meter struct{ c *conn }

func (m meter) Read(p []byte) (int, error) {
	n, err := m.c.Conn.Read(p)
	m.c.moved.Add(int64(n))
	m.c.lastRead.Store(time.Now().UnixNano())
	return n, err
}
