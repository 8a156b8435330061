package ledger

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/scheduler/estimate"
)

const (
	// maxGroup bounds the changes that share one batch, and maxGroupSize their bytes,
	// unless one call of Apply alone has more.
	maxGroup     = 2000
	maxGroupSize = 8 << 20
	// MaxApply bounds the bytes of one call of Apply, for the sake of memory and of the
	// callers that wait behind it. Pebble itself panics at 4 GiB.
	MaxApply = 64 << 20
)

// request is one call of Apply, or a removal, which gets a batch of its own.
type request struct {
	changes []*prepared
	size    int  // of the changes, in bytes, about
	each    bool // each change is made for itself
	refused []Refusal
	remove  func(*group) error
	durable bool
	seqs    []uint64
	err     error
	done    chan struct{}
}

// Refusal is a change that can't be made, and why: it is wrong in itself, or doesn't fit
// what the ledger has.
type Refusal struct {
	Index int // among the changes of the call
	Err   error
}

// RefusedError is the error of changes that can't be made. Nothing was changed, and the
// ledger stays usable. It matches what the errors of the refusals match, such as ErrExists.
type RefusedError struct {
	Refusals []Refusal // at least one
}

func (e *RefusedError) Error() string {
	text := "ledger: " + e.Refusals[0].Err.Error()
	if n := len(e.Refusals) - 1; n > 0 {
		text += fmt.Sprintf("; and %d more changes are refused", n)
	}
	return text
}

// Unwrap returns the reasons.
func (e *RefusedError) Unwrap() []error {
	list := make([]error, len(e.Refusals))
	for i, r := range e.Refusals {
		list[i] = r.Err
	}
	return list
}

// Apply makes changes, together or not at all, and returns the number of each change's
// event (0 if it has none). If durable is set, it returns when they are on disk, otherwise
// when they are visible to readers. Changes that can't be made give a *RefusedError.
//
// Apply looks at the context before it hands the changes over. From then on it waits for
// the outcome, which would otherwise stay unknown.
func (l *Ledger) Apply(ctx context.Context, changes []Change, durable bool) ([]uint64, error) {
	r := &request{durable: durable, changes: make([]*prepared, len(changes)), done: make(chan struct{})}
	var refused []Refusal
	for i := range changes {
		p, err := prepare(&changes[i])
		if err != nil {
			refused = append(refused, Refusal{i, err})
			continue
		}
		r.changes[i] = p
		if r.size += p.size(); r.size > MaxApply {
			return nil, fmt.Errorf("ledger: %w: the first %d changes of %d have %d bytes, at most %d are taken at once", ErrTooLarge, i+1, len(changes), r.size, MaxApply)
		}
	}
	if refused != nil {
		return nil, &RefusedError{refused}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := l.writer.submit(r); err != nil {
		return nil, err
	}
	return r.seqs, nil
}

// ApplyEach makes changes in order, each for itself: those that can't be made are returned,
// and don't keep others from being made. It accepts any number of changes, and writes as
// many batches as they need. After an error of the ledger itself, done says how many
// changes were made or refused before.
func (l *Ledger) ApplyEach(ctx context.Context, changes []Change, durable bool) (done int, refused []Refusal, err error) {
	for done < len(changes) {
		r := &request{durable: durable, each: true, done: make(chan struct{})}
		indexes := make([]int, 0, min(maxGroup, len(changes)-done))
		next := done
		for ; next < len(changes) && len(r.changes) < maxGroup && r.size < maxGroupSize; next++ {
			p, err := prepare(&changes[next])
			if err != nil {
				refused = append(refused, Refusal{next, err})
				continue
			}
			r.changes, indexes = append(r.changes, p), append(indexes, next)
			r.size += p.size()
		}
		if err := ctx.Err(); err != nil {
			return done, refusedBefore(refused, done), err
		}
		if err := l.writer.submit(r); err != nil {
			return done, refusedBefore(refused, done), err
		}
		for _, one := range r.refused {
			refused = append(refused, Refusal{indexes[one.Index], one.Err})
		}
		done = next
	}
	slices.SortFunc(refused, func(a, b Refusal) int { return cmp.Compare(a.Index, b.Index) })
	return done, refused, nil
}

// refusedBefore returns the refusals of the first changes.
func refusedBefore(refused []Refusal, n int) []Refusal {
	return slices.DeleteFunc(refused, func(r Refusal) bool { return r.Index >= n })
}

// writer is the writing goroutine: its queue, and what it keeps in memory.
type writer struct {
	db        *database
	published *published
	samples   *samples

	// What follows belongs to the goroutine, once it runs.
	numbers uint64          // the last build's
	events  uint64          // the last event's
	changes uint64          // that were made so far
	counter *counter        // of what was acknowledged
	synced  time.Time       // when what is written but not synced must be; zero if all is
	systems map[string]bool // that have a 'y' key

	mu    sync.Mutex
	queue []*request // for the goroutine; guarded by mu
	ended bool       // nothing more goes into queue; guarded by mu

	wake    chan struct{} // holds a token when queue is not empty
	written chan struct{} // closed when the goroutine has ended
}

// tally is how far the goroutine has come.
func (w *writer) tally(now time.Time) Tally {
	return Tally{Changes: w.changes, Event: w.events, Build: w.numbers, Time: now}
}

// closeQueue closes the queue, and reports whether it was open.
func (w *writer) closeQueue() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	ended := w.ended
	w.ended = true
	return !ended
}

