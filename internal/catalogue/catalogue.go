// Package catalogue keeps revisions: which packages a commit of a branch has, and which
// derivations they have for each system and target. It is a Pebble database of its own in a folder,
// which one process has open. [Catalogue.Record] adds a revision, [Catalogue.Drop] removes the
// oldest ones of a branch, and a [View] reads; it evaluates nothing and knows no builds.
//
// # Spans
//
// From one revision of a branch to the next, some hundreds of a hundred thousand derivations change.
// So nothing is stored by revision. The revisions of a branch have numbers, from 1, in the order in
// which they were recorded, and what a package is, or which derivation there is, has a span: the number of the
// first revision that has it, in its key, and that of the first one that no longer has it, in its value. Recording a
// revision compares it with the one before: it ends the spans of what is gone, begins those of
// what is new, and writes nothing about all else. A page of a revision is a scan in the order of
// the keys that passes over what is of other revisions; as most spans live long, those are few. There is no chain
// of differences that must be followed, so that each revision is read as fast as any other.
//
// A revision is recorded in one batch, with its own record. So readers, who look at a snapshot,
// and whoever opens the catalogue after a crash, find all of it or nothing.
//
// # Keys
//
// Numbers are big-endian, those of revisions 8 bytes long, those of repositories and branches 4.
//
//	key                                          value
//	'm' NAME                                     the catalogue itself: 'm' "format", 'm' "identity" (16 random bytes),
//	                                             'm' "changes" (how many changes there were)
//	'r' repository                               its label and URL, JSON
//	'b' branch                                   its repository, its name, its last number, JSON
//	's' branch number                            revision: commit, date, counts, JSON
//	'c' commit NUL branch                        the number of the revision; of the last, if it was recorded again
//	'n' branch name NUL version NUL first        package: end, hash of its text, location, its derivations with their
//	                                             outputs by system and target, errors
//	'd' branch derivation NUL first              derivation: end, name, version, system, target
//	't' hash                                     text: synopsis, description, home page, licenses, JSON
//
// Packages are kept by name and version. Where a revision has several with the same ones, they are one
// package with several derivations, and what is said of it is what the first by location says,
// of those that replace no other. Texts are kept apart and once, because locations change with each line that is added to
// a file. A derivation that two packages claim is the first one's in the listing of derivations; each package lists it.
package catalogue

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrNotFound is matched by the errors of asking for what the catalogue does not have.
var ErrNotFound = errors.New("not in the catalogue")

// ErrDiskFull is matched by the error of recording a revision for which there is no room. The
// catalogue stays usable.
var ErrDiskFull = errors.New("the disk is full")

// ErrClosed is matched by the errors of a closed catalogue.
var ErrClosed = errors.New("the catalogue is closed")

// ErrInvalid is matched by the errors of recording what can't be a revision.
var ErrInvalid = errors.New("not a revision")

// Limits of what a catalogue takes.
const (
	maxRepositories = 1000
	maxBranches     = 10_000
	maxWord         = 255       // bytes of a name, a version, a system, a target, a label, a branch
	maxURL          = 2 << 10   // bytes
	maxText         = 64 << 10  // bytes of a description; longer ones are cut
	maxErrorText    = 2 << 10   // bytes of an error; longer ones are cut
	maxVariants     = 1000      // derivations and errors of one name and version
	maxOutputs      = 100       // of one derivation
	maxLicenses     = 100       // of one package; others are left out
	maxLines        = 1_000_000 // all of Guix for all systems has about 200,000
	maxBatch        = 1 << 30   // bytes
)

// format is the version of the scheme of keys.
const format = 1

// Options are the options of Open. The zero value is good.
type Options struct {
	// Logger gets Pebble's own messages, at debug level. nil discards them.
	Logger *slog.Logger
	// CacheSize bounds the memory for blocks, in bytes; 0 is 32 MiB.
	CacheSize int64
	// MinFree is how much of the disk stays free, in bytes: if less would be, nothing is
	// recorded. 0 is 256 MiB, negative is none.
	MinFree int64

	fs       vfs.FS // nil is the disk's
	maxLines int    // of one revision; 0 is maxLines
}

// Catalogue is an open catalogue. Its methods may be called from several goroutines.
type Catalogue struct {
	dir  string
	opts Options
	db   *pebble.DB

	use    sync.RWMutex // held for reading while db is used
	closed bool         // guarded by use

	write    sync.Mutex // held while a change is made; taken before use
	identity [16]byte
}

// Open opens the catalogue in a folder, and makes it if there is none. Another process that has it
// open is an error.
func Open(dir string, o Options) (_ *Catalogue, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CacheSize == 0 {
		o.CacheSize = 32 << 20
	}
	if o.MinFree == 0 {
		o.MinFree = 256 << 20
	}
	if o.fs == nil {
		o.fs = vfs.Default
	}
	if o.maxLines == 0 {
		o.maxLines = maxLines
	}
	c := &Catalogue{dir: dir, opts: o}
	if c.db, err = pebble.Open(dir, c.pebbleOptions()); err != nil {
		return nil, fmt.Errorf("open catalogue %s: %w", dir, err)
	}
	if err := c.begin(); err != nil {
		return nil, fmt.Errorf("open catalogue %s: %w", dir, errors.Join(err, c.db.Close()))
	}
	return c, nil
}

