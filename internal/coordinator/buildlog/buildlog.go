// Package buildlog keeps the logs of builds in a folder, and lets them be read while they are
// written.
package buildlog

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"lighter/internal/stream"
)

// Folder keeps the logs of builds: one file for each attempt, AB/ID.ATTEMPT.log where AB are the
// last two digits of the id. A log is written as it arrives, and compressed with gzip when it is
// complete; later the event hook prune-logs may compress it with zstd instead.
type Folder struct {
	dir string
	max int64 // bytes of one log

	mu   sync.Mutex
	live map[string]*Log // by file name
}

// Name names the log of an attempt.
type Name struct {
	ID      string
	Attempt int // 0 if there was none
}

// minCompressed is the size from which on a log is compressed, in bytes.
const minCompressed = 4 << 10

// OpenFolder returns the folder with a name, and makes it if it does not exist. max bounds one log,
// in bytes.
func OpenFolder(dir string, max int64) (*Folder, error) {
	if dir == "" {
		return nil, errors.New("coordinator: no folder for logs")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("folder for logs: %w", err)
	}
	return &Folder{dir: dir, max: max, live: make(map[string]*Log)}, nil
}

// File returns the name of an attempt's log. Ids have been checked to be UUIDs.
func (f *Folder) File(id string, attempt int) string {
	return filepath.Join(f.dir, id[max(0, len(id)-2):], fmt.Sprintf("%s.%d.log", id, attempt))
}

// Log is a log that is being written. A build never fails because its log cannot be written: what
// there is no room for is dropped. Of a log that is too long beginning and end are kept; readers get the
// end when it is complete.
type Log struct {
	folder *Folder
	name   string

	mu      sync.Mutex
	file    *os.File // nil before the first byte, and if it cannot be opened
	written int64    // bytes of the log so far, kept or dropped
	ends    *stream.Ends
	err     error // why nothing more is kept
	changed chan struct{}
	over    bool
}

// Open begins the log of an attempt, or goes on with the part of it that exists.
func (f *Folder) Open(id string, attempt int) *Log {
	l := &Log{folder: f, name: f.File(id, attempt), changed: make(chan struct{})}
	if info, err := os.Stat(l.name); err == nil {
		l.written = info.Size()
	}
	l.ends = stream.Resumed(f.max, l.written)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live[l.name] = l
	return l
}

// Remove removes the log of an attempt.
func (f *Folder) Remove(id string, attempt int) {
	name := f.File(id, attempt)
	os.Remove(name)
	os.Remove(name + ".gz")
	os.Remove(name + ".zst")
}

// Size returns how many bytes of the log have been written or dropped.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

// Write takes all of p and never fails.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.keepLocked(l.ends.Next(p))
	}
	l.written += int64(len(p))
	close(l.changed)
	l.changed = make(chan struct{})
	return len(p), nil
}

func (l *Log) keepLocked(p []byte) {
	if len(p) == 0 {
		return
	}
	if l.file == nil {
		if l.err = os.MkdirAll(filepath.Dir(l.name), 0o755); l.err != nil {
			return
		}
		if l.file, l.err = os.OpenFile(l.name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644); l.err != nil {
			return
		}
	}
	_, l.err = l.file.Write(p)
}

// Finish marks the log as complete, and compresses it.
func (l *Log) Finish() {
	l.mu.Lock()
	if l.err == nil {
		l.keepLocked(l.ends.Rest())
	}
	l.over = true
	close(l.changed)
	l.changed = make(chan struct{})
	file, written := l.file, l.written
	l.mu.Unlock()

	l.folder.mu.Lock()
	if l.folder.live[l.name] == l {
		delete(l.folder.live, l.name)
	}
	l.folder.mu.Unlock()
	if file == nil || file.Close() != nil || written < minCompressed {
		return
	}
	if compress(l.name) == nil {
		os.Remove(l.name)
	}
}

var compressors = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}

