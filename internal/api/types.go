// Package api is the vocabulary between the coordinator, its ledger and its
// clients: builds, their states and events, machines, transfers. The same JSON
// is in the ledger and goes over the coordinator's socket.
package api

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"lighter/store"
)

// State is where a build stands.
type State string

// The states of a build. Those from Succeeded on are final.
const (
	Queued    State = "queued"    // ready, no machine yet
	Waiting   State = "waiting"   // for other builds, whose outputs it needs
	Placed    State = "placed"    // a machine was chosen
	Sending   State = "sending"   // inputs travel to the machine
	Building  State = "building"  // the machine builds
	Fetching  State = "fetching"  // outputs travel home
	Succeeded State = "succeeded" // final
	Failed    State = "failed"    // final: it failed itself
	TimedOut  State = "timed-out" // final: the derivation took too long, or was silent for too long
	// DependencyFailed is final: it was not built, since something that it needs failed.
	DependencyFailed State = "dependency-failed"
	Canceled         State = "canceled" // final: a person asked for it; never a result of the derivation
)

// States lists all of them, in the order in which a build goes through them.
func States() []State {
	return []State{Queued, Waiting, Placed, Sending, Building, Fetching, Succeeded, Failed, TimedOut, DependencyFailed, Canceled}
}

// OpenStates lists those in which a build can be canceled, or hurried.
func OpenStates() []State {
	return slices.DeleteFunc(States(), State.Final)
}

// Final reports whether the build's history has ended.
func (s State) Final() bool {
	return s == Succeeded || s.FailedItself() || s == DependencyFailed || s == Canceled
}

// FailedItself reports whether the build failed, and not because another did. Its log may say why.
func (s State) FailedItself() bool { return s == Failed || s == TimedOut }

// Running reports whether an attempt at the build is under way on a machine. It holds a slot there
// until the outputs are made.
func (s State) Running() bool {
	return s == Placed || s == Sending || s == Building || s == Fetching
}

// Culprit says who is to blame for a failure.
type Culprit string

// Whom a failure is blamed on. Only a derivation's, while building, is final.
const (
	CulpritDerivation  Culprit = "derivation"
	CulpritMachine     Culprit = "machine"
	CulpritLink        Culprit = "link"
	CulpritCoordinator Culprit = "coordinator"
)

// Failure says who failed, in which phase, and how.
type Failure struct {
	Culprit Culprit `json:"culprit"`
	Phase   State   `json:"phase"`             // the state the build was in
	Machine string  `json:"machine,omitempty"` // where
	// Kind is a store.BuildFailure where the derivation is to blame, "dependency" where a
	// derivation that it needs is, or can't be read, or "unable" or "fault" where a machine is.
	Kind     string     `json:"kind,omitempty"`
	ExitCode int        `json:"exitCode,omitempty"`
	Message  string     `json:"message"`
	Input    store.Path `json:"input,omitempty"`  // with "dependency": the derivation that failed
	KeptIn   string     `json:"keptIn,omitempty"` // build folder kept on the machine
}

// KindDependency is the Kind of a failure that is really another derivation's.
const KindDependency = "dependency"

// KindUnable is the Kind of a failure of a machine that can't build the derivation, however often it
// is tried: it is for another system, for instance, or its builder is not there. A build that all
// machines refuse has it, and a check for which there are too few.
const KindUnable = "unable"

// KindFault is the Kind of a failure of a machine whose agent did what none may: answer what
// cannot be right, or not in time.
const KindFault = "fault"

// KindNotRecorded is the Kind of the failure of a build whose end the ledger refused.
const KindNotRecorded = string(KindRefused)

// KindDiffers is the Kind of the failure of a check whose machines made different things.
const KindDiffers = "differs"

// Error says in a sentence who failed: "the link to beta failed while sending: timed out". What a
// derivation does itself needs no more than the machine.
func (f *Failure) Error() string {
	who := "the " + string(f.Culprit)
	switch {
	case f.Culprit == CulpritDerivation && f.Machine == "":
		return f.Message
	case f.Culprit == CulpritDerivation:
		return f.Machine + ": " + f.Message
	case f.Culprit == CulpritLink && f.Machine != "":
		who += " to " + f.Machine
	case f.Machine != "":
		who += " " + f.Machine
	}
	return fmt.Sprintf("%s failed while %s: %s", who, f.Phase, f.Message)
}

