package agentapi

import (
	"cmp"
	"time"

	"lighter/internal/api"
)

// Limits on what a client believes of an agent: the machine is not the head's. All of an
// answer is counted before there is memory for it. Lengths are in bytes, those of texts as
// in package api.
const (
	maxMachine = 256 << 10 // answer that says what the machine is
	maxInfo    = 1 << 20   // what an answer says of one item: some 10,000 references
	maxError   = 64 << 10  // an error's body
	maxHeader  = 64 << 10  // all fields before an answer's body; a trailer is bounded by streamBuffer

	// maxStatus bounds what an answer says of one build: the outputs, with their references.
	// A build whose inputs are missing has also those, of which none is longer than maxPath.
	maxStatus = 1 << 20
	maxPath   = 320
	// maxObjects bounds the objects in what is said of one build: each takes more memory
	// than it is long. A message may be full of brackets.
	maxObjects = 8 << 10

	// maxBuilds is how many builds an agent lists; one takes no more than 100,000. Of those
	// that the caller knows no more is kept than keptBuild for each beside keptListing.
	maxBuilds   = 1 << 17
	keptListing = 4 << 20
	keptBuild   = 2 << 10

	// maxInfos is how many items an answer describes, and maxClosure how long all that is
	// kept of it may be: the closure of a system has some thousand items, of 1 KB each.
	maxInfos   = 1 << 17
	maxClosure = 16 << 20

	// maxDeleted is how many of the items that were deleted an answer names.
	maxDeleted = 1 << 17
	// maxLeft bounds the text of the list of those that could not be deleted, in bytes.
	maxLeft = 256 << 10

	maxSystems = 64
	maxKeys    = 1 << 10
	maxKey     = 4 << 10 // a public key, as an s-expression
)

// Ranges of numbers.
const (
	maxSize    = 1 << 62 // bytes of a disk, or inodes
	maxNARSize = 1 << 50 // bytes of a NAR, and of all NARs that an answer is about: so sums don't run over
	maxCores   = 1 << 14
	maxLoad    = 1e6
	maxUptime  = api.Seconds(100 * 365 * 24 * 3600)
	maxCPU     = maxCores * float64(maxUptime) // seconds of processor time
	maxExit    = 1 << 10                       // 128+N for signal N is the greatest that is known
	maxCount   = 1 << 30                       // of processes and builds
)

// Limits are how long a client waits for an agent. The zero value is good.
type Limits struct {
	// Answer is how long it waits for the start of an answer once a request is sent, and
	// then, and while it sends, for the next byte; 5 min. Where that is not enough the
	// context is longer, never shorter: what an agent does not do in time is its fault.
	// An answer to PUT may take longer by Substitutes, if the request names servers; 10 min.
	Answer, Substitutes time.Duration
	// Rate is how many bytes must have come or gone for each second beyond Answer that was
	// waited for them, so that a byte now and then does not keep a stream alive; 1 KiB.
	Rate int64
}

func (l Limits) withDefaults() Limits {
	l.Answer = cmp.Or(l.Answer, 5*time.Minute)
	l.Substitutes = cmp.Or(l.Substitutes, 10*time.Minute)
	l.Rate = cmp.Or(l.Rate, 1<<10)
	return l
}
