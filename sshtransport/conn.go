package sshtransport

import (
	"bufio"
	"bytes"
	"net"
	"sync/atomic"
	"time"
)

// readAhead is how much one read from the network may bring. The SSH library reads
// through 4 KiB, and so needs two system calls for each packet of 32 KiB, where this
// needs one for several. guestReadAhead is enough for who has yet to log in.
const (
	readAhead      = 256 << 10
	guestReadAhead = 4 << 10
)

// conn is the network connection under an SSH connection. It notes when bytes move.
// One goroutine reads from it.
type conn struct {
	net.Conn
	r        *bufio.Reader
	ahead    atomic.Int64 // size that r is to have
	lastRead atomic.Int64 // Unix nanoseconds
	moved    atomic.Int64 // bytes, both ways
	over     atomic.Bool  // reading or writing has failed
	greeted  atomic.Bool  // the other side has said that it speaks SSH
}

func newConn(c net.Conn, ahead int) *conn {
	x := &conn{Conn: c}
	x.readAhead(ahead)
	x.r = bufio.NewReaderSize(meter{x}, ahead)
	x.lastRead.Store(time.Now().UnixNano())
	return x
}

// readAhead changes how much one read may bring.
func (c *conn) readAhead(n int) { c.ahead.Store(int64(n)) }

func (c *conn) Read(p []byte) (int, error) {
	if ahead := int(c.ahead.Load()); c.r.Size() != ahead && c.r.Buffered() == 0 {
		c.r = bufio.NewReaderSize(meter{c}, ahead)
	}
	return c.r.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.moved.Add(int64(n))
	if err != nil {
		c.over.Store(true)
	}
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
	if !m.c.greeted.Load() && bytes.Contains(p[:n], []byte("SSH-")) {
		m.c.greeted.Store(true)
	}
	if err != nil {
		m.c.over.Store(true)
	}
	return n, err
}

// stayAlive asks the other side for a sign of life when it has been silent for an interval.
// It returns false if there was none in the time for it, and true when over is closed. What
// ask sends need not be answered well, but it must be answered, or over is closed.
func (c *conn) stayAlive(g *group, interval, timeout time.Duration, over <-chan struct{}, ask func()) bool {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-over:
			return true
		case <-timer.C:
		}
		if left := interval - c.silence(); left > 0 {
			timer.Reset(left)
			continue
		}
		if !c.answers(g, timeout, ask) {
			return false
		}
		timer.Reset(interval)
	}
}

// answers reports whether the other side answers in time. On a slow network the question
// may queue behind much else: as long as bytes move, time does not count.
func (c *conn) answers(g *group, timeout time.Duration, ask func()) bool {
	answered := make(chan struct{})
	if !g.Go(func() {
		defer close(answered)
		ask()
	}) {
		return true
	}
	for {
		moved := c.moved.Load()
		timer := time.NewTimer(timeout)
		select {
		case <-answered:
			timer.Stop()
			return true
		case <-timer.C:
			if c.moved.Load() == moved {
				return false
			}
		}
	}
}
