// Package ledger keeps the coordinator's truth on disk: builds, their events,
// measured durations, and what was learnt of machines. It is a Pebble database in
// a folder, and the only package that imports Pebble.
//
// # Changes
//
// All changes go through [Ledger.Apply]: any number of them, made together or not
// at all. Callers encode their records themselves; one goroutine puts what came
// from all of them meanwhile into one batch, and one fsync makes it durable. So a
// change costs its share of a disk write, and order is what Apply's callers saw.
// A caller that asks for a durable change gets an answer when it is on disk. Other
// changes are visible at once and on disk after the next durable one or, at the
// latest, after SyncDelay. A crash loses none but the last of those, and never a
// change without all that came after it.
//
// # Events
//
// Each change of a build's state or attempt appends an event. Events are numbered
// from 1, and [Ledger.Events] follows them from any number. No number is missing but
// those of events that [Ledger.Prune] has removed, and it says up to which there may
// be such gaps. After a crash the numbers of events that were not durable are given
// out again.
//
// # Keys
//
// Numbers are 8 bytes, big-endian. Builds are numbered in the order of their first
// appearance, so that a listing by time is one scan. A chunk is 128 builds with
// successive numbers: their numbers divided by 128.
//
//	key                         value
//	'm' NAME                    the ledger itself: 'm' "format" is the version of this scheme,
//	                            'm' "changes" how many changes there were; see acknowledged.go
//	'b' number                  build: its record, JSON
//	'n' id                      build: number, state (1 byte), attempt (4 bytes), and what its
//	                            indexes depend on: see head
//	'i' term chunk              index of builds by a term: builds of the chunk that have it
//	'w' name NUL chunk          index of builds by the derivation's name: the same
//	't' chunk                   when builds of the chunk were submitted: the first and the last time
//	'y' system                  there are, or were, builds for it; empty
//	'e' event                   time (Unix, ns, 8 bytes), and the event without number and time, JSON
//	'h' number event            index of events by build, 0 for those of none; empty
//	'd' system NUL name         the last measured durations, JSON, most recent first
//	'k' machine                 what was learnt of a machine, JSON
//	'o' name                    a setting: what an operator decided, or a reader noted; JSON
//
// # Indexes
//
// A term is the hash of a property that a build may share with others: its state,
// system, machine, derivation, its name up to the first dash, an output, a tag, or a tag
// with its value; one is that of all builds. What an
// index has of a chunk is a list of bytes, one for each build that has come or gone:
// its place in the chunk, and the highest bit if it has gone. Writing such a byte
// needs no reading, and Pebble joins the lists later (see merger). A build costs
// about a byte in the index of a term that most builds have, and an entry of its own
// in that of its derivation. A listing goes through the indexes of all that its filter
// asks for at the same time, chunk by chunk, and skips what is missing in one of
// them: a million builds are some 8,000 steps, even if nothing is found.
//
// # Formats
//
// Format 1 had an index of states alone. A ledger of that format is brought to the
// present one when it is opened, which goes on where it was if it is interrupted.
//
// # Failure
//
// When the disk is nearly full, changes are refused with ErrDiskFull and the ledger
// stays usable. When a write fails, nobody knows what is on disk and what is not:
// the ledger then fails for good, every call returns that error, and only opening
// it again, in a new process, finds out.
package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"lighter/internal/api"
)

// ErrNotFound is matched by the error of a question about a build that the ledger
// does not have.
var ErrNotFound = errors.New("no such build")

// ErrExists is matched by the error of creating a build that is there already.
var ErrExists = errors.New("the build exists already")

// ErrDiskFull is matched by the error of a change for which there is no room. The
// ledger stays usable, and takes changes again when there is room again.
var ErrDiskFull = errors.New("the disk is full")

// ErrTooLarge is matched by the error of changes that are more than can be made at once.
var ErrTooLarge = errors.New("too much at once")

