package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// PruneOptions say what Prune removes.
type PruneOptions struct {
	// Before bounds when a build must have become final: earlier than this.
	Before time.Time
	// States are final ones; empty means all of those.
	States []api.State
	// Limit bounds how many builds are removed; 0 is no limit.
	Limit int
	// KeepEventsFrom is the number of the first event that a reader still has to see:
	// builds whose history goes that far stay. 0 is no bound.
	KeepEventsFrom uint64
	// DryRun counts and removes nothing; archive and Sync are not called.
	DryRun bool
	// Sync makes durable what archive has written. It is called, if it is not nil, before
	// anything that was archived is removed.
	Sync func() error
	// Keep reports whether a build stays that could go. If it is nil, none does.
	Keep func(*api.Build, []api.Event) bool
	// Around, if it is not nil, is called with the function that removes a batch that was
	// archived. It calls that, unless it finds an error before.
	Around func(remove func() error) error
}

// PruneResult says what Prune has removed, or would remove.
type PruneResult struct {
	Builds int
	Events int // including those of no build
	// Changed counts builds that changed after they had been archived: a retry, or a late
	// report. They are still there, and a later Prune may archive them again.
	Changed int
}

const (
	// pruneBatch is how many builds the writing goroutine removes at a time.
	pruneBatch = 128
	// sweepBatch is how many entries of indexes, or events of no build, it removes at a time.
	sweepBatch = 1000
)

// Prune removes builds that have been final for long, with their events and whatever
// else the ledger has of them, and old events of no build. It goes batch by batch: archive
// gets each build of the batch and its history, oldest first; then comes Sync; then the
// batch is removed, durably. An error of either ends it. Others may read and write
// meanwhile; they wait for one batch at most.
//
// The numbers of removed events are not used again. In the end the space is given back,
// which takes a while; if ctx ends before that, everything is in order, and Pebble does
// it later. There is one Prune at a time: others wait.
func (l *Ledger) Prune(ctx context.Context, opts PruneOptions, archive func(*api.Build, []api.Event) error) (PruneResult, error) {
	p := &pruning{l: l, opts: opts, archive: archive}
	if err := p.check(); err != nil {
		return PruneResult{}, fmt.Errorf("prune: %w", err)
	}
	l.pruning.Lock()
	defer l.pruning.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-l.db.closing:
			cancel(fmt.Errorf("ledger %s: %w", l.db.dir, ErrClosed))
		case <-ended:
		}
	}()
	err := p.run(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		err = fmt.Errorf("prune: %w", err)
	}
	return p.result, err
}

// pruning is one run of Prune.
type pruning struct {
	l       *Ledger
	opts    PruneOptions
	archive func(*api.Build, []api.Event) error
	result  PruneResult
	batch   []candidate
	chosen  int       // how many builds were to be removed so far
	removed watermark // the last build and event that were removed
}

// candidate is a build to be removed, as it was archived.
type candidate struct {
	entry
	events []api.Event
}

func (p *pruning) check() error {
	if p.opts.Before.IsZero() {
		return errors.New("no time before which builds have ended")
	}
	for _, s := range p.opts.States {
		if !s.Final() {
			return fmt.Errorf("state %q: only builds that are final can go", s)
		}
	}
	if len(p.opts.States) == 0 {
		p.opts.States = slices.DeleteFunc(api.States(), func(s api.State) bool { return !s.Final() })
	}
	return nil
}

func (p *pruning) run(ctx context.Context) error {
	if err := p.builds(ctx); err != nil {
		return err
	}
	if err := p.otherEvents(ctx); err != nil {
		return err
	}
	if p.removed == (watermark{}) {
		return nil
	}
	if err := p.sweep(ctx); err != nil {
		return err
	}
	return p.compact(ctx)
}

