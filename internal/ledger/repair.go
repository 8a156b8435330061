package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// Inspect reads a whole ledger that is not open, with all checksums, and changes
// nothing. It returns what is wrong with the ledger; the error says why it could not be read.
func Inspect(ctx context.Context, dir string, opts Options) (problems []error, err error) {
	l := newLedger(dir, opts)
	if l.db.lock, err = takeLock(dir, l.db.opts.FS); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.db.unlock()) }()
	var found []error // an abandoned function may still write to it
	if err := l.db.await(func() (err error) {
		found, err = l.inspect(ctx)
		return err
	}); err != nil {
		return nil, fmt.Errorf("read ledger %s: %w", dir, err)
	}
	return found, nil
}

func (l *Ledger) inspect(ctx context.Context) (problems []error, err error) {
	if _, err := l.openToRead(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.db.Close()) }()
	if err := l.db.CheckLevels(nil); err != nil {
		return nil, err
	}
	found, err := readChanges(l.db)
	isKnown := err == nil
	if isRecordError(err) {
		problems = append(problems, err)
	} else if err != nil {
		return nil, err
	}
	if err := l.readNumbers(&found); err != nil {
		return nil, err
	}
	if err := l.checkAcknowledged(found, isKnown); err != nil {
		problems = append(problems, err)
	}
	return append(problems, l.problems(ctx)...), ctx.Err()
}

// openToRead opens the database so that nothing in it changes, and reports whether there is nothing
// in it.
func (l *Ledger) openToRead() (empty bool, err error) {
	if err := l.db.open(true); err != nil {
		return false, err
	}
	switch found, err := formatOf(l.db); {
	case errors.Is(err, pebble.ErrNotFound):
		return true, nil
	case err != nil:
		return false, errors.Join(err, l.db.Close())
	case found != format:
		return false, errors.Join(fmt.Errorf("it has format %d; the next start of the coordinator brings it to format %d", found, format), l.db.Close())
	}
	return false, nil
}

// Repair drops what can't be used from a ledger that is not open, and rebuilds its
// indexes. Before it drops something, it calls keep with the key, the value, and what is
// wrong. An event that can't be used is replaced by one that says so; the events of a
// dropped build go with it. Repair can be interrupted and called again.
func Repair(ctx context.Context, dir string, opts Options, keep func(key, value []byte, why error) error) (dropped int, err error) {
	l, err := Open(dir, opts)
	if err != nil {
		return 0, err
	}
	r := &repair{
		ctx: ctx, l: l, keep: keep, batch: l.db.NewBatch(),
		builds: make(map[string]uint64), known: make(map[uint64]*known), bad: make(map[uint64]*lost), owners: make(map[uint64]uint64),
	}
	if err = l.db.await(r.run); err != nil {
		err = fmt.Errorf("repair ledger %s: %w", dir, err)
	}
	if err = errors.Join(err, l.Close()); err != nil {
		return r.dropped, err
	}
	if l, err = Open(dir, opts); err != nil { // which makes the indexes, as a migration
		return r.dropped, err
	}
	return r.dropped, l.Close()
}

type repair struct {
	ctx     context.Context
	l       *Ledger
	keep    func(key, value []byte, why error) error
	batch   *pebble.Batch
	builds  map[string]uint64 // numbers of good ones, by id
	known   map[uint64]*known // good ones, by number
	bad     map[uint64]*lost  // events that can't be used
	owners  map[uint64]uint64 // numbers of the builds of events, by those of the events
	removed watermark
	last    uint64 // the event before
	dropped int
}

// known is a build whose record is good.
type known struct {
	id    string
	state api.State
	last  api.State // that its events say
}

// lost is an event that can't be used.
type lost struct {
	time  []byte
	build uint64 // its number; 0 if it is of none
}

func (r *repair) run() error {
	r.removed = r.l.published.watermark()
	r.last = r.removed.event
	for _, step := range []struct {
		prefix byte
		visit  func(key, value []byte) error
	}{
		{prefixBuild, r.build},
		{prefixEvent, r.event},
		{prefixHistory, r.history},
		{prefixSamples, r.samples},
		{prefixClass, r.class},
		{prefixMachine, r.machine},
		{prefixSetting, r.setting},
		{prefixHour, r.hour},
	} {
		if err := scan(r.l.db, []byte{step.prefix}, func(key, value []byte) error {
			if err := r.ctx.Err(); err != nil {
				return err
			}
			if r.batch.Len() > maxGroupSize {
				if err := r.commit(); err != nil {
					return err
				}
			}
			return step.visit(slices.Clone(key), value)
		}); err != nil {
			return errors.Join(err, r.batch.Close())
		}
	}
	err := errors.Join(r.putNotes(), r.batch.Set(keyMeta("removed"), r.removed.encode(), nil))
	for _, prefix := range []byte{prefixTerm, prefixName, prefixTimes, prefixSystem, prefixID, prefixOldState} {
		err = errors.Join(err, r.batch.DeleteRange([]byte{prefix}, after([]byte{prefix}), nil))
	}
	return errors.Join(err, r.batch.Set(keyMigration, progress{}.encode(), nil), r.commit())
}