// ErrClosed is matched by the errors of a closed ledger.
var ErrClosed = errors.New("the ledger is closed")

// ErrFailed is matched by the errors of a ledger that a failed write has made
// unusable. What was acknowledged as durable is safe.
var ErrFailed = errors.New("the ledger has failed")

// InUseError is the error of opening a ledger that a process has open.
type InUseError struct {
	Dir string
	PID int // of that process; 0 if not known
}

func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("open ledger %s: in use by another process", e.Dir)
	}
	return fmt.Sprintf("open ledger %s: in use by the process with PID %d", e.Dir, e.PID)
}

// Options are the choices of Open. The zero value is good.
type Options struct {
	// Logger gets Pebble's own words, at debug level, and what goes wrong in the
	// background. nil discards them.
	Logger *slog.Logger
	// CacheSize bounds the memory for blocks and unwritten tables, in bytes; 0 is
	// 32 MiB.
	CacheSize int64
	// MinFree is how much of the disk stays free, in bytes: below it changes are
	// refused with ErrDiskFull. 0 is 64 MiB, negative is none.
	MinFree int64
	// SyncDelay bounds how long a change that was not asked to be durable waits
	// for its fsync; 0 is 200 ms.
	SyncDelay time.Duration
	// Now is the clock for events; nil is time.Now.
	Now func() time.Time
	// FS is the file system; nil is the real one. Tests have disks that fail.
	FS vfs.FS
	// AcceptLoss opens a ledger although acknowledged changes are missing, where Open
	// otherwise gives a *MissingError, and recounts.
	AcceptLoss bool

	memTable uint64        // for tests: the size of the tables in memory, in bytes; 0 is memTableSize
	migrated func(*Ledger) // for tests: called after each step of a migration, if not nil
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CacheSize == 0 {
		o.CacheSize = 32 << 20
	}
	if o.MinFree == 0 {
		o.MinFree = 64 << 20
	}
	if o.SyncDelay == 0 {
		o.SyncDelay = 200 * time.Millisecond
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.memTable == 0 {
		o.memTable = memTableSize
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	return o
}

// format is the version of the key scheme. A ledger with a newer one is refused.
const format = 2

// memTableSize is small, since two or three of them are in memory and recovery
// reads as much.
const memTableSize = 4 << 20

// Ledger is an open ledger. All methods may be called from several goroutines at
// the same time.
type Ledger struct {
	dir  string
	opts Options
	lock *pebble.Lock
	db   *pebble.DB

	// use is held for reading while db is used, and for writing by Close.
	use    sync.RWMutex
	closed bool // guarded by use

	// What follows belongs to the writing goroutine; see writer.go.
	numbers uint64          // the last build's
	events  uint64          // the last event's
	changes uint64          // that were made so far
	counter *counter        // of what was acknowledged
	synced  time.Time       // when what is written but not synced must be; zero if all is
	systems map[string]bool // that have a 'y' key

	mu      sync.Mutex
	queue   []*request       // for the writing goroutine; guarded by mu
	ended   bool             // nothing more goes into queue; guarded by mu
	last    uint64           // the last event that readers see; guarded by mu
	removed watermark        // guarded by mu
	counts  map[countKey]int // of builds; guarded by mu
	changed chan struct{}    // closed and made again when last changes; guarded by mu

	sampling sync.Mutex
	samples  map[string][]Sample // of packages asked for lately; guarded by sampling, the slices don't change

	pruning sync.Mutex // held by Prune

	wake    chan struct{} // holds a token when queue is not empty
	closing chan struct{} // closed by Close
	written chan struct{} // closed when the writing goroutine has ended

	aside aside // records that can't be used

	failure  atomic.Pointer[error]
	failOnce sync.Once
	failed   chan struct{} // closed once failure is set
}

// Open opens the ledger in a folder, which is made if it isn't there. A ledger that
// is open elsewhere gives an *InUseError, and one that lacks what was acknowledged a
// *MissingError. The ledger must be closed.
func Open(dir string, opts Options) (_ *Ledger, err error) {
	l := newLedger(dir, opts)
	if err := l.opts.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", dir, err)
	}
	if l.lock, err = takeLock(dir, l.opts.FS); err != nil {
		return nil, err
	}
	if err := l.await(l.openDB); err != nil {
		if l.Err() == nil {
			var missing *MissingError
			if !errors.As(err, &missing) { // which says so itself
				err = fmt.Errorf("open ledger %s: %w", dir, err)
			}
			err = errors.Join(err, l.unlock())
		}
		return nil, err
	}
	go l.write()
	return l, nil
}

func newLedger(dir string, opts Options) *Ledger {
	return &Ledger{
		dir:     dir,
		opts:    opts.withDefaults(),
		systems: make(map[string]bool),
		counts:  make(map[countKey]int),
		samples: make(map[string][]Sample),
		changed: make(chan struct{}),
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		written: make(chan struct{}),
		failed:  make(chan struct{}),
	}
}

// await runs what may write, outside of the writing goroutine. If a write fails, fn
// does not come back (see haltFS) and is abandoned.
func (l *Ledger) await(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-l.failed:
		return l.Err()
	}
}

