package ledger

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// Filter selects builds. The zero value selects all. States are found by an index,
// the rest by reading every record.
type Filter struct {
	api.Filter
	// After is the id of a build: only what comes behind it in the listing.
	After string
	Limit int // 0 is none
	// OldestFirst turns the listing round. Otherwise the newest comes first.
	OldestFirst bool
}

// NonFinal lists the states of builds whose history has not ended.
func NonFinal() []api.State {
	return slices.DeleteFunc(api.States(), api.State.Final)
}

// head returns what an 'n' key says, or an error that matches ErrNotFound.
func (l *Ledger) head(r pebble.Reader, id string) (head, error) {
	value, err := l.get(r, keyID(id))
	if errors.Is(err, pebble.ErrNotFound) {
		return head{}, fmt.Errorf("build %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return head{}, fmt.Errorf("build %s: %w", id, err)
	}
	return decodeHead(id, value)
}

func (l *Ledger) record(r pebble.Reader, number uint64) (*api.Build, error) {
	value, closer, err := r.Get(keyBuild(number))
	if err != nil {
		return nil, fmt.Errorf("build number %d: %w", number, err)
	}
	defer closer.Close()
	var b api.Build
	if err := json.Unmarshal(value, &b); err != nil {
		return nil, fmt.Errorf("build number %d: %w", number, err)
	}
	return &b, nil
}

// Build returns a build's record, which the caller owns, or an error that matches
// ErrNotFound.
func (l *Ledger) Build(ctx context.Context, id string) (*api.Build, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.end()
	h, err := l.head(l.db, id)
	if err != nil {
		return nil, err
	}
	return l.record(l.db, h.number)
}

// Counts returns how many builds are in each state that any is in.
func (l *Ledger) Counts() map[api.State]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := maps.Clone(l.counts)
	maps.DeleteFunc(counts, func(_ api.State, n int) bool { return n == 0 })
	return counts
}

// pageSize is how many builds a listing reads at a time. No resources are held
// while the caller looks at them.
const pageSize = 64

// Builds lists builds, newest first, as they are when the listing comes to them:
// one that changes meanwhile is listed at most once. An error ends the listing.
func (l *Ledger) Builds(ctx context.Context, f Filter) iter.Seq2[*api.Build, error] {
	return func(yield func(*api.Build, error) bool) {
		at, err := l.start(f)
		listed := 0
		for err == nil {
			var page []*api.Build
			var more bool
			if page, more, err = l.page(ctx, &f, at); err != nil {
				break
			}
			for _, b := range page {
				if !f.Matches(b) {
					continue
				}
				if !yield(b, nil) {
					return
				}
				if listed++; listed == f.Limit {
					return
				}
			}
			if !more {
				return
			}
		}
		yield(nil, err)
	}
}

// position is where a listing has come to: builds with numbers from least to most
// are still to be listed.
type position struct{ least, most uint64 }

func (l *Ledger) start(f Filter) (*position, error) {
	at := &position{least: 1, most: 1<<63 - 1}
	if f.After == "" {
		return at, nil
	}
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.end()
	h, err := l.head(l.db, f.After)
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

// page reads the next builds and moves the position behind them.
func (l *Ledger) page(ctx context.Context, f *Filter, at *position) (builds []*api.Build, more bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	if err := l.begin(); err != nil {
		return nil, false, err
	}
	defer l.end()
	snapshot := l.db.NewSnapshot()
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	numbers, err := pageNumbers(snapshot, f, at)
	if err != nil {
		return nil, false, err
	}
	for _, number := range numbers {
		b, err := l.record(snapshot, number)
		if err != nil {
			return nil, false, err
		}
		builds = append(builds, b)
	}
	if len(numbers) == 0 {
		return nil, false, nil
	}
	last := numbers[len(numbers)-1]
	if f.OldestFirst {
		at.least = last + 1
	} else {
		at.most = last - 1
	}
	return builds, len(numbers) == pageSize && at.least <= at.most, nil
}

// pageNumbers returns the numbers of the next builds with the filter's states. It
// takes up to a page from the index of each state, and of those the first.
func pageNumbers(r pebble.Reader, f *Filter, at *position) ([]uint64, error) {
	if at.least > at.most {
		return nil, nil
	}
	prefixes := [][]byte{{prefixBuild}}
	if len(f.States) > 0 {
		prefixes = nil
		for _, state := range f.States {
			code, ok := stateCodes[state]
			if !ok {
				return nil, fmt.Errorf("list builds: unknown state %q", state)
			}
			prefixes = append(prefixes, []byte{prefixState, code})
		}
	}
	var numbers []uint64
	for _, prefix := range prefixes {
		some, err := scanNumbers(r, prefix, at, f.OldestFirst)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, some...)
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers) // a state may be named twice
	if !f.OldestFirst {
		slices.Reverse(numbers)
	}
	return numbers[:min(len(numbers), pageSize)], nil
}

// scanNumbers returns up to a page of numbers that follow the prefix in keys.
func scanNumbers(r pebble.Reader, prefix []byte, at *position, ascending bool) (numbers []uint64, err error) {
	bound := func(n uint64) []byte { return binary.BigEndian.AppendUint64(slices.Clone(prefix), n) }
	iter, err := r.NewIter(&pebble.IterOptions{LowerBound: bound(at.least), UpperBound: bound(at.most + 1)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	first, next := iter.Last, iter.Prev
	if ascending {
		first, next = iter.First, iter.Next
	}
	for ok := first(); ok && len(numbers) < pageSize; ok = next() {
		if len(iter.Key()) != len(prefix)+8 {
			return nil, corrupt(iter.Key())
		}
		numbers = append(numbers, binary.BigEndian.Uint64(iter.Key()[len(prefix):]))
	}
	return numbers, iter.Error()
}