// commit writes what was done so far, and begins a new batch.
func (r *repair) commit() error {
	err := errors.Join(r.batch.Commit(pebble.Sync), r.batch.Close())
	r.batch = r.l.db.NewBatch()
	return err
}

// drop removes an entry.
func (r *repair) drop(key, value []byte, why error) error {
	r.dropped++
	return errors.Join(r.keep(key, value, why), r.batch.Delete(key, nil))
}

func (r *repair) build(key, value []byte) error {
	if len(key) != 9 {
		return r.drop(key, value, corrupt(key))
	}
	number := binary.BigEndian.Uint64(key[1:])
	r.removed.build = max(r.removed.build, number) // so that it is not given out again
	b, err := decodeBuild(number, value)
	if err == nil && r.builds[b.ID] != 0 {
		err = unusable(fmt.Errorf("there is one with number %d", r.builds[b.ID]), "build %s (number %d)", b.ID, number)
	}
	if err != nil {
		return r.drop(key, value, err)
	}
	r.builds[b.ID], r.known[number] = number, &known{id: b.ID, state: b.State}
	return nil
}

func (r *repair) event(key, value []byte) error {
	if len(key) != 9 {
		return r.drop(key, value, corrupt(key))
	}
	e, err := decodeEvent(key, value)
	if e.Seq > r.last+1 {
		r.removed.event = max(r.removed.event, e.Seq-1) // what is between is missing
	}
	r.last = max(r.last, e.Seq)
	if err != nil {
		r.bad[e.Seq] = &lost{time: append(slices.Clone(value), make([]byte, 8)...)[:8]}
		return r.drop(key, value, err) // until putNotes
	}
	number := r.builds[e.Build]
	if e.Build != "" && number == 0 {
		r.removed.event = max(r.removed.event, e.Seq)
		return r.drop(key, value, unusable(fmt.Errorf("its build %s is not there", e.Build), "event %d", e.Seq))
	}
	if b := r.known[number]; b != nil && e.State != "" {
		b.last = e.State
	}
	r.owners[e.Seq] = number
	return r.batch.Set(keyHistory(number, e.Seq), nil, nil)
}

// history removes wrong entries; the right ones were set. It finds out to which builds the
// events belonged that can't be used.
func (r *repair) history(key, _ []byte) error {
	if len(key) == 17 {
		number, seq := binary.BigEndian.Uint64(key[1:]), binary.BigEndian.Uint64(key[9:])
		if bad := r.bad[seq]; bad != nil && r.known[number] != nil {
			bad.build = number
			return nil
		}
		if owner, ok := r.owners[seq]; ok && owner == number {
			return nil
		}
	}
	return r.batch.Delete(key, nil)
}

// putNotes replaces events that can't be used. The last one of a build gives the build's
// state, if no other event does.
func (r *repair) putNotes() error {
	seqs := slices.Sorted(maps.Keys(r.bad))
	slices.Reverse(seqs)
	for _, seq := range seqs {
		bad := r.bad[seq]
		note := storedEvent{Kind: api.KindUnusable, Reason: "an event that could not be used was dropped"}
		if b := r.known[bad.build]; b != nil {
			note.Build = b.id
			if b.last != b.state {
				note.State, b.last = b.state, b.state
			}
		}
		text, err := encode(note, api.MaxEvent)
		err = errors.Join(err, r.batch.Set(keyEvent(seq), append(bad.time, text...), nil), r.batch.Set(keyHistory(bad.build, seq), nil, nil))
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *repair) samples(key, value []byte) error {
	samples, err := decodeSamples(key, value)
	if err == nil {
		return nil
	}
	err = r.drop(key, value, err)
	if samples != nil && len(samples.Samples) > 0 {
		good, encodeErr := samples.encode()
		err = errors.Join(err, encodeErr, r.batch.Set(key, good, nil))
	}
	return err
}

func (r *repair) class(key, value []byte) error {
	if _, err := decodeClass(key, value); err != nil {
		return r.drop(key, value, err)
	}
	return nil
}

func (r *repair) machine(key, value []byte) error {
	if _, err := decodeMachine(key, value); err != nil {
		return r.drop(key, value, err)
	}
	return nil
}

func (r *repair) setting(key, value []byte) error {
	if err := validSetting(string(key[1:]), value); err != nil {
		return r.drop(key, value, unusable(err, "setting %q", key[1:]))
	}
	return nil
}

func (r *repair) hour(key, value []byte) error {
	if _, err := decodeHour(key, value); err != nil {
		return r.drop(key, value, err)
	}
	return nil
}
