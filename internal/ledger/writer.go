package ledger

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// maxGroup bounds the changes that share one batch.
const maxGroup = 2000

// request is one call of Apply, or a removal, which the writing goroutine does by itself.
type request struct {
	changes []*prepared
	remove  func(*group) error
	durable bool
	seqs    []uint64
	err     error
	done    chan struct{}
}

// Apply makes changes, together or not at all, and returns the number of each
// one's event (0 if it has none). If durable is set, it returns when they are on
// disk, else when they are visible to readers.
//
// The context is looked at before the changes are handed over. From then on Apply
// waits for the outcome, which nobody would know otherwise.
func (l *Ledger) Apply(ctx context.Context, changes []Change, durable bool) ([]uint64, error) {
	r := &request{durable: durable, changes: make([]*prepared, len(changes)), done: make(chan struct{})}
	for i := range changes {
		var err error
		if r.changes[i], err = prepare(&changes[i]); err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err := l.submit(r)
	if err != nil {
		return nil, err
	}
	return r.seqs, nil
}

// submit hands a request over and waits for its outcome.
func (l *Ledger) submit(r *request) error {
	if err := l.enqueue(r); err != nil {
		return err
	}
	select {
	case <-r.done:
	case <-l.failed:
		select {
		case <-r.done: // it was done before
		default:
			return l.Err()
		}
	}
	return r.err
}

func (l *Ledger) enqueue(r *request) error {
	if err := l.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return fmt.Errorf("ledger %s: %w", l.dir, ErrClosed)
	}
	l.queue = append(l.queue, r)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// write is the writing goroutine. It ends when the ledger is closed, with all
// that was enqueued written and synced, or when the ledger fails.
func (l *Ledger) write() {
	defer close(l.written)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for l.Err() == nil {
		if !l.synced.IsZero() {
			timer.Reset(time.Until(l.synced))
		}
		closing := false
		select {
		case <-l.wake:
		case <-timer.C:
		case <-l.closing:
			closing = true
		}
		for group := l.take(); len(group) > 0 && l.Err() == nil; group = l.take() {
			l.commit(group)
		}
		if !l.synced.IsZero() && (closing || !time.Now().Before(l.synced)) {
			l.sync()
		}
		if closing {
			return
		}
	}
}

// take returns the requests that wait, up to about maxGroup changes. A removal comes
// alone: it looks at what all before it have written.
func (l *Ledger) take() []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for changes := 0; n < len(l.queue) && changes < maxGroup; n++ {
		if l.queue[n].remove != nil {
			n = max(n, 1)
			break
		}
		changes += len(l.queue[n].changes)
	}
	group := slices.Clone(l.queue[:n])
	l.queue = slices.Delete(l.queue, 0, n)
	return group
}

