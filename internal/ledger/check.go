package ledger

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// maxProblems bounds what Check reports.
const maxProblems = 100

// Check reads the whole ledger, as it is now, and verifies every invariant: events
// are numbered without gaps; each build has one number and one record, and stands
// in the index of just its state; the index of events by build is complete; the
// last event of a build says the state of its record; everything can be decoded.
// It returns all that is wrong (the first 100 problems), joined.
func (l *Ledger) Check(ctx context.Context) (err error) {
	if err := l.begin(); err != nil {
		return err
	}
	defer l.end()
	snapshot := l.db.NewSnapshot()
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	c := &checker{ctx: ctx, l: l, r: snapshot, byID: make(map[string]*checked), byNumber: make(map[uint64]*checked)}
	for _, step := range []struct {
		prefix byte
		visit  func(key, value []byte) error
	}{
		{prefixID, c.id},
		{prefixBuild, c.record},
		{prefixState, c.state},
		{prefixEvent, c.event},
		{prefixHistory, c.history},
		{prefixDuration, c.duration},
		{prefixMachine, c.machine},
	} {
		if err := scanFrom(snapshot, []byte{step.prefix}, step.visit); err != nil {
			return errors.Join(append(c.problems, err)...)
		}
	}
	c.conclude()
	return errors.Join(c.problems...)
}

// checked is what Check has found of one build.
type checked struct {
	head
	id        string
	records   int
	states    int // entries in the index of states
	events    int
	histories int // entries in the index of events
	last      api.State
}

type checker struct {
	ctx      context.Context
	l        *Ledger
	r        pebble.Reader
	problems []error
	byID     map[string]*checked
	byNumber map[uint64]*checked
	events   uint64
	eventsOf map[uint64]string // the build of each event
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
		return c.problemf("build %s: %w", b.id, err)
	}
	if other := c.byNumber[b.number]; other != nil {
		return c.problemf("builds %s and %s have the same number %d", other.id, b.id, b.number)
	}
	c.byID[b.id], c.byNumber[b.number] = b, b
	return c.ctx.Err()
}

// numbered finds the build of a number that starts at an offset in a key.
func (c *checker) numbered(key []byte, offset, length int) (*checked, error) {
	if len(key) != length {
		return nil, c.problemf("%w", corrupt(key))
	}
	b := c.byNumber[binary.BigEndian.Uint64(key[offset:])]
	if b == nil {
		return nil, c.problemf("entry %q of a build that is not there", key)
	}
	return b, c.ctx.Err()
}

func (c *checker) record(key, value []byte) error {
	b, err := c.numbered(key, 1, 9)
	if b == nil {
		return err
	}
	b.records++
	var r api.Build
	if err := json.Unmarshal(value, &r); err != nil {
		return c.problemf("build %s: %w", b.id, err)
	}
	if r.ID != b.id || stateCodes[r.State] != b.head.state || r.Attempt != int(b.attempt) {
		return c.problemf("build %s: its record says %s, %s, attempt %d; its entry %s, attempt %d",
			b.id, r.ID, r.State, r.Attempt, codeStates[b.head.state], b.attempt)
	}
	return nil
}

func (c *checker) state(key, _ []byte) error {
	b, err := c.numbered(key, 2, 10)
	if b == nil {
		return err
	}
	b.states++
	if key[1] != b.head.state {
		return c.problemf("build %s is %s, and stands in the index of %s", b.id, codeStates[b.head.state], codeStates[key[1]])
	}
	return nil
}

func (c *checker) event(key, value []byte) error {
	c.events++
	e, err := decodeEvent(key, value)
	if err != nil {
		return c.problemf("%w", err)
	}
	if e.Seq != c.events {
		err := c.problemf("event %d comes after event %d", e.Seq, c.events-1)
		c.events = e.Seq
		if err != nil {
			return err
		}
	}
	if e.Build == "" {
		return c.ctx.Err()
	}
	b := c.byID[e.Build]
	if b == nil {
		return c.problemf("event %d is of build %s, which is not there", e.Seq, e.Build)
	}
	b.events++
	if e.State != "" {
		b.last = e.State
	}
	if c.eventsOf == nil {
		c.eventsOf = make(map[uint64]string)
	}
	c.eventsOf[e.Seq] = e.Build
	return c.ctx.Err()
}

func (c *checker) history(key, _ []byte) error {
	b, err := c.numbered(key, 1, 17)
	if b == nil {
		return err
	}
	b.histories++
	if seq := binary.BigEndian.Uint64(key[9:]); c.eventsOf[seq] != b.id {
		return c.problemf("event %d stands in the history of build %s, and is of build %q", seq, b.id, c.eventsOf[seq])
	}
	return nil
}

func (c *checker) duration(key, value []byte) error {
	var samples []Sample
	if err := json.Unmarshal(value, &samples); err != nil || len(samples) > maxSamples {
		return c.problemf("durations %q: %d samples, %v", key[1:], len(samples), err)
	}
	return c.ctx.Err()
}

func (c *checker) machine(key, value []byte) error {
	var m Machine
	if err := json.Unmarshal(value, &m); err != nil || m.Name != string(key[1:]) {
		return c.problemf("machine %q: found %q, %v", key[1:], m.Name, err)
	}
	return c.ctx.Err()
}

func (c *checker) conclude() {
	for _, b := range c.byID {
		state := codeStates[b.head.state]
		var err error
		switch {
		case b.records != 1 || b.states != 1:
			err = c.problemf("build %s has %d records and %d entries in the index of states", b.id, b.records, b.states)
		case b.events != b.histories:
			err = c.problemf("build %s has %d events and %d entries in its history", b.id, b.events, b.histories)
		case b.last != state:
			err = c.problemf("build %s is %s, and its last event says %s", b.id, state, b.last)
		}
		if err != nil {
			return
		}
	}
}
