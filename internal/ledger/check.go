package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// maxProblems bounds what Check reports.
const maxProblems = 100

// Check reads the whole ledger, as it is now, and verifies every invariant: no event is
// missing unless it was removed; each build has one number and one record, and is in
// exactly the indexes that its record calls for; the index of events by build is complete;
// the last event of a build has the state of its record; everything can be decoded. It
// returns all that is wrong (the first 100 problems), joined.
func (l *Ledger) Check(ctx context.Context) error {
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	return errors.Join(l.problems(ctx)...)
}

// problems returns what Check joins.
func (l *Ledger) problems(ctx context.Context) []error {
	snapshot := l.db.NewSnapshot()
	nobody := &checked{}
	c := &checker{
		ctx: ctx, r: snapshot, removed: l.published.watermark(), nobody: nobody,
		byID: make(map[string]*checked), byNumber: map[uint64]*checked{0: nobody}, spans: make(map[int64]span), systems: make(map[string]bool),
		unread: make(map[uint64]bool),
	}
	if err := errors.Join(c.run(), snapshot.Close()); err != nil {
		return append(c.problems, err)
	}
	return c.problems
}

func (c *checker) run() error {
	switch removed, err := readWatermark(c.r); {
	case isRecordError(err):
		c.problems = append(c.problems, err)
	case err != nil:
		return err
	default:
		c.removed = removed
	}
	c.events = c.removed.event // that the next event may come after
	for _, step := range []struct {
		prefix byte
		visit  func(key, value []byte) error
	}{
		{prefixID, c.id},
		{prefixTimes, c.times},
		{prefixSystem, c.system},
		{prefixBuild, c.record},
		{prefixTerm, c.term},
		{prefixName, c.name},
		{prefixEvent, c.event},
		{prefixHistory, c.history},
		{prefixSamples, c.samples},
		{prefixClass, c.class},
		{prefixMachine, c.machine},
		{prefixSetting, c.setting},
		{prefixHour, c.hour},
		{prefixOldState, c.unexpected},
		{prefixOldTimes, c.unexpected},
	} {
		if err := scan(c.r, []byte{step.prefix}, step.visit); err != nil {
			return err
		}
	}
	c.conclude()
	return nil
}

// checked is what Check has found about one build. Lists are kept as sums, in which order
// does not count; see mix.
type checked struct {
	head
	id        string
	records   int
	wants     uint64 // the indexes in which it must be
	indexes   uint64 // those in which it is
	events    int
	eventSum  uint64
	histories int // entries in the index of events
	entrySum  uint64
	last      api.State
	unread    bool // its record can't be used
	unheard   bool // an event of it can't be used
}

// mix returns a number that stands for two numbers in a sum.
func mix(a, b uint64) uint64 { return sumTerms([]term{term(a), term(b)}) }

type checker struct {
	ctx      context.Context
	r        pebble.Reader
	problems []error
	removed  watermark
	nobody   *checked // has the events of no build
	byID     map[string]*checked
	byNumber map[uint64]*checked
	spans    map[int64]span
	systems  map[string]bool
	events   uint64
	unread   map[uint64]bool // events that can't be used
}

var errTooMany = errors.New("and more")

// problemf notes a problem; its result ends the scan when there are too many.
func (c *checker) problemf(format string, args ...any) error {
	c.problems = append(c.problems, fmt.Errorf(format, args...))
	if len(c.problems) >= maxProblems {
		return errTooMany
	}
	return c.ctx.Err()
}

func (c *checker) id(key, value []byte) error {
	b := &checked{id: string(key[1:])}
	var err error
	if b.head, err = decodeHead(b.id, value); err != nil {
		return c.problemf("%w", err)
	}
	if other := c.byNumber[b.number]; other != nil {
		return c.problemf("builds %s and %s have the same number %d", other.id, b.id, b.number)
	}
	c.byID[b.id], c.byNumber[b.number] = b, b
	return c.ctx.Err()
}

// numbered finds the build whose number is at an offset in a key.
func (c *checker) numbered(key []byte, offset, length int) (*checked, error) {
	if len(key) != length {
		return nil, c.problemf("%w", corrupt(key))
	}
	b := c.byNumber[binary.BigEndian.Uint64(key[offset:])]
	if b == nil || b == c.nobody && length != 17 {
		return nil, c.problemf("entry %q of a build that is not there", key)
	}
	return b, c.ctx.Err()
}

func (c *checker) times(key, value []byte) error {
	chunk, err := keyChunk(key, 1)
	if err == nil && (len(value) == 0 || len(value)%spanSize != 0) {
		err = corrupt(key)
	}
	c.spans[chunk] = decodeSpan(value)
	if err != nil {
		return c.problemf("%w", err)
	}
	return c.ctx.Err()
}

func (c *checker) system(key, _ []byte) error {
	c.systems[string(key[1:])] = true
	return c.ctx.Err()
}

func (c *checker) record(key, value []byte) error {
	b, err := c.numbered(key, 1, 9)
	if b == nil {
		return err
	}
	b.records++
	r, err := decodeBuild(b.number, value)
	if err != nil {
		b.unread = true
		return c.problemf("%w", err)
	}
	if r.ID != b.id || stateCodes[r.State] != b.head.state || r.Attempt != int(b.attempt) {
		return c.problemf("build %s: its record says %s, %s, attempt %d; its entry %s, attempt %d",
			b.id, r.ID, r.State, r.Attempt, codeStates[b.head.state], b.attempt)
	}
	t := newTerms(r)
	for _, term := range t.all(b.head.state) {
		b.wants += mix(prefixTerm, uint64(term))
	}
	b.wants += mix(prefixName, uint64(newTerm("name", t.name)))
	if h := t.head(b.number, b.head.state, b.attempt); h != b.head {
		return c.problemf("build %s: its entry is not that of its record", b.id)
	}
	if s, ok := c.spans[chunkOf(b.number)]; !ok || t.submitted < s.first || t.submitted > s.last {
		return c.problemf("build %s was submitted at %s, and the index of times does not have it", b.id, r.Submitted)
	}
	if !c.systems[t.system] {
		return c.problemf("build %s: its system %q is not listed", b.id, t.system)
	}
	return nil
}