// OfDependency reports whether the build did not fail itself: one that it waited for did.
func (f *Failure) OfDependency() bool { return f.Kind == KindDependency && f.Phase == Waiting }

// Short says who failed and how, in what comes after "tried again".
func (f *Failure) Short() string {
	switch {
	case f.Culprit == CulpritLink && f.Machine != "":
		return "the link to " + f.Machine + ": " + f.Message
	case f.Machine != "":
		return f.Machine + ": " + f.Message
	case f.Culprit == CulpritCoordinator:
		return "the coordinator: " + f.Message
	}
	return f.Message
}

// Final reports whether trying again elsewhere is pointless.
func (f *Failure) Final() bool { return f.Culprit == CulpritDerivation }

// Request is what a client asks of the coordinator: realise one derivation.
type Request struct {
	ID            string            `json:"id,omitempty"` // UUID; given by the coordinator if empty
	Derivation    store.Path        `json:"derivation"`
	Outputs       []string          `json:"outputs,omitempty"` // wanted ones; empty means all
	Priority      int               `json:"priority,omitempty"`
	Tags          map[string]string `json:"tags,omitempty"`
	Timeout       Seconds           `json:"timeout,omitempty"`
	MaxSilentTime Seconds           `json:"maxSilentTime,omitempty"`
	KeepFailed    bool              `json:"keepFailed,omitempty"`
	// Memory is how many bytes are reserved for the build where it runs; 0 leaves that to the
	// coordinator. Tokens says how many it takes there of whatever else is scarce.
	Memory int64          `json:"memory,omitempty"`
	Tokens map[string]int `json:"tokens,omitempty"`
	// Retries is how often a failure of the derivation itself is tried again, on
	// machines where it did not fail while there are any.
	Retries int `json:"retries,omitempty"`
	// On names the machines that may take the build, empty means all; Skip those that
	// may not.
	On   []string `json:"on,omitempty"`
	Skip []string `json:"skip,omitempty"`
	// Check is on how many different machines the derivation is built, whether or not
	// its outputs are there, to compare what each made. 0 is a plain build.
	Check int `json:"check,omitempty"`
	// AllInputs says that each derivation that it needs, directly or not, gets a build
	// of its own, even those whose outputs are there.
	AllInputs bool `json:"allInputs,omitempty"`
	// SkipIfBuilt makes no build if all wanted outputs are valid at home or published.
	SkipIfBuilt bool `json:"skipIfBuilt,omitempty"`
	// SkipIfSubmitted makes no build if there is one of this derivation, or of one with
	// the same outputs, that did not fail and was not canceled.
	SkipIfSubmitted bool `json:"skipIfSubmitted,omitempty"`
	// DerivationSubstituteURLs are the servers from which the derivation is fetched,
	// with its closure, if it is not at home.
	DerivationSubstituteURLs []string `json:"derivationSubstituteURLs,omitempty"`
	// Attached says that the build is wanted only as long as a client says so, with GET
	// /v1/attach: a minute after the last one has gone it is canceled.
	Attached bool `json:"attached,omitempty"`
	// Offload says that the outputs go to the build hook of a guix-daemon, which asked
	// for the build, and not into the head's store. No client sets it.
	Offload bool `json:"offload,omitempty"`
}

// SubmissionTag is the tag that "lighter build --submission NAME" gives its builds, with the name.
const SubmissionTag = "submission"

// Seconds is a duration that JSON holds as a number of seconds.
type Seconds float64

