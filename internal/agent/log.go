package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
)

// buildLog is the log of one build: a file that is written once, and read from any
// offset by any number of readers while it grows.
type buildLog struct {
	name string
	max  int64

	mu      sync.Mutex
	file    *os.File // guarded by mu; nil once closed
	size    int64    // guarded by mu
	cut     bool     // guarded by mu; max is reached
	changed chan struct{}
	err     error // guarded by mu; the first failed write
}

func createLog(name string, limit int64) (*buildLog, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &buildLog{name: name, max: limit, file: f, changed: make(chan struct{})}, nil
}

// openLog opens a log that is complete.
func openLog(name string) (*buildLog, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	return &buildLog{name: name, size: info.Size()}, nil
}

// Write appends. It never fails: a full disk must not end a build that only talks.
// What is over the limit is left out, after a line that says so.
func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || l.cut || l.err != nil {
		return len(p), nil
	}
	text := p
	if room := l.max - l.size; int64(len(p)) > room {
		l.cut = true
		text = fmt.Appendf(append([]byte(nil), p[:room]...), "\n[the log is cut here, after %d bytes]\n", l.max)
	}
	n, err := l.file.Write(text)
	l.size += int64(n)
	l.err = err
	l.wakeLocked()
	return len(p), nil
}

func (l *buildLog) wakeLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Close ends the log; readers see its end. It returns the first failed write.
func (l *buildLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return l.err
	}
	if err := l.file.Close(); l.err == nil {
		l.err = err
	}
	l.file = nil
	l.wakeLocked()
	return l.err
}

// Size returns the length so far, in bytes.
func (l *buildLog) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// Copy writes the log from an offset to its end to w, following it while it grows.
// flush is called whenever there is nothing more to write for now.
func (l *buildLog) Copy(ctx context.Context, w io.Writer, offset int64, flush func()) error {
	f, err := os.Open(l.name)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		l.mu.Lock()
		size, ended, changed := l.size, l.file == nil, l.changed
		l.mu.Unlock()
		if offset < size {
			n, err := io.Copy(w, io.NewSectionReader(f, offset, size-offset))
			offset += n
			if err != nil {
				return err
			}
			if offset < size {
				return fmt.Errorf("log %s: %w", l.name, io.ErrUnexpectedEOF)
			}
			continue
		}
		if ended {
			return nil
		}
		flush()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