// takeLock locks the folder and leaves this process's number there for others.
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
func (l *Ledger) unlock() error {
	return errors.Join(l.opts.FS.Remove(l.opts.FS.PathJoin(l.dir, "PID")), l.lock.Close())
}

func readPID(fs vfs.FS, file string) int {
	f, err := fs.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
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

func (l *Ledger) pebbleOptions() *pebble.Options {
	opts := &pebble.Options{
		FS:                          &haltFS{FS: l.opts.FS, report: l.fail},
		Lock:                        l.lock,
		CacheSize:                   l.opts.CacheSize,
		MemTableSize:                l.opts.memTable,
		MemTableStopWritesThreshold: 3,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		MaxOpenFiles:                256,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		FormatMajorVersion:          pebble.FormatValueSeparation,
		Merger:                      merger,
		Logger:                      pebbleLogger{l},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { l.opts.Logger.Warn("ledger: background write", "err", err) },
			DataCorruption:  func(info pebble.DataCorruptionInfo) { l.fail(fmt.Errorf("corrupt: %s", info)) },
		},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return opts
}

// openDB opens the database and reads what is kept in memory.
func (l *Ledger) openDB() error {
	db, err := pebble.Open(l.dir, l.pebbleOptions())
	if err != nil {
		return err
	}
	l.db = db
	if err := l.load(); err != nil {
		return errors.Join(err, db.Close())
	}
	return nil
}

// countKey is what builds are counted by.
type countKey struct {
	system string
	state  api.State
}

// watermark says how far numbers were given out to what is not there any more.
type watermark struct {
	event uint64 // up to here events may be missing
	build uint64
}

func (w watermark) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, w.event), w.build)
}

func (l *Ledger) watermark() watermark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.removed
}

func (l *Ledger) setWatermark(w watermark) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removed = w
}

// load reads what the writing goroutine keeps in memory, makes a new ledger's first
// entry, and brings an old ledger to the present format.
func (l *Ledger) load() error {
	if err := l.checkFormat(); err != nil {
		return err
	}
	found, err := l.readChanges()
	isKnown := err == nil
	if isRecordError(err) {
		l.setAside(err)
	} else if err != nil {
		return err
	}
	l.changes = found.Changes
	if err := l.migrate(); err != nil {
		return err
	}
	if err := l.readNumbers(&found); err != nil {
		return err
	}
	if err := l.checkAcknowledged(found, isKnown); err != nil {
		return err
	}
	l.numbers, l.events = max(l.numbers, l.removed.build), max(l.events, l.removed.event)
	l.last = l.events
	if err := l.loadCounts(); err != nil {
		return err
	}
	return l.counter.start(l.tally(found.Time))
}

