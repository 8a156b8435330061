package api

import (
	"errors"
	"fmt"
	"time"

	"lighter/store"
)

// The bodies below go over the coordinator's socket; docs/api.md has them with
// examples.

// MaxSubmit is how many requests one submission may have.
const MaxSubmit = 10_000

// Submission is the body of POST /v1/builds. One Request alone is accepted too.
type Submission struct {
	Builds []Request `json:"builds"`
}

// Submitted is what became of one request of a submission: a build, durable in
// the ledger, or an error.
type Submitted struct {
	Build *Build `json:"build,omitempty"`
	// Skipped says why no build was made, where the request allows that: Build is the
	// one that was there already, or nil.
	Skipped string `json:"skipped,omitempty"`
	Error   string `json:"error,omitempty"`
	Code    string `json:"code,omitempty"`
}

// Refused is the answer to a request that is not taken.
func Refused(err *Error) Submitted { return Submitted{Error: err.Message, Code: err.Code} }

// Submissions is the answer to POST /v1/builds, in the order of the requests.
type Submissions struct {
	Builds []Submitted `json:"builds"`
}

// BuildList is one page of GET /v1/builds, newest first.
type BuildList struct {
	Builds []Build `json:"builds"`
	// Next is the value of "after" for the next page; empty on the last one.
	Next string `json:"next,omitempty"`
}

// BuildCounts is the answer to GET /v1/builds/counts: how many builds a filter selects.
type BuildCounts struct {
	Systems map[string]map[State]int `json:"systems"` // those in which there are any
	// Exact is false if so many builds were submitted about when the filter's times begin or end that they
	// were not looked at one by one: all of those count then.
	Exact bool `json:"exact"`
}

// Add counts builds of a system in a state.
func (c *BuildCounts) Add(system string, state State, n int) {
	if c.Systems[system] == nil {
		c.Systems[system] = make(map[State]int)
	}
	c.Systems[system][state] += n
}

// States returns the counts of all systems together.
func (c *BuildCounts) States() map[State]int {
	all := make(map[State]int)
	for _, states := range c.Systems {
		for state, n := range states {
			all[state] += n
		}
	}
	return all
}

// BuildStory is the answer to GET /v1/builds/{id}.
type BuildStory struct {
	Build  Build   `json:"build"`
	Events []Event `json:"events"`
	// WantedBy has the builds that need this one, directly or not, the nearest first; of one that
	// failed, those that failed because of it. It has 100 at most, of WantedByCount.
	WantedBy      []Build `json:"wantedBy,omitempty"`
	WantedByCount int     `json:"wantedByCount,omitempty"`
	// Outputs has what a build that succeeded has made, sorted by name.
	Outputs []Output `json:"outputs,omitempty"`
	// Cause is the build of the derivation that failed itself, of one that failed because of that; nil if the
	// ledger has none any more. It may have been tried again since then, and be in any state.
	Cause *Build `json:"cause,omitempty"`
}

// Output is one thing that a build has made.
type Output struct {
	Name string     `json:"name"`
	Path store.Path `json:"path"`
	Home bool       `json:"home"`           // it is in the head's store
	Size int64      `json:"size,omitempty"` // bytes of the NAR, if it is at home
	Hash string     `json:"hash,omitempty"` // SHA-256 of the NAR, in Guix's base 32, if it is at home
	On   string     `json:"on,omitempty"`   // the machine that keeps it, if it is not
}

// Blocking is the answer to GET /v1/blocking: what holds up most builds.
type Blocking struct {
	At time.Time `json:"at"` // when it was counted, some seconds ago
	// Builds has unfinished builds that wait for no other build, and that others need; those that hold up
	// most come first. It has some of BuildsCount.
	Builds      []Blocker `json:"builds"`
	BuildsCount int       `json:"buildsCount"`
	// Failures has builds that failed themselves in the last day, some of FailuresCount: first those because of which
	// most builds failed (Build.Dependents) or are held up.
	Failures      []Blocker `json:"failures"`
	FailuresCount int       `json:"failuresCount"`
	// MoreFailures says that only the newest 2,000 builds that failed were looked at.
	MoreFailures bool `json:"moreFailures,omitempty"`
	// Unknown says why nothing can be told of unfinished builds now: there are too many, or it is being worked out.
	Unknown string `json:"unknown,omitempty"`
}