// Duration converts it.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// Build is one request and all that became of it.
type Build struct {
	Request
	System   string   `json:"system"`
	Features []string `json:"features,omitempty"` // required ones
	// Submitter is who asked for it, as the kernel said; nil for builds that the coordinator
	// made itself, and where that is unknown.
	Submitter *Submitter `json:"submitter,omitempty"`
	// Parent is the build for which the coordinator made this one itself;
	// empty for a build that a client asked for.
	Parent string `json:"parent,omitempty"`
	// Share names for whom it counts where there are several who ask: of a build that many want,
	// the one of them who was served least when it was placed. Empty if nobody is told apart.
	Share string `json:"share,omitempty"`
	// Shares is the id under which machines and the log folder know this build's
	// attempts, if it is not its own: builds of the same derivation share them.
	Shares string `json:"shares,omitempty"`

	State     State      `json:"state"`
	Reason    string     `json:"reason,omitempty"` // why it is in this state, for people
	Submitted time.Time  `json:"submitted"`
	Started   *time.Time `json:"started,omitempty"` // of the current or last attempt's building
	Stopped   *time.Time `json:"stopped,omitempty"` // when it became final
	Attempt   int        `json:"attempt,omitempty"` // number of the current or last placement, from 1
	Machine   string     `json:"machine,omitempty"` // of that attempt
	Failure   *Failure   `json:"failure,omitempty"` // why it failed, or why the last attempt did
	// Dependents is how many builds ended as dependency-failed because this one failed.
	Dependents int `json:"dependents,omitempty"`

	OutputPaths map[string]store.Path `json:"outputPaths,omitempty"`
	OutputSize  int64                 `json:"outputSize,omitempty"` // bytes, as NARs
	// OutputsOn is the machine that keeps the outputs, where nobody asked for
	// them at home.
	OutputsOn string `json:"outputsOn,omitempty"`

	SentBytes  int64 `json:"sentBytes,omitempty"` // of all attempts, as archives
	FetchBytes int64 `json:"fetchedBytes,omitempty"`
	// BuildTime is how long the builder itself ran on the machine.
	BuildTime Seconds `json:"buildTime,omitempty"`
	// Measured is what the last attempt's builder used of its machine, as that says.
	Measured *store.Measured `json:"measured,omitempty"`
	LogSize  int64           `json:"logSize,omitempty"` // bytes, uncompressed

	// ReservedMemory is how many bytes were reserved for the current or last attempt.
	ReservedMemory int64 `json:"reservedMemory,omitempty"`
	// Retried is how many attempts of those that Retries grants were used.
	Retried int `json:"retried,omitempty"`
	// Hardware is that of the machine of the current or last attempt.
	Hardware *Hardware `json:"hardware,omitempty"`
	// Results has what a check found, by machine.
	Results []CheckResult `json:"results,omitempty"`

	// ExpectedEnd is when it will probably be done; nil if that can't be told. It is not in the ledger:
	// answers have it.
	ExpectedEnd *Expected `json:"expectedEnd,omitempty"`
	// Overdue says that it builds for longer than nine of ten such builds do there. A status has it.
	Overdue bool `json:"overdue,omitempty"`
}

// Expected is when something will probably happen, as the coordinator sees it now: four times in five between
// Low and High, and as likely before Middle as after it.
type Expected struct {
	Low    time.Time `json:"low"`
	Middle time.Time `json:"middle"`
	High   time.Time `json:"high"`
	// Unsure says why it is less sure than others: "never built here before".
	Unsure string `json:"unsure,omitempty"`
}

// Outlook is when the last of some builds that are not final will be done.
type Outlook struct {
	// ExpectedEnd is nil if it can't be told.
	ExpectedEnd *Expected `json:"expectedEnd,omitempty"`
	Builds      int       `json:"builds,omitempty"` // for which it holds
	Untold      int       `json:"untold,omitempty"` // others, of which it can't be told: no machine takes them, or what they need is not known yet
	// Unknown says why of some builds, or all, it can't be told now: the coordinator is paused, or there are too many.
	Unknown string `json:"unknown,omitempty"`
}

// LogID returns the id under which the logs of the build's attempts are kept. A check has none
// of its own.
func (b *Build) LogID() string { return cmp.Or(b.Shares, b.ID) }

// OutputsAskedFor returns the names of the outputs that come home when the build has succeeded, sorted.
func (b *Build) OutputsAskedFor() []string {
	if len(b.Outputs) > 0 {
		return slices.Sorted(slices.Values(b.Outputs))
	}
	return slices.Sorted(maps.Keys(b.OutputPaths))
}

// Submitter is a user of the head.
type Submitter struct {
	UID  uint32 `json:"uid"`
	User string `json:"user,omitempty"` // the name at that time; empty if there was none
	// Operates says that it was one who may do all, at that time.
	Operates bool `json:"operates,omitempty"`
	// For is the user whose wish guix-daemon's build hook passed on; nil if that is not known, or
	// for all other builds.
	For *Submitter `json:"for,omitempty"`
}

