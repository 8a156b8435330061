package ledger

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble starts without a word if files of its log were removed, cut short, or replaced by
// older ones: it takes what it finds for all there is. So a count of what was acknowledged
// is kept apart, in a file beside the folder, and compared at the start.
//
// Each batch contains the number of changes so far. When it is durable, that number is
// written to the file, which costs microseconds. The file is synced in the background, once
// a second. So a coordinator that is killed has counted all that it acknowledged, and one
// that lost power has counted all but the last second. The file is never ahead of the ledger.

// MissingError is the error of opening a ledger that lacks changes which were acknowledged
// as durable.
type MissingError struct {
	Dir, File string
	Found     Tally // in the ledger
	Counted   Tally // in the file
	// Other says that the file is about a ledger other than the one in the folder, or that
	// the folder is empty.
	Other bool
}

// Tally is how far a ledger has come.
type Tally struct {
	Changes uint64    // that were ever made
	Event   uint64    // number of the last one
	Build   uint64    // number of the last one
	Time    time.Time // of the last change; zero if there is none
}

func (t Tally) String() string {
	if t.Changes == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%d changes, up to event %d at %s", t.Changes, t.Event, t.Time.UTC().Format(time.RFC3339))
}

func (e *MissingError) Error() string {
	what := fmt.Sprintf("%d changes that were acknowledged are missing", e.Counted.Changes-e.Found.Changes)
	if e.Other {
		what = "this is not the ledger that was here"
	}
	return fmt.Sprintf("open ledger %s: %s: it has %s; %s counted %s. Files of it were removed, cut short or replaced by older ones. "+
		"Put them back if you can; \"lighter doctor --accept-loss\" goes on without what is missing", e.Dir, what, e.Found, e.File, e.Counted)
}

// identity tells ledgers apart.
type identity [16]byte

var (
	keyIdentity = keyMeta("identity")
	keyChanges  = keyMeta("changes") // number of the last change, and its time: Unix, ns
)

func encodeChanges(n uint64, now time.Time) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, n), uint64(nanoseconds(now))) // #nosec G115 -- read back by the same conversion
}

// readChanges returns how far the ledger has come, except for the numbers of event and build.
// A *RecordError says that this isn't known.
func readChanges(r pebble.Reader) (t Tally, err error) {
	value, err := get(r, keyChanges)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return t, nil
	case err != nil:
		return t, err
	case len(value) != 16:
		return t, unusable(fmt.Errorf("corrupt entry: %x", value), "the number of changes")
	}
	t.Changes = binary.BigEndian.Uint64(value)
	t.Time = time.Unix(0, int64(binary.BigEndian.Uint64(value[8:]))) // #nosec G115 -- written by the same conversion
	return t, nil
}

// readIdentity returns which ledger this is; zero for a new one, and for one that an older
// version made.
func readIdentity(r pebble.Reader) (id identity, err error) {
	value, err := get(r, keyIdentity)
	if errors.Is(err, pebble.ErrNotFound) {
		return id, nil
	}
	copy(id[:], value)
	return id, err
}

// Where things are in the file: two slots, written in turn, each in a sector of its own, so
// that a write that is cut off leaves the other one.
const (
	slotMagic = "lighter\x01"
	slotSize  = len(slotMagic) + 16 + 4*8 + 4
	slotEvery = 4096
)

