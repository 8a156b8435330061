// Package api is the vocabulary between the coordinator, its ledger and its
// clients: builds, their states and events, machines, transfers. The same JSON
// stands in the ledger and goes over the coordinator's socket.
package api

import (
	"fmt"
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
	Failed    State = "failed"    // final: the derivation, or something it needs, failed
	TimedOut  State = "timed-out" // final: the derivation took too long, or was silent for too long
	Canceled  State = "canceled"  // final: somebody asked; never a result of the derivation
)

// States lists all of them, in the order in which a build goes through them.
func States() []State {
	return []State{Queued, Waiting, Placed, Sending, Building, Fetching, Succeeded, Failed, TimedOut, Canceled}
}

// Final reports whether the build's history has ended.
func (s State) Final() bool {
	return s == Succeeded || s == Failed || s == TimedOut || s == Canceled
}

// Running reports whether the build holds a slot of a machine.
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
	// Kind is a store.BuildFailure where the derivation is to blame, or
	// "dependency" where a derivation that it needs is.
	Kind     string     `json:"kind,omitempty"`
	ExitCode int        `json:"exitCode,omitempty"`
	Message  string     `json:"message"`
	Input    store.Path `json:"input,omitempty"`  // with "dependency": the derivation that failed
	KeptIn   string     `json:"keptIn,omitempty"` // build folder kept on the machine
}

// KindDependency is the Kind of a failure that is really another derivation's.
const KindDependency = "dependency"

func (f *Failure) Error() string {
	if f.Machine != "" {
		return fmt.Sprintf("%s on %s while %s: %s", f.Culprit, f.Machine, f.Phase, f.Message)
	}
	return fmt.Sprintf("%s while %s: %s", f.Culprit, f.Phase, f.Message)
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
	// Offload says that the outputs go to the build hook of a guix-daemon, which asked
	// for the build, and not into the head's store. No client sets it.
	Offload bool `json:"offload,omitempty"`
}

// Seconds is a duration that JSON holds as a number of seconds.
type Seconds float64

// Duration converts it.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// Build is one request and all that became of it.
type Build struct {
	Request
	System   string   `json:"system"`
	Features []string `json:"features,omitempty"` // required ones
	// Parent is the build for whose sake the coordinator made this one itself;
	// empty for a build that a client asked for.
	Parent string `json:"parent,omitempty"`
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

	OutputPaths map[string]store.Path `json:"outputPaths,omitempty"`
	OutputSize  int64                 `json:"outputSize,omitempty"` // bytes, as NARs
	// OutputsOn is the machine that keeps the outputs, where nobody asked for
	// them at home.
	OutputsOn string `json:"outputsOn,omitempty"`

	SentBytes  int64 `json:"sentBytes,omitempty"` // of all attempts, as archives
	FetchBytes int64 `json:"fetchedBytes,omitempty"`
	// BuildTime is how long the builder itself ran on the machine.
	BuildTime Seconds `json:"buildTime,omitempty"`
	LogSize   int64   `json:"logSize,omitempty"` // bytes, uncompressed
}

// Event is one change of one build, or of a machine.
type Event struct {
	Seq     uint64    `json:"seq"` // from 1, without gaps
	Time    time.Time `json:"time"`
	Build   string    `json:"build,omitempty"`
	State   State     `json:"state,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	Machine string    `json:"machine,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Failure *Failure  `json:"failure,omitempty"`
}

// MachineStatus is what the coordinator knows of one machine now.
type MachineStatus struct {
	Name              string   `json:"name"`
	Systems           []string `json:"systems"`
	Features          []string `json:"features,omitempty"`
	MandatoryFeatures []string `json:"mandatoryFeatures,omitempty"`
	ParallelBuilds    int      `json:"parallelBuilds"`
	Speed             float64  `json:"speed"`
	Local             bool     `json:"local,omitempty"`

	State      string     `json:"state"` // "unknown", "connecting", "up", "down"
	Error      string     `json:"error,omitempty"`
	NextTry    *time.Time `json:"nextTry,omitempty"`
	Running    int        `json:"running"` // slots taken
	Agent      string     `json:"agent,omitempty"`
	Kernel     string     `json:"kernel,omitempty"`
	StoreKind  string     `json:"storeKind,omitempty"`
	Cores      int        `json:"cores,omitempty"`
	Load       float64    `json:"load,omitempty"`     // 1-minute average / cores
	FreeDisk   int64      `json:"freeDisk,omitempty"` // bytes, where the store is
	FreeMemory int64      `json:"freeMemory,omitempty"`
	ClockSkew  Seconds    `json:"clockSkew,omitempty"` // machine minus coordinator
	PublicKey  string     `json:"publicKey,omitempty"` // with which its store signs
	Bandwidth  float64    `json:"bandwidth,omitempty"` // measured, bytes/s
}

// Transfer is one stream of items under way.
type Transfer struct {
	Machine   string    `json:"machine"`
	Direction string    `json:"direction"` // "send" or "fetch"
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
}