func (s *Submitter) String() string {
	if s.User != "" {
		return s.User
	}
	return "user " + strconv.FormatUint(uint64(s.UID), 10)
}

// Names are those under which a filter finds the user: number and name. A nil Submitter has
// none.
func (s *Submitter) Names() []string {
	switch {
	case s == nil:
		return nil
	case s.User == "":
		return []string{strconv.FormatUint(uint64(s.UID), 10)}
	}
	return []string{strconv.FormatUint(uint64(s.UID), 10), s.User}
}

// Hardware is what a machine is made of.
type Hardware struct {
	CPU    string `json:"cpu,omitempty"` // model name, as the kernel has it
	Cores  int    `json:"cores,omitempty"`
	Memory int64  `json:"memory,omitempty"` // bytes, all
	Kernel string `json:"kernel,omitempty"`
}

// CheckResult is what one machine made of a derivation.
type CheckResult struct {
	Machine   string            `json:"machine"`           // or TheHead
	Hashes    map[string]string `json:"hashes,omitempty"`  // SHA-256 of the NAR, in base 32, by output
	Differs   []string          `json:"differs,omitempty"` // files that are not as the first machine made them
	Failure   *Failure          `json:"failure,omitempty"`
	BuildTime Seconds           `json:"buildTime,omitempty"`
	// LogID and LogAttempt say under which id and as which attempt the log is kept, if
	// there was a build.
	LogID      string `json:"logID,omitempty"`
	LogAttempt int    `json:"logAttempt,omitempty"`
}

// TheHead is the machine of what the head had before a check, which the others are compared
// with. No machine has such a name.
const TheHead = "the head"

// EventKind is what an event is that is not a plain change of a state; of that it is empty.
type EventKind string

// The kinds of events.
const (
	KindSubmitted     EventKind = "submitted"      // first event of a build
	KindMissingInputs EventKind = "missing-inputs" // Reason says which; the build waits for builds of them
	KindMachineLost   EventKind = "machine-lost"   // for so long that its builds were freed
	KindMachineBack   EventKind = "machine-back"   // after that
	KindOperator      EventKind = "operator"       // a person changed something: drained, paused, ...
	KindUnusable      EventKind = "unusable"       // stands for one that the ledger can't read; Reason says why
	KindRefused       EventKind = "refused"        // the ledger refused what became of a build
	KindNote          EventKind = "note"           // the build is in the same state; its reason or machine is another
)

// EventKinds returns all kinds.
func EventKinds() []EventKind {
	return []EventKind{
		KindSubmitted, KindMissingInputs, KindMachineLost, KindMachineBack, KindOperator, KindUnusable, KindRefused, KindNote,
	}
}

// Event is one change of one build, or of a machine, or of the coordinator.
type Event struct {
	Seq     uint64    `json:"seq"` // from 1, without gaps; those of pruned builds are gone
	Kind    EventKind `json:"kind,omitempty"`
	Time    time.Time `json:"time"`
	Build   string    `json:"build,omitempty"`
	State   State     `json:"state,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	Machine string    `json:"machine,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Failure *Failure  `json:"failure,omitempty"`
	// Derivation is the build's. It is for clients alone, as long as the build is known.
	Derivation store.Path `json:"derivation,omitempty"`
}

// MachineState is whether a machine is reached.
type MachineState string

// The states of a machine: it was not tried yet, is tried for the first time, is reached, or
// can't be.
const (
	MachineUnknown    MachineState = "unknown"
	MachineConnecting MachineState = "connecting"
	MachineUp         MachineState = "up"
	MachineDown       MachineState = "down"
	// MachineUntrusted is reached, but gets no builds because it does not accept what the head
	// signs, or the head what it signs; MachineUnfit gets none because of something else that a
	// person must change. Error says what.
	MachineUntrusted MachineState = "untrusted"
	MachineUnfit     MachineState = "unfit"
)