// submit hands a request over and waits for its outcome.
func (w *writer) submit(r *request) error {
	if err := w.enqueue(r); err != nil {
		return err
	}
	select {
	case <-r.done:
	case <-w.db.failed:
		select {
		case <-r.done: // it was done before
		default:
			return w.db.err()
		}
	}
	return r.err
}

func (w *writer) enqueue(r *request) error {
	if err := w.db.err(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return fmt.Errorf("ledger %s: %w", w.db.dir, ErrClosed)
	}
	w.queue = append(w.queue, r)
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return nil
}

// write is the writing goroutine. It ends when the ledger is closed, with all
// that was enqueued written and synced, or when the ledger fails.
func (w *writer) write() {
	defer close(w.written)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for w.db.err() == nil {
		if !w.synced.IsZero() {
			timer.Reset(time.Until(w.synced))
		}
		closing := false
		select {
		case <-w.wake:
		case <-timer.C:
		case <-w.db.closing:
			closing = true
		}
		for group := w.take(); len(group) > 0 && w.db.err() == nil; group = w.take() {
			w.commit(group)
		}
		if !w.synced.IsZero() && (closing || !time.Now().Before(w.synced)) {
			w.sync()
		}
		if closing {
			return
		}
	}
}

// take returns the waiting requests, up to maxGroup changes and maxGroupSize bytes, but at
// least one. A removal comes alone: it looks at what all requests before it have written.
func (w *writer) take() []*request {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for changes, size := 0, 0; n < len(w.queue); n++ {
		r := w.queue[n]
		changes, size = changes+len(r.changes), size+r.size
		if n > 0 && (r.remove != nil || changes > maxGroup || size > maxGroupSize) {
			break
		}
		if r.remove != nil {
			n = 1
			break
		}
	}
	group := slices.Clone(w.queue[:n])
	w.queue = slices.Delete(w.queue, 0, n)
	return group
}

// commit writes the requests of a group in one batch and answers them.
func (w *writer) commit(group []*request) {
	if err := w.room(); err != nil {
		answer(group, err)
		return
	}
	b := newGroup(w)
	durable := false
	accepted := make([]*request, 0, len(group))
	for _, r := range group {
		if r.remove != nil {
			if err := r.remove(b); err != nil {
				answer(group, fmt.Errorf("ledger: %w", errors.Join(err, b.batch.Close()))) // it was alone, and nothing is written
				return
			}
		} else if r.err = b.add(r); r.err != nil {
			close(r.done)
			continue
		}
		accepted = append(accepted, r)
		durable = durable || r.durable
	}
	if w.db.err() != nil {
		return // all get the failure
	}
	if err := b.write(durable); err != nil {
		w.db.fail(err)
		return
	}
	b.publish()
	if durable {
		w.counter.note(w.tally(b.now))
	}
	for _, r := range accepted {
		close(r.done)
	}
}

