package ledger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// maxCountRead bounds the records that are read to count builds.
const maxCountRead = 20_000

// Count returns how many builds a filter selects, by system and state, from the indexes alone. Records are read
// only of builds that were submitted about when the filter's times begin and end, 20,000 at most: if
// there are more, all of those count, and Exact is false.
//
// Terms are hashes of 63 bits, and here nobody looks at the records: were there two with the same one, the builds
// of both would count. Builds whose records can't be used count, too.
func (l *Ledger) Count(ctx context.Context, f *api.Filter) (_ *api.BuildCounts, err error) {
	counts := &api.BuildCounts{Systems: make(map[string]map[api.State]int), Exact: true}
	rest := *f
	if rest.System, rest.States = "", nil; rest.Empty() {
		l.countPublished(f, counts)
		return counts, nil
	}
	q, err := newQuery(&Filter{Filter: *f, OldestFirst: true})
	if err != nil {
		return nil, err
	}
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	snapshot := l.db.NewSnapshot()
	c := &counting{r: snapshot, query: q, counts: counts}
	defer func() { err = errors.Join(err, c.close(), snapshot.Close()) }()
	if err := c.open(ctx, l.SystemCounts(), f); err != nil {
		return nil, fmt.Errorf("count builds: %w", err)
	}
	return counts, c.run(ctx)
}

// countPublished counts by what is kept in memory.
func (l *Ledger) countPublished(f *api.Filter, counts *api.BuildCounts) {
	l.published.eachCount(func(key countKey, n int) {
		if (f.System == "" || f.System == key.system) && (len(f.States) == 0 || slices.Contains(f.States, key.state)) {
			counts.Add(key.system, key.state, n)
		}
	})
}

// counting is one Count that is under way. It goes from the oldest builds to the newest.
type counting struct {
	r        pebble.Reader
	query    *query
	counts   *api.BuildCounts
	selected *selection
	inside   source // chunks all of whose builds were submitted in the query's time; nil if any time will do
	read     int    // records
	states   []*property
	systems  []*property // that with the most builds first
}

// property is a state or a system, with the index of its builds once that was asked for.
type property struct {
	name  string
	term  term
	index source
	at    int64 // the last chunk that was found in the index, and its builds; none at the end
	mask  mask
}

func (c *counting) open(ctx context.Context, published map[string]map[api.State]int, f *api.Filter) (err error) {
	var names *builds
	if c.selected, err = c.query.open(ctx, c.r, everywhere(), &names); err != nil {
		return err
	}
	if within := c.query.within; within != nil {
		c.inside, err = openTimes(c.r, func(s span) bool {
			after := s.first >= within.first && s.first != math.MinInt64 // which is any time before that, too
			return (f.Since.IsZero() || after) && (f.Until.IsZero() || s.last < within.last)
		}, everywhere(), c.selected.direction)
		if err != nil {
			return err
		}
	}
	for _, state := range api.States() {
		if len(f.States) == 0 || slices.Contains(f.States, state) {
			c.states = append(c.states, &property{name: string(state), term: stateTerm(state)})
		}
	}
	if f.System != "" {
		c.systems = []*property{{name: f.System, term: systemTerm(f.System)}}
		return nil
	}
	err = scan(c.r, []byte{prefixSystem}, func(key, _ []byte) error {
		c.systems = append(c.systems, &property{name: string(key[1:]), term: systemTerm(string(key[1:]))})
		return nil
	})
	most := func(p *property) (n int) {
		for _, in := range published[p.name] {
			n += in
		}
		return n
	}
	slices.SortStableFunc(c.systems, func(a, b *property) int { return most(b) - most(a) })
	return err
}

func (c *counting) run(ctx context.Context) error {
	for chunk := int64(0); ; chunk++ {
		var found mask
		var err error
		if chunk, found, err = c.selected.next(ctx, chunk); err != nil || chunk == none {
			return err
		}
		if found, err = c.inTime(chunk, found); err != nil {
			return err
		}
		if err := c.add(chunk, found); err != nil {
			return err
		}
	}
}

// inTime returns those of a chunk's builds that were submitted in the query's time.
func (c *counting) inTime(chunk int64, found mask) (mask, error) {
	if c.inside == nil {
		return found, nil
	}
	if at, _, err := c.inside.seek(chunk); err != nil || at == chunk {
		return found, err
	}
	for _, number := range found.numbers(chunk) {
		if c.read++; c.read > maxCountRead {
			c.counts.Exact = false
			return found, nil
		}
		e, err := readEntry(c.r, number)
		if err != nil && !isRecordError(err) {
			return mask{}, err
		}
		if err != nil || !c.query.matches(e.build) {
			i := bitOf(number)
			found[i/64] &^= 1 << (i % 64)
		}
	}
	return found, nil
}

// add counts builds of a chunk, each once.
func (c *counting) add(chunk int64, found mask) error {
	for _, system := range c.systems {
		if found.empty() {
			return nil
		}
		of, err := c.have(system, chunk)
		if err != nil {
			return err
		}
		of = of.and(found)
		found = found.without(of)
		for _, state := range c.states {
			if of.empty() {
				break
			}
			in, err := c.have(state, chunk)
			if err != nil {
				return err
			}
			in = in.and(of)
			of = of.without(in)
			if n := in.count(); n > 0 {
				c.counts.Add(system.name, api.State(state.name), n)
			}
		}
	}
	return nil
}

// have returns the builds of a chunk that have a property. Chunks are asked for in ascending order.
func (c *counting) have(p *property, chunk int64) (_ mask, err error) {
	if p.index == nil {
		if p.index, err = openIndex(c.r, termPrefix(p.term), everywhere(), c.selected.direction); err != nil {
			return mask{}, err
		}
		p.at = math.MinInt64 // nothing was found yet
	}
	if p.at != none && p.at < chunk {
		if p.at, p.mask, err = p.index.seek(chunk); err != nil {
			return mask{}, err
		}
	}
	if p.at != chunk {
		return mask{}, nil
	}
	return p.mask, nil
}

func (c *counting) close() (err error) {
	if c.selected != nil {
		err = c.selected.Close()
	}
	if c.inside != nil {
		err = errors.Join(err, c.inside.Close())
	}
	for _, p := range slices.Concat(c.states, c.systems) {
		if p.index != nil {
			err = errors.Join(err, p.index.Close())
		}
	}
	return err
}
