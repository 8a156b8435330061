// Package scheduler decides which ready build goes to which machine.
//
// It is a pure function: the time is an argument, and there is no I/O, no clock,
// no goroutine and no randomness in it, so the same input gives the same plan and
// the same code runs in a simulator. [Assign] is the decision; [Explain] says of one
// build, machine by machine, why it may or may not run there.
//
// # Earliest finish time
//
// Builds are looked at in order: higher priority first; of equal priority, those of the share that
// has used least for its weight (see [Shares]); of one share, those with the longest
// remaining path to the end of the graph, then those for which more builds wait, then
// in order of submission. For each, and for each machine that may take it, the expected
// finish is
//
//	wait for a slot, and for memory and tokens
//	+ time to gather at the head what other machines have of its inputs
//	+ (bytes queued + bytes it lacks) / bandwidth
//	+ expected duration / speed
//	+ (bytes queued + expected bytes of outputs) / bandwidth in the other direction
//
// and the build goes to the machine where that is least. If that machine has no free
// slot, the build waits for it, and the slot is counted as taken when the builds
// after it are looked at. It waits only where the gain is real (see [WaitMargin]),
// and never forever: a build that has waited for as long as the best free machine
// would need to finish it takes that one.
//
// # Memory and tokens
//
// What a build needs besides a slot is reserved while it runs. One that waits for memory
// has a claim to it from the time when enough will be free: others begin before it only if
// they end by then, or fit beside it (backfill; Lifka, "The ANL/IBM SP scheduling system", 1995).
//
// # Machines that few builds can use
//
// What is queued for some of the machines alone is a path too, through machines instead of builds. Builds with a demand
// (a system and features) are at least as urgent as the work for their machines, and for no others, is long.
//
// # Classes
//
// Builds with the same system, features and machines to avoid make a class, and a
// [Queue] keeps one heap for each share of it. A round looks at as many builds as there are slots
// to fill, not at all that are ready; a class that no machine can take now costs
// little and holds no other build up. With many machines, a round looks for each build at those that
// are near its inputs, and of each speed at those that are free first.
//
// # Soon
//
// Of a path of builds, the next one is ready when the last one is done, or shortly after. A slot on
// the machine that is best for it stays free for such a build, unless others are done by then.
//
// # Again
//
// A machine that nothing else can use may begin a build that runs on a slower one, if it would
// be done in less than half of the time that it still needs there.
package scheduler

import (
	"fmt"
	"time"
)

const (
	// DefaultDuration is what a build is expected to take, at speed 1, when
	// nothing like it was ever measured.
	DefaultDuration = 60 * time.Second
	// DefaultBandwidth is assumed of a link that was never measured, in bytes/s.
	DefaultBandwidth = 12.5e6
	// WaitMargin is the part of the time to finish on a free machine that must be
	// gained for a build to wait for a better one. Estimates are not exact, and a
	// slot in use is worth more than a small gain that may not come.
	WaitMargin = 0.1
	// SoonWindow is how far ahead Input.Soon should look: where it looks farther, slots stay empty for longer
	// than it takes to get one back.
	SoonWindow = time.Minute
)

// Machine is what the decision needs to know of one machine now.
type Machine struct {
	Name    string
	Systems []string
	// Features it offers. What it has in MandatoryFeatures it offers too.
	Features []string
	// MandatoryFeatures are those that a build must require, all of them, to be
	// placed here at all.
	MandatoryFeatures []string

	// Host names the host that it shares with other machines of the list, which are other entries
	// for the same account of the same computer; empty if it has one for itself. Busy, Pending,
	// Load and JustStarted are the host's.
	Host string
	// Slots is how many builds may hold the host, through any machine, when one more
	// is placed here.
	Slots int
	// Busy has the builds that hold a slot of the host now. With len(Busy) >= Slots nothing is
	// placed here.
	Busy []Running

	// Speed divides a build's expected duration; 0 counts as 1.
	Speed float64
	// Bandwidth towards the machine, measured, in bytes/s; 0 if not known. The
	// head itself (where nothing is sent) has +Inf.
	Bandwidth float64
	// Pending is how many bytes are queued on the link already.
	Pending int64
	// FetchBandwidth is that from the machine, 0 if it is as Bandwidth; Fetching is how many
	// bytes are queued in that direction.
	FetchBandwidth float64
	Fetching       int64

	// Memory is how many bytes the builds there may need together; 0 if that is not limited, or
	// not known. Tokens has how many there are of whatever else is scarce.
	Memory int64
	Tokens map[string]int

	// Load is the 1-minute average per core. At OverloadThreshold and above the
	// machine gets nothing; a threshold of 0 disregards the load.
	Load              float64
	OverloadThreshold float64
	// OwnLoad is the part of Load that builds of ours make, if OwnKnown. It does not count, nor do
	// builds that the load does not show yet: the slots are all that bounds ours.
	OwnLoad  float64
	OwnKnown bool
	// Cores, if known, and JustStarted, builds placed so recently that the load
	// average does not show them: where OwnLoad is not known each counts as one busy core.
	Cores       int
	JustStarted int

	// FreeDisk is in bytes, negative if not known. A build goes there only if
	// what it lacks fits and MinFreeDisk stays free.
	FreeDisk    int64
	MinFreeDisk int64

	// Unavailable, if not empty, says why nothing can be placed here now:
	// "down: connection refused", "draining".
	Unavailable string
	// Refuses, if not empty, says what the machine lacks for another build now: memory,
	// inodes.
	Refuses string
}