func answer(group []*request, err error) {
	for _, r := range group {
		r.err = err
		close(r.done)
	}
}

// room refuses changes while the disk is nearly full: a failed write would be the end of
// the ledger.
func (w *writer) room() error {
	usage, err := w.db.opts.FS.GetDiskUsage(w.db.dir)
	if err != nil || usage.TotalBytes == 0 || w.db.opts.MinFree < 0 {
		return nil //nolint:nilerr // a file system that cannot say must not stop the ledger
	}
	if usage.AvailBytes < uint64(w.db.opts.MinFree) {
		return fmt.Errorf("ledger %s: %w: %d bytes are free, and %d are kept free", w.db.dir, ErrDiskFull, usage.AvailBytes, w.db.opts.MinFree)
	}
	return nil
}

// sync makes durable all that is written.
func (w *writer) sync() {
	w.synced = time.Time{}
	if err := w.db.LogData(nil, pebble.Sync); err != nil {
		w.db.fail(err)
		return
	}
	w.counter.note(w.tally(w.db.opts.Now()))
}

// group is a batch in the making. It sees its own changes.
type group struct {
	w       *writer
	batch   *pebble.Batch
	now     time.Time
	numbers uint64
	events  uint64
	changes uint64
	removed watermark
	heads   map[string]head
	terms   map[string]*terms // of the builds in heads that the group has written
	samples map[string]*Samples
	classes map[string]*estimate.Class
	ops     map[string][]byte // what is to be merged into entries of indexes
	spans   map[int64]span    // and into those of times, by chunk
	systems map[string]bool   // those that are new
	counts  map[countKey]int  // what is added to those of the ledger
}

func newGroup(w *writer) *group {
	return &group{
		w: w, batch: w.db.NewBatch(), now: w.db.opts.Now(), numbers: w.numbers, events: w.events, changes: w.changes, removed: w.published.watermark(),
		heads: make(map[string]head), terms: make(map[string]*terms), samples: make(map[string]*Samples), classes: make(map[string]*estimate.Class),
		ops: make(map[string][]byte), spans: make(map[int64]span),
		systems: make(map[string]bool), counts: make(map[countKey]int),
	}
}

// add adds the changes of a request. If one of them is refused, none is added, and that is
// the error, unless each is made for itself.
func (g *group) add(r *request) error {
	if r.each {
		for i, p := range r.changes {
			refused := g.check([]*prepared{p})
			if refused != nil {
				r.refused = append(r.refused, Refusal{i, refused[0].Err})
				continue
			}
			if _, err := g.addChange(p); err != nil {
				return g.broken(err)
			}
		}
		return nil
	}
	if refused := g.check(r.changes); refused != nil {
		return &RefusedError{refused}
	}
	r.seqs = make([]uint64, len(r.changes))
	for i, p := range r.changes {
		var err error
		if r.seqs[i], err = g.addChange(p); err != nil {
			return g.broken(err)
		}
	}
	return nil
}

// broken fails the ledger: once check has let a request through, only the database can
// refuse it, and then part of it may be in the batch.
func (g *group) broken(err error) error {
	g.w.db.fail(err)
	return g.w.db.err()
}

// check applies the rules that depend on what is in the ledger.
func (g *group) check(changes []*prepared) (refused []Refusal) {
	made := make(map[string]byte) // states of builds that these changes make, or change
	for i, p := range changes {
		if p.id == "" {
			continue
		}
		if err := g.checkOne(p, made); err != nil {
			refused = append(refused, Refusal{i, err})
		} else if p.record != nil {
			made[p.id] = p.state
		}
	}
	return refused
}

func (g *group) checkOne(p *prepared, made map[string]byte) error {
	h, err := g.head(p.id)
	state, isMade := made[p.id]
	exists := err == nil || isMade
	if !isMade {
		state = h.state
	}
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return g.unread(err)
	case p.create && exists:
		return fmt.Errorf("build %s: %w", p.id, ErrExists)
	case p.record == nil && !exists:
		return err
	case p.record == nil && p.state != 0 && p.state != state:
		return fmt.Errorf("build %s: an event says %s, its record %s", p.id, codeStates[p.state], codeStates[state])
	case p.record != nil && err == nil && g.changesFixed(p, h):
		_, err = g.termsOf(p.id, h) // for reindex
		return g.unread(err)
	}
	return nil
}

