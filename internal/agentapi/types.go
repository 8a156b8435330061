// Package agentapi is the protocol between coordinator and agent: JSON and
// archives over HTTP/1.1, on streams that sshtransport opens. It has the types
// and the client; internal/agent serves it.
//
//	GET    /v1/machine                what the machine is, its load and disk
//	GET    /v1/builds                 all builds that the agent knows
//	PUT    /v1/builds/{id}            root the inputs, say what is missing, start if nothing is
//	GET    /v1/builds/{id}            its state
//	GET    /v1/builds/{id}/outputs/{name}  what a check made, as a NAR
//	GET    /v1/builds/{id}/log        ?offset=N; follows to the end; trailer Lighter-Build has the final BuildStatus
//	DELETE /v1/builds/{id}            cancel it if it runs, release its roots, forget it
//	POST   /v1/missing                which of these items the store lacks
//	POST   /v1/closure                what is known of these items and all that they refer to
//	POST   /v1/import                 body: an archive; answers with what it held
//	POST   /v1/export                 body: paths; answers with a signed archive
//	POST   /v1/add-text               adds a file with given contents to the store; answers with what it became
//	POST   /v1/gc                     collect garbage
//
// Errors have a status of 400 or above and an [Error] as body.
package agentapi

import (
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

// Protocol is the version of this protocol. A coordinator and an agent with
// different ones don't talk to each other; a new one is uploaded.
const Protocol = 1

// LogTrailer is the HTTP trailer of a log that holds the final BuildStatus as JSON.
// One of more than MaxTrailer bytes comes without its outputs, marked as partial:
// HTTP clients take no long trailers.
const LogTrailer = "Lighter-Build"

// MaxTrailer is the greatest length of a log's trailer, in bytes.
const MaxTrailer = 16 << 10

// NARType is the media type of a NAR.
const NARType = "application/x-nix-nar"

// ArchiveType is the media type of an archive (the export stream).
const ArchiveType = "application/x-guix-archive"

// Machine is the answer to GET /v1/machine.
type Machine struct {
	Protocol int       `json:"protocol"`
	Version  string    `json:"version"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	// ID is the agent's own, from its start to its end, another one for each head that has a name there,
	// and nobody can guess it: ways on which the same one is heard lead to the same builds of the same
	// agent. Empty if the agent has none.
	ID       string   `json:"id,omitempty"`
	Kernel   string   `json:"kernel"`             // "Linux 6.1.0-40-amd64"
	Hostname string   `json:"hostname"`           // of the machine itself
	Systems  []string `json:"systems"`            // that its kernel can run by itself, the native one first
	Emulated []string `json:"emulated,omitempty"` // those that it runs through an emulator, with binfmt_misc
	Cores    int      `json:"cores"`
	Load     float64  `json:"load"` // 1-minute average, not divided
	// OwnLoad is the part of Load that the agent's own builds make, averaged as the kernel does. Load is
	// rounded and taken at other moments, so that it may be a little less.
	OwnLoad    float64 `json:"ownLoad,omitempty"`
	FreeDisk   int64   `json:"freeDisk"`   // bytes, where the store is
	FreeMemory int64   `json:"freeMemory"` // bytes, MemAvailable
	// FreeInodes is where the store is; BuildFreeDisk (bytes) and BuildFreeInodes are where builds
	// have their folders. Negative if not known, or if the file system has no such limit.
	FreeInodes      int64 `json:"freeInodes,omitempty"`
	BuildFreeDisk   int64 `json:"buildFreeDisk,omitempty"`
	BuildFreeInodes int64 `json:"buildFreeInodes,omitempty"`
	// CPUPressure and MemoryPressure are the percentages of the last 10 seconds in which
	// some task waited for it; negative if the kernel does not say.
	CPUPressure    float64      `json:"cpuPressure,omitempty"`
	MemoryPressure float64      `json:"memoryPressure,omitempty"`
	Hardware       api.Hardware `json:"hardware,omitzero"`
	// Uptime is since when the machine runs; 0 if it does not say.
	Uptime    api.Seconds `json:"uptime,omitempty"`
	Now       time.Time   `json:"now"`
	StoreKind string      `json:"storeKind"` // "local" or "guix-daemon"
	StoreDir  store.Dir   `json:"storeDir"`  // logical
	PublicKey string      `json:"publicKey"` // s-expression; with which exports are signed
	// AcceptsKeys has the fingerprints of the keys whose archives the store takes;
	// null means that the agent does not know.
	AcceptsKeys []string `json:"acceptsKeys"`
	// NeedsDerivations says that the store wants the derivation and its closure
	// of derivations as items, as guix-daemon does; without it, Text is enough.
	NeedsDerivations bool   `json:"needsDerivations,omitempty"`
	BuildProblem     string `json:"buildProblem,omitempty"` // why this machine can't build, e.g. no user namespaces
	// BuildWarning is what builds lack here, e.g. a network of their own; they are made all the same.
	BuildWarning string `json:"buildWarning,omitempty"`
	Running      int    `json:"running"` // builds
	// Offer is what this coordinator may ask for; null if it has the account itself.
	Offer *Offer `json:"offer,omitempty"`
}

// Builds returns the systems that the machine can build for; none if it does not say.
func (m *Machine) Builds() []string { return slices.Concat(m.Systems, m.Emulated) }

// BuildRequest is the body of PUT /v1/builds/{id}. The same id, attempt and
// derivation may be put any number of times; a higher attempt replaces a lower
// one, a lower one is refused with 409.
type BuildRequest struct {
	Attempt       int          `json:"attempt"`
	Derivation    store.Path   `json:"derivation"`
	Text          []byte       `json:"text"`    // the derivation's contents
	Inputs        []store.Path `json:"inputs"`  // closure of all inputs, as BuildRequest.Inputs in package store
	Outputs       []store.Path `json:"outputs"` // to root
	Timeout       api.Seconds  `json:"timeout,omitempty"`
	MaxSilentTime api.Seconds  `json:"maxSilentTime,omitempty"`
	Cores         int          `json:"cores,omitempty"`
	KeepFailed    bool         `json:"keepFailed,omitempty"`
	// MemoryLimit is how many bytes of memory the build's processes may have together, where the machine
	// can see to that, at least MinMemoryLimit; 0 means no limit. The status says under Measured whether there
	// was one.
	MemoryLimit int64 `json:"memoryLimit,omitempty"`
	// SandboxPaths are host paths, or "inside=outside", visible to the build
	// besides the inputs. From the machine's configuration.
	SandboxPaths []string `json:"sandboxPaths,omitempty"`
	// SubstituteURLs are servers from which the agent fetches missing inputs, as far as
	// they have them, before it says what is missing. From the machine's configuration.
	SubstituteURLs []string `json:"substituteURLs,omitempty"`
	// Check has the derivation built although its outputs are there. What is there stays;
	// the outputs of the answer describe what was made, and can be read with
	// GET /v1/builds/{id}/outputs/{name}.
	Check bool `json:"check,omitempty"`
}

// MinMemoryLimit is the least limit of memory, in bytes: less is not enough to set a sandbox up.
const MinMemoryLimit = 64 << 20

// The states of a build on an agent.
const (
	Rooted    = "rooted" // inputs are missing; put it again when they are there
	Running   = "running"
	Succeeded = "succeeded"
	Failed    = "failed"
	Canceled  = "canceled"
)

// BuildStatus is the answer to PUT and GET of a build.
type BuildStatus struct {
	ID         string       `json:"id"`
	Attempt    int          `json:"attempt"`
	Derivation store.Path   `json:"derivation"`
	State      string       `json:"state"`
	Missing    []store.Path `json:"missing,omitempty"` // while rooted
	Started    time.Time    `json:"started,omitzero"`
	Stopped    time.Time    `json:"stopped,omitzero"`
	LogSize    int64        `json:"logSize"` // bytes so far
	// Written is how many bytes the builder has written so far, of which the log may lack some.
	Written int64 `json:"written,omitempty"`
	// Outputs, by name, once it has succeeded.
	Outputs map[string]*store.Info `json:"outputs,omitempty"`
	// Check says that the outputs are what a check made. They are not in the store, and
	// some may be left out: see store.BuildRequest.
	Check        bool `json:"check,omitempty"`
	AlreadyValid bool `json:"alreadyValid,omitempty"`
	// Measured is what the build used, once it is finished, whatever became of it; null if it did not run.
	Measured *store.Measured `json:"measured,omitempty"`
	// Failure, once it has failed: the derivation's or the machine's.
	Failure *api.Failure `json:"failure,omitempty"`
	// Partial says, in a log's trailer alone, that Outputs was left out.
	Partial bool `json:"partial,omitempty"`
}

// Finished reports whether the state will not change any more.
func (s *BuildStatus) Finished() bool {
	return s.State == Succeeded || s.State == Failed || s.State == Canceled
}

// Paths is the body of the requests that name items, and the answer of missing.
type Paths struct {
	Paths []store.Path `json:"paths"`
}

// Infos is the answer to closure and import.
type Infos struct {
	Infos []*store.Info `json:"infos"`
}

// AddTextRequest is the body of POST /v1/add-text; the answer is a store.Info. Nothing
// roots what is added.
type AddTextRequest struct {
	Name    string `json:"name"`
	Content []byte `json:"content"` // at most MaxText bytes
}

// MaxText is how many bytes can be added as a text.
const MaxText = 64 << 10

// GCRequest is the body of POST /v1/gc.
type GCRequest struct {
	MaxFreed  int64       `json:"maxFreed,omitempty"` // bytes; 0 means no limit
	OlderThan api.Seconds `json:"olderThan,omitempty"`
	DryRun    bool        `json:"dryRun,omitempty"`
}

// GCResult is its answer.
type GCResult struct {
	Deleted  []store.Path   `json:"deleted"`
	Freed    int64          `json:"freed"`          // bytes
	Left     []store.GCLeft `json:"left,omitempty"` // at most store.MaxGCLeft; LeftMore counts the rest
	LeftMore int            `json:"leftMore,omitempty"`
}

// ForClients returns the result as the coordinator's clients are told it.
func (r *GCResult) ForClients() *api.MachineGCResult {
	deleted := r.Deleted
	if deleted == nil {
		deleted = []store.Path{}
	}
	return &api.MachineGCResult{Deleted: deleted, Freed: r.Freed, Left: r.Left, LeftMore: r.LeftMore}
}

// The codes of an Error that callers branch on.
const (
	CodeUnknownBuild = "unknown-build" // 404
	CodeOldAttempt   = "old-attempt"   // 409
	CodeOtherBuild   = "other-build"   // 409: the id and attempt are those of another derivation
	CodeBadRequest   = "bad-request"   // 400, or 416 for an offset beyond the log
	CodeTooMany      = "too-many"      // 503: more builds than an agent takes
	CodeNotValid     = "not-valid"     // 404: store.ErrNotValid
	CodeUnauthorized = "unauthorized"  // 403: store.ErrUnauthorized
	CodeCorrupt      = "corrupt"       // 422: store.ErrCorrupt
	CodeDiskFull     = "disk-full"     // 507
	CodeNotOffered   = "not-offered"   // 403: the machine's owner does not offer it
)

// codes are all of them: a client knows no others.
var codes = []string{
	CodeUnknownBuild, CodeOldAttempt, CodeOtherBuild, CodeBadRequest, CodeTooMany, CodeNotValid, CodeUnauthorized, CodeCorrupt,
	CodeDiskFull, CodeNotOffered,
}

// Error is the body of an answer that is none.
type Error struct {
	Status  int    `json:"-"`
	Code    string `json:"code,omitempty"`
	Message string `json:"error"`
}

func (e *Error) Error() string { return e.Message }

// Is lets errors.Is find the store's errors that the agent met.
func (e *Error) Is(target error) bool {
	switch target {
	case store.ErrNotValid:
		return e.Code == CodeNotValid
	case store.ErrUnauthorized:
		return e.Code == CodeUnauthorized
	case store.ErrCorrupt:
		return e.Code == CodeCorrupt
	}
	return false
}