// tally is how far the writing goroutine has come.
func (l *Ledger) tally(now time.Time) Tally {
	return Tally{Changes: l.changes, Event: l.events, Build: l.numbers, Time: now}
}

// readNumbers reads which numbers were given out.
func (l *Ledger) readNumbers(found *Tally) (err error) {
	l.removed, err = l.readWatermark(l.db)
	unknown := isRecordError(err)
	if unknown {
		l.setAside(err)
	} else if err != nil {
		return err
	}
	if l.numbers, err = l.lastNumber(keyBuild(0)[:1]); err != nil {
		return err
	}
	if l.events, err = l.lastNumber(keyEvent(0)[:1]); err != nil {
		return err
	}
	if unknown {
		l.removed = watermark{l.events, l.numbers} // anything may have been
	}
	found.Event, found.Build = max(l.events, l.removed.event), max(l.numbers, l.removed.build)
	return nil
}

func (l *Ledger) readWatermark(r pebble.Reader) (watermark, error) {
	value, err := l.get(r, keyMeta("removed"))
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return watermark{}, nil
	case err != nil:
		return watermark{}, err
	case len(value) != 16:
		return watermark{}, unusable(fmt.Errorf("corrupt entry: %x", value), "the note of what was removed")
	}
	return watermark{binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[8:])}, nil
}

// loadCounts counts builds by the indexes of states and systems.
func (l *Ledger) loadCounts() error {
	states := make(map[api.State]map[int64]mask)
	for code, t := range codeTerms {
		chunks := make(map[int64]mask)
		states[codeStates[code]] = chunks
		if err := l.scanChunks(t, func(chunk int64, m mask) { chunks[chunk] = m }); err != nil {
			return err
		}
	}
	return l.scan([]byte{prefixSystem}, func(key, _ []byte) error {
		system := string(key[1:])
		if err := validName("system", system, api.MaxName); err != nil {
			l.setAside(unusable(err, "entry %q", key))
			return nil
		}
		l.systems[system] = true
		return l.scanChunks(systemTerm(system), func(chunk int64, m mask) {
			for state, chunks := range states {
				if n := m.and(chunks[chunk]).count(); n > 0 {
					l.counts[countKey{system, state}] += n
				}
			}
		})
	})
}

// scanChunks calls fn for each chunk that has builds with a term.
func (l *Ledger) scanChunks(t term, fn func(int64, mask)) error {
	prefix := termPrefix(t)
	return l.scan(prefix, func(key, value []byte) error {
		chunk, err := keyChunk(key, len(prefix))
		if err != nil {
			l.setAside(err)
		} else if m := decodeMask(value); !m.empty() {
			fn(chunk, m)
		}
		return nil
	})
}

// checkFormat refuses a ledger of a newer format, gives a new one its format, and
// notes that one of an older format must be migrated.
func (l *Ledger) checkFormat() error {
	now := []byte(strconv.Itoa(format))
	switch found, err := l.formatOf(); {
	case errors.Is(err, pebble.ErrNotFound):
		return l.db.Set(keyMeta("format"), now, pebble.Sync)
	case err != nil || found == format:
		return err
	}
	// From here on an older lighter refuses it.
	b := l.db.NewBatch()
	err := errors.Join(b.Set(keyMeta("format"), now, nil), b.Set(keyMigration, progress{}.encode(), nil))
	return errors.Join(err, b.Commit(pebble.Sync), b.Close())
}

// maxNumber bounds numbers of builds and events: there is room for as many again, and no
// sum of them overflows.
const maxNumber = 1 << 62