// unread fails the ledger unless an error is about the contents of one record.
func (g *group) unread(err error) error {
	if err != nil && !isRecordError(err) {
		return g.broken(err)
	}
	return err
}

// changesFixed reports whether changing the indexes of a build takes a look at what it is
// found by now.
func (g *group) changesFixed(p *prepared, old head) bool {
	h := p.terms.head(old.number, p.state, p.attempt)
	return h.fixed != old.fixed || h.outputs != old.outputs && old.outputs != 0
}

// head returns what is known of a build, this group included, or an error that matches
// ErrNotFound.
func (g *group) head(id string) (head, error) {
	if h, ok := g.heads[id]; ok {
		return h, nil
	}
	h, err := readHead(g.w.db, id)
	if err == nil {
		g.heads[id] = h
	}
	return h, err
}

func (g *group) addChange(p *prepared) (seq uint64, err error) {
	g.changes++
	var h head
	appended := p.event != nil
	if p.id != "" {
		old, err := g.head(p.id)
		isNew := errors.Is(err, ErrNotFound)
		if err != nil && !isNew {
			return 0, err
		}
		h = old
		if p.record != nil {
			if h, err = g.putBuild(p, old, isNew); err != nil {
				return 0, err
			}
			appended = p.always || isNew || old.state != h.state || old.attempt != h.attempt
		}
	}
	if appended {
		if seq, err = g.putEvent(p, h.number); err != nil {
			return 0, err
		}
	}
	if p.samples != nil {
		if err := g.putSamples(p.samples); err != nil {
			return 0, err
		}
	}
	if p.machine != nil {
		err = g.batch.Set(keyMachine(p.machine.Name), p.known, nil)
	}
	if p.read != nil {
		err = errors.Join(err, g.putHour(p))
	}
	switch {
	case p.setting == "":
	case p.value == nil:
		err = errors.Join(err, g.batch.Delete(keySetting(p.setting), nil))
	default:
		err = errors.Join(err, g.batch.Set(keySetting(p.setting), p.value, nil))
	}
	return seq, err
}

func (g *group) putBuild(p *prepared, old head, isNew bool) (head, error) {
	number := old.number
	if isNew {
		g.numbers++
		number = g.numbers
	}
	h := p.terms.head(number, p.state, p.attempt)
	err := g.batch.Set(keyBuild(number), p.record, nil)
	if h == old {
		return h, err
	}
	if isNew {
		g.index(h, p.terms)
	} else {
		err = errors.Join(err, g.reindex(p, old, h))
	}
	g.heads[p.id], g.terms[p.id] = h, p.terms
	return h, errors.Join(err, g.batch.Set(keyID(p.id), h.encode(), nil))
}

// index enters a build into all indexes.
func (g *group) index(h head, t *terms) {
	for _, term := range t.all(h.state) {
		g.op(keyTerm(term, chunkOf(h.number)), bitOf(h.number))
	}
	g.indexFixed(h, t)
	g.counts[countKey{t.system, codeStates[h.state]}]++
}

// indexFixed enters a build into the indexes that have no terms.
func (g *group) indexFixed(h head, t *terms) {
	chunk := chunkOf(h.number)
	g.op(keyName(t.name, chunk), bitOf(h.number))
	s, ok := g.spans[chunk]
	if !ok {
		s = span{t.submitted, t.submitted}
	}
	g.spans[chunk] = s.join(span{t.submitted, t.submitted})
	if !g.w.systems[t.system] {
		g.systems[t.system] = true
	}
}

// unindex takes a build out of all indexes.
func (g *group) unindex(h head, t *terms) {
	for _, term := range t.all(h.state) {
		g.op(keyTerm(term, chunkOf(h.number)), bitOf(h.number)|cleared)
	}
	g.op(keyName(t.name, chunkOf(h.number)), bitOf(h.number)|cleared)
	g.counts[countKey{t.system, codeStates[h.state]}]--
}