// builds removes builds, batch by batch.
func (p *pruning) builds(ctx context.Context) error {
	q, err := newQuery(&Filter{Filter: api.Filter{States: p.opts.States, Until: p.opts.Before}, OldestFirst: true})
	if err != nil {
		return err
	}
	for e, err := range p.l.entries(ctx, q, everywhere()) {
		if err != nil {
			return err
		}
		if e.build.Stopped == nil || !e.build.Stopped.Before(p.opts.Before) {
			continue
		}
		p.batch = append(p.batch, candidate{entry: e})
		if n := len(p.batch); n == pruneBatch || p.chosen+n == p.opts.Limit {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
		if p.opts.Limit != 0 && p.chosen == p.opts.Limit {
			break
		}
	}
	return p.flush(ctx)
}

// flush archives and removes the batch, except for builds that must stay.
func (p *pruning) flush(ctx context.Context) error {
	if err := p.histories(ctx); err != nil {
		return err
	}
	p.chosen += len(p.batch)
	if len(p.batch) == 0 {
		return nil
	}
	if p.opts.DryRun {
		for _, c := range p.batch {
			p.result.Builds++
			p.result.Events += len(c.events)
		}
		p.batch = p.batch[:0]
		return nil
	}
	for _, c := range p.batch {
		if err := p.archive(c.build, c.events); err != nil {
			return fmt.Errorf("archive build %s: %w", c.build.ID, err)
		}
	}
	if p.opts.Sync != nil {
		if err := p.opts.Sync(); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
	}
	remove := func() error {
		return p.l.writer.submit(&request{remove: p.removeBatch, durable: true, done: make(chan struct{})})
	}
	around := p.opts.Around
	if around == nil {
		around = func(remove func() error) error { return remove() }
	}
	err := around(remove)
	p.batch = p.batch[:0]
	return err
}

// histories reads the events of the batch, and takes out the builds that must stay.
func (p *pruning) histories(ctx context.Context) (err error) {
	if err := p.l.db.begin(ctx); err != nil {
		return err
	}
	defer p.l.db.end()
	snapshot := p.l.db.NewSnapshot()
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	history, err := snapshot.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixHistory}, UpperBound: after([]byte{prefixHistory})})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, history.Close()) }()
	events, err := snapshot.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixEvent}, UpperBound: after([]byte{prefixEvent})})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, events.Close()) }()
	kept := p.batch[:0]
	for _, c := range p.batch {
		c.events, err = p.readHistory(history, events, c.number)
		if isRecordError(err) {
			p.l.db.setAside(err)
			continue
		}
		if err != nil {
			return fmt.Errorf("history of build %s: %w", c.build.ID, err)
		}
		n := len(c.events)
		switch {
		case n == 0, p.opts.KeepEventsFrom != 0 && c.events[n-1].Seq >= p.opts.KeepEventsFrom:
		case p.opts.Keep != nil && p.opts.Keep(c.build, c.events):
		default:
			kept = append(kept, c)
		}
	}
	p.batch = kept
	return nil
}

// readHistory reads the events of a build. The iterators are over the index of events by
// build, and over all events.
func (p *pruning) readHistory(history, events *pebble.Iterator, number uint64) (found []api.Event, err error) {
	prefix := historyPrefix(number)
	for ok := history.SeekGE(prefix); ok && bytes.HasPrefix(history.Key(), prefix); ok = history.Next() {
		if len(history.Key()) != 17 {
			p.l.db.setAside(corrupt(history.Key()))
			continue
		}
		key := keyEvent(binary.BigEndian.Uint64(history.Key()[9:]))
		if !events.SeekGE(key) || !bytes.Equal(events.Key(), key) {
			return nil, errors.Join(corrupt(history.Key()), events.Error())
		}
		value, err := events.ValueAndErr()
		if err != nil {
			return nil, err
		}
		found = append(found, p.l.db.readEvent(key, value))
	}
	return found, history.Error()
}

