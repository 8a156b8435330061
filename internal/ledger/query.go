package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// query is a question to the indexes.
type query struct {
	all      [][]byte // prefixes of keys of indexes that must have a build
	any      [][]byte // of which at least one must have it, if there are any
	none     [][]byte // that must not have it
	names    string   // what the derivation's name starts with
	within   *span    // that the time of submission is in
	matches  func(*api.Build) bool
	backward bool // newest first
}

// newQuery translates a filter.
func newQuery(f *Filter) (*query, error) {
	q := &query{matches: f.Matches, backward: !f.OldestFirst}
	for _, state := range f.States {
		code, ok := stateCodes[state]
		if !ok {
			return nil, fmt.Errorf("list builds: unknown state %q", state)
		}
		q.any = append(q.any, termPrefix(codeTerms[code]))
	}
	for key, value := range f.Tags {
		q.all = append(q.all, termPrefix(tagTerm(key, value)))
	}
	for key, value := range f.NotTags {
		q.none = append(q.none, termPrefix(tagTerm(key, value)))
	}
	if f.Derivation != "" {
		q.all = append(q.all, termPrefix(drvTerm(string(f.Derivation))))
	}
	if f.System != "" {
		q.all = append(q.all, termPrefix(systemTerm(f.System)))
	}
	if f.Machine != "" {
		q.all = append(q.all, termPrefix(machineTerm(f.Machine)))
	}
	if f.User != "" {
		q.all = append(q.all, termPrefix(userTerm(f.User)))
	}
	switch prefix, ok := strings.CutSuffix(f.Name, "*"); {
	case ok && prefix != "" && strings.IndexByte(prefix, '-') == len(prefix)-1:
		q.all = append(q.all, termPrefix(kindTerm(prefix)))
	case ok:
		q.names = prefix
	case f.Name != "":
		q.all = append(q.all, namePrefix(f.Name))
	}
	if !f.Since.IsZero() || !f.Until.IsZero() {
		q.within = &span{nanoseconds(f.Since), nanoseconds(f.Until)}
		if f.Until.IsZero() {
			q.within.last = 1<<63 - 1
		}
	}
	if len(q.any) == 0 && len(q.all) == 0 {
		q.all = append(q.all, termPrefix(everyTerm))
	}
	return q, nil
}

// none is the chunk of a source that has no more.
const none int64 = -1

// source is an index, or several, in the order of a listing.
type source interface {
	// seek returns the first chunk, from the one given in the order of the listing, in
	// which there are builds, and those; or none.
	seek(chunk int64) (int64, mask, error)
	Close() error
}

// direction is that of a listing: true if newest come first.
type direction bool

// reached reports whether a listing at a chunk has come to another chunk, or past it.
func (backward direction) reached(at, chunk int64) bool {
	if backward {
		return at <= chunk
	}
	return at >= chunk
}

func (backward direction) next(chunk int64) int64 {
	if backward {
		return chunk - 1
	}
	return chunk + 1
}

// indexSource goes through an index entry by entry. decode says which builds of the chunk
// an entry has.
type indexSource struct {
	direction
	iter   *pebble.Iterator
	prefix []byte
	decode func([]byte) mask
	begun  bool
}

func openIndex(r pebble.Reader, prefix []byte, at *position, backward direction) (*indexSource, error) {
	iter, err := r.NewIter(&pebble.IterOptions{
		LowerBound: appendChunk(append([]byte(nil), prefix...), chunkOf(at.least)),
		UpperBound: appendChunk(append([]byte(nil), prefix...), chunkOf(at.most)+1),
	})
	if err != nil {
		return nil, err
	}
	return &indexSource{direction: backward, iter: iter, prefix: prefix, decode: decodeMask}, nil
}