// reindex changes the entries of a build in the indexes that have changed. The old record
// is read only if something else changed than state, machine, and outputs that were not
// known before.
func (g *group) reindex(p *prepared, old, h head) error {
	if g.changesFixed(p, old) {
		before, err := g.termsOf(p.id, old)
		if err != nil {
			return err
		}
		g.unindex(old, before)
		g.index(h, p.terms)
		return nil
	}
	chunk, bit := chunkOf(h.number), bitOf(h.number)
	if h.state != old.state {
		g.op(keyTerm(codeTerms[old.state], chunk), bit|cleared)
		g.op(keyTerm(codeTerms[h.state], chunk), bit)
		g.counts[countKey{p.terms.system, codeStates[old.state]}]--
		g.counts[countKey{p.terms.system, codeStates[h.state]}]++
	}
	if h.machine != old.machine {
		if old.machine != 0 {
			g.op(keyTerm(old.machine, chunk), bit|cleared)
		}
		if h.machine != 0 {
			g.op(keyTerm(h.machine, chunk), bit)
		}
	}
	if h.outputs != old.outputs {
		for _, t := range p.terms.outputs {
			g.op(keyTerm(t, chunk), bit)
		}
	}
	return nil
}

// termsOf returns the terms of a build as it is in the ledger or in this group.
func (g *group) termsOf(id string, h head) (*terms, error) {
	if t := g.terms[id]; t != nil {
		return t, nil
	}
	e, err := readEntry(g.w.db, h.number)
	if err != nil {
		return nil, err
	}
	g.terms[id] = newTerms(e.build)
	return g.terms[id], nil
}

func (g *group) op(key []byte, op byte) { g.ops[string(key)] = append(g.ops[string(key)], op) }

// merge puts what was done to indexes and classes into the batch.
func (g *group) merge() (err error) {
	for key, ops := range g.ops {
		err = errors.Join(err, g.batch.Merge([]byte(key), ops, nil))
	}
	for chunk, s := range g.spans {
		err = errors.Join(err, g.batch.Merge(keyTimes(chunk), s.encode(), nil))
	}
	for key, c := range g.classes {
		value, encodeErr := json.Marshal(c)
		err = errors.Join(err, encodeErr, g.batch.Set([]byte(key), value, nil))
	}
	for name := range g.systems {
		err = errors.Join(err, g.batch.Set(keySystem(name), nil, nil))
	}
	return err
}

func (g *group) putEvent(p *prepared, number uint64) (uint64, error) {
	g.events++
	value := make([]byte, 0, 8+len(p.event))
	value = binary.BigEndian.AppendUint64(value, uint64(nanoseconds(g.now))) // #nosec G115 -- read back by the same conversion
	err := g.batch.Set(keyEvent(g.events), append(value, p.event...), nil)
	return g.events, errors.Join(err, g.batch.Set(keyHistory(number, g.events), nil, nil))
}

// write commits the batch.
func (g *group) write(durable bool) (err error) {
	defer func() { err = errors.Join(err, g.batch.Close()) }()
	if err := g.merge(); err != nil {
		return err
	}
	if g.batch.Empty() {
		return nil
	}
	g.changes++ // at least: a removal counts none
	if err := g.batch.Set(keyChanges, encodeChanges(g.changes, g.now), nil); err != nil {
		return err
	}
	g.w.published.setWatermark(g.removed) // before the batch: whoever sees gaps must know of them
	options := pebble.NoSync
	if durable {
		options = pebble.Sync
	}
	if err := g.batch.Commit(options); err != nil {
		return err
	}
	switch {
	case durable:
		g.w.synced = time.Time{}
	case g.w.synced.IsZero():
		g.w.synced = time.Now().Add(g.w.db.opts.SyncDelay)
	}
	return nil
}

// publish lets readers know what was written.
func (g *group) publish() {
	w := g.w
	w.numbers, w.events, w.changes = g.numbers, g.events, g.changes
	maps.Copy(w.systems, g.systems)
	w.samples.remember(g.samples, g.classes)
	w.published.advance(g.events, g.counts)
}