func (c *checker) term(key, value []byte) error {
	if len(key) != 17 {
		return c.problemf("%w", corrupt(key))
	}
	return c.entries(key, 9, value, mix(prefixTerm, binary.BigEndian.Uint64(key[1:])))
}

func (c *checker) name(key, value []byte) error {
	if len(key) < 10 || key[len(key)-9] != 0 {
		return c.problemf("%w", corrupt(key))
	}
	return c.entries(key, len(key)-8, value, mix(prefixName, uint64(newTerm("name", string(key[1:len(key)-9])))))
}

// entries notes the builds that an entry of an index has.
func (c *checker) entries(key []byte, length int, value []byte, sum uint64) error {
	chunk, err := keyChunk(key, length)
	if err != nil {
		return c.problemf("%w", err)
	}
	for _, number := range decodeMask(value).numbers(chunk) {
		b := c.byNumber[number]
		if b == nil || b == c.nobody {
			if err := c.problemf("entry %q of build number %d, which is not there", key, number); err != nil {
				return err
			}
			continue
		}
		b.indexes += sum
	}
	return c.ctx.Err()
}

func (c *checker) event(key, value []byte) error {
	if len(key) != 9 {
		return c.problemf("%w", corrupt(key))
	}
	e, err := decodeEvent(key, value)
	if err != nil {
		c.unread[e.Seq] = true
		if err := c.problemf("%w", err); err != nil {
			return err
		}
	}
	if e.Seq > c.removed.event {
		c.events++
		if e.Seq != c.events {
			err := c.problemf("event %d comes after event %d", e.Seq, c.events-1)
			c.events = e.Seq
			if err != nil {
				return err
			}
		}
	}
	if c.unread[e.Seq] {
		return c.ctx.Err()
	}
	b := c.nobody
	if e.Build != "" {
		if b = c.byID[e.Build]; b == nil {
			return c.problemf("event %d is of build %s, which is not there", e.Seq, e.Build)
		}
	}
	b.events++
	b.eventSum += mix(prefixEvent, e.Seq)
	if e.State != "" {
		b.last = e.State
	}
	return c.ctx.Err()
}

func (c *checker) history(key, _ []byte) error {
	b, err := c.numbered(key, 1, 17)
	if b == nil {
		return err
	}
	if c.unread[binary.BigEndian.Uint64(key[9:])] {
		b.unheard = true
		return nil
	}
	b.histories++
	b.entrySum += mix(prefixEvent, binary.BigEndian.Uint64(key[9:]))
	return nil
}

func (c *checker) setting(key, value []byte) error {
	if err := validSetting(string(key[1:]), value); err != nil {
		return c.problemf("%w", unusable(err, "setting %q", key[1:]))
	}
	return c.ctx.Err()
}

func (c *checker) hour(key, value []byte) error {
	if _, err := decodeHour(key, value); err != nil {
		return c.problemf("%w", err)
	}
	return c.ctx.Err()
}

func (c *checker) unexpected(key, _ []byte) error {
	return c.problemf("entry %q of an older format", key)
}

func (c *checker) samples(key, value []byte) error {
	if _, err := decodeSamples(key, value); err != nil {
		return c.problemf("%w", err)
	}
	return c.ctx.Err()
}

func (c *checker) class(key, value []byte) error {
	if _, err := decodeClass(key, value); err != nil {
		return c.problemf("%w", err)
	}
	return c.ctx.Err()
}

func (c *checker) machine(key, value []byte) error {
	if _, err := decodeMachine(key, value); err != nil {
		return c.problemf("%w", err)
	}
	return c.ctx.Err()
}

func (c *checker) conclude() {
	for _, b := range c.byID {
		state := codeStates[b.head.state]
		var err error
		switch {
		case b.records != 1:
			err = c.problemf("build %s has %d records", b.id, b.records)
		case b.unread:
		case b.last != state && !b.unheard:
			err = c.problemf("build %s is %s, and its last event says %s", b.id, state, b.last)
		case b.wants != b.indexes:
			err = c.problemf("build %s (number %d) is not in the indexes that its record says: %s", b.id, b.number, c.missing(b))
		}
		if err != nil {
			return
		}
	}
	for _, b := range c.byNumber {
		if b.events != b.histories || b.eventSum != b.entrySum {
			if c.problemf("build %q has %d events and %d entries in its history, or others", b.id, b.events, b.histories) != nil {
				return
			}
		}
	}
}

// missing says which entries a build lacks in indexes.
func (c *checker) missing(b *checked) string {
	e, err := readEntry(c.r, b.number)
	if err != nil {
		return err.Error()
	}
	t := newTerms(e.build)
	keys := [][]byte{keyName(t.name, chunkOf(b.number))}
	for _, term := range t.all(b.head.state) {
		keys = append(keys, keyTerm(term, chunkOf(b.number)))
	}
	var lacks []string
	for _, key := range keys {
		ops, err := get(c.r, key)
		if err != nil && !errors.Is(err, pebble.ErrNotFound) {
			return err.Error()
		}
		if !decodeMask(ops).has(bitOf(b.number)) {
			lacks = append(lacks, fmt.Sprintf("%q", key))
		}
	}
	if lacks == nil {
		return "it is in others too"
	}
	return "it lacks " + strings.Join(lacks, ", ")
}