// compress makes NAME.gz of a file.
func compress(name string) (err error) {
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.CreateTemp(filepath.Dir(name), ".log-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(to.Name())
		}
	}()
	z := compressors.Get().(*gzip.Writer)
	defer compressors.Put(z)
	z.Reset(to)
	_, err = io.Copy(z, from)
	err = errors.Join(err, z.Close(), to.Chmod(0o644), to.Close())
	if err != nil {
		return err
	}
	return os.Rename(to.Name(), name+".gz")
}

// ErrNoLog says that a build has no log.
var ErrNoLog = errors.New("there is no log")

// CopyTo copies the log of an attempt from an offset on, in bytes of the uncompressed log. With
// follow it goes on until the log is complete. flush, if not nil, is called whenever there is
// nothing more at the moment.
func (f *Folder) CopyTo(ctx context.Context, w io.Writer, id string, attempt int, offset int64, follow bool, flush func()) error {
	name := f.File(id, attempt)
	f.mu.Lock()
	live := f.live[name]
	f.mu.Unlock()
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) && live == nil {
		return f.copyCompressed(w, name, offset)
	}
	if err == nil {
		defer func() { file.Close() }()
		if _, err := file.Seek(offset, io.SeekStart); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for {
		var changed <-chan struct{}
		over := true
		if live != nil {
			live.mu.Lock()
			changed, over = live.changed, live.over
			live.mu.Unlock()
		}
		if file == nil {
			if file, err = openAt(name, offset); err != nil {
				return err
			}
		}
		if file != nil {
			if _, err := io.Copy(w, file); err != nil {
				return err
			}
		}
		if !follow || over {
			return nil
		}
		if flush != nil {
			flush()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// openAt opens a log at an offset. It returns nil if the log does not exist yet.
func openAt(name string, offset int64) (*os.File, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// maxLogWindow bounds the memory that reading a log compressed with zstd may need, in bytes.
const maxLogWindow = 8 << 20

// openCompressed opens a compressed log, and a reader of its contents.
func openCompressed(name string) (*os.File, io.ReadCloser, error) {
	file, err := os.Open(name + ".gz")
	if err == nil {
		z, err := gzip.NewReader(file)
		return file, z, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	// In this order: prune-logs makes the new file before it removes the old one.
	file, err = os.Open(name + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, ErrNoLog
	}
	if err != nil {
		return nil, nil, err
	}
	z, err := zstd.NewReader(file, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxLogWindow))
	if err != nil {
		return file, nil, err
	}
	return file, z.IOReadCloser(), nil
}

func (f *Folder) copyCompressed(w io.Writer, name string, offset int64) error {
	file, z, err := openCompressed(name)
	if file != nil {
		defer file.Close()
	}
	switch {
	case errors.Is(err, ErrNoLog):
		return err
	case err != nil:
		return fmt.Errorf("log %s: %w", name, err)
	}
	defer z.Close()
	// keepLocked, which wrote the log, kept it within the same bound.
	log := io.LimitReader(z, f.max+stream.MaxMarker)
	if _, err := io.CopyN(io.Discard, log, offset); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	_, err = io.Copy(w, log)
	return err
}

// logSuffixes may follow the name of a log.
var logSuffixes = []string{"", ".gz", ".zst"}

// RemoveAll removes the logs of all attempts under an id, and returns how many it removed. It goes
// on if one cannot be removed.
func (f *Folder) RemoveAll(id string, attempts int) (removed int, err error) {
	for attempt := 1; attempt <= attempts; attempt++ {
		name, found := f.File(id, attempt), false
		for _, suffix := range logSuffixes {
			switch removeErr := os.Remove(name + suffix); {
			case removeErr == nil:
				found = true
			case !errors.Is(removeErr, os.ErrNotExist):
				err = errors.Join(err, removeErr)
			}
		}
		if found {
			removed++
		}
	}
	return removed, err
}

// Count returns how many attempts under an id have a log.
func (f *Folder) Count(id string, attempts int) (n int) {
	for attempt := 1; attempt <= attempts; attempt++ {
		name := f.File(id, attempt)
		if slices.ContainsFunc(logSuffixes, func(suffix string) bool {
			_, err := os.Lstat(name + suffix)
			return err == nil
		}) {
			n++
		}
	}
	return n
}