// openTimes is an index of the chunks for which a condition holds, given when their builds were submitted.
func openTimes(r pebble.Reader, ok func(span) bool, at *position, backward direction) (*indexSource, error) {
	s, err := openIndex(r, []byte{prefixTimes}, at, backward)
	if err != nil {
		return nil, err
	}
	s.decode = func(value []byte) mask {
		if !ok(decodeSpan(value)) {
			return mask{}
		}
		return mask{^uint64(0), ^uint64(0)}
	}
	return s, nil
}

// maxSteps is how many entries are passed one by one before the index is searched.
const maxSteps = 8

func (s *indexSource) seek(chunk int64) (int64, mask, error) {
	ok := s.begun && s.iter.Valid()
	if !s.begun {
		s.begun = true
		ok = s.search(chunk)
	}
	for steps := 0; ok; steps++ {
		at, err := keyChunk(s.iter.Key(), len(s.prefix))
		if err != nil { // no entry of this index
			ok = s.step()
			continue
		}
		if s.reached(at, chunk) {
			value, err := s.iter.ValueAndErr()
			if err != nil {
				return none, mask{}, err
			}
			if m := s.decode(value); !m.empty() {
				return at, m, nil
			}
			chunk, steps = s.next(at), 0 // the next one has come far enough
		}
		if steps < maxSteps {
			ok = s.step()
		} else {
			ok, steps = s.search(chunk), 0
		}
	}
	return none, mask{}, s.iter.Error()
}

func (s *indexSource) step() bool {
	if s.direction {
		return s.iter.Prev()
	}
	return s.iter.Next()
}

func (s *indexSource) search(chunk int64) bool {
	key := append([]byte(nil), s.prefix...)
	if s.direction {
		return s.iter.SeekLT(appendChunk(key, chunk+1))
	}
	return s.iter.SeekGE(appendChunk(key, chunk))
}

func (s *indexSource) Close() error { return s.iter.Close() }

// union has what any of several sources has.
type union struct {
	direction
	sources []source
}

func (u *union) seek(chunk int64) (int64, mask, error) {
	found, all := none, mask{}
	for _, s := range u.sources {
		at, m, err := s.seek(chunk)
		switch {
		case err != nil:
			return none, mask{}, err
		case at == none:
		case at == found:
			all = all.or(m)
		case found == none || u.reached(found, at):
			found, all = at, m
		}
	}
	return found, all, nil
}

func (u *union) Close() error { return closeAll(u.sources) }

func closeAll(sources []source) (err error) {
	for _, s := range sources {
		err = errors.Join(err, s.Close())
	}
	return err
}

// builds is a source in memory: a bit for each build from a chunk on.
type builds struct {
	direction
	first int64
	masks []mask
}

func (b *builds) seek(chunk int64) (int64, mask, error) {
	at := chunk - b.first
	if bool(b.direction) && at >= int64(len(b.masks)) {
		at = int64(len(b.masks)) - 1
	} else if !b.direction {
		at = max(at, 0)
	}
	for ; at >= 0 && at < int64(len(b.masks)); at = b.next(at) {
		if !b.masks[at].empty() {
			return b.first + at, b.masks[at], nil
		}
	}
	return none, mask{}, nil
}

func (b *builds) Close() error { return nil }