// removeBatch removes the builds of the batch that are still as they were archived. The
// writing goroutine calls it.
func (p *pruning) removeBatch(g *group) (err error) {
	iter, err := p.l.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixHistory}, UpperBound: after([]byte{prefixHistory})})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	result := p.result
	for _, c := range p.batch {
		same, err := p.unchanged(iter, &c)
		if isRecordError(err) {
			p.l.db.setAside(err)
			err = nil
		}
		switch {
		case err != nil:
			return err
		case !same:
			result.Changed++
			continue
		}
		if err := g.remove(&c); err != nil {
			return err
		}
		result.Builds++
		result.Events += len(c.events)
	}
	p.removed, p.result = g.removed, result
	return nil
}

// unchanged reports whether a build is still as it was archived: its record, and the end
// of its history.
func (p *pruning) unchanged(history *pebble.Iterator, c *candidate) (bool, error) {
	if h, err := readHead(p.l.db, c.build.ID); err != nil || h.number != c.number {
		return false, err
	}
	value, err := get(p.l.db, keyBuild(c.number))
	if err != nil {
		return false, fmt.Errorf("build %s: %w", c.build.ID, err)
	}
	if !bytes.Equal(value, c.value) {
		return false, nil
	}
	ok := history.SeekLT(historyPrefix(c.number + 1))
	return ok && bytes.Equal(history.Key(), keyHistory(c.number, c.events[len(c.events)-1].Seq)), history.Error()
}

// remove takes a build and its events out of the ledger.
func (g *group) remove(c *candidate) error {
	h, err := readHead(g.w.db, c.build.ID)
	if err != nil {
		return err
	}
	g.unindex(h, newTerms(c.build))
	err = errors.Join(g.batch.Delete(keyBuild(c.number), nil), g.batch.Delete(keyID(c.build.ID), nil))
	for _, e := range c.events {
		err = errors.Join(err, g.removeEvent(c.number, e.Seq))
	}
	return errors.Join(err, g.raise(watermark{build: c.number}))
}

func (g *group) removeEvent(number, seq uint64) error {
	return errors.Join(g.batch.Delete(keyEvent(seq), nil), g.batch.Delete(keyHistory(number, seq), nil), g.raise(watermark{event: seq}))
}

// raise notes that numbers are missing.
func (g *group) raise(to watermark) error {
	raised := watermark{max(g.removed.event, to.event), max(g.removed.build, to.build)}
	if raised == g.removed {
		return nil
	}
	g.removed = raised
	return g.batch.Set(keyMeta("removed"), raised.encode(), nil)
}

