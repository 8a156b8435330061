// Package prunelogs is the built-in event hook that keeps the folder of build logs
// small: it removes old logs, or compresses them better. It works through the whole
// folder, so that it does not matter which event calls it, and does so at most once in
// a while, however often it is called.
package prunelogs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"lighter/hooks"
	"lighter/internal/disk"
	"lighter/internal/stream"
)

// Name is the name of the built-in.
const Name = "prune-logs"

// MinAge is the least OlderThan: a log that is younger may be that of a build which is
// silent.
const MinAge = 24 * time.Hour

// DefaultEvery is Options.Every if that is 0.
const DefaultEvery = time.Hour

// Options are the choices of New.
type Options struct {
	// Dir is the folder of the build logs.
	Dir string
	// OlderThan is the age, since a log was last written, from which on it is removed
	// or compressed; at least MinAge.
	OlderThan time.Duration
	// Compress is "gzip" or "zstd"; empty removes logs instead. Logs that are
	// compressed with gzip already are compressed again with zstd, not the reverse.
	Compress string
	// Every is the least time between two looks at the folder; 0 is DefaultEvery.
	Every time.Duration
}

// Pruner is the hook.
type Pruner struct {
	o Options

	mu   sync.Mutex // held while one looks at the folder
	last time.Time  // when that was done
}

// New returns the hook, or says what is wrong with the options.
func New(o Options) (*Pruner, error) {
	switch {
	case o.Dir == "":
		return nil, fmt.Errorf("%s: no folder of logs", Name)
	case o.OlderThan < MinAge:
		return nil, fmt.Errorf("%s: older-than %s: want at least %s", Name, o.OlderThan, MinAge)
	case o.Compress != "" && o.Compress != "gzip" && o.Compress != "zstd":
		return nil, fmt.Errorf("%s: compress %q: want gzip or zstd, or nothing to have logs removed", Name, o.Compress)
	case o.Every < 0:
		return nil, fmt.Errorf("%s: every %s: want more than 0", Name, o.Every)
	}
	if o.Every == 0 {
		o.Every = DefaultEvery
	}
	return &Pruner{o: o}, nil
}

// Run looks through the folder, unless that was done lately or is being done.
func (p *Pruner) Run(ctx context.Context, _ *hooks.Event) (string, error) {
	if !p.mu.TryLock() {
		return "", nil
	}
	defer p.mu.Unlock()
	now := time.Now()
	if !p.last.IsZero() && now.Sub(p.last) < p.o.Every {
		return "", nil
	}
	t := tally{pruner: p, before: now.Add(-p.o.OlderThan)}
	err := filepath.WalkDir(p.o.Dir, func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !entry.Type().IsRegular() {
			return gone(err)
		}
		if err := gone(t.visit(ctx, name, entry)); err != nil {
			t.fail(err)
		}
		return ctx.Err()
	})
	if err = errors.Join(err, t.err); err == nil {
		p.last = now
	}
	return t.String(), err
}

// gone ignores the error about a file that is already gone.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// tally counts what was done.
type tally struct {
	pruner        *Pruner
	before        time.Time
	files         int
	bytes, result int64
	failed        int
	err           error // the first one; the others are only counted
}

func (t *tally) fail(err error) {
	if t.failed++; t.failed == 1 {
		t.err = err
	}
}

func (t *tally) String() string {
	text := fmt.Sprintf("compressed %d logs with %d bytes to %d bytes\n", t.files, t.bytes, t.result)
	if t.pruner.o.Compress == "" {
		text = fmt.Sprintf("removed %d logs with %d bytes\n", t.files, t.bytes)
	}
	if t.failed > 0 {
		text += fmt.Sprintf("%d logs can't be pruned\n", t.failed)
	}
	return text
}

// visit removes or compresses one file, if it is an old log.
func (t *tally) visit(ctx context.Context, name string, entry fs.DirEntry) error {
	plain := strings.HasSuffix(name, ".log")
	gzipped := strings.HasSuffix(name, ".log.gz")
	if !plain && !gzipped && !strings.HasSuffix(name, ".log.zst") {
		return nil
	}
	info, err := entry.Info()
	if err != nil || !info.ModTime().Before(t.before) {
		return err
	}
	switch compress := t.pruner.o.Compress; {
	case compress == "":
		err = os.Remove(name)
	case plain, gzipped && compress == "zstd":
		var size int64
		if size, err = pack(ctx, name, info, compress); err == nil {
			t.result += size
			err = os.Remove(name)
		}
	default:
		return nil
	}
	if err == nil {
		t.files++
		t.bytes += info.Size()
	}
	return err
}

// pack writes a compressed copy of a log beside it, with the same time, and returns its
// size. A reader of the log finds one of the two at any moment.
func pack(ctx context.Context, name string, info fs.FileInfo, compress string) (size int64, err error) {
	file, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	var from io.Reader = file
	base, gzipped := strings.CutSuffix(name, ".gz")
	if gzipped {
		z, err := gzip.NewReader(file)
		if err != nil {
			return 0, fmt.Errorf("log %s: %w", name, err)
		}
		from = z
	}
	packed := base + map[string]string{"gzip": ".gz", "zstd": ".zst"}[compress]
	err = disk.Replace(packed, info.Mode().Perm(), func(to *os.File) (err error) {
		if err = compressTo(ctx, to, from, compress); err == nil {
			size, err = to.Seek(0, io.SeekCurrent)
		}
		return errors.Join(err, os.Chtimes(to.Name(), info.ModTime(), info.ModTime()))
	})
	if err != nil {
		return 0, fmt.Errorf("log %s: %w", name, err)
	}
	return size, nil
}

func compressTo(ctx context.Context, to io.Writer, from io.Reader, compress string) error {
	var z io.WriteCloser = gzip.NewWriter(to)
	if compress == "zstd" {
		var err error
		if z, err = zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(windowSize)); err != nil {
			return err
		}
	}
	_, err := io.Copy(z, stream.ReaderUntil(ctx, from))
	return errors.Join(err, z.Close())
}

// windowSize is what a reader of the log needs as memory, in bytes.
const windowSize = 1 << 20
