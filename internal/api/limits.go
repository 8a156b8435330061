package api

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of what builds, events, machines and people say. Lengths are in bytes, of UTF-8.
// Who takes something in refuses what is longer, or cuts it with Cut; the ledger refuses
// what still is, so that a record has a size that memory, disk and later readers
// can live with.
const (
	// MaxTime bounds limits of time: beyond it a duration has no room for them.
	MaxTime = Seconds(100 * 365 * 24 * 3600)
	// MaxID bounds the id of a build; a UUID has 36.
	MaxID = 200
	// MaxName bounds names of machines, systems, features, outputs, event hooks, and of the
	// kinds of events and failures: as long as a host's name or a file's can be.
	MaxName = 255
	// MaxPath bounds the name of a file or folder, store items included.
	MaxPath = 1 << 10
	// MaxNote bounds the reason that a person gives, to cancel, retry, drain and so on.
	MaxNote = 1 << 10
	// MaxProblem bounds what is wrong with a machine, as it says itself: a line or a few.
	MaxProblem = 1 << 10
	// MaxMessage bounds the message of a failure: room for the last lines of a log.
	MaxMessage = 4 << 10
	// MaxReason bounds the reason of a state or an event; the longest have the message of
	// a failure in them.
	MaxReason = 4 << 10
	// MaxTags is how many tags a build or a machine has at most, and MaxTag bounds the
	// name and the value of one together.
	MaxTags = 64
	MaxTag  = 1 << 10
	// MaxFeatures is how many features a derivation may require.
	MaxFeatures = 256
	// MaxOutputs is how many outputs a derivation may have.
	MaxOutputs = 256
	// MaxURL bounds the address of a substitute server, of which a request may have MaxURLs.
	MaxURL  = 2 << 10
	MaxURLs = 32
	// MaxAttempt is the highest number of an attempt: what the ledger has room for.
	MaxAttempt = math.MaxInt32
	// MaxRetries, MaxChecks and MaxPriority bound what a request asks for; sums of
	// priorities are safe.
	MaxRetries  = 1000
	MaxChecks   = 100
	MaxPriority = 1_000_000
	// MinMemory and MaxMemory bound, in bytes, the memory that a request asks for, if it does.
	MinMemory = 1 << 20
	MaxMemory = 1 << 50
	// MaxTokens bounds how many tokens of one name a request asks for, and MaxToken the name;
	// MaxTokenNames is how many names it may have.
	MaxTokens     = 1_000_000
	MaxToken      = 64
	MaxTokenNames = 64
	// MaxMachines is how many machines a request may name.
	MaxMachines = 1000

	// MaxRequest bounds the record of a build that is new, as JSON; what comes to it later
	// finds room up to MaxRecord. Even a build with many tags and machines has a few KB.
	MaxRequest = 128 << 10
	// MaxRecord bounds the record of any build, as JSON.
	MaxRecord = 256 << 10
	// MaxEvent bounds an event, as JSON: its reason and a failure, if every letter of theirs
	// has to be escaped.
	MaxEvent = 64 << 10
	// MaxSetting bounds what is kept under a name, as JSON: of a parked run of an event hook
	// that is the record of its build, and the end of what the program wrote.
	MaxSetting = 2 * MaxRecord
)

// Cut returns a text of at most limit bytes: where it has more, as much of its start as
// there is room for, and how much is missing. A limit is at least 40.
func Cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	mark := func(n int) string { return fmt.Sprintf("… (%d more bytes)", len(text)-n) }
	n := limit - len(mark(0))
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + mark(n)
}

// MaxListed bounds lists that are for people.
const MaxListed = 100

// ListUpTo joins as many texts as a text of at most limit bytes has room for, and says how
// many more there are.
func ListUpTo(list []string, separator string, limit int) string {
	more := func(n int) string { return fmt.Sprintf("and %d more", n) }
	limit -= len(separator) + len(more(len(list)))
	var b strings.Builder
	for i, text := range list {
		if b.Len() > 0 {
			b.WriteString(separator)
		}
		if i == MaxListed || i > 0 && b.Len()+len(text) > limit {
			return b.String() + more(len(list)-i)
		}
		b.WriteString(Cut(text, limit))
	}
	return b.String()
}

// Shorten cuts texts of a build that are for people and longer than the ledger takes.
// It changes nothing that the build points to.
func (b *Build) Shorten() {
	b.Reason = Cut(b.Reason, MaxReason)
	b.Failure = b.Failure.shortened()
	b.Results = slices.Clone(b.Results)
	for i := range b.Results {
		r := &b.Results[i]
		r.Failure, r.Differs = r.Failure.shortened(), shortList(r.Differs)
	}
}

// shortList returns as much of a list of files as is no longer than a message may be.
func shortList(list []string) []string {
	size := 0
	for i, text := range list {
		if size += len(text); size > MaxMessage {
			return append(slices.Clone(list[:i]), fmt.Sprintf("and %d more", len(list)-i))
		}
	}
	return list
}

// Shorten cuts texts of an event that are for people and longer than the ledger takes.
// It changes nothing that the event points to.
func (e *Event) Shorten() {
	e.Reason = Cut(e.Reason, MaxReason)
	e.Failure = e.Failure.shortened()
}

// shortened returns the failure, or a copy whose message is cut.
func (f *Failure) shortened() *Failure {
	if f == nil || len(f.Message) <= MaxMessage {
		return f
	}
	short := *f
	short.Message = Cut(f.Message, MaxMessage)
	return &short
}