// formatOf returns a format up to the present one, or pebble.ErrNotFound for a new ledger.
func (l *Ledger) formatOf() (int, error) {
	value, err := l.get(l.db, keyMeta("format"))
	if err != nil {
		return 0, err
	}
	found, err := strconv.Atoi(string(value))
	switch {
	case err != nil || found < 1:
		return 0, fmt.Errorf("its format is %q, which is not one", value)
	case found > format:
		return 0, fmt.Errorf("its format is %d, and this lighter knows formats up to %d: a newer lighter made it", found, format)
	}
	return found, nil
}

// lastNumber returns the number in the last key with a prefix of one byte.
func (l *Ledger) lastNumber(prefix []byte) (number uint64, err error) {
	iter, err := l.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
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
		l.setAside(corrupt(iter.Key()))
	}
	return 0, iter.Error()
}

// get returns a copy of a value, or pebble.ErrNotFound.
func (l *Ledger) get(r pebble.Reader, key []byte) ([]byte, error) {
	value, closer, err := r.Get(key)
	if err != nil {
		return nil, err
	}
	clone := append([]byte(nil), value...)
	return clone, closer.Close()
}

// scan calls fn for each key with a prefix, in order.
func (l *Ledger) scan(prefix []byte, fn func(key, value []byte) error) error {
	return scanFrom(l.db, prefix, fn)
}

func scanFrom(r pebble.Reader, prefix []byte, fn func(key, value []byte) error) (err error) {
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

// fail makes the ledger unusable. It may be called from anywhere.
func (l *Ledger) fail(err error) {
	l.failOnce.Do(func() {
		err = fmt.Errorf("ledger %s: %w: %w", l.dir, ErrFailed, err)
		l.failure.Store(&err)
		close(l.failed)
		l.opts.Logger.Error("the ledger has failed; start again", "err", err)
	})
}

// Err returns why the ledger has failed, or nil. Failed is closed then.
func (l *Ledger) Err() error {
	if err := l.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Failed returns a channel that is closed when the ledger has failed for good.
func (l *Ledger) Failed() <-chan struct{} { return l.failed }

// begin must come before each use of db; end after it.
func (l *Ledger) begin() error {
	if err := l.Err(); err != nil {
		return err
	}
	l.use.RLock()
	if l.closed {
		l.use.RUnlock()
		return fmt.Errorf("ledger %s: %w", l.dir, ErrClosed)
	}
	return nil
}

func (l *Ledger) end() { l.use.RUnlock() }

// Close ends followers, makes everything durable and closes the ledger. Changes
// under way are completed first. A ledger that has failed is abandoned: Close
// returns the failure, and the files stay locked until the process ends.
func (l *Ledger) Close() error {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return nil
	}
	l.ended = true
	l.mu.Unlock()
	close(l.closing)
	select {
	case <-l.written:
	case <-l.failed:
	}
	if err := l.Err(); err != nil {
		return err
	}
	l.use.Lock()
	defer l.use.Unlock()
	l.closed = true
	err := l.await(func() error { return errors.Join(l.counter.close(), l.db.Close()) })
	if l.Err() != nil {
		return err
	}
	if err = errors.Join(err, l.unlock()); err != nil {
		return fmt.Errorf("close ledger %s: %w", l.dir, err)
	}
	return nil
}

// pebbleLogger hands Pebble's messages to slog, at debug level.
type pebbleLogger struct{ l *Ledger }

func (p pebbleLogger) Infof(text string, args ...any) {
	p.l.opts.Logger.Debug("pebble: " + fmt.Sprintf(text, args...))
}

func (p pebbleLogger) Errorf(text string, args ...any) {
	p.l.opts.Logger.Debug("pebble: "+fmt.Sprintf(text, args...), "severity", "error")
}

// Fatalf is what Pebble calls when it cannot go on, after which no line of it may
// run. As its writes do not fail (see haltFS), that is a broken invariant.
func (p pebbleLogger) Fatalf(text string, args ...any) {
	message := "pebble: " + fmt.Sprintf(text, args...)
	p.l.fail(errors.New(message))
	panic(message)
}