// Blocker is a build that holds up others.
type Blocker struct {
	Build Build `json:"build"`
	// Holds is how many unfinished builds need its outputs, directly or not; where it failed, of those
	// for which its derivation is to be built once more.
	Holds int `json:"holds"`
}

// LogHeader is the header of answers with a log that names it: the id of the build whose attempts it is of,
// a dot, and the number of the attempt.
const LogHeader = "Lighter-Log"

// Filter selects builds. The zero value selects all.
type Filter struct {
	States     []State           `json:"states,omitempty"`     // any of these
	Derivation store.Path        `json:"derivation,omitempty"` // exactly
	Name       string            `json:"name,omitempty"`       // of the derivation, without hash and .drv; "hello-*" is all that start so
	System     string            `json:"system,omitempty"`
	Machine    string            `json:"machine,omitempty"` // of the current or last attempt
	User       string            `json:"user,omitempty"`    // who submitted it: a name, or a number
	Tags       map[string]string `json:"tags,omitempty"`    // all of these; an empty value is any
	NotTags    map[string]string `json:"notTags,omitempty"` // none of these; an empty value is any
	Since      time.Time         `json:"since,omitzero"`    // submitted then or later
	Until      time.Time         `json:"until,omitzero"`    // submitted before
}

// Empty reports whether the filter selects all.
func (f *Filter) Empty() bool {
	return len(f.States) == 0 && f.Derivation == "" && f.Name == "" && f.System == "" && f.Machine == "" && f.User == "" &&
		len(f.Tags) == 0 && len(f.NotTags) == 0 && f.Since.IsZero() && f.Until.IsZero()
}

// Selection is the body of POST /v1/cancel, /v1/retry and /v1/priority: builds by id,
// perhaps abbreviated, or by filter, not both.
type Selection struct {
	IDs    []string `json:"ids,omitempty"`
	Filter *Filter  `json:"filter,omitempty"`
	// WithDependents adds all builds that need the selected ones, for cancel and retry.
	WithDependents bool   `json:"withDependents,omitempty"`
	Priority       int    `json:"priority,omitempty"` // the new one, for /v1/priority
	Reason         string `json:"reason,omitempty"`   // for the history of each
}

// Selected is the answer: the builds that were changed, with the ids of at most the
// first 10,000. Final builds are not canceled, and only failed, timed-out and canceled
// ones are retried.
type Selected struct {
	IDs   []string `json:"ids"`
	Count int      `json:"count"`
	// Others is how many more a filter selects that are not the caller's, who may change
	// no others.
	Others int `json:"others,omitempty"`
	// StandIns is how many builds were made anew in place of canceled ones, because others need them.
	StandIns int `json:"standIns,omitempty"`
}

// OperatorNote is the body of requests that take only a reason, for people: POST
// /v1/pause, /v1/resume, /v1/machines/{name}/drain and /resume.
type OperatorNote struct {
	Reason string `json:"reason,omitempty"`
}