// MachineStatus is what the coordinator knows of one machine now.
type MachineStatus struct {
	Name              string   `json:"name"`
	Systems           []string `json:"systems"`
	Features          []string `json:"features,omitempty"`
	MandatoryFeatures []string `json:"mandatoryFeatures,omitempty"`
	ParallelBuilds    int      `json:"parallelBuilds"`
	Speed             float64  `json:"speed"`
	MeasuredSpeed     float64  `json:"measuredSpeed,omitempty"` // Speed, corrected by what builds took
	Local             bool     `json:"local,omitempty"`

	State   MachineState `json:"state"`
	Error   string       `json:"error,omitempty"`
	NextTry *time.Time   `json:"nextTry,omitempty"`
	Running int          `json:"running"` // builds placed through it
	// Host is the name of the first of several machines that are entries of one host, this one
	// perhaps, and HostRunning how many builds run there through any of them: each may place a build
	// while that is less than its ParallelBuilds. All that is measured is the host's, and the same in
	// each of them. Empty if it is the only one.
	Host        string  `json:"host,omitempty"`
	HostRunning int     `json:"hostRunning,omitempty"`
	Agent       string  `json:"agent,omitempty"`
	Kernel      string  `json:"kernel,omitempty"`
	StoreKind   string  `json:"storeKind,omitempty"`
	Cores       int     `json:"cores,omitempty"`
	Load        float64 `json:"load,omitempty"`     // 1-minute average / cores
	FreeDisk    int64   `json:"freeDisk,omitempty"` // bytes, where the store is
	FreeMemory  int64   `json:"freeMemory,omitempty"`
	ClockSkew   Seconds `json:"clockSkew,omitempty"` // machine minus coordinator
	PublicKey   string  `json:"publicKey,omitempty"` // with which its store signs
	// Bandwidth and FetchBandwidth are measured towards the machine and from it, in bytes/s.
	Bandwidth      float64 `json:"bandwidth,omitempty"`
	FetchBandwidth float64 `json:"fetchBandwidth,omitempty"`

	// Memory is how many bytes the builds of the host may need together for it to get another one through this
	// machine, 0 if that is not counted or not known yet, and ReservedMemory how many are reserved for those
	// that run. Tokens and TakenTokens are the same for what else is scarce.
	Memory         int64          `json:"memory,omitempty"`
	ReservedMemory int64          `json:"reservedMemory,omitempty"`
	Tokens         map[string]int `json:"tokens,omitempty"`
	TakenTokens    map[string]int `json:"takenTokens,omitempty"`

	Tags map[string]string `json:"tags,omitempty"` // of the file, and of operators
	// Draining says that an operator, DrainedBy if that is known, wants no new builds there, for DrainReason.
	Draining    bool   `json:"draining,omitempty"`
	DrainedBy   string `json:"drainedBy,omitempty"`
	DrainReason string `json:"drainReason,omitempty"`
	// Quarantined says why it gets no builds, until then, after builds failed there
	// that succeeded elsewhere.
	Quarantined      string     `json:"quarantined,omitempty"`
	QuarantinedUntil *time.Time `json:"quarantinedUntil,omitempty"`
	// Removed says that it is no longer in the machines file and goes once its builds
	// are done.
	Removed bool `json:"removed,omitempty"`
	// Refuses says why it gets no builds now, if that passes by itself: load, pressure,
	// disk, inodes.
	Refuses string `json:"refuses,omitempty"`

	FreeInodes     int64   `json:"freeInodes,omitempty"`
	BuildFreeDisk  int64   `json:"buildFreeDisk,omitempty"` // bytes, where builds have their folders
	CPUPressure    float64 `json:"cpuPressure,omitempty"`   // percent of the last 10 s in which tasks waited
	MemoryPressure float64 `json:"memoryPressure,omitempty"`

	Hardware          *Hardware  `json:"hardware,omitempty"`
	ParallelTransfers int        `json:"parallelTransfers,omitempty"`
	LastGC            *time.Time `json:"lastGC,omitempty"`
}

// Direction is which way items are carried.
type Direction string

// To a machine, and from it.
const (
	Send  Direction = "send"
	Fetch Direction = "fetch"
)

// Transfer is one stream of items under way.
type Transfer struct {
	Machine   string    `json:"machine"`
	Direction Direction `json:"direction"`
	Build     string    `json:"build,omitempty"`
	Items     int       `json:"items"`
	Bytes     int64     `json:"bytes"`           // so far
	Total     int64     `json:"total,omitempty"` // NAR bytes expected; 0 if not known
	Started   time.Time `json:"started"`
}

