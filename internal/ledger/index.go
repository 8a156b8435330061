package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/api"
)

// chunkSize is how many builds, by number, share an entry of an index.
const chunkSize = 128

// chunkOf returns the chunk of a build's number; it has room for -1, before the first.
func chunkOf(number uint64) int64 { return int64(number / chunkSize) } // #nosec G115 -- a quotient

func bitOf(number uint64) byte { return byte(number % chunkSize) }

// mask has a bit for each build of a chunk.
type mask [chunkSize / 64]uint64

// cleared is the bit of an operation that takes a build out of an index. The other bits say
// which build of the chunk.
const cleared = 0x80

// decodeMask applies the operations of an entry, in their order.
func decodeMask(ops []byte) (m mask) {
	for _, op := range ops {
		if i := op &^ cleared; op&cleared == 0 {
			m[i/64] |= 1 << (i % 64)
		} else {
			m[i/64] &^= 1 << (i % 64)
		}
	}
	return m
}

func (m mask) empty() bool { return m == mask{} }

func (m mask) has(bit byte) bool { return m[bit/64]&(1<<(bit%64)) != 0 }

func (m mask) count() (n int) {
	for _, word := range m {
		n += bits.OnesCount64(word)
	}
	return n
}

func (m mask) and(other mask) mask {
	for i := range m {
		m[i] &= other[i]
	}
	return m
}

func (m mask) or(other mask) mask {
	for i := range m {
		m[i] |= other[i]
	}
	return m
}

func (m mask) without(other mask) mask {
	for i := range m {
		m[i] &^= other[i]
	}
	return m
}

// numbers returns the numbers of the builds of a chunk, in ascending order.
func (m mask) numbers(chunk int64) []uint64 {
	numbers := make([]uint64, 0, m.count())
	for i, word := range m {
		for ; word != 0; word &= word - 1 {
			numbers = append(numbers, uint64(chunk)*chunkSize+uint64(i*64+bits.TrailingZeros64(word))) // #nosec G115 -- none is negative
		}
	}
	return numbers
}

// merger joins what several batches did to an entry of an index. Both kinds of values
// stay right when they are only concatenated: an older lighter, which knows no indexes and
// refuses the ledger, may do that before it looks at the format. The name is that of
// Pebble's own merger, with which ledgers of format 1 were made: Pebble accepts no other.
var merger = &pebble.Merger{
	Name: pebble.DefaultMerger.Name,
	Merge: func(key, value []byte) (pebble.ValueMerger, error) {
		switch {
		case len(key) == 0:
		case key[0] == prefixTerm, key[0] == prefixName:
			m := &opsMerger{}
			return m, m.MergeNewer(value)
		case key[0] == prefixTimes:
			m := &spanMerger{}
			return m, m.MergeNewer(value)
		}
		return nil, corrupt(key)
	},
}

// opsMerger keeps the last operation on each build. It has no DeletableFinish: with that,
// Pebble may show an older value again if the entry was once deleted. [Ledger.Prune]
// removes empty entries.
type opsMerger struct{ set, clear mask }

// MergeNewer implements pebble.ValueMerger.
func (o *opsMerger) MergeNewer(ops []byte) error {
	for _, op := range ops {
		i := op &^ cleared
		bit := uint64(1) << (i % 64)
		if op&cleared == 0 {
			o.set[i/64] |= bit
			o.clear[i/64] &^= bit
		} else {
			o.clear[i/64] |= bit
			o.set[i/64] &^= bit
		}
	}
	return nil
}

// MergeOlder implements pebble.ValueMerger.
func (o *opsMerger) MergeOlder(ops []byte) error {
	var older opsMerger
	if err := older.MergeNewer(ops); err != nil {
		return err
	}
	known := o.set.or(o.clear)
	o.set = o.set.or(older.set.without(known))
	o.clear = o.clear.or(older.clear.without(known))
	return nil
}

// Finish implements pebble.ValueMerger.
func (o *opsMerger) Finish(includesBase bool) ([]byte, io.Closer, error) {
	known := o.set
	if !includesBase {
		known = known.or(o.clear)
	}
	ops := make([]byte, 0, known.count())
	for w, word := range known {
		for ; word != 0; word &= word - 1 {
			i := byte(w*64 + bits.TrailingZeros64(word)) // #nosec G115 -- below chunkSize
			if !o.set.has(i) {
				i |= cleared
			}
			ops = append(ops, i)
		}
	}
	return ops, nil, nil
}

// span is the range of times at which the builds of a chunk were submitted, in Unix
// nanoseconds. It never gets smaller.
type span struct{ first, last int64 }

const spanSize = 16

// encode writes a span as spans are stored.
func (s span) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, spanSize), uint64(s.first)) // #nosec G115 -- read back by the same conversion
	return binary.BigEndian.AppendUint64(b, uint64(s.last))                        // #nosec G115
}

func (s span) join(other span) span {
	return span{min(s.first, other.first), max(s.last, other.last)}
}

// overlaps reports whether two spans have a time in common.
func (s span) overlaps(other span) bool { return other.last >= s.first && other.first <= s.last }