// TagChange is the body of POST /v1/machines/{name}/tags.
type TagChange struct {
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// Reloaded is the answer to POST /v1/reload: what became of the machines.
type Reloaded struct {
	Added   []string `json:"added,omitempty"`
	Changed []string `json:"changed,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// Prune is the body of POST /v1/prune: which final builds leave the ledger. They are
// written, with their events, to a file of JSON lines in the state folder first.
type Prune struct {
	OlderThan Seconds `json:"olderThan"` // since they became final
	States    []State `json:"states,omitempty"`
	DryRun    bool    `json:"dryRun,omitempty"`
	// KeepLogs leaves the logs of the builds where they are.
	KeepLogs bool `json:"keepLogs,omitempty"`
}

// Pruned is the answer.
type Pruned struct {
	Builds int    `json:"builds"`
	Events int    `json:"events"`
	Logs   int    `json:"logs"`
	File   string `json:"file,omitempty"` // with what was removed
	Bytes  int64  `json:"bytes"`          // of the file
}

// HookRun is one run of an event hook that is to come, is under way, or is parked.
type HookRun struct {
	ID       string     `json:"id"`
	Hook     string     `json:"hook"` // its name
	Event    string     `json:"event"`
	Build    string     `json:"build,omitempty"`
	Machine  string     `json:"machine,omitempty"`
	State    string     `json:"state"` // "waiting", "running", "retrying", "parked"
	Tries    int        `json:"tries"`
	Error    string     `json:"error,omitempty"`  // of the last try
	Output   string     `json:"output,omitempty"` // its end
	Since    time.Time  `json:"since"`            // of the event
	NextTry  *time.Time `json:"nextTry,omitempty"`
	EventSeq uint64     `json:"eventSeq"`
}

// HookStatus is the state of one configured hook.
type HookStatus struct {
	Name    string   `json:"name"`
	Events  []string `json:"events"`
	Command []string `json:"command,omitempty"`
	BuiltIn string   `json:"builtIn,omitempty"`
	Waiting int      `json:"waiting"`
	Running int      `json:"running"`
	Parked  int      `json:"parked"`
	Done    int64    `json:"done"` // since the coordinator started
	// Behind is how many events the hook has not looked at yet: it looks at more when
	// there is room among its runs.
	Behind uint64 `json:"behind,omitempty"`
	// Problem says why the hook can't be set up, if it can't. Its events wait for it.
	Problem string `json:"problem,omitempty"`
}

// HookList is the answer to GET /v1/hooks. Runs has the parked ones first.
type HookList struct {
	Hooks []HookStatus `json:"hooks"`
	Runs  []HookRun    `json:"runs"`
	// Since is when the coordinator began to count what is done.
	Since time.Time `json:"since,omitzero"`
}

// HookTest is the body of POST /v1/hooks/{name}/test.
type HookTest struct {
	Build string `json:"build,omitempty"` // its id
	// Event is the name of the event that the hook is told of; empty is the one of the
	// state that the build is in.
	Event   string `json:"event,omitempty"`
	Machine string `json:"machine,omitempty"` // for events of machines
}

// HookTested is its answer.
type HookTested struct {
	Event  string  `json:"event"`
	OK     bool    `json:"ok"`
	Error  string  `json:"error,omitempty"`
	Output string  `json:"output,omitempty"` // its end
	Took   Seconds `json:"took"`
}

// HookSelection is the body of POST /v1/hooks/retry and /v1/hooks/drop: parked runs by
// id, or all of a hook, or all.
type HookSelection struct {
	IDs  []string `json:"ids,omitempty"`
	Hook string   `json:"hook,omitempty"`
	All  bool     `json:"all,omitempty"`
}

// Why is the answer to GET /v1/builds/{id}/why.
type Why struct {
	Build Build `json:"build"`
	// Summary says in one line what the build waits for, if it waits.
	Summary string `json:"summary"`
	// WaitsFor has the builds whose outputs it needs.
	WaitsFor []Build `json:"waitsFor,omitempty"`
	// Machines says of each machine whether it could take the build now.
	Machines []MachineVerdict `json:"machines,omitempty"`
	// Attempts has what went wrong so far.
	Attempts []Failure `json:"attempts,omitempty"`
	// Expected is how long it usually builds, on the machine that has it; 0 if that is not known.
	Expected Seconds `json:"expected,omitempty"`
	// ExpectedStart is when it will probably be begun, if it waits; nil if that can't be told. When it will be
	// done is in Build.
	ExpectedStart *Expected `json:"expectedStart,omitempty"`
	// Memory is how many bytes are reserved for it, or will be where it is placed, and MemoryReason
	// says why so many. Tokens has how many it takes of what else is scarce.
	Memory       int64          `json:"memory,omitempty"`
	MemoryReason string         `json:"memoryReason,omitempty"`
	Tokens       map[string]int `json:"tokens,omitempty"`
	// Place is that of a build that is ready, among all of them, from 1; Ahead has the most urgent
	// of those before it.
	Place int     `json:"place,omitempty"`
	Ahead []Build `json:"ahead,omitempty"`
	// Shares has those who want machines now, the one whose turn it is first, and the build's own,
	// if there are several.
	Shares []Share `json:"shares,omitempty"`
}

// MachineVerdict says whether a machine could take a build now, and if not, which
// rule is in the way.
type MachineVerdict struct {
	Machine string  `json:"machine"`
	OK      bool    `json:"ok"`
	Rule    string  `json:"rule,omitempty"`
	Wanted  string  `json:"wanted,omitempty"`
	Actual  string  `json:"actual,omitempty"`
	Finish  Seconds `json:"finish,omitempty"` // expected until finished there
}

// String says it in a line; see the scheduler's rules.
func (v *MachineVerdict) String() string {
	switch {
	case v.OK:
		return v.Machine + ": can take it now"
	case v.Rule == "available" || v.Rule == "admission" || v.Rule == "skip": // that says it all
		return v.Machine + ": " + v.Actual
	case v.Rule == "slots":
		return v.Machine + ": no free slot: " + v.Actual
	case v.Rule == "mandatory-features":
		return v.Machine + ": takes only " + v.Wanted + ", and this one " + v.Actual
	case v.Rule == "load":
		return fmt.Sprintf("%s: %s, want %s", v.Machine, v.Actual, v.Wanted)
	case v.Rule == "disk":
		return fmt.Sprintf("%s: disk: %s, want %s", v.Machine, v.Actual, v.Wanted)
	}
	return fmt.Sprintf("%s: %s: %s; the build needs %s", v.Machine, v.Rule, v.Actual, v.Wanted)
}

// MachineTrial is the answer to POST /v1/machines/{name}/check: what was tried,
// in order, up to the first thing without which the rest cannot be tried.
type MachineTrial struct {
	Machine string        `json:"machine"`
	OK      bool          `json:"ok"`
	Steps   []TrialStep   `json:"steps"`
	Status  MachineStatus `json:"status"`
}

// TrialStep is one thing that a test of a machine tried.
type TrialStep struct {
	// Name is one of "ssh", "agent", "store", "systems", "build", "offer", "key", "room", "clock",
	// "send", "fetch" and "place".
	Name    string       `json:"name"`
	OK      bool         `json:"ok"` // the outcome is good
	Outcome TrialOutcome `json:"outcome"`
	Detail  string       `json:"detail"`
	Fix     string       `json:"fix,omitempty"` // what to do, if it is not OK
}

// TrialOutcome is how a step ended.
type TrialOutcome string

// The outcomes of a step.
const (
	TrialGood    TrialOutcome = "good"
	TrialWarning TrialOutcome = "warning" // builds can be made all the same
	TrialBad     TrialOutcome = "bad"
)

// MachineGC is the body of POST /v1/machines/{name}/gc.
type MachineGC struct {
	MaxFreed  int64   `json:"maxFreed,omitempty"` // bytes; 0 means no limit
	OlderThan Seconds `json:"olderThan,omitempty"`
	DryRun    bool    `json:"dryRun,omitempty"`
}

// Check says what is wrong with a request.
func (o *MachineGC) Check() error {
	if o.MaxFreed < 0 || o.OlderThan < 0 || o.OlderThan > MaxTime {
		return BadRequest("maxFreed and olderThan must not be negative, and olderThan at most %v seconds", float64(MaxTime))
	}
	return nil
}

// MachineGCResult is its answer.
type MachineGCResult struct {
	Deleted  []store.Path   `json:"deleted"`
	Freed    int64          `json:"freed"`          // bytes
	Left     []store.GCLeft `json:"left,omitempty"` // what could not be deleted, at most store.MaxGCLeft
	LeftMore int            `json:"leftMore,omitempty"`
}

// NewRoot is the body of POST /v1/roots: the symlink Link, which is there, keeps the item to which
// it leads, for a time if For is not 0. POST /v1/roots/remove takes Link alone.
type NewRoot struct {
	Link string     `json:"link"`
	Path store.Path `json:"path,omitempty"`
	For  Seconds    `json:"for,omitempty"`
}

// Needed is the body of POST /v1/needed: items of the head's store, at most store.GCBatch. The answer
// has those of them that builds need: outputs of builds that have succeeded or are not final, and
// derivations of those that are not final.
type Needed struct {
	Paths []store.Path `json:"paths"`
}

// Version is the answer to GET /v1/version.
type Version struct {
	Version string `json:"version"`
	API     int    `json:"api"`
}

// Installation is where a coordinator has its things, and as whom it runs: the answer to GET
// /v1/installation.
type Installation struct {
	User      string `json:"user"`
	State     string `json:"state"`     // folder of the ledger, and of a store of lighter's own
	Config    string `json:"config"`    // folder of lighter.toml
	Socket    string `json:"socket"`    // on which it listens
	StoreKind string `json:"storeKind"` // "local" or "guix-daemon"
	// StoreWhy says why it has a store of this kind, where nobody had said which.
	StoreWhy     string `json:"storeWhy,omitempty"`
	DaemonSocket string `json:"daemonSocket,omitempty"` // guix-daemon's; empty is the usual place
	Guix         string `json:"guix,omitempty"`         // Guix's configuration folder
	MachinesFile string `json:"machinesFile"`
	SigningKey   string `json:"signingKey"`       // the head's public key
	ACL          string `json:"acl"`              // the keys whose archives it takes
	Web          string `json:"web,omitempty"`    // URL of the page, if the settings say one
	Agents       string `json:"agents,omitempty"` // folder with agents for machines; empty is the usual ones
}

// APIVersion counts changes of this API that old clients cannot live with.
const APIVersion = 1

// The codes of an Error, with the HTTP status that they come with.
const (
	CodeBadRequest   = "bad-request"   // 400: the request is wrong in itself
	CodeNoSession    = "no-session"    // 401: the session or login is unknown, or has ended
	CodeForbidden    = "forbidden"     // 403: the caller has no right to it
	CodeNotFound     = "not-found"     // 404: no such build, machine or log
	CodeConflict     = "conflict"      // 409: the id is another build's
	CodeNotValid     = "not-valid"     // 422: the derivation is not in the store
	CodeUnavailable  = "unavailable"   // 503: the coordinator stops, or lacks what is asked for
	CodeDiskFull     = "disk-full"     // 507: no room for the ledger
	CodeMachineError = "machine-error" // 502: the machine did not do it
	CodeInternal     = "internal"      // 500
)

// Errors that an Error matches with errors.Is.
var (
	ErrNotFound    = errors.New("not found")
	ErrUnavailable = errors.New("coordinator is not available")
)

// Error is the body of an answer with a status of 400 or above.
type Error struct {
	Status  int    `json:"-"`
	Code    string `json:"code"`
	Message string `json:"error"`
}

func (e *Error) Error() string { return e.Message }

// BadRequest returns the answer to a request that is wrong.
func BadRequest(format string, args ...any) *Error {
	return &Error{Status: 400, Code: CodeBadRequest, Message: fmt.Sprintf(format, args...)}
}

// Is makes errors.Is find ErrNotFound, ErrUnavailable and store.ErrNotValid.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.Code == CodeNotFound
	case ErrUnavailable:
		return e.Code == CodeUnavailable
	case store.ErrNotValid:
		return e.Code == CodeNotValid
	}
	return false
}
