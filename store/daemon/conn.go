package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/backoff"
	"lighter/internal/wire"
	"lighter/store"
)

// The words of the handshake (worker-protocol.hh in libstore).
const (
	clientMagic = 0x6e697863 // "cxin" on the wire
	daemonMagic = 0x6478696f // "dxio"

	protocolMajor = 0x100
	ownMinor      = 0x64
	minMinor      = 0x60 // of Guix 1.0
)

// opcode is what a request begins with.
type opcode uint64

const (
	opQueryReferrers   opcode = 6
	opAddToStore       opcode = 7
	opAddTextToStore   opcode = 8
	opBuildThings      opcode = 9
	opEnsurePath       opcode = 10
	opAddTempRoot      opcode = 11
	opAddIndirectRoot  opcode = 12
	opExportPath       opcode = 16
	opSetOptions       opcode = 19
	opCollectGarbage   opcode = 20
	opQueryPathInfo    opcode = 26
	opImportPaths      opcode = 27
	opQueryValidPaths  opcode = 31
	opVerifyStore      opcode = 35
	minorWithFewerInts        = 0x61 // since then set-options has three fields less
)

// The words before a reply's parts.
const (
	replyNext  = 0x6f6c6d67
	replyRead  = 0x64617461
	replyWrite = 0x64617416
	replyLast  = 0x616c7473
	replyError = 0x63787470
)

// Limits on what the daemon sends.
const (
	maxText    = 16 << 20 // bytes of a piece of a log, or of an error
	maxPath    = 1 << 10  // bytes
	maxPaths   = 1 << 22  // in a list
	maxDigits  = 1 << 10  // bytes of a hash
	maxRead    = 1 << 20  // bytes that the daemon may ask for at once
	chunkSize  = 32 << 10 // bytes that it does ask for
	copyBuffer = 64 << 10 // at most what it sends at once
)

// batchSize bounds requests that are sent before the first is answered, in bytes. The
// daemon takes input that comes while it works for a protocol error ("EOF expected"). But
// when it begins to read, it reads ahead what is there: 32 KiB at most, and what was
// written in one piece.
const batchSize = 16 << 10

// conn is a connection. One call uses it at a time.
type conn struct {
	net   *socket
	in    *countedReader // from net, for r
	r     *wire.Reader
	w     *wire.Writer
	minor uint32
	born  time.Time
	buf   []byte // for sinks; made when needed

	answered bool   // part of an answer to the current call has come, or input of it is spent
	broken   bool   // it can't be used any more
	reused   bool   // an earlier call has used it
	warm     bool   // its helper runs
	acl      stamp  // of the ACL when the helper was started
	rooted   bool   // it protects items
	options  string // the set-options request that was made last
}

// dialTimeout bounds the handshake where the context doesn't. The daemon forks before it
// answers.
const dialTimeout = 30 * time.Second

// dial connects and shakes hands.
func dial(ctx context.Context, socket string) (*conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer after %s", dialTimeout))
	defer cancel()
	raw, err := dialSocket(ctx, socket)
	if err != nil {
		return nil, err
	}
	s, err := block(raw.(*net.UnixConn))
	if err != nil {
		return nil, err
	}
	in := &countedReader{r: s}
	c := &conn{net: s, in: in, r: wire.NewReader(in), w: wire.NewWriterSize(s, chunkSize+64), born: time.Now()}
	c.r.Promise(math.MaxInt64)
	if err := c.guarded(ctx, c.handshake); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// dialSocket connects. Very few connections may wait for the daemon to accept them; the kernel
// refuses the others, which try again.
func dialSocket(ctx context.Context, socket string) (net.Conn, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		raw, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		switch {
		case err == nil:
			return raw, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case !errors.Is(err, syscall.EAGAIN):
			return nil, err
		}
		if err := backoff.Wait(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func (c *conn) handshake() error {
	_ = c.w.Uint64(clientMagic) // errors stay until Flush
	if err := c.flush(); err != nil {
		return err
	}
	magic, err := c.r.Uint64()
	if err != nil {
		return lost(err)
	}
	if magic != daemonMagic {
		return garbled("what answers is not a guix-daemon: it says %#x", magic)
	}
	version, err := c.r.Uint32()
	if err != nil {
		return lost(err)
	}
	if version&^0xff != protocolMajor || version&0xff < minMinor {
		return fmt.Errorf("guix-daemon speaks version %#x of its protocol, and this program %#x to %#x", version, protocolMajor|minMinor, protocolMajor|ownMinor)
	}
	c.minor = min(version&0xff, ownMinor)
	_ = c.w.Uint64(uint64(protocolMajor | c.minor))
	_ = c.w.Uint64(0) // no CPU affinity
	_ = c.w.Uint64(1) // reserve space
	if err := c.flush(); err != nil {
		return err
	}
	return c.reply(nil)
}

// close ends the connection. It may be called again, and while a call is under way.
func (c *conn) close() { c.net.Close() }

// guarded calls f, and closes the connection if the context ends before f does: then the
// error is the context's.
func (c *conn) guarded(ctx context.Context, f func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.answered = false
	stop := context.AfterFunc(ctx, c.close)
	err := f()
	if !stop() {
		c.broken = true
		if err != nil {
			return context.Cause(ctx)
		}
	}
	var said *Error
	var found *notValidError
	if err != nil && !errors.As(err, &said) && !errors.As(err, &found) {
		// Whatever it was, nobody knows what the daemon does next.
		c.broken = true
	}
	return err
}

// alive reports whether an idle connection seems usable: it has not ended, and nothing came
// that nobody asked for.
func (c *conn) alive() bool {
	raw, err := c.net.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = errors.Is(err, unix.EAGAIN)
		return true
	})
	return err == nil && quiet && c.in.n == c.r.Offset()
}

// countedReader counts what is read.
type countedReader struct {
	r io.Reader
	n int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *conn) flush() error {
	if err := c.w.Flush(); err != nil {
		return lost(err)
	}
	return nil
}

// op begins a request. The error of writing comes with flush.
func (c *conn) op(code opcode) { _ = c.w.Uint64(uint64(code)) }

func (c *conn) putPath(p store.Path) { _ = c.w.String(string(p)) }

func (c *conn) putPaths(paths []store.Path) {
	_ = c.w.Uint64(uint64(len(paths)))
	for _, p := range paths {
		c.putPath(p)
	}
}

// streams are where the parts of a reply go, and what the daemon reads. A nil field takes
// part in nothing: log text is dropped then, and the others are errors of the protocol.
type streams struct {
	log func(text []byte)
	// source returns what the daemon reads next, at most limit bytes and valid until
	// the next call; nothing at the end, which the daemon takes for an error. It does
	// not fail: its maker remembers why it ended.
	source func(limit int) []byte
	// sink takes size bytes from r.
	sink func(r io.Reader, size int64) error
}

// call sends what was written and reads the reply up to its results.
func (c *conn) call(s *streams) error {
	if err := c.flush(); err != nil {
		return err
	}
	return c.reply(s)
}

// reply reads up to the results of a call. What the daemon answers in their place is an
// *Error, after which the connection can be used.
func (c *conn) reply(s *streams) error {
	if s == nil {
		s = new(streams)
	}
	for {
		part, err := c.r.Uint64()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			c.answered = true // by a piece of a word
		}
		if err != nil {
			return lost(err)
		}
		c.answered = true
		switch part {
		case replyLast:
			return nil
		case replyError:
			return c.readError()
		case replyNext:
			err = c.readLog(s)
		case replyRead:
			err = c.feed(s)
		case replyWrite:
			err = c.drain(s)
		default:
			err = garbled("a reply has the part %#x", part)
		}
		if err != nil {
			return err
		}
	}
}

