package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
	"lighter/store"
)

// Filter selects builds. The zero value selects all. Indexes answer all of it, however many
// builds there are and however few it selects.
type Filter struct {
	api.Filter
	// After is the id of a build: only what comes after it is listed.
	After string
	Limit int // 0 is none
	// OldestFirst turns the listing round. Otherwise the newest comes first.
	OldestFirst bool
}

// NonFinal lists the states of builds whose history has not ended.
func NonFinal() []api.State {
	return slices.DeleteFunc(api.States(), api.State.Final)
}

// readHead returns what an 'n' key says, or an error that matches ErrNotFound.
func readHead(r pebble.Reader, id string) (head, error) {
	value, err := get(r, keyID(id))
	if errors.Is(err, pebble.ErrNotFound) {
		return head{}, fmt.Errorf("build %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return head{}, fmt.Errorf("build %s: %w", id, err)
	}
	return decodeHead(id, value)
}

// missingRecord is the error of a record that is in an index and could not be read.
func missingRecord(number uint64, err error) error {
	if errors.Is(err, pebble.ErrNotFound) {
		return unusable(errors.New("it is in an index, but its record is missing"), "build number %d", number)
	}
	return fmt.Errorf("build number %d: %w", number, err)
}

// decodeBuild reads a record. It cuts texts from older versions that are longer than is
// allowed now.
func decodeBuild(number uint64, value []byte) (*api.Build, error) {
	b, err := decode(value, func(b *api.Build) error {
		b.Shorten()
		return validBuild(b)
	})
	if err == nil {
		return b, nil
	}
	if checkID(b.ID) == nil {
		return nil, unusable(err, "build %s (number %d)", b.ID, number)
	}
	return nil, unusable(err, "build number %d", number)
}

// Build returns a build's record, which the caller owns, or an error that matches
// ErrNotFound, or a *RecordError.
func (l *Ledger) Build(ctx context.Context, id string) (*api.Build, error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	h, err := readHead(l.db, id)
	if err != nil {
		return nil, err
	}
	e, err := readEntry(l.db, h.number)
	return e.build, err
}

// Counts returns how many builds are in each state. States without builds are left out.
func (l *Ledger) Counts() map[api.State]int {
	counts := make(map[api.State]int)
	l.published.eachCount(func(key countKey, n int) { counts[key.state] += n })
	return counts
}

// SystemCounts returns the same by system.
func (l *Ledger) SystemCounts() map[string]map[api.State]int {
	counts := make(map[string]map[api.State]int)
	l.published.eachCount(func(key countKey, n int) {
		if counts[key.system] == nil {
			counts[key.system] = make(map[api.State]int)
		}
		counts[key.system][key.state] = n
	})
	return counts
}

// maxByOutput bounds what ByOutput returns.
const maxByOutput = 100

// ByOutput returns the ids of the builds that have made an output or will make it, as far as
// their records say so: newest first, at most 100.
func (l *Ledger) ByOutput(ctx context.Context, path store.Path) (ids []string, err error) {
	q := &query{all: [][]byte{termPrefix(outputTerm(string(path)))}, backward: true}
	q.matches = func(b *api.Build) bool {
		for _, output := range b.OutputPaths {
			if output == path {
				return true
			}
		}
		return false
	}
	for e, err := range l.entries(ctx, q, everywhere()) {
		if err != nil {
			return nil, fmt.Errorf("builds of output %s: %w", path, err)
		}
		if ids = append(ids, e.build.ID); len(ids) == maxByOutput {
			break
		}
	}
	return ids, nil
}

// ByPrefix returns the ids that start with a prefix, sorted, and at most limit, which must be
// positive.
func (l *Ledger) ByPrefix(ctx context.Context, prefix string, limit int) ([]string, error) {
	if limit < 1 {
		return nil, fmt.Errorf("builds whose ids start with %q: limit %d; want at least 1", prefix, limit)
	}
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	var ids []string
	enough := errors.New("enough")
	err := scan(l.db, keyID(prefix), func(key, _ []byte) error {
		if ids = append(ids, string(key[1:])); len(ids) == limit {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return nil, fmt.Errorf("builds whose ids start with %q: %w", prefix, err)
	}
	return ids, nil
}

// pageSize is how many builds a listing reads at a time. No resources are held
// while the caller looks at them.
const pageSize = 64

// pageBytes bounds the bytes of the records that a listing reads at a time, but for the last.
const pageBytes = 4 << 20

// Builds lists builds, newest first, as they are when the listing comes to them: a build
// that changes meanwhile is listed at most once. Builds that are made after the listing has
// begun may be missing. Those whose records can't be used are missing: see SetAside. An
// error ends the listing.
func (l *Ledger) Builds(ctx context.Context, f Filter) iter.Seq2[*api.Build, error] {
	return func(yield func(*api.Build, error) bool) {
		q, err := newQuery(&f)
		if err != nil {
			yield(nil, err)
			return
		}
		at, err := l.start(ctx, f)
		if err != nil {
			yield(nil, err)
			return
		}
		listed := 0
		for e, err := range l.entries(ctx, q, at) {
			if !yield(e.build, err) {
				return
			}
			if listed++; listed == f.Limit {
				return
			}
		}
	}
}

// entry is a build as it is in the ledger.
type entry struct {
	number uint64
	value  []byte
	build  *api.Build
}

// entries lists what a query selects, from a position on. An error ends the listing.
func (l *Ledger) entries(ctx context.Context, q *query, at *position) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		var names *builds
		for more := true; more; {
			var page []entry
			var err error
			if page, more, err = l.page(ctx, q, at, &names); err != nil {
				yield(entry{}, err)
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// position is how far a listing has come: builds with numbers from least to most are still
// to be listed.
type position struct{ least, most uint64 }

func everywhere() *position { return &position{least: 1, most: 1<<63 - 1} }

func (l *Ledger) start(ctx context.Context, f Filter) (*position, error) {
	at := everywhere()
	if f.After == "" {
		return at, nil
	}
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	h, err := readHead(l.db, f.After)
	if err != nil {
		return nil, err
	}
	if f.OldestFirst {
		at.least = h.number + 1
	} else {
		at.most = h.number - 1
	}
	return at, nil
}

// page reads the next builds and moves the position past them.
func (l *Ledger) page(ctx context.Context, q *query, at *position, names **builds) (page []entry, more bool, err error) {
	if at.least > at.most {
		return nil, false, ctx.Err()
	}
	if err := l.db.begin(ctx); err != nil {
		return nil, false, err
	}
	defer l.db.end()
	snapshot := l.db.NewSnapshot()
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	s, err := q.open(ctx, snapshot, at, names)
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	size := 0
	chunk := chunkOf(at.least)
	if q.backward {
		chunk = chunkOf(at.most)
	}
	for chunk != none {
		var found mask
		if chunk, found, err = s.next(ctx, chunk); err != nil || chunk == none {
			return page, false, err
		}
		numbers := found.numbers(chunk)
		if q.backward {
			slices.Reverse(numbers)
		}
		for _, number := range numbers {
			if number < at.least || number > at.most {
				continue
			}
			e, err := readEntry(snapshot, number)
			if isRecordError(err) {
				l.db.setAside(err)
				continue
			}
			if err != nil {
				return nil, false, err
			}
			if !q.matches(e.build) {
				continue
			}
			size += len(e.value)
			if page = append(page, e); len(page) == pageSize || size >= pageBytes {
				at.pass(number, q.backward)
				return page, true, nil
			}
		}
		chunk = s.direction.next(chunk)
	}
	return page, false, nil
}

// pass moves a position past a build.
func (at *position) pass(number uint64, backward bool) {
	if backward {
		at.most = number - 1
	} else {
		at.least = number + 1
	}
}

func readEntry(r pebble.Reader, number uint64) (entry, error) {
	value, err := get(r, keyBuild(number))
	if err != nil {
		return entry{}, missingRecord(number, err)
	}
	b, err := decodeBuild(number, value)
	return entry{number, value, b}, err
}