// otherEvents removes the events of no build.
func (p *pruning) otherEvents(ctx context.Context) error {
	for from := uint64(0); ; {
		seqs, more, err := p.oldEvents(ctx, from)
		if err != nil || len(seqs) == 0 {
			return err
		}
		p.result.Events += len(seqs)
		if !p.opts.DryRun {
			remove := func(g *group) (err error) {
				for _, seq := range seqs {
					err = errors.Join(err, g.removeEvent(0, seq))
				}
				p.removed = g.removed
				return err
			}
			if err := p.l.writer.submit(&request{remove: remove, durable: true, done: make(chan struct{})}); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		from = seqs[len(seqs)-1] + 1
	}
}

// oldEvents returns the numbers of the next events that are of no build and old enough,
// and whether there may be more.
func (p *pruning) oldEvents(ctx context.Context, from uint64) (seqs []uint64, more bool, err error) {
	if err := p.l.db.begin(ctx); err != nil {
		return nil, false, err
	}
	defer p.l.db.end()
	iter, err := p.l.db.NewIter(&pebble.IterOptions{LowerBound: keyHistory(0, from), UpperBound: historyPrefix(1)})
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for iter.First(); iter.Valid() && len(seqs) < sweepBatch; iter.Next() {
		if len(iter.Key()) != 17 {
			p.l.db.setAside(corrupt(iter.Key()))
			continue
		}
		seq := binary.BigEndian.Uint64(iter.Key()[9:])
		value, err := get(p.l.db, keyEvent(seq))
		if errors.Is(err, pebble.ErrNotFound) {
			seqs = append(seqs, seq) // only the entry is left
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("event %d: %w", seq, err)
		}
		e := p.l.db.readEvent(keyEvent(seq), value)
		if !e.Time.Before(p.opts.Before) || p.opts.KeepEventsFrom != 0 && seq >= p.opts.KeepEventsFrom {
			return seqs, false, nil
		}
		seqs = append(seqs, seq)
	}
	return seqs, len(seqs) == sweepBatch, iter.Error()
}

// sweep removes entries of indexes that no longer have builds.
func (p *pruning) sweep(ctx context.Context) error {
	for _, prefix := range []byte{prefixTerm, prefixName, prefixTimes} {
		for from := []byte{prefix}; from != nil; {
			keys, next, err := p.emptyEntries(ctx, from, after([]byte{prefix}))
			if err != nil {
				return err
			}
			from = next
			if len(keys) == 0 {
				continue
			}
			remove := func(g *group) error { return p.removeEntries(g, keys) }
			if err := p.l.writer.submit(&request{remove: remove, done: make(chan struct{})}); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxSweep bounds how many entries one iterator looks at.
const maxSweep = 100_000

// emptyEntries returns the next entries without builds, and where to go on; nil at the end.
func (p *pruning) emptyEntries(ctx context.Context, from, to []byte) (keys [][]byte, next []byte, err error) {
	if err := p.l.db.begin(ctx); err != nil {
		return nil, nil, err
	}
	defer p.l.db.end()
	iter, err := p.l.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	seen := 0
	for iter.First(); iter.Valid(); iter.Next() {
		if seen++; seen > maxSweep || len(keys) == sweepBatch {
			return keys, slices.Clone(iter.Key()), nil
		}
		value, err := iter.ValueAndErr()
		if err != nil {
			return nil, nil, err
		}
		empty, err := p.isEmpty(p.l.db, iter.Key(), value)
		if err != nil {
			return nil, nil, err
		}
		if empty {
			keys = append(keys, slices.Clone(iter.Key()))
		}
	}
	return keys, nil, iter.Error()
}

// isEmpty reports whether an entry of an index has no builds.
func (p *pruning) isEmpty(r pebble.Reader, key, value []byte) (bool, error) {
	if key[0] != prefixTimes {
		return decodeMask(value).empty(), nil
	}
	chunk, err := keyChunk(key, 1)
	if err != nil || chunk < 0 {
		return false, nil //nolint:nilerr // nobody reads it, and Check names it
	}
	first := uint64(chunk) * chunkSize // #nosec G115 -- none is negative
	if first+chunkSize > p.removed.build {
		return false, nil // more builds may come
	}
	iter, err := r.NewIter(&pebble.IterOptions{LowerBound: keyBuild(first), UpperBound: keyBuild(first + chunkSize)})
	if err != nil {
		return false, err
	}
	found := iter.First()
	return !found, errors.Join(iter.Error(), iter.Close())
}

// removeEntries removes entries that are still empty. The writing goroutine calls it.
func (p *pruning) removeEntries(g *group, keys [][]byte) error {
	for _, key := range keys {
		value, err := get(p.l.db, key)
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		empty, err := p.isEmpty(p.l.db, key, value)
		if err != nil {
			return err
		}
		if empty {
			if err := g.batch.Delete(key, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// compact makes the disk give back what was removed.
func (p *pruning) compact(ctx context.Context) error {
	ranges := [][2][]byte{
		{keyEvent(0), keyEvent(p.removed.event + 1)},
		{keyHistory(0, 0), historyPrefix(p.removed.build + 1)},
		{keyBuild(0), keyBuild(p.removed.build + 1)},
	}
	for _, prefix := range []byte{prefixID, prefixTerm, prefixName, prefixTimes} {
		ranges = append(ranges, [2][]byte{{prefix}, after([]byte{prefix})})
	}
	for _, r := range ranges {
		if err := p.l.db.begin(ctx); err != nil {
			return err
		}
		err := p.l.db.await(func() error { return p.l.db.Compact(ctx, r[0], r[1], false) })
		p.l.db.end()
		if err != nil {
			return err
		}
	}
	return nil
}
