package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"lighter/internal/stream"
)

// buildLog is the log of one attempt, in a file that is made when there is something
// to write. One builder writes it; any number of readers follow it, from any offset.
// Of one that is too long beginning and end are kept; readers get the end once there is no more.
// A log that cannot be written does not fail the build: it is cut.
type buildLog struct {
	name string // of the file
	log  *slog.Logger

	mu      sync.Mutex // owns all below
	file    *os.File   // open for writing
	size    int64      // bytes in the file
	ends    *stream.Ends
	written int64 // bytes by the builder, whatever became of them
	cut     error // why what follows is dropped; nil if it is not
	ended   bool
	changed chan struct{} // closed on a change; nil if no reader waits
}

// newBuildLog returns a log without contents.
func newBuildLog(name string, limit int64, log *slog.Logger) *buildLog {
	return &buildLog{name: name, ends: stream.NewEnds(limit), log: log}
}

// openBuildLog returns the log that an earlier agent wrote.
func openBuildLog(name string, log *slog.Logger) *buildLog {
	l := &buildLog{name: name, log: log, ended: true}
	if info, err := os.Stat(name); err == nil {
		l.size = info.Size()
	}
	return l
}

// Write takes all of p, always.
func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written += int64(len(p))
	if l.cut != nil || l.ended {
		return len(p), nil
	}
	l.keepLocked(l.ends.Next(p))
	return len(p), nil
}

// keepLocked adds to what is kept.
func (l *buildLog) keepLocked(text []byte) {
	if len(text) == 0 {
		return
	}
	if err := l.writeLocked(text); err != nil {
		l.cut = err
		l.log.Warn("the rest of the build's log is not kept", "err", err)
	}
	l.wakeLocked()
}

func (l *buildLog) writeLocked(text []byte) (err error) {
	if l.file == nil {
		if l.file, err = os.OpenFile(l.name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
			return err
		}
	}
	n, err := l.file.Write(text)
	l.size += int64(n)
	return err
}

// end says that nothing more will be written.
func (l *buildLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended && l.cut == nil {
		l.keepLocked(l.ends.Rest())
	}
	l.ended = true
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
	l.wakeLocked()
}

// remove removes the file of a log that has ended, if there is one.
func (l *buildLog) remove() error {
	if l.length() == 0 {
		return nil
	}
	return removeFile(l.name)
}

func (l *buildLog) wakeLocked() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// length returns how many bytes there are so far.
func (l *buildLog) length() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// output returns how many bytes the builder has written so far, kept or not.
func (l *buildLog) output() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

// problem says why the log is cut; nil if it is not.
func (l *buildLog) problem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

// await returns the size when there is more than offset, or the log has ended.
func (l *buildLog) await(ctx context.Context, offset int64) (size int64, ended bool, err error) {
	for {
		l.mu.Lock()
		if l.size > offset || l.ended {
			defer l.mu.Unlock()
			return l.size, l.ended, nil
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, false, context.Cause(ctx)
		}
	}
}

// errNoOffset is matched by the error of follow for an offset beyond the log's end.
var errNoOffset = errors.New("beyond the end of the log")

// checkOffset says whether there is, or may come to be, a byte at the offset.
func (l *buildLog) checkOffset(offset int64) error {
	if size := l.length(); offset < 0 || offset > size {
		return fmt.Errorf("offset %d is %w, which has %d bytes", offset, errNoOffset, size)
	}
	return nil
}

// follow gives emit what there is from the offset on, as it is written, until the log
// ends. The slice is valid during the call.
func (l *buildLog) follow(ctx context.Context, offset int64, emit func([]byte) error) error {
	var file *os.File
	defer func() { file.Close() }() // of nil it is an error that says nothing
	buf := logBuffers.Get().(*[]byte)
	defer logBuffers.Put(buf)
	for {
		size, ended, err := l.await(ctx, offset)
		if err != nil {
			return err
		}
		if size > offset && file == nil {
			if file, err = os.Open(l.name); err != nil {
				return err
			}
		}
		for offset < size {
			n, err := file.ReadAt((*buf)[:min(int64(len(*buf)), size-offset)], offset)
			if n == 0 && err != nil {
				return unexpected(err)
			}
			if err := emit((*buf)[:n]); err != nil {
				return err
			}
			offset += int64(n)
		}
		if ended {
			return nil
		}
	}
}

// unexpected is for the end of a file that is to be longer.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

var logBuffers = sync.Pool{New: func() any { return new(make([]byte, 64<<10)) }}