func (c *conn) readError() error {
	message, err := c.r.String(maxText)
	if err != nil {
		return lost(err)
	}
	status, err := c.r.Uint32()
	if err != nil {
		return lost(err)
	}
	return &Error{Message: message, Status: status}
}

func (c *conn) readLog(s *streams) error {
	text, err := c.r.Token(maxText)
	if err != nil {
		return lost(err)
	}
	if s.log != nil {
		s.log(text)
	}
	return nil
}

func (c *conn) feed(s *streams) error {
	limit, err := c.r.Int64(maxRead)
	if err != nil {
		return lost(err)
	}
	if s.source == nil || limit == 0 {
		return garbled("it wants to read %d bytes, but has no reason to", limit)
	}
	_ = c.w.Bytes(s.source(int(limit)))
	return c.flush()
}

func (c *conn) drain(s *streams) error {
	size, err := c.r.Int64(math.MaxInt64)
	if err != nil {
		return lost(err)
	}
	if s.sink == nil {
		return garbled("it writes %d bytes that nobody asked for", size)
	}
	if err := s.sink(c.r, size); err != nil {
		return err
	}
	if err := c.r.Pad(size); err != nil {
		return lost(err)
	}
	return nil
}

// copyTo returns a sink that writes to w. An error of w is not one of the connection.
func (c *conn) copyTo(w io.Writer) func(io.Reader, int64) error {
	return func(r io.Reader, size int64) error {
		if c.buf == nil {
			c.buf = make([]byte, copyBuffer)
		}
		for size > 0 {
			part := c.buf[:min(size, int64(len(c.buf)))]
			n, err := r.Read(part)
			if n > 0 {
				if _, err := w.Write(part[:n]); err != nil {
					return err
				}
			}
			if size -= int64(n); err != nil && size > 0 {
				return lost(err)
			}
		}
		return nil
	}
}

// The rest reads results.

func (c *conn) getBool() (bool, error) {
	v, err := c.r.Bool()
	if err != nil {
		return false, lost(err)
	}
	return v, nil
}

// getDone reads the 1 that stands for "done".
func (c *conn) getDone() error {
	v, err := c.r.Uint64()
	if err != nil {
		return lost(err)
	}
	if v != 1 {
		return garbled("it answers %d in place of 1", v)
	}
	return nil
}

func (c *conn) getInt64() (int64, error) {
	v, err := c.r.Int64(math.MaxInt64)
	if err != nil {
		return 0, lost(err)
	}
	return v, nil
}

// getPath reads the name of an item. Empty is the zero Path, if that may be.
func (c *conn) getPath(dir store.Dir, mayBeNone bool) (store.Path, error) {
	text, err := c.r.String(maxPath)
	if err != nil {
		return "", lost(err)
	}
	if text == "" && mayBeNone {
		return "", nil
	}
	p, err := dir.ParsePath(text)
	if err != nil {
		return "", lost(err)
	}
	return p, nil
}

func (c *conn) getPaths(dir store.Dir) ([]store.Path, error) {
	names, err := c.r.Strings(maxPaths, maxPath)
	if err != nil {
		return nil, lost(err)
	}
	paths := make([]store.Path, 0, len(names))
	for _, name := range names {
		p, err := dir.ParsePath(name)
		if err != nil {
			return nil, lost(err)
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// noEntity reports whether nothing listens on a socket.
func noEntity(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}