// decodeSpan returns all of time for what is not a range: then builds are looked for where
// there may be none, but none is missed.
func decodeSpan(value []byte) span {
	if len(value) == 0 || len(value)%spanSize != 0 {
		return span{math.MinInt64, math.MaxInt64}
	}
	all := span{math.MaxInt64, math.MinInt64}
	for ; len(value) > 0; value = value[spanSize:] {
		first, last := binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[8:])
		all = all.join(span{int64(first), int64(last)}) // #nosec G115 -- written by the same conversion
	}
	return all
}

// spanMerger joins spans.
type spanMerger struct{ values []byte }

// MergeNewer implements pebble.ValueMerger.
func (s *spanMerger) MergeNewer(value []byte) error {
	s.values = append(s.values, value...)
	return nil
}

// MergeOlder implements pebble.ValueMerger.
func (s *spanMerger) MergeOlder(value []byte) error { return s.MergeNewer(value) }

// Finish implements pebble.ValueMerger.
func (s *spanMerger) Finish(bool) ([]byte, io.Closer, error) {
	return decodeSpan(s.values).encode(), nil, nil
}

// nanoseconds returns a time as spans have it: the first or the last if it is out of range.
func nanoseconds(t time.Time) int64 {
	switch year := t.Year(); {
	case year < 1678:
		return math.MinInt64
	case year > 2261:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// term stands for a property that builds share, such as a tag. It is a hash, so that
// keys are short; whoever finds a build by it looks at the record too.
type term uint64

// newTerm returns the term of a kind of property and its value; never 0.
func newTerm(kind, value string) term {
	sum := sha256.Sum256([]byte(kind + "\x00" + value))
	return term(binary.BigEndian.Uint64(sum[:]) | 1)
}

func stateTerm(s api.State) term   { return newTerm("state", string(s)) }
func systemTerm(name string) term  { return newTerm("system", name) }
func machineTerm(name string) term { return newTerm("machine", name) }
func userTerm(name string) term    { return newTerm("user", name) }
func outputTerm(path string) term  { return newTerm("output", path) }
func drvTerm(path string) term     { return newTerm("derivation", path) }

// everyTerm is the term that all builds have.
var everyTerm = newTerm("build", "")

// kindTerm is the term of the start of a name up to its first dash, which many builds share:
// "python-" for "python-numpy-2.1".
func kindTerm(start string) term { return newTerm("kind", start) }

// tagTerm is the term of a tag with a value or, if the value is empty, with any.
func tagTerm(key, value string) term {
	if value == "" {
		return newTerm("tag", key)
	}
	return newTerm("tag", key+"\x00"+value)
}

// codeTerms are the terms of states, by their codes.
var codeTerms = func() map[byte]term {
	terms := make(map[byte]term)
	for code, state := range codeStates {
		terms[code] = stateTerm(state)
	}
	return terms
}()

// terms are what a build is found by, besides its state.
type terms struct {
	fixed     []term // of derivation, system, tags and submitter, sorted: what seldom changes; and everyTerm
	outputs   []term // sorted
	machine   term   // 0 if it has none
	name      string // of the derivation
	system    string
	submitted int64 // nanoseconds
}

func newTerms(b *api.Build) *terms {
	t := &terms{name: api.DerivationName(b.Derivation), system: b.System, submitted: nanoseconds(b.Submitted)}
	t.fixed = append(t.fixed, everyTerm, systemTerm(b.System))
	if kind, _, ok := strings.Cut(t.name, "-"); ok {
		t.fixed = append(t.fixed, kindTerm(kind+"-"))
	}
	if b.Derivation != "" {
		t.fixed = append(t.fixed, drvTerm(string(b.Derivation)))
	}
	for key, value := range b.Tags {
		t.fixed = append(t.fixed, tagTerm(key, ""), tagTerm(key, value))
	}
	for _, path := range b.OutputPaths {
		t.outputs = append(t.outputs, outputTerm(string(path)))
	}
	for _, name := range b.Submitter.Names() {
		t.fixed = append(t.fixed, userTerm(name))
	}
	slices.Sort(t.fixed)
	t.fixed = slices.Compact(t.fixed)
	slices.Sort(t.outputs)
	t.outputs = slices.Compact(t.outputs)
	if b.Machine != "" {
		t.machine = machineTerm(b.Machine)
	}
	return t
}

// all returns all terms, including that of a state.
func (t *terms) all(state byte) []term {
	all := append(slices.Concat(t.fixed, t.outputs), codeTerms[state])
	if t.machine != 0 {
		all = append(all, t.machine)
	}
	return all
}

// head returns the head of a record with these terms.
func (t *terms) head(number uint64, state byte, attempt uint32) head {
	h := head{number: number, state: state, attempt: attempt, machine: t.machine}
	h.fixed = sumTerms(append([]term{term(t.submitted)}, t.fixed...)) // #nosec G115 -- any number will do
	if len(t.outputs) > 0 {
		h.outputs = sumTerms(t.outputs)
	}
	return h
}

// sumTerms returns a number that tells lists of terms apart; never 0.
func sumTerms(list []term) uint64 {
	sum := uint64(14695981039346656037) // as FNV-1a, in words
	for _, t := range list {
		sum = (sum ^ uint64(t)) * 1099511628211
		sum ^= sum >> 32
	}
	return sum | 1
}