// Running is a build that holds a slot.
type Running struct {
	// Build is what is built; nil if that is not known. Of it counts what it needs (Memory,
	// Tokens), whose it is (Share), and, if it may be begun again elsewhere, what a Build in the
	// queue has.
	Build *Build
	// Remaining is how much longer it is expected to hold its slot (see Remaining).
	Remaining time.Duration
	// Elapsed is for how long it has held it.
	Elapsed time.Duration
	// Once says that it is not to be begun again elsewhere.
	Once bool
}

// Build is one build that is ready to be placed.
type Build struct {
	ID       string
	System   string
	Features []string // required ones
	// Skip names machines that it shall not use, such as those where it failed.
	Skip []string

	Priority int // higher is more urgent
	// Rank is the longest remaining path to the end of the graph, this build
	// included (see Ranks).
	Rank time.Duration
	// Dependants is how many builds wait for this one, among others or not.
	Dependants int
	// Seq is the order of submission, the last criterion.
	Seq uint64
	// Expected is how long it should take at speed 1; 0 is DefaultDuration.
	Expected time.Duration
	// Output is how many bytes of outputs are expected to travel when it is built; 0 if that is
	// not known, or nobody wants them elsewhere.
	Output int64
	// Share names whose part of the machines it uses (see Shares).
	Share string
	// Memory is how many bytes are reserved for it, and Tokens how many it takes of what else is
	// scarce.
	Memory int64
	Tokens map[string]int
}

// urgent reports whether a is looked at before b.
func urgent(a, b *Build) bool {
	switch {
	case a.Priority != b.Priority:
		return a.Priority > b.Priority
	case a.Rank != b.Rank:
		return a.Rank > b.Rank
	case a.Dependants != b.Dependants:
		return a.Dependants > b.Dependants
	case a.Seq != b.Seq:
		return a.Seq < b.Seq
	}
	return a.ID < b.ID
}

// Input is everything that a decision depends on.
type Input struct {
	Now      time.Time
	Machines []Machine // names are unique
	Queue    *Queue    // not changed by Assign
	// Missing returns what the machine lacks of the build's inputs. It may be nil, and is
	// only called where the answer can matter.
	Missing func(b *Build, machine string) Lack
	// Near names machines that are likely to have much of what the build needs, such as those
	// that made its inputs. It may be nil. With many machines the others are not all looked at.
	Near func(b *Build) []string
	// Shares says whose turn it is; nil if it is everybody's.
	Shares *Shares
	// Soon are builds that will be in the queue within SoonWindow, the most urgent first. Slots are
	// kept free for them where less urgent ones of the same share would be in their way. Those that wait for one
	// running build alone are enough, and those that guix-daemon will ask for once outputs are at home; but the durations
	// of both must have been measured: with guesses, slots stay empty for builds that don't come.
	Soon []Soon
}

// Soon is a build that will be ready after a time.
type Soon struct {
	Build *Build
	Ready time.Duration // from now
}

// Lack is what a machine lacks of a build's inputs.
type Lack struct {
	Bytes int64 // to be sent to it
	// Gather is the time until the head has got from other machines what it lacks of these
	// itself.
	Gather time.Duration
}

// Assignment says that a build starts on a machine now.
type Assignment struct {
	Build   *Build
	Machine string
	Missing int64         // bytes to send first
	Finish  time.Duration // expected, from now
}

// Deferral says that a build, though a machine that could take it is free, waits
// for a better one.
type Deferral struct {
	Build   *Build
	Machine string        // it waits for this one
	Wait    time.Duration // expected until a slot there is free
	Finish  time.Duration // expected there, from now
	Instead string        // the best free machine
	// InsteadFinish is when the build would be finished on that one, from now.
	InsteadFinish time.Duration
	Since         time.Time // it has waited for a better machine since then
	Until         time.Time // it waits no longer than that, if that one stays the best free machine
}

// Reason says it for people.
func (d *Deferral) Reason() string {
	return fmt.Sprintf("waits for %s, to be finished there in %s; on %s, which is free, it would take %s",
		d.Machine, round3(d.Finish), d.Instead, round3(d.InsteadFinish))
}

// Blocked says that the builds of one class can be placed nowhere now.
type Blocked struct {
	System   string
	Features []string
	Skip     []string
	Builds   int // that many
	// Never says that waiting does not help: no machine of the list, even idle
	// and up, may take them.
	Never bool
	// Absent says that none of the machines that may take them is available, busy or not.
	Absent bool
	Reason string // for people
}

// Plan is the outcome of one round.
type Plan struct {
	Assignments []Assignment
	Deferrals   []Deferral
	Blocked     []Blocked
	Again       []Again
}

// Again says that a build which runs on a slow machine should be begun on a faster one too that
// has nothing else to do: the end that comes first counts.
type Again struct {
	Build    *Build
	From, To string
	Missing  int64         // bytes to send first
	Finish   time.Duration // expected there, from now
	Instead  time.Duration // expected where it runs
}

// Rule names what excludes a machine.
type Rule string

// The rules, in the order in which Explain applies them.
const (
	RuleSystem    Rule = "system"
	RuleFeatures  Rule = "features"
	RuleMandatory Rule = "mandatory-features"
	RuleSkip      Rule = "skip"
	RuleAvailable Rule = "available"
	RuleAdmission Rule = "admission"
	RuleLoad      Rule = "load"
	RuleDisk      Rule = "disk"
	RuleMemory    Rule = "memory"
	RuleTokens    Rule = "tokens"
	RuleSlots     Rule = "slots"
)

// Verdict says whether one machine can take one build now.
type Verdict struct {
	Machine string
	// Rule is the first that excludes the machine; empty if it can take the build.
	Rule   Rule
	Wanted string // what the rule asks for
	Actual string // what there is
	// Finish is the expected time until the build would be finished there, where
	// only busy slots stand in the way or nothing.
	Finish time.Duration
}

// OK reports whether the machine can take the build now.
func (v *Verdict) OK() bool { return v.Rule == "" }
