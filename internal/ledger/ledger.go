// Package ledger keeps the coordinator's truth on disk: builds, their events,
// measured durations, what was learnt about machines, and how the farm was over time. It is a Pebble database in
// a folder, and the only package that imports Pebble.
//
// # Changes
//
// All changes go through [Ledger.Apply]: any number of them, made together or not
// at all. Each caller's goroutine encodes its records; one goroutine puts what has come
// from all callers into one batch, and one fsync makes it durable. So a change costs its
// share of a disk write, and the order is the one that Apply's callers saw.
// A caller that asks for a durable change gets an answer when it is on disk. Other
// changes are visible at once, and on disk after the next durable one or, at the
// latest, after SyncDelay. A crash loses only the last of those, and never a change
// without all that came after it.
//
// # Events
//
// Each change of a build's state or attempt appends an event. Events are numbered
// from 1, and [Ledger.Events] follows them from any number. The only numbers missing are
// those of events that [Ledger.Prune] has removed; the ledger notes up to where there may
// be such gaps. After a crash the numbers of events that were not durable are given
// out again.
//
// # Keys
//
// Numbers are 8 bytes, big-endian. Builds are numbered as they first appear, so that a
// listing by time is one scan. A chunk is 128 builds with successive numbers; its own
// number is theirs divided by 128.
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
//	'p' system NUL kind NUL name  what was measured of the last builds of a package, JSON; see estimate.Key
//	'c' kind NUL build-system   what was measured of all builds of a class, JSON; without one, of a kind
//	'k' machine                 what was learnt about a machine, JSON
//	'u' hour                    how the farm was in an hour, by its number since 1970; see package history
//	'o' name                    a setting: what an operator decided, or a reader noted; JSON
//
// # Indexes
//
// A term is the hash of a property that a build may share with others: its state,
// system, machine, derivation, its name up to the first dash, an output, a tag, or a tag
// with its value; all builds have one in common. For a chunk, an index has a list of
// bytes, one for each build that has come or gone: its place in the chunk, and the
// highest bit if it has gone. Writing such a byte takes no reading; Pebble joins the
// lists later (see merger). A build costs about a byte in the index of a term that most
// builds have, and an entry of its own in that of its derivation. A listing goes through
// the indexes for all parts of its filter at the same time, chunk by chunk, and skips
// what is missing in one of them: a million builds are some 8,000 steps, even if nothing
// is found.
//
// # Formats
//
// Format 1 only had an index of states; up to format 2, builds that failed because of others were
// "failed"; up to format 3 only the time that builds took was measured, under 'd' system NUL name, where
// a package, its source and the modules of its build had one name. 'u' came later, and made no format of its own: who
// doesn't know such entries leaves them alone. Opening a ledger of an older format brings it to the present one; if that is
// interrupted, the next opening goes on from there.
//
// # Failure
//
// When the disk is nearly full, changes are refused with ErrDiskFull, and the ledger
// stays usable. When a write fails, nobody knows what is on disk and what is not: then
// the ledger fails for good, every call returns that error, and only opening it again, in
// a new process, finds out.
package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"lighter/internal/api"
	"lighter/scheduler/estimate"
)

// ErrNotFound is matched by the error of asking for a build that the ledger does not have.
var ErrNotFound = errors.New("no such build")

// ErrExists is matched by the error of creating a build that already exists.
var ErrExists = errors.New("the build exists already")

// ErrDiskFull is matched by the error of a change for which there is no room. The
// ledger stays usable, and accepts changes as soon as there is room.
var ErrDiskFull = errors.New("the disk is full")

// ErrTooLarge is matched by the error of more changes than can be made at once.
var ErrTooLarge = errors.New("too much at once")

// ErrClosed is matched by the errors of a closed ledger.
var ErrClosed = errors.New("the ledger is closed")

// ErrFailed is matched by the errors of a ledger that a failed write has made
// unusable. What was acknowledged as durable is safe.
var ErrFailed = errors.New("the ledger has failed")

// InUseError is the error of opening a ledger that a process has open.
type InUseError struct {
	Dir string
	PID int // of that process; 0 if unknown
}

func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("open ledger %s: in use by another process", e.Dir)
	}
	return fmt.Sprintf("open ledger %s: in use by the process with PID %d", e.Dir, e.PID)
}

