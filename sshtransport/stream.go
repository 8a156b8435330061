package sshtransport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// streamChunk is how much a stream reads ahead, twice. Packets have no more.
const streamChunk = 32 << 10

// stream is an SSH channel as a net.Conn, on either side.
//
// A goroutine reads ahead, so that deadlines and Close work for Read as they do for
// other connections. The library offers nothing like it for writing: a Write that
// waits for the other side's window ends when that side reads or closes, or with the
// SSH connection, and a write deadline is refused with os.ErrNoDeadline.
type stream struct {
	ch      ssh.Channel
	src     io.Reader // what to read from: ch, perhaps behind a buffer
	group   *group    // of the SSH connection, owns the goroutines
	failed  func() error
	onClose func() // called once by Close; may be nil
	goodbye func() // sends what must come before the end; may be nil
	local   addr
	remote  addr

	chunks   chan []byte   // read, in order; closed at the end, when err is set
	free     chan []byte   // buffers that may be filled
	err      error         // that ended reading
	closed   chan struct{} // by Close
	close    sync.Once
	deadline deadline

	readMu sync.Mutex // one Read at a time
	rest   []byte     // of the chunk in hand
	chunk  []byte
	write  sync.Mutex // the library wants one Write at a time
}

// newStream takes a channel over. After its end, failed says whether it ended because
// the connection did: it returns an error then, else nil.
func newStream(ch ssh.Channel, src io.Reader, g *group, failed func() error) *stream {
	s := &stream{
		ch: ch, src: src, group: g, failed: failed,
		chunks: make(chan []byte), free: make(chan []byte, 2), closed: make(chan struct{}),
	}
	s.free <- nil // made when needed
	s.free <- nil
	s.deadline.init()
	if !g.Go(s.readOn) {
		s.err = net.ErrClosed
		close(s.chunks)
	}
	return s
}

// readOn reads until the channel ends. After Close it throws away what comes.
func (s *stream) readOn() {
	defer close(s.chunks)
	for {
		var buf []byte
		select {
		case buf = <-s.free:
		case <-s.closed:
			s.drain()
			return
		}
		if buf == nil {
			buf = make([]byte, streamChunk)
		}
		n, err := s.src.Read(buf[:streamChunk])
		if n > 0 {
			select {
			case s.chunks <- buf[:n]:
			case <-s.closed:
			}
		}
		if err != nil {
			s.err = s.explain(err)
			return
		}
	}
}

// drain lets the other side get rid of what it still has to send, so that it sees
// the end.
func (s *stream) drain() {
	s.err = net.ErrClosed
	_, _ = io.Copy(io.Discard, s.src)
}

// explain tells the end of a stream from the end of the connection: to the library
// both are io.EOF.
func (s *stream) explain(err error) error {
	if s.isClosed() {
		return net.ErrClosed
	}
	if lost := s.failed(); lost != nil {
		return lost
	}
	return err
}

func (s *stream) Read(p []byte) (int, error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	if s.deadline.passed() {
		return 0, os.ErrDeadlineExceeded
	}
	if len(p) == 0 {
		return 0, nil
	}
	if len(s.rest) == 0 {
		if err := s.nextChunk(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	if len(s.rest) == 0 {
		s.free <- s.chunk
		s.chunk = nil
	}
	return n, nil
}

func (s *stream) nextChunk() error {
	if s.isClosed() {
		return net.ErrClosed
	}
	select {
	case chunk, ok := <-s.chunks:
		if !ok {
			return s.err
		}
		s.chunk, s.rest = chunk, chunk
		return nil
	case <-s.closed:
		return net.ErrClosed
	case <-s.deadline.wait():
		return os.ErrDeadlineExceeded
	}
}

func (s *stream) Write(p []byte) (int, error) {
	s.write.Lock()
	defer s.write.Unlock()
	if s.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := s.ch.Write(p)
	if err == nil {
		return n, nil
	}
	err = s.explain(err)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("stream to %s: %w", s.remote, errPeerClosed)
	}
	return n, err
}

// errPeerClosed is what a Write gets after the other side closed the stream.
var errPeerClosed = errors.New("closed by the other side")

// CloseWrite tells the other side that nothing more is written.
func (s *stream) CloseWrite() error { return s.ch.CloseWrite() }

// Close closes the stream without waiting for the other side, or for the network.
func (s *stream) Close() error {
	s.close.Do(func() {
		close(s.closed)
		// What remains to be sent may have to wait for the network.
		s.group.Go(func() {
			if s.goodbye != nil {
				s.goodbye()
			}
			s.ch.Close()
		})
		if s.onClose != nil {
			s.onClose()
		}
	})
	return nil
}

func (s *stream) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

func (s *stream) LocalAddr() net.Addr  { return s.local }
func (s *stream) RemoteAddr() net.Addr { return s.remote }

// SetReadDeadline is as net.Conn has it.
func (s *stream) SetReadDeadline(t time.Time) error {
	s.deadline.set(t)
	return nil
}

// SetWriteDeadline can only remove the deadline that there never is.
func (s *stream) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	return os.ErrNoDeadline
}

// SetDeadline sets the deadline for reading; for writing, see SetWriteDeadline.
func (s *stream) SetDeadline(t time.Time) error {
	s.deadline.set(t)
	return s.SetWriteDeadline(t)
}

// addr is the address of one end of a stream.
type addr string

func (addr) Network() string  { return "ssh" }
func (a addr) String() string { return string(a) }

// deadline is a point in time to select on, which can be moved.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer   // nil if none runs
	over  chan struct{} // closed when it has passed
}

func (d *deadline) init() { d.over = make(chan struct{}) }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.over // it is passing just now
	}
	d.timer = nil
	select {
	case <-d.over:
		d.over = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	over := d.over
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(over) })
		return
	}
	close(over)
}

// wait returns a channel that is closed when the deadline has passed. Moving the
// deadline later leaves those who wait with the old one.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

func (d *deadline) passed() bool {
	select {
	case <-d.wait():
		return true
	default:
		return false
	}
}
