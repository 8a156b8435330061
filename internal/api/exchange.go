package api

import (
	"errors"
	"fmt"

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
	Error string `json:"error,omitempty"`
	Code  string `json:"code,omitempty"`
}

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

// BuildStory is the answer to GET /v1/builds/{id}.
type BuildStory struct {
	Build  Build   `json:"build"`
	Events []Event `json:"events"`
}

// Cancellation is the body of, and the answer to, POST /v1/cancel: which builds
// to cancel, and which of them were not final already.
type Cancellation struct {
	IDs []string `json:"ids"`
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

func (v *MachineVerdict) String() string {
	if v.OK {
		return v.Machine + ": can take it now"
	}
	return fmt.Sprintf("%s: %s: wanted %s, got %s", v.Machine, v.Rule, v.Wanted, v.Actual)
}

// MachineCheck is the answer to POST /v1/machines/{name}/check: what was tried,
// in order, up to the first thing without which the rest cannot be tried.
type MachineCheck struct {
	Machine string        `json:"machine"`
	OK      bool          `json:"ok"`
	Steps   []CheckStep   `json:"steps"`
	Status  MachineStatus `json:"status"`
}

// CheckStep is one thing that a check of a machine tried.
type CheckStep struct {
	Name   string `json:"name"` // "link", "agent", "protocol", "store", "build", "key", "clock", "send", "fetch"
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do, if it is not OK
}

// MachineGC is the body of POST /v1/machines/{name}/gc.
type MachineGC struct {
	MaxFreed  int64   `json:"maxFreed,omitempty"` // bytes; 0 is no limit
	OlderThan Seconds `json:"olderThan,omitempty"`
	DryRun    bool    `json:"dryRun,omitempty"`
}

// MachineGCResult is its answer.
type MachineGCResult struct {
	Deleted []store.Path `json:"deleted"`
	Freed   int64        `json:"freed"` // bytes
}

// Version is the answer to GET /v1/version.
type Version struct {
	Version string `json:"version"`
	API     int    `json:"api"`
}

// APIVersion counts changes of this API that old clients cannot live with.
const APIVersion = 1

// The codes of an Error, with the HTTP status that they come with.
const (
	CodeBadRequest   = "bad-request"   // 400: the request is wrong in itself
	CodeNotFound     = "not-found"     // 404: no such build, machine or log
	CodeConflict     = "conflict"      // 409: the id is another build's
	CodeNotValid     = "not-valid"     // 422: the derivation is not in the store
	CodeUnavailable  = "unavailable"   // 503: the coordinator stops
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