// Options are the options of Open. The zero value is good.
type Options struct {
	// Logger gets Pebble's own messages, at debug level, and what goes wrong in the
	// background. nil discards both.
	Logger *slog.Logger
	// CacheSize bounds the memory for blocks and unwritten tables, in bytes; 0 is
	// 32 MiB.
	CacheSize int64
	// MinFree is how much of the disk stays free, in bytes: if less is free, changes are
	// refused with ErrDiskFull. 0 is 64 MiB, negative is none.
	MinFree int64
	// SyncDelay bounds how long a change that need not be durable waits for its
	// fsync; 0 is 200 ms.
	SyncDelay time.Duration
	// Now is the clock for events; nil is time.Now.
	Now func() time.Time
	// FS is the file system; nil is the real one. Tests have disks that fail.
	FS vfs.FS
	// AcceptLoss opens a ledger even if acknowledged changes are missing, for which Open
	// otherwise gives a *MissingError, and counts anew.
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
const format = 4

// memTableSize is small, since two or three such tables are in memory and recovery
// reads as much.
const memTableSize = 4 << 20

// Ledger is an open ledger. All methods may be called from several goroutines at
// the same time.
type Ledger struct {
	db        *database
	published *published
	samples   *samples
	writer    *writer
	pruning   sync.Mutex // held by Prune
}

// Open opens the ledger in a folder, which is made if need be. A ledger that is open
// elsewhere gives an *InUseError, and one that lacks acknowledged changes a
// *MissingError. The caller must close the ledger.
func Open(dir string, opts Options) (_ *Ledger, err error) {
	l := newLedger(dir, opts)
	if err := l.db.opts.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", dir, err)
	}
	if l.db.lock, err = takeLock(dir, l.db.opts.FS); err != nil {
		return nil, err
	}
	if err := l.db.await(l.openDB); err != nil {
		if l.db.err() == nil {
			var missing *MissingError
			if !errors.As(err, &missing) { // which says it itself
				err = fmt.Errorf("open ledger %s: %w", dir, err)
			}
			err = errors.Join(err, l.db.unlock())
		}
		return nil, err
	}
	go l.writer.write()
	return l, nil
}

func newLedger(dir string, opts Options) *Ledger {
	db := &database{dir: dir, opts: opts.withDefaults(), closing: make(chan struct{}), failed: make(chan struct{})}
	p := &published{counts: make(map[countKey]int), changed: make(chan struct{})}
	s := &samples{db: db, known: make(map[string]*Samples), systems: make(map[string]bool), classes: make(map[string]*estimate.Class)}
	w := &writer{
		db: db, published: p, samples: s, systems: make(map[string]bool),
		wake: make(chan struct{}, 1), written: make(chan struct{}),
	}
	return &Ledger{db: db, published: p, samples: s, writer: w}
}

// openDB opens the database and reads what is kept in memory.
func (l *Ledger) openDB() error {
	if err := l.db.open(false); err != nil {
		return err
	}
	if err := l.load(); err != nil {
		return errors.Join(err, l.db.Close())
	}
	return nil
}

// load reads what the writing goroutine keeps in memory, makes a new ledger's first
// entry, and brings an old ledger to the present format.
func (l *Ledger) load() error {
	if err := l.checkFormat(); err != nil {
		return err
	}
	found, err := readChanges(l.db)
	isKnown := err == nil
	if isRecordError(err) {
		l.db.setAside(err)
	} else if err != nil {
		return err
	}
	p, w := l.published, l.writer
	w.changes = found.Changes
	if err := l.migrate(); err != nil {
		return err
	}
	if err := l.readNumbers(&found); err != nil {
		return err
	}
	if err := l.checkAcknowledged(found, isKnown); err != nil {
		return err
	}
	w.numbers, w.events = max(w.numbers, p.removed.build), max(w.events, p.removed.event)
	p.last = w.events
	if err := l.loadCounts(); err != nil {
		return err
	}
	if err := l.samples.load(); err != nil {
		return err
	}
	return w.counter.start(w.tally(found.Time))
}

