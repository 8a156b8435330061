package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// keyMigration is there until a ledger of an older format is wholly of the present one.
var keyMigration = keyMeta("migration")

// progress is how far a migration has come: the numbers of the last build and the last
// event that are done. Builds come first.
type progress struct{ build, event uint64 }

// samplesOnly is in the place of progress where builds and events have the present format.
var samplesOnly = []byte("samples")

func (p progress) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, p.build), p.event)
}

// migrationStep is how many records a batch brings to the new format. Each batch also notes
// the progress.
const migrationStep = 1000

// progressEvery is the time between messages of a long migration.
const progressEvery = 5 * time.Second

// migrate finishes a migration that was begun, perhaps by another process.
func (l *Ledger) migrate() error {
	value, err := get(l.db, keyMigration)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil
	case err != nil:
		return err
	case bytes.Equal(value, samplesOnly):
		l.db.opts.Logger.Info("ledger: bringing what was measured to a new format", "folder", l.db.dir, "format", format)
		m := &migration{l: l, logged: time.Now()}
		if err := m.end(); err != nil {
			return fmt.Errorf("bring it to format %d: %w", format, err)
		}
		return nil
	case len(value) != 16:
		l.db.setAside(unusable(fmt.Errorf("corrupt entry: %x", value), "the note of how far a migration has come"))
		value = progress{}.encode() // what was done may be done again
	}
	m := &migration{l: l, done: progress{binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[8:])}, logged: time.Now()}
	l.db.opts.Logger.Info("ledger: bringing it to a new format", "folder", l.db.dir, "format", format, "fromBuild", m.done.build, "fromEvent", m.done.event)
	if err := m.run(); err != nil {
		return fmt.Errorf("bring it to format %d: %w", format, err)
	}
	l.db.opts.Logger.Info("ledger: it has the new format", "builds", m.done.build, "events", m.done.event)
	return nil
}

// migration makes the indexes, and gives builds that failed because of others, which were "failed"
// up to format 2, and their events the state of their own. Its batches are written in order, and
// only the last is synced: a crash leaves the first of them.
type migration struct {
	l      *Ledger
	done   progress
	logged time.Time
}

func (m *migration) run() error {
	for more := true; more; {
		var err error
		if more, err = m.step([]byte{prefixBuild}, &m.done.build, m.build); err != nil {
			return err
		}
	}
	for more := true; more; {
		var err error
		if more, err = m.step([]byte{prefixEvent}, &m.done.event, m.event); err != nil {
			return err
		}
	}
	return m.end()
}

// end brings samples to the new format, and ends the migration.
func (m *migration) end() error {
	for more := true; more; {
		var err error
		if more, err = m.samples(); err != nil {
			return err
		}
	}
	b := m.l.db.NewBatch()
	err := errors.Join(b.DeleteRange([]byte{prefixOldState}, after([]byte{prefixOldState}), nil), b.Delete(keyMigration, nil))
	return errors.Join(err, b.Commit(pebble.Sync), b.Close())
}

// step brings the next records with a prefix to the new format, and reports whether
// there may be more.
func (m *migration) step(prefix []byte, done *uint64, visit func(g *group, number uint64, value []byte) error) (more bool, err error) {
	g := newGroup(m.l.writer)
	from := binary.BigEndian.AppendUint64(prefix, *done+1)
	n := 0
	if err := m.read(from, after(prefix), &n, func(number uint64, value []byte) error {
		*done = number
		return visit(g, number, value)
	}); err != nil {
		return false, errors.Join(err, g.batch.Close())
	}
	if err := errors.Join(g.batch.Set(keyMigration, m.done.encode(), nil), g.write(false)); err != nil {
		return false, err
	}
	for system := range g.systems {
		m.l.writer.systems[system] = true
	}
	if m.l.db.opts.migrated != nil {
		m.l.db.opts.migrated(m.l)
	}
	if time.Since(m.logged) > progressEvery {
		m.logged = time.Now()
		m.l.db.opts.Logger.Info("ledger: bringing it to a new format", "builds", m.done.build, "events", m.done.event)
	}
	return n == migrationStep, nil
}