// commit writes the requests of a group in one batch and answers them.
func (l *Ledger) commit(group []*request) {
	if err := l.room(); err != nil {
		answer(group, err)
		return
	}
	b := newGroup(l)
	durable := false
	accepted := make([]*request, 0, len(group))
	for _, r := range group {
		if r.remove != nil {
			if err := r.remove(b); err != nil {
				answer(group, fmt.Errorf("ledger: %w", errors.Join(err, b.batch.Close()))) // it was alone, and nothing is written
				return
			}
		} else if r.seqs, r.err = b.add(r.changes); r.err != nil {
			r.err = fmt.Errorf("ledger: %w", r.err)
			close(r.done)
			continue
		}
		accepted = append(accepted, r)
		durable = durable || r.durable
	}
	if err := b.write(durable); err != nil {
		l.fail(err)
		return // all get the failure
	}
	b.publish()
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

// room refuses changes while the disk is nearly full: a write that then failed
// would be the end of the ledger.
func (l *Ledger) room() error {
	usage, err := l.opts.FS.GetDiskUsage(l.dir)
	if err != nil || usage.TotalBytes == 0 || l.opts.MinFree < 0 {
		return nil //nolint:nilerr // a file system that cannot say must not stop the ledger
	}
	if usage.AvailBytes < uint64(l.opts.MinFree) {
		return fmt.Errorf("ledger %s: %w: %d bytes are free, and %d are kept free", l.dir, ErrDiskFull, usage.AvailBytes, l.opts.MinFree)
	}
	return nil
}

// sync makes all that is written durable.
func (l *Ledger) sync() {
	l.synced = time.Time{}
	if err := l.db.LogData(nil, pebble.Sync); err != nil {
		l.fail(err)
	}
}

// group is a batch in the making. It sees its own changes.
type group struct {
	l       *Ledger
	batch   *pebble.Batch
	now     time.Time
	numbers uint64
	events  uint64
	removed watermark
	heads   map[string]head
	terms   map[string]*terms // of the builds in heads that the group has written
	samples map[string][]Sample
	ops     map[string][]byte // what is to be merged into entries of indexes
	spans   map[int64]span    // and into those of times, by chunk
	systems map[string]bool   // those that are new
	counts  map[countKey]int  // what is added to those of the ledger
}

func newGroup(l *Ledger) *group {
	return &group{
		l: l, batch: l.db.NewBatch(), now: l.opts.Now(), numbers: l.numbers, events: l.events, removed: l.watermark(),
		heads: make(map[string]head), terms: make(map[string]*terms), samples: make(map[string][]Sample),
		ops: make(map[string][]byte), spans: make(map[int64]span),
		systems: make(map[string]bool), counts: make(map[countKey]int),
	}
}

// add adds the changes of one request, or nothing of it and returns an error.
func (g *group) add(changes []*prepared) ([]uint64, error) {
	if err := g.check(changes); err != nil {
		return nil, err
	}
	seqs := make([]uint64, len(changes))
	for i, p := range changes {
		var err error
		if seqs[i], err = g.addChange(p); err != nil {
			// The reads have been done by check, so this cannot happen but by
			// corruption; part of the request may be in the batch.
			g.l.fail(err)
			return nil, err
		}
	}
	return seqs, nil
}

// check applies the rules that depend on what is in the ledger.
func (g *group) check(changes []*prepared) error {
	created := make(map[string]bool)
	states := make(map[string]byte)
	for _, p := range changes {
		if p.id == "" {
			continue
		}
		h, err := g.head(p.id)
		exists := err == nil || created[p.id]
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		state := h.state
		if s, ok := states[p.id]; ok {
			state = s
		}
		switch {
		case p.create && exists:
			return fmt.Errorf("build %s: %w", p.id, ErrExists)
		case p.record == nil && !exists:
			return err
		case p.record == nil && p.state != 0 && p.state != state:
			return fmt.Errorf("build %s: an event says %s, its record %s", p.id, codeStates[p.state], codeStates[state])
		case p.record != nil:
			created[p.id], states[p.id] = true, p.state
		}
	}
	return nil
}

// head returns what is known of a build, also in this group, or an error that
// matches ErrNotFound.
func (g *group) head(id string) (head, error) {
	if h, ok := g.heads[id]; ok {
		return h, nil
	}
	h, err := g.l.head(g.l.db, id)
	if err == nil {
		g.heads[id] = h
	}
	return h, err
}

func (g *group) addChange(p *prepared) (seq uint64, err error) {
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
	if p.duration != nil {
		if err := g.putSample(p.duration); err != nil {
			return 0, err
		}
	}
	if p.machine != nil {
		err = g.batch.Set(keyMachine(p.machine.Name), p.known, nil)
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
	if !g.l.systems[t.system] {
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

// reindex changes the entries of a build in the indexes that have changed. What else is
// in the old record is read only if more changed than state, machine, and outputs that
// were not known before.
func (g *group) reindex(p *prepared, old, h head) error {
	if h.fixed != old.fixed || h.outputs != old.outputs && old.outputs != 0 {
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

// termsOf returns the terms of a build as it stands in the ledger or in this group.
func (g *group) termsOf(id string, h head) (*terms, error) {
	if t := g.terms[id]; t != nil {
		return t, nil
	}
	b, err := g.l.record(g.l.db, h.number)
	if err != nil {
		return nil, err
	}
	return newTerms(b), nil
}

func (g *group) op(key []byte, op byte) { g.ops[string(key)] = append(g.ops[string(key)], op) }

// merge puts what was done to indexes into the batch.
func (g *group) merge() (err error) {
	for key, ops := range g.ops {
		err = errors.Join(err, g.batch.Merge([]byte(key), ops, nil))
	}
	for chunk, s := range g.spans {
		err = errors.Join(err, g.batch.Merge(keyTimes(chunk), s.encode(), nil))
	}
	for name := range g.systems {
		err = errors.Join(err, g.batch.Set(keySystem(name), nil, nil))
	}
	return err
}

func (g *group) putEvent(p *prepared, number uint64) (uint64, error) {
	g.events++
	value := make([]byte, 0, 8+len(p.event))
	value = binary.BigEndian.AppendUint64(value, uint64(g.now.UnixNano())) // #nosec G115 -- read back by the same conversion
	err := g.batch.Set(keyEvent(g.events), append(value, p.event...), nil)
	return g.events, errors.Join(err, g.batch.Set(keyHistory(number, g.events), nil, nil))
}

func (g *group) putSample(d *Duration) error {
	key := keyDuration(d.Name, d.System)
	samples, ok := g.samples[string(key)]
	if !ok {
		var err error
		if samples, err = g.l.samplesOf(key); err != nil {
			return err
		}
	}
	samples = append([]Sample{d.Sample}, samples[:min(len(samples), maxSamples-1)]...)
	g.samples[string(key)] = samples
	value, err := json.Marshal(samples)
	if err != nil {
		return err
	}
	return g.batch.Set(key, value, nil)
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
	g.l.setWatermark(g.removed) // before the batch: who sees gaps must know of them
	options := pebble.NoSync
	if durable {
		options = pebble.Sync
	}
	if err := g.batch.Commit(options); err != nil {
		return err
	}
	switch {
	case durable:
		g.l.synced = time.Time{}
	case g.l.synced.IsZero():
		g.l.synced = time.Now().Add(g.l.opts.SyncDelay)
	}
	return nil
}

// publish makes the events known to those who follow them.
func (g *group) publish() {
	l := g.l
	l.numbers, l.events = g.numbers, g.events
	maps.Copy(l.systems, g.systems)
	l.sampling.Lock()
	maps.Copy(l.samples, g.samples)
	l.sampling.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, n := range g.counts {
		l.counts[key] += n
	}
	if l.last != g.events {
		l.last = g.events
		close(l.changed)
		l.changed = make(chan struct{})
	}
}