// readNumbers reads which numbers were given out.
func (l *Ledger) readNumbers(found *Tally) (err error) {
	p, w := l.published, l.writer
	p.removed, err = readWatermark(l.db)
	unknown := isRecordError(err)
	if unknown {
		l.db.setAside(err)
	} else if err != nil {
		return err
	}
	if w.numbers, err = l.db.lastNumber(keyBuild(0)[:1]); err != nil {
		return err
	}
	if w.events, err = l.db.lastNumber(keyEvent(0)[:1]); err != nil {
		return err
	}
	if unknown {
		p.removed = watermark{w.events, w.numbers} // any may have been removed
	}
	found.Event, found.Build = max(w.events, p.removed.event), max(w.numbers, p.removed.build)
	return nil
}

func readWatermark(r pebble.Reader) (watermark, error) {
	value, err := get(r, keyMeta("removed"))
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
	return scan(l.db, []byte{prefixSystem}, func(key, _ []byte) error {
		system := string(key[1:])
		if err := validName("system", system, api.MaxName); err != nil {
			l.db.setAside(unusable(err, "entry %q", key))
			return nil
		}
		l.writer.systems[system] = true
		return l.scanChunks(systemTerm(system), func(chunk int64, m mask) {
			for state, chunks := range states {
				if n := m.and(chunks[chunk]).count(); n > 0 {
					l.published.counts[countKey{system, state}] += n
				}
			}
		})
	})
}

// scanChunks calls fn for each chunk that has builds with a term.
func (l *Ledger) scanChunks(t term, fn func(int64, mask)) error {
	prefix := termPrefix(t)
	return scan(l.db, prefix, func(key, value []byte) error {
		chunk, err := keyChunk(key, len(prefix))
		if err != nil {
			l.db.setAside(err)
		} else if m := decodeMask(value); !m.empty() {
			fn(chunk, m)
		}
		return nil
	})
}

// checkFormat refuses a ledger of a newer format, notes the format of a new one, and
// that one of an older format must be migrated.
func (l *Ledger) checkFormat() error {
	now := []byte(strconv.Itoa(format))
	found, err := formatOf(l.db)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return l.db.Set(keyMeta("format"), now, pebble.Sync)
	case err != nil || found == format:
		return err
	}
	// From here on older lighters refuse it.
	b := l.db.NewBatch()
	err = b.Set(keyMeta("format"), now, nil)
	switch _, interrupted := get(l.db, keyMigration); {
	case found < 3:
		err = errors.Join(err, b.Set(keyMigration, progress{}.encode(), nil))
	case errors.Is(interrupted, pebble.ErrNotFound):
		err = errors.Join(err, b.Set(keyMigration, samplesOnly, nil))
	case interrupted != nil:
		err = errors.Join(err, interrupted)
	}
	return errors.Join(err, b.Commit(pebble.Sync), b.Close())
}

// formatOf returns the format, up to the present one, or pebble.ErrNotFound for a new ledger.
func formatOf(r pebble.Reader) (int, error) {
	value, err := get(r, keyMeta("format"))
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

// Err returns why the ledger has failed, or nil if it has not.
func (l *Ledger) Err() error { return l.db.err() }

// Failed returns a channel that is closed when the ledger has failed for good.
func (l *Ledger) Failed() <-chan struct{} { return l.db.failed }

// Close ends followers, completes the changes under way, makes everything durable, and
// closes the ledger. A ledger that has failed is abandoned: Close returns the failure,
// and the files stay locked until the process ends.
func (l *Ledger) Close() error {
	if !l.writer.closeQueue() {
		return nil
	}
	close(l.db.closing)
	select {
	case <-l.writer.written:
	case <-l.db.failed:
	}
	if err := l.db.err(); err != nil {
		return err
	}
	l.db.use.Lock()
	defer l.db.use.Unlock()
	l.db.closed = true
	err := l.db.await(func() error { return errors.Join(l.writer.counter.close(), l.db.Close()) })
	if l.db.err() != nil {
		return err
	}
	if err = errors.Join(err, l.db.unlock()); err != nil {
		return fmt.Errorf("close ledger %s: %w", l.db.dir, err)
	}
	return nil
}

// DiskUsage returns how many bytes the ledger takes on the disk, including what Pebble will
// compact away; 0 once the ledger is closed.
func (l *Ledger) DiskUsage() int64 {
	if l.db.begin(context.Background()) != nil {
		return 0
	}
	defer l.db.end()
	return int64(min(l.db.Metrics().DiskSpaceUsage(), 1<<62))
}