func encodeSlot(id identity, t Tally) []byte {
	b := append(append(make([]byte, 0, slotSize), slotMagic...), id[:]...)
	for _, n := range []uint64{t.Changes, t.Event, t.Build, uint64(nanoseconds(t.Time))} { // #nosec G115 -- read back by the same conversion
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func decodeSlot(b []byte) (id identity, t Tally, ok bool) {
	if len(b) < slotSize || string(b[:len(slotMagic)]) != slotMagic {
		return id, t, false
	}
	b = b[:slotSize]
	if end := slotSize - 4; crc32.ChecksumIEEE(b[:end]) != binary.BigEndian.Uint32(b[end:]) {
		return id, t, false
	}
	b = b[len(slotMagic):]
	copy(id[:], b)
	number := func(i int) uint64 { return binary.BigEndian.Uint64(b[len(id)+8*i:]) }
	t = Tally{number(0), number(1), number(2), time.Unix(0, int64(number(3)))} // #nosec G115 -- written by the same conversion
	return id, t, true
}

// counted is what the file says.
type counted struct {
	id    identity
	tally Tally
	state string // "", or why nothing is known
}

func readCounted(fs vfs.FS, name string) (c counted, err error) {
	f, err := fs.Open(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return counted{state: "there is no such file"}, nil
	}
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err := io.ReadAll(io.LimitReader(f, 2*slotEvery))
	if err != nil {
		return c, err
	}
	c.state = "its contents are unusable"
	for at := 0; at < len(data); at += slotEvery {
		if id, t, ok := decodeSlot(data[at:]); ok && (c.state != "" || t.Changes >= c.tally.Changes) {
			c = counted{id: id, tally: t}
		}
	}
	return c, nil
}

// counter keeps the file. Only the writing goroutine calls note.
type counter struct {
	db   *database
	name string
	id   identity
	file vfs.File // nil if it could not be opened; then nothing is counted
	turn int64

	dirty chan struct{}   // holds a token when there is something to sync
	ended <-chan struct{} // closed when the writing goroutine has ended
	over  chan struct{}   // closed when nothing more is synced
	once  sync.Once       // for the first failure
}

// syncEvery is the time between two syncs of the file: changes of the last such time may not
// be counted if the power fails.
const syncEvery = time.Second

func countedFile(dir string) string { return strings.TrimRight(dir, "/") + ".acknowledged" }

// checkAcknowledged compares what the file has counted with what was found, if that is known.
func (l *Ledger) checkAcknowledged(found Tally, isKnown bool) error {
	c := &counter{db: l.db, ended: l.writer.written, name: countedFile(l.db.dir), dirty: make(chan struct{}, 1), over: make(chan struct{})}
	l.writer.counter = c
	was, err := readCounted(l.db.opts.FS, c.name)
	if err != nil {
		was = counted{state: err.Error()}
	}
	if c.id, err = readIdentity(l.db); err != nil {
		return err
	}
	missing := &MissingError{Dir: l.db.dir, File: c.name, Found: found, Counted: was.tally, Other: was.id != c.id}
	switch {
	case was.state != "":
		if c.id != (identity{}) {
			l.db.opts.Logger.Warn("ledger: how much was acknowledged is unknown; counting starts anew", "file", c.name, "why", was.state)
		}
		return nil
	case !missing.Other && !isKnown:
		l.writer.changes = was.tally.Changes
		return nil
	case !missing.Other && was.tally.Changes <= found.Changes:
		return nil
	case !l.db.opts.AcceptLoss:
		return missing
	}
	l.db.opts.Logger.Warn("ledger: the loss is accepted", "found", found.String(), "counted", was.tally.String())
	if missing.Other {
		return nil
	}
	// The numbers of what is missing are not given out again.
	removed := &l.published.removed
	removed.event, removed.build = max(removed.event, was.tally.Event), max(removed.build, was.tally.Build)
	return l.db.Set(keyMeta("removed"), removed.encode(), pebble.Sync)
}

// start makes the file and the ledger's identity, if they aren't there, and begins to count.
func (c *counter) start(t Tally) error {
	if c.id == (identity{}) {
		if _, err := rand.Read(c.id[:]); err != nil {
			return err
		}
		if err := c.db.Set(keyIdentity, c.id[:], pebble.Sync); err != nil {
			return err
		}
	}
	if err := c.open(t); err != nil {
		c.failed(err)
	}
	go c.sync()
	return nil
}

func (c *counter) open(t Tally) error {
	fs := c.db.opts.FS
	f, err := fs.OpenReadWrite(c.name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	for at := range int64(2) { // both: nothing of another ledger stays
		if _, err := f.WriteAt(encodeSlot(c.id, t), at*slotEvery); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := errors.Join(f.Sync(), syncFolder(fs, fs.PathDir(c.name))); err != nil {
		return errors.Join(err, f.Close())
	}
	c.file = f
	return nil
}

func syncFolder(fs vfs.FS, name string) error {
	d, err := fs.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// note counts what is durable.
func (c *counter) note(t Tally) {
	if c.file == nil {
		return
	}
	c.turn = 1 - c.turn
	if _, err := c.file.WriteAt(encodeSlot(c.id, t), c.turn*slotEvery); err != nil {
		c.failed(err)
		return
	}
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// failed logs, the first time, that nothing is counted. That does no harm to the ledger: a
// count that is too low notices fewer losses, and none that did not happen.
func (c *counter) failed(err error) {
	c.once.Do(func() {
		c.db.opts.Logger.Error("ledger: what is acknowledged can't be counted; the loss of files of the ledger may go unnoticed", "file", c.name, "err", err)
	})
}

// sync syncs the file in the background until the ledger is closed, or fails.
func (c *counter) sync() {
	defer close(c.over)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-c.dirty:
			if err := c.file.SyncData(); err != nil {
				c.failed(err)
			}
		case <-c.ended:
			return
		case <-c.db.failed:
			return
		}
		pause.Reset(syncEvery)
		select {
		case <-pause.C:
		case <-c.ended:
			return
		case <-c.db.failed:
			return
		}
	}
}

// close ends it, after the writing goroutine has ended.
func (c *counter) close() error {
	<-c.over
	if c.file == nil {
		return nil
	}
	return errors.Join(c.file.SyncData(), c.file.Close())
}