func (c *Catalogue) pebbleOptions() *pebble.Options {
	opts := &pebble.Options{
		FS:                         c.opts.fs,
		CacheSize:                  c.opts.CacheSize,
		MaxOpenFiles:               256,
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		FormatMajorVersion:         pebble.FormatValueSeparation,
		Logger:                     pebbleLogger{c.opts.Logger},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		// Text shrinks well, and a catalogue is written seldom.
		opts.Levels[i].Compression = func() *sstable.CompressionProfile { return block.GoodCompression }
	}
	return opts
}

// begin makes a new catalogue's first entries, and checks those of another: its format, and that all
// records of repositories, branches and revisions can be read.
func (c *Catalogue) begin() error {
	text, err := get(c.db, keyMeta("format"))
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return c.create()
	case err != nil:
		return err
	case len(text) != 8 || binary.BigEndian.Uint64(text) != format:
		return fmt.Errorf("its format is %x, want %d; a newer lighter may have made it", text, format)
	}
	id, err := get(c.db, keyMeta("identity"))
	if err != nil || copy(c.identity[:], id) != len(c.identity) {
		return fmt.Errorf("it has no identity: %w", errors.Join(err, corrupt(keyMeta("identity"))))
	}
	v := &View{c: c, r: c.db}
	repositories, err := v.Repositories()
	if err != nil {
		return err
	}
	for _, r := range repositories {
		branches, err := v.Branches(r.ID)
		if err != nil {
			return err
		}
		for _, b := range branches {
			for _, err := range v.Revisions(b) {
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *Catalogue) create() error {
	iter, err := c.db.NewIter(nil)
	if err != nil {
		return err
	}
	other := iter.First()
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		return err
	}
	if other {
		return errors.New("it is a database of something else")
	}
	if _, err := rand.Read(c.identity[:]); err != nil {
		return err
	}
	b := c.db.NewBatch()
	defer b.Close()
	err = errors.Join(
		b.Set(keyMeta("format"), number(format), nil),
		b.Set(keyMeta("identity"), c.identity[:], nil),
		b.Set(keyMeta("changes"), number(0), nil))
	if err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}

// Close waits for views that are open, and closes the database.
func (c *Catalogue) Close() error {
	c.write.Lock()
	defer c.write.Unlock()
	c.use.Lock()
	defer c.use.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.db.Close()
}

// Size returns how many bytes the catalogue has on disk.
func (c *Catalogue) Size() (int64, error) {
	if err := c.enter(); err != nil {
		return 0, err
	}
	defer c.use.RUnlock()
	return int64(c.db.Metrics().DiskSpaceUsage()), nil // #nosec G115 -- bytes on a disk
}

// enter must come before each use of db; use.RUnlock after it, if there was no error.
func (c *Catalogue) enter() error {
	c.use.RLock()
	if c.closed {
		c.use.RUnlock()
		return fmt.Errorf("catalogue %s: %w", c.dir, ErrClosed)
	}
	return nil
}

// change makes one change: what fn puts into the batch, or nothing.
func (c *Catalogue) change(ctx context.Context, fn func(v *View, b *pebble.Batch) error) error {
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.enter(); err != nil {
		return err
	}
	defer c.use.RUnlock()
	v := &View{c: c, r: c.db}
	changes, err := v.changes()
	if err != nil {
		return err
	}
	b := c.db.NewBatch()
	defer b.Close()
	if err := errors.Join(fn(v, b), ctx.Err()); err != nil {
		return err
	}
	if b.Empty() {
		return nil
	}
	if err := b.Set(keyMeta("changes"), number(changes+1), nil); err != nil {
		return err
	}
	if err := c.roomFor(b.Len()); err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}

// roomFor returns an error if a batch would leave less of the disk free than is wanted. The bytes of a batch
// are written to the log, to a table, and again when tables are joined.
func (c *Catalogue) roomFor(bytes int) error {
	if bytes > maxBatch {
		return fmt.Errorf("%w: it has more than %d bytes of changes", ErrInvalid, maxBatch)
	}
	if c.opts.MinFree < 0 {
		return nil
	}
	usage, err := c.opts.fs.GetDiskUsage(c.dir)
	if err != nil {
		return fmt.Errorf("catalogue %s: %w", c.dir, err)
	}
	if free := usage.AvailBytes; free < uint64(c.opts.MinFree)+3*uint64(bytes) { // #nosec G115 -- neither is negative
		return fmt.Errorf("catalogue %s: %w: %d bytes are free, want %d for the revision and %d besides", c.dir, ErrDiskFull, free, 3*bytes, c.opts.MinFree)
	}
	return nil
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

// getJSON reads a value; what is not there matches ErrNotFound.
func getJSON(r pebble.Reader, key []byte, into any) error {
	text, err := get(r, key)
	if errors.Is(err, pebble.ErrNotFound) {
		return ErrNotFound
	}
	if err == nil {
		err = decodeJSON(key, text, into)
	}
	return err
}

func decodeJSON(key, text []byte, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%w: %w", corrupt(key), err)
	}
	return nil
}

func setJSON(b *pebble.Batch, key []byte, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return b.Set(key, text, nil)
}

// pebbleLogger hands Pebble's messages to slog, at debug level.
type pebbleLogger struct{ *slog.Logger }

func (p pebbleLogger) Infof(text string, args ...any) {
	p.Debug("catalogue: pebble: " + fmt.Sprintf(text, args...))
}

func (p pebbleLogger) Errorf(text string, args ...any) {
	p.Debug("catalogue: pebble: "+fmt.Sprintf(text, args...), "severity", "error")
}

// Fatalf is what Pebble calls when a write has failed and nobody knows what is on disk.
func (p pebbleLogger) Fatalf(text string, args ...any) {
	panic("catalogue: pebble: " + fmt.Sprintf(text, args...))
}
