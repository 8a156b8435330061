package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// database is Pebble's, with what every part of the ledger needs to use it.
type database struct {
	*pebble.DB // nil until it is open
	dir        string
	opts       Options
	lock       *pebble.Lock

	// use is held for reading while DB is used, and for writing by Close.
	use     sync.RWMutex
	closed  bool          // guarded by use
	closing chan struct{} // closed by Close, before all else

	aside aside // records that can't be used

	failure  atomic.Pointer[error]
	failOnce sync.Once
	failed   chan struct{} // closed once failure is set
}

// takeLock locks the folder and writes this process's PID there for others.
func takeLock(dir string, fs vfs.FS) (*pebble.Lock, error) {
	lock, err := pebble.LockDirectory(dir, fs)
	file := fs.PathJoin(dir, "PID")
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) || strings.Contains(err.Error(), "lock held") {
			return nil, &InUseError{Dir: dir, PID: readPID(fs, file)}
		}
		return nil, fmt.Errorf("open ledger %s: lock: %w", dir, err)
	}
	if err := writePID(fs, file); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger %s: %w", dir, err), lock.Close())
	}
	return lock, nil
}

// unlock gives the folder back.
func (db *database) unlock() error {
	return errors.Join(db.opts.FS.Remove(db.opts.FS.PathJoin(db.dir, "PID")), db.lock.Close())
}

func readPID(fs vfs.FS, file string) int {
	f, err := fs.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 32))
	pid, notANumber := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || notANumber != nil {
		return 0
	}
	return pid
}

func writePID(fs vfs.FS, file string) error {
	f, err := fs.Create(file, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(strconv.Itoa(os.Getpid()) + "\n"))
	return errors.Join(err, f.Close())
}

func (db *database) open(readOnly bool) (err error) {
	options := db.pebbleOptions()
	options.ReadOnly = readOnly
	db.DB, err = pebble.Open(db.dir, options)
	return err
}

func (db *database) pebbleOptions() *pebble.Options {
	opts := &pebble.Options{
		FS:                          &haltFS{FS: db.opts.FS, report: db.fail},
		Lock:                        db.lock,
		CacheSize:                   db.opts.CacheSize,
		MemTableSize:                db.opts.memTable,
		MemTableStopWritesThreshold: 3,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		MaxOpenFiles:                256,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		FormatMajorVersion:          pebble.FormatValueSeparation,
		Merger:                      merger,
		Logger:                      pebbleLogger{db},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { db.opts.Logger.Warn("ledger: background write", "err", err) },
			DataCorruption:  func(info pebble.DataCorruptionInfo) { db.fail(fmt.Errorf("corrupt: %s", info)) },
		},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return opts
}

// begin must come before each use of DB; end after it, if there was no error.
func (db *database) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := db.err(); err != nil {
		return err
	}
	db.use.RLock()
	if db.closed {
		db.use.RUnlock()
		return fmt.Errorf("ledger %s: %w", db.dir, ErrClosed)
	}
	return nil
}

func (db *database) end() { db.use.RUnlock() }

// await runs fn, which may write, outside the writing goroutine. If a write fails, fn does
// not return (see haltFS) and is abandoned.
func (db *database) await(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-db.failed:
		return db.err()
	}
}

// fail makes the ledger unusable. It may be called from anywhere.
func (db *database) fail(err error) {
	db.failOnce.Do(func() {
		err = fmt.Errorf("ledger %s: %w: %w", db.dir, ErrFailed, err)
		db.failure.Store(&err)
		close(db.failed)
		db.opts.Logger.Error("the ledger has failed; start again", "err", err)
	})
}

func (db *database) err() error {
	if err := db.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// maxNumber bounds numbers of builds and events found in a database, so that as many more
// fit, and no sum overflows.
const maxNumber = 1 << 62

// lastNumber returns the number in the last key with a prefix of one byte.
func (db *database) lastNumber(prefix []byte) (number uint64, err error) {
	iter, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for ok := iter.Last(); ok; ok = iter.Prev() {
		if len(iter.Key()) == 9 {
			if number := binary.BigEndian.Uint64(iter.Key()[1:]); number <= maxNumber {
				return number, nil
			}
		}
		db.setAside(corrupt(iter.Key()))
	}
	return 0, iter.Error()
}

// get returns a copy of a value, or pebble.ErrNotFound.
func get(r pebble.Reader, key []byte) ([]byte, error) {
	value, closer, err := r.Get(key)
	if err != nil {
		return nil, err
	}
	clone := append([]byte(nil), value...)
	return clone, closer.Close()
}

// scan calls fn for each key with a prefix, in order.
func scan(r pebble.Reader, prefix []byte, fn func(key, value []byte) error) (err error) {
	iter, err := r.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for iter.First(); iter.Valid(); iter.Next() {
		value, err := iter.ValueAndErr()
		if err != nil {
			return err
		}
		if err := fn(iter.Key(), value); err != nil {
			return err
		}
	}
	return iter.Error()
}

// pebbleLogger hands Pebble's messages to slog, at debug level.
type pebbleLogger struct{ db *database }

func (p pebbleLogger) Infof(text string, args ...any) {
	p.db.opts.Logger.Debug("pebble: " + fmt.Sprintf(text, args...))
}

func (p pebbleLogger) Errorf(text string, args ...any) {
	p.db.opts.Logger.Debug("pebble: "+fmt.Sprintf(text, args...), "severity", "error")
}

// Fatalf is what Pebble calls when it cannot go on; no line of it may run afterwards. Since
// its writes do not fail (see haltFS), this is a broken invariant.
func (p pebbleLogger) Fatalf(text string, args ...any) {
	message := "pebble: " + fmt.Sprintf(text, args...)
	p.db.fail(errors.New(message))
	panic(message)
}