// readNames reads the index of all names with a prefix. That has about one entry for each
// build with such a name; nothing else in a listing takes a step for each of so many. The
// memory for it is a bit for each build that there is.
func readNames(ctx context.Context, r pebble.Reader, prefix string, at *position, backward direction) (_ *builds, err error) {
	found := &builds{direction: backward}
	first, last, err := ends(r, at)
	if err != nil || last < first {
		return found, err
	}
	found.first, found.masks = first, make([]mask, last-first+1)
	key := append([]byte{prefixName}, prefix...)
	iter, err := r.NewIter(&pebble.IterOptions{LowerBound: key, UpperBound: after(key)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	n := 0
	for iter.First(); iter.Valid(); iter.Next() {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		chunk, err := keyChunk(iter.Key(), max(len(iter.Key())-8, 0))
		if err != nil || chunk < first || chunk > last {
			continue
		}
		value, err := iter.ValueAndErr()
		if err != nil {
			return nil, err
		}
		found.masks[chunk-first] = found.masks[chunk-first].or(decodeMask(value))
	}
	return found, iter.Error()
}

// ends returns the first and the last chunk that have builds within a position.
func ends(r pebble.Reader, at *position) (first, last int64, err error) {
	iter, err := r.NewIter(&pebble.IterOptions{LowerBound: keyTimes(chunkOf(at.least)), UpperBound: keyTimes(chunkOf(at.most) + 1)})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	if !iter.First() {
		return 0, -1, iter.Error()
	}
	if first, err = keyChunk(iter.Key(), 1); err != nil {
		return 0, 0, err
	}
	if !iter.Last() {
		return 0, -1, iter.Error()
	}
	last, err = keyChunk(iter.Key(), 1)
	return first, last, err
}

// selection is the answer to a query: the builds that are in all its sources and in none
// that is excluded.
type selection struct {
	direction
	sources  []source
	excluded []source
}

// open opens the indexes of a query. The names that it asks for are read only once.
func (q *query) open(ctx context.Context, r pebble.Reader, at *position, names **builds) (_ *selection, err error) {
	s := &selection{direction: direction(q.backward)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	index := func(prefix []byte) (source, error) { return openIndex(r, prefix, at, s.direction) }
	if err := openAll(q.all, &s.sources, index); err != nil {
		return s, err
	}
	if err := openAll(q.none, &s.excluded, index); err != nil {
		return s, err
	}
	if q.within != nil {
		times, err := openTimes(r, q.within.overlaps, at, s.direction)
		if err != nil {
			return s, err
		}
		s.sources = append(s.sources, times)
	}
	if q.names != "" {
		if *names == nil {
			if *names, err = readNames(ctx, r, q.names, at, s.direction); err != nil {
				return s, err
			}
		}
		s.sources = append(s.sources, *names)
	}
	if len(q.any) > 0 {
		u := &union{direction: s.direction}
		s.sources = append(s.sources, u)
		err = openAll(q.any, &u.sources, index)
	}
	return s, err
}

func openAll(prefixes [][]byte, sources *[]source, open func([]byte) (source, error)) error {
	for _, prefix := range prefixes {
		s, err := open(prefix)
		if err != nil {
			return err
		}
		*sources = append(*sources, s)
	}
	return nil
}

// Close closes the indexes.
func (s *selection) Close() error { return errors.Join(closeAll(s.sources), closeAll(s.excluded)) }

// next returns the first chunk, from the one given in the order of the listing, that has
// builds of the selection, and those; or none.
func (s *selection) next(ctx context.Context, chunk int64) (int64, mask, error) {
	for rounds := 0; ; rounds++ {
		if rounds%256 == 0 && ctx.Err() != nil {
			return none, mask{}, ctx.Err()
		}
		at, m, err := s.agree(chunk)
		if err != nil || at == none {
			return none, mask{}, err
		}
		for _, e := range s.excluded {
			found, out, err := e.seek(at)
			if err != nil {
				return none, mask{}, err
			}
			if found == at {
				m = m.without(out)
			}
		}
		if !m.empty() {
			return at, m, nil
		}
		if chunk = s.direction.next(at); chunk < 0 {
			return none, mask{}, nil
		}
	}
}

// agree returns the first chunk in which all sources have builds, and the builds that they
// have in common, which may be none.
func (s *selection) agree(chunk int64) (int64, mask, error) {
	common := mask{^uint64(0), ^uint64(0)}
	for i := 0; i < len(s.sources); i++ {
		at, m, err := s.sources[i].seek(chunk)
		if err != nil || at == none {
			return none, mask{}, err
		}
		if at == chunk {
			common = common.and(m)
			continue
		}
		// All must come to this chunk; the first begins again.
		chunk, common = at, m
		if i > 0 {
			i = -1
		}
	}
	return chunk, common, nil
}