// Status is the coordinator at one glance.
type Status struct {
	Version   string          `json:"version"`
	PID       int             `json:"pid"`
	Started   time.Time       `json:"started"`
	Counts    map[State]int   `json:"counts"` // of builds
	LastEvent uint64          `json:"lastEvent"`
	Machines  []MachineStatus `json:"machines"`
	Running   []Build         `json:"running"`
	Transfers []Transfer      `json:"transfers"`

	// Paused says why nothing is placed: an operator's reason, or the head's disk.
	Paused string `json:"paused,omitempty"`
	// Queues has what there is to do, by system.
	Queues []SystemQueue `json:"queues,omitempty"`
	// Outlook is when the last of all builds will be done; nil if there are none.
	Outlook *Outlook `json:"outlook,omitempty"`
	// Shares has those who ask, or asked of late; of those that want more, the one whose turn it is
	// comes first.
	Shares []Share `json:"shares,omitempty"`
	// Failures has builds that failed lately, the newest first.
	Failures []Build `json:"failures,omitempty"`
	// Head is what is left on the head's disks.
	Head HeadStatus `json:"head"`
	// MachinesFile says when the machines file was read, and what is wrong with it now.
	MachinesFile MachinesFileStatus `json:"machinesFile"`
	// LedgerProblems names records of the ledger that can't be used and are left out, at most
	// 100.
	LedgerProblems []string `json:"ledgerProblems,omitempty"`
	// HooksPending and HooksParked count runs of event hooks.
	HooksPending int `json:"hooksPending,omitempty"`
	HooksParked  int `json:"hooksParked,omitempty"`
	// SettingsProblems says what of lighter.toml can't be carried out, and what to do. The rest is.
	SettingsProblems []string `json:"settingsProblems,omitempty"`
	// Caller is who asked, and what it may do; nil where that is unknown.
	Caller *Caller `json:"caller,omitempty"`
	// Installation is where the coordinator has its things; nil where that is unknown.
	Installation *Installation `json:"installation,omitempty"`
}

// Caller is who asked, as the coordinator sees it.
type Caller struct {
	UID  uint32 `json:"uid"`
	User string `json:"user,omitempty"`
	// Operates says that it may do all; else it may submit and look, and change its own
	// builds, and Operators says who may do all.
	Operates  bool   `json:"operates"`
	Operators string `json:"operators,omitempty"`
}

// Share is what one of those who ask for builds may use of the machines, and what it has used.
type Share struct {
	Name   string  `json:"name"`
	Weight float64 `json:"weight"`
	// Part is its part of the machines, of 1, as long as just those have builds that have some now;
	// 0 if it has none itself.
	Part    float64 `json:"part,omitempty"`
	Queued  int     `json:"queued"`  // builds that are ready
	Running int     `json:"running"` // slots that it holds
	// Used is the slot time that it has used, what is long ago counting less, and Due its part of
	// what all that have builds now have used.
	Used Seconds `json:"used"`
	Due  Seconds `json:"due,omitempty"`
	// Before is how many of its builds come before the one that was asked about.
	Before int `json:"before,omitempty"`
}

// SystemQueue is what there is to do for one system.
type SystemQueue struct {
	System  string `json:"system"`
	Queued  int    `json:"queued"`
	Waiting int    `json:"waiting"`
	Running int    `json:"running"`
	// Rate is how many builds machines made, or failed, in the last hour, or since the start if
	// that was later; per hour.
	Rate float64 `json:"rate"`
	// Empty is the expected time until none are left; 0 if not known.
	Empty Seconds `json:"empty,omitempty"`
	// ExpectedEnd says the same with its uncertainty; nil if it can't be told.
	ExpectedEnd *Expected `json:"expectedEnd,omitempty"`
}

// HeadStatus is what is left on the head's disks.
type HeadStatus struct {
	FreeDisk      int64 `json:"freeDisk"` // bytes, where the store is
	FreeInodes    int64 `json:"freeInodes,omitempty"`
	StateFreeDisk int64 `json:"stateFreeDisk"` // bytes, where ledger and logs are
}

// MachinesFileStatus is the state of the machines file.
type MachinesFileStatus struct {
	File  string     `json:"file,omitempty"`
	Read  *time.Time `json:"read,omitempty"`
	Error string     `json:"error,omitempty"` // why it cannot be used; the machines in use stay as they are
}