// errFull ends a scan: there is enough for a batch.
var errFull = errors.New("enough for a batch")

// samples brings the next samples to the new format, and reports whether there may be more. Those
// that are done are not there any more.
func (m *migration) samples() (more bool, err error) {
	b := m.l.db.NewBatch()
	n := 0
	var last []byte
	err = scan(m.l.db, []byte{prefixOldTimes}, func(key, value []byte) error {
		if n == migrationStep {
			return errFull
		}
		n++
		last = slices.Clone(key)
		s, err := migrateSamples(key, value)
		if err != nil {
			m.l.db.setAside(err)
		}
		if s == nil {
			return nil
		}
		text, err := s.encode()
		return errors.Join(err, b.Set(keySamples(&s.Key), text, nil))
	})
	if errors.Is(err, errFull) {
		more, err = true, nil
	}
	if n > 0 {
		err = errors.Join(err, b.DeleteRange([]byte{prefixOldTimes}, append(last, 0), nil), b.Commit(pebble.NoSync))
	}
	if err = errors.Join(err, b.Close()); err == nil && n > 0 && m.l.db.opts.migrated != nil {
		m.l.db.opts.migrated(m.l)
	}
	return more, err
}

// read calls fn for up to migrationStep records, and counts them.
func (m *migration) read(from, to []byte, n *int, fn func(number uint64, value []byte) error) (err error) {
	iter, err := m.l.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for iter.First(); iter.Valid() && *n < migrationStep; iter.Next() {
		if len(iter.Key()) != 9 {
			m.l.db.setAside(corrupt(iter.Key()))
			continue
		}
		value, err := iter.ValueAndErr()
		if err != nil {
			return err
		}
		if err := fn(binary.BigEndian.Uint64(iter.Key()[1:]), value); err != nil {
			return err
		}
		*n++
	}
	return iter.Error()
}

// build indexes a build and rebuilds its head.
func (m *migration) build(g *group, number uint64, value []byte) error {
	b, err := decodeBuild(number, value)
	if err != nil {
		m.l.db.setAside(err)
		return nil
	}
	if ofDependency(b.State, b.Failure) {
		b.State = api.DependencyFailed
		record, err := encode(b, api.MaxRecord)
		if err != nil {
			m.l.db.setAside(unusable(err, "build %s (number %d)", b.ID, number))
			return nil
		}
		if err := g.batch.Set(keyBuild(number), record, nil); err != nil {
			return err
		}
		g.op(keyTerm(codeTerms[stateCodes[api.Failed]], chunkOf(number)), bitOf(number)|cleared)
	}
	t := newTerms(b)
	h := t.head(number, stateCodes[b.State], uint32(b.Attempt)) // #nosec G115 -- checked by decodeBuild
	g.index(h, t)
	return g.batch.Set(keyID(b.ID), h.encode(), nil)
}

// ofDependency reports whether a build of format 2 failed because one that it needs did.
func ofDependency(s api.State, f *api.Failure) bool {
	return s == api.Failed && f != nil && f.OfDependency()
}

// event indexes an event, if it is of no build.
func (m *migration) event(g *group, number uint64, value []byte) error {
	e, err := decodeEvent(keyEvent(number), value)
	if err != nil {
		m.l.db.setAside(err)
		return nil
	}
	if ofDependency(e.State, e.Failure) {
		text, err := encode(storedEvent{e.Kind, e.Build, api.DependencyFailed, e.Attempt, e.Machine, e.Reason, e.Failure}, api.MaxEvent)
		if err != nil {
			m.l.db.setAside(unusable(err, "event %d", number))
			return nil
		}
		return g.batch.Set(keyEvent(number), append(slices.Clone(value[:8]), text...), nil)
	}
	if e.Build != "" {
		return nil
	}
	return g.batch.Set(keyHistory(0, number), nil, nil)
}
