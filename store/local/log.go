package local

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"lighter/internal/human"
	"lighter/store"
)

const (
	tailSize  = 8 << 10 // bytes of the log that are kept for the error message
	tailLines = 20
	// flushInterval is how far what can be read of a running build's log lags behind at most,
	// while it goes on writing.
	flushInterval = time.Second
)

// OpenLog opens the log of the last build of a derivation, which may be running: then
// it ends, without an error, after what has been written so far. The error matches
// fs.ErrNotExist if there was no build, or none that has begun to write.
func (s *Store) OpenLog(drv store.Path) (io.ReadCloser, error) {
	f, err := os.Open(s.layout.logFile(drv))
	if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &logReader{file: f, gzip: r}, nil
}

type logReader struct {
	file *os.File
	gzip *gzip.Reader
}

func (r *logReader) Read(p []byte) (int, error) {
	n, err := r.gzip.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

func (r *logReader) Close() error { return r.file.Close() }

// compressors are reused, since each takes a lot of memory.
var compressors = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	return w
}}

// buildLog takes what a builder writes. It goes to the request's Log, and compressed
// to a file, which readers see grow. A log that can't be kept does not fail the build.
type buildLog struct {
	tee io.Writer // may be nil

	mu      sync.Mutex // owns all below
	file    *os.File
	gzip    *gzip.Writer
	flushed time.Time
	err     error
	tail    []byte
	silence *time.Timer // output sets it again; nil if there is no limit
	limit   time.Duration
}

// newBuildLog makes the log's file and replaces an older one with it. The log of a check
// has no file: the log that is kept is that of the build that made what is valid.
func newBuildLog(c *claims, req *store.BuildRequest) (*buildLog, error) {
	if req.Check {
		return &buildLog{tee: req.Log}, nil
	}
	name := c.layout.logFile(req.Derivation)
	tmp, err := c.tmpName()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	err = os.Rename(tmp, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Mkdir(c.layout.logFolder(req.Derivation.Base()), 0o755); err == nil || errors.Is(err, fs.ErrExist) {
			err = os.Rename(tmp, name)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(tmp))
	}
	l := &buildLog{tee: req.Log, file: f, gzip: compressors.Get().(*gzip.Writer)} //nolint:forcetypeassert // the pool has nothing else
	l.gzip.Reset(f)
	return l, nil
}

// Write implements io.Writer. It never fails.
func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.silence != nil {
		l.silence.Reset(l.limit)
	}
	l.keepTail(p)
	if l.err == nil && l.gzip != nil {
		l.err = l.compress(p)
	}
	if l.tee != nil {
		if _, err := l.tee.Write(p); err != nil {
			l.tee = nil // it has lost interest
		}
	}
	return len(p), nil
}

func (l *buildLog) compress(p []byte) error {
	if _, err := l.gzip.Write(p); err != nil {
		return err
	}
	if now := time.Now(); now.Sub(l.flushed) >= flushInterval {
		l.flushed = now
		return l.gzip.Flush()
	}
	return nil
}

func (l *buildLog) keepTail(p []byte) {
	if len(p) >= tailSize {
		l.tail = append(l.tail[:0], p[len(p)-tailSize:]...)
		return
	}
	if over := len(l.tail) + len(p) - tailSize; over > 0 {
		l.tail = l.tail[:copy(l.tail, l.tail[over:])]
	}
	l.tail = append(l.tail, p...)
}

// watch sets a timer again whenever something is written; nil ends that.
func (l *buildLog) watch(t *time.Timer, limit time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silence, l.limit = t, limit
}

// close completes the file. It returns the first error that there was.
func (l *buildLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gzip == nil {
		return nil
	}
	err := errors.Join(l.err, l.gzip.Close(), l.file.Close())
	l.gzip.Reset(nil)
	compressors.Put(l.gzip)
	l.gzip, l.file, l.err = nil, nil, os.ErrClosed
	return err
}

// lastLines returns the end of the log for people, without what could confuse a terminal.
func (l *buildLog) lastLines() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	tail := bytes.TrimRight(l.tail, "\n")
	lines := bytes.Split(tail, []byte("\n"))
	if len(l.tail) == tailSize && len(lines) > 1 {
		lines = lines[1:] // it has lost its beginning
	}
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	text := human.ValidText(string(bytes.Join(lines, []byte("\n"))))
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= ' ' && (r < 0x7f || r >= 0xa0) {
			return r
		}
		return -1
	}, text)
}
