// Package store is the vocabulary of stores: items and their names, what is
// known of an item, and the interfaces that backends implement.
//
// Every backend is a [Store]. What else it can do it says by implementing more
// of the small interfaces here, and the functions of this package use an ability
// where there is one and do the slow, correct thing where there is none.
//
// The package does no I/O of its own and knows no archive format; package nar
// does. Backends are in store/local (needs nothing installed) and store/daemon
// (guix-daemon); store/storetest has the conformance suite that all of them pass.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// ErrNotValid is matched, with errors.Is, by the error of a question about an
// item that the store does not have.
var ErrNotValid = errors.New("not valid in this store")

// ErrUnauthorized is matched by the error of an import whose signature was made
// by a key that the store's ACL does not list.
var ErrUnauthorized = errors.New("signed by an unauthorized key")

// ErrCorrupt is matched by the error of an import whose contents, hash or
// signature do not agree.
var ErrCorrupt = errors.New("corrupt archive")

// NotValid returns the error for an item that a store does not have.
func NotValid(p Path) error { return fmt.Errorf("%s: %w", p, ErrNotValid) }

// Info is what a store knows of a valid item.
type Info struct {
	Path       Path      `json:"path"`
	NARHash    Hash      `json:"narHash"`
	NARSize    int64     `json:"narSize"`    // bytes
	References []Path    `json:"references"` // sorted; has Path itself if it refers to itself
	Deriver    Path      `json:"deriver,omitempty"`
	Registered time.Time `json:"registered,omitzero"`
}

// Difference says what of an item is other than it should be, or "". When it was registered
// makes none.
func (i *Info) Difference(got *Info) string {
	switch {
	case got.NARHash != i.NARHash:
		return fmt.Sprintf("hash %s instead of %s", got.NARHash, i.NARHash)
	case got.NARSize != i.NARSize:
		return fmt.Sprintf("%d bytes instead of %d", got.NARSize, i.NARSize)
	case !slices.Equal(got.References, i.References):
		return fmt.Sprintf("it refers to %d items, which are not the %d that it should refer to", len(got.References), len(i.References))
	case got.Deriver != i.Deriver:
		return fmt.Sprintf("deriver %q instead of %q", got.Deriver, i.Deriver)
	}
	return ""
}

// PathsOf returns the paths of items.
func PathsOf(infos []*Info) []Path {
	paths := make([]Path, len(infos))
	for i, info := range infos {
		paths[i] = info.Path
	}
	return paths
}

// Store is what every backend can do. All methods of all the interfaces here may
// be called from several goroutines at the same time.
type Store interface {
	// Dir returns the logical store directory, such as /gnu/store.
	Dir() Dir
	// Info returns what is known of a valid item, or an error that matches
	// ErrNotValid. The caller owns the result.
	Info(ctx context.Context, path Path) (*Info, error)
}

// Validator answers for many items at once.
type Validator interface {
	// ValidPaths returns those of paths that are valid, in the same order.
	ValidPaths(ctx context.Context, paths []Path) ([]Path, error)
}

// Informer tells of many items at once.
type Informer interface {
	// Infos returns what Info would return for each of paths, in the same order, and
	// nil where one is not valid. The caller owns the result.
	Infos(ctx context.Context, paths []Path) ([]*Info, error)
}

// Referrer tells what refers to items.
type Referrer interface {
	// Referrers returns for each of paths, in the same order, the valid items that refer to it, in
	// any order. An item that is not valid has none. The caller owns the result.
	Referrers(ctx context.Context, paths []Path) ([][]Path, error)
}

// NARWriter gives an item's contents.
type NARWriter interface {
	// WriteNAR writes the item's NAR.
	WriteNAR(ctx context.Context, w io.Writer, path Path) error
}

// Exporter writes archives.
type Exporter interface {
	// Export writes one archive of the items, references first whatever the order
	// of paths, each signed with the store's key. It does not add their closure.
	Export(ctx context.Context, w io.Writer, paths []Path) error
}

// Importer reads archives.
type Importer interface {
	// Import reads one archive up to and including its end marker and makes its
	// items valid, each as soon as it is complete and checked: hash, signature
	// against the ACL, references valid. It returns what the archive held, also
	// the items that were there already, and also beside an error.
	Import(ctx context.Context, r io.Reader, opts ImportOptions) ([]*Info, error)
}

// ImportOptions are the choices of one import. The zero value takes everything.
type ImportOptions struct {
	// Accept, if not nil, is asked before an item becomes visible; an error
	// refuses the item and ends the import.
	Accept func(*Info) error
}

// Adder adds items by content.
type Adder interface {
	// AddText adds a file with the given contents; references must be valid.
	AddText(ctx context.Context, name string, content []byte, references []Path) (Path, error)
	// AddNAR adds what the NAR holds under its SHA-256, as add-to-store does
	// when it is called with recursive and sha256.
	AddNAR(ctx context.Context, name string, r io.Reader) (Path, error)
}

// Leaser protects items from garbage collection.
type Leaser interface {
	// Lease starts a lease; name is for people. Nothing is protected yet.
	Lease(ctx context.Context, name string) (Lease, error)
}

// Lease protects items, valid or not yet, until it is released or its process
// ends. Add first, ask for validity afterwards: in that order an item found
// valid stays valid.
type Lease interface {
	Add(ctx context.Context, paths ...Path) error
	Release() error
}

// BuildRequest asks a store to realise one derivation whose inputs are valid.
type BuildRequest struct {
	Derivation Path
	// Text is the derivation's contents. If nil it is read from the store.
	Text []byte
	// Inputs is the closure of the derivation's inputs: the items that the
	// build may see. If nil the store computes it from its own derivations.
	Inputs []Path

	Timeout       time.Duration // wall time; 0 means no limit
	MaxSilentTime time.Duration // without a log line; 0 means no limit
	Cores         int           // NIX_BUILD_CORES; 0 lets the builder use all
	KeepFailed    bool          // keep the build folder of a failed build
	// SandboxPaths are files and folders of the machine, or "inside=outside",
	// that the build may see beside its inputs. guix-daemon decides by itself.
	SandboxPaths []string

	// Check has the derivation built although its outputs are valid. What is valid stays
	// as it is, and what was made is not kept: the result describes it, and Made gets it.
	// Where outputs are not valid, a store may build and register them in the usual way.
	//
	// guix-daemon compares by itself. Where that finds a difference, it is told what was
	// made only with KeepFailed, of one output, and without its references; else the check
	// fails with FailedDifference. The result may lack outputs of which it said nothing.
	Check bool
	// Made returns where the NAR of an output that a check made goes, by the output's name;
	// nil drops them. The store closes it. Only after a check that succeeded was it written
	// completely; an output may be asked for more than once, of which the last counts.
	Made func(output string) (io.WriteCloser, error)

	// MemoryLimit is how many bytes of memory the build's processes may have together, where the
	// store can see to that: Measured says whether there was a limit. 0 means no limit.
	MemoryLimit int64
	// Measured is filled in before Build returns, whatever the outcome, with what the build used. What
	// the store does not measure stays as it is. May be nil.
	Measured *Measured

	// Log gets the builder's standard output and error as they are written. It
	// is not called concurrently. May be nil.
	Log io.Writer
}

// BuildResult is the outcome of a successful build.
type BuildResult struct {
	Outputs map[string]*Info // by output name
	Started time.Time
	Stopped time.Time
	// AlreadyValid says that the outputs were there and nothing was run.
	AlreadyValid bool
}

// Builder realises derivations.
type Builder interface {
	// Build returns an error that matches *BuildError where the derivation is
	// to blame, *UnableError where the machine can never build it, and any
	// other error where the store or its machine is to blame.
	Build(ctx context.Context, req *BuildRequest) (*BuildResult, error)
}

// BuildFailure says in which way a derivation failed.
type BuildFailure string

// The ways in which a derivation itself fails.
const (
	FailedExit         BuildFailure = "exit"          // the builder's exit status was not 0
	FailedKilled       BuildFailure = "killed"        // something killed the builder, or what it ran: SIGKILL, exit code 137, or for memory
	FailedTimeout      BuildFailure = "timeout"       // longer than Timeout
	FailedSilence      BuildFailure = "silence"       // silent for longer than MaxSilentTime
	FailedOutput       BuildFailure = "output"        // output missing, or of a forbidden kind
	FailedHashMismatch BuildFailure = "hash-mismatch" // fixed output with other contents
	FailedLimit        BuildFailure = "limit"         // more files or bytes in its outputs than the machine allows
	FailedDiskFull     BuildFailure = "disk-full"     // the builder failed, or was stopped, with the disk full that it had filled
	FailedReferences   BuildFailure = "references"    // forbidden reference
	FailedDownload     BuildFailure = "download"      // builtin:download found no good source
	FailedDifference   BuildFailure = "difference"    // a check made something else than what is valid
)

// BuildError is the failure of a derivation, as opposed to that of a machine.
type BuildError struct {
	Derivation Path
	Failure    BuildFailure
	ExitCode   int    // of the builder, with FailedExit, FailedKilled and FailedDiskFull; 128+N for signal N
	Message    string // for people
	KeptIn     string // the build folder, if it was kept
}

func (e *BuildError) Error() string {
	return fmt.Sprintf("build %s: %s", e.Derivation, e.Message)
}

// UnableError is the error of a store that can't build a derivation at all, now or later: it is for
// another system, or for a machine that has what this one lacks. Another machine may build it.
type UnableError struct{ Reason string }

func (e *UnableError) Error() string { return e.Reason }

// Root is a link that keeps an item, and all that it refers to, from garbage collection.
type Root struct {
	Link    string    `json:"link"` // absolute name of the symlink
	Path    Path      `json:"path"`
	Owner   string    `json:"owner,omitempty"` // who asked for it
	Created time.Time `json:"created,omitzero"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
}

// Rooter has roots that people make.
type Rooter interface {
	// AddRoot makes a symlink that is there a root of the item to which it leads; uid is that
	// of who asks.
	AddRoot(ctx context.Context, r Root, uid uint32) error
	Roots(ctx context.Context) ([]Root, error)
	// RemoveRoot ends a root, and leaves its link. The error matches fs.ErrNotExist if
	// there is none of that link.
	RemoveRoot(ctx context.Context, link string) error
}

// GCOptions say how much garbage to collect.
type GCOptions struct {
	MaxFreed int64 // stop after this many bytes; 0 means no limit
	DryRun   bool  // find, delete nothing
	Paths    []Path
	// OlderThan spares garbage registered less than this ago.
	OlderThan time.Duration
	// Keep, if not nil, is asked which of some garbage is to be kept all the same, with all
	// that it refers to: at most GCBatch items at a time, and again about those that are about
	// to be deleted. An error ends the collection, and nothing more is deleted.
	Keep func(ctx context.Context, garbage []Path) ([]Path, error)
}

// GCBatch is about how many items a collection asks Keep at a time.
const GCBatch = 1000

// GCResult says what was, or with DryRun would be, deleted.
type GCResult struct {
	Deleted []Path
	Freed   int64 // bytes
	// Left is what could not be deleted, or not wholly: the first MaxGCLeft of it. LeftMore
	// counts the rest. The collection went on with everything else.
	Left     []GCLeft
	LeftMore int
}

// MaxGCLeft bounds what a result lists as left.
const MaxGCLeft = 100

// GCLeft is one thing that a collection could not delete.
type GCLeft struct {
	Path    Path   `json:"path,omitempty"` // empty where it is no item, but what a process that died has left
	Problem string `json:"problem"`        // names the file, and says why
}

// Leave notes what could not be deleted.
func (r *GCResult) Leave(path Path, err error) {
	if len(r.Left) == MaxGCLeft {
		r.LeftMore++
		return
	}
	r.Left = append(r.Left, GCLeft{Path: path, Problem: err.Error()})
}

// Collector deletes items that no root and no lease needs.
type Collector interface {
	CollectGarbage(ctx context.Context, opts GCOptions) (*GCResult, error)
}

// VerifyProblem is one thing that Verify found wrong.
type VerifyProblem struct {
	Path    Path
	Problem string
}

// Verifier checks a store against what is known of its items.
type Verifier interface {
	// Verify checks that every item is there, and with contents set also its
	// hash. It calls report for each problem, and goes on.
	Verify(ctx context.Context, contents bool, report func(VerifyProblem)) error
}

// ValidPaths returns those of paths that are valid in s, in the same order.
func ValidPaths(ctx context.Context, s Store, paths []Path) ([]Path, error) {
	if v, ok := s.(Validator); ok {
		return v.ValidPaths(ctx, paths)
	}
	var valid []Path
	for _, p := range paths {
		switch _, err := s.Info(ctx, p); {
		case err == nil:
			valid = append(valid, p)
		case !errors.Is(err, ErrNotValid):
			return nil, err
		}
	}
	return valid, nil
}

// IsValid reports whether one item is valid in s.
func IsValid(ctx context.Context, s Store, path Path) (bool, error) {
	valid, err := ValidPaths(ctx, s, []Path{path})
	return len(valid) == 1, err
}

// Missing returns those of paths that are not valid in s, in the same order.
func Missing(ctx context.Context, s Store, paths []Path) ([]Path, error) {
	valid, err := ValidPaths(ctx, s, paths)
	if err != nil {
		return nil, err
	}
	have := make(map[Path]bool, len(valid))
	for _, p := range valid {
		have[p] = true
	}
	return slices.DeleteFunc(slices.Clone(paths), func(p Path) bool { return have[p] }), nil
}

// Infos returns what s knows of each of paths, in the same order, and nil where one is not
// valid.
func Infos(ctx context.Context, s Store, paths []Path) ([]*Info, error) {
	if i, ok := s.(Informer); ok {
		return i.Infos(ctx, paths)
	}
	infos := make([]*Info, len(paths))
	for i, p := range paths {
		info, err := s.Info(ctx, p)
		if err != nil && !errors.Is(err, ErrNotValid) {
			return nil, err
		}
		infos[i] = info
	}
	return infos, nil
}

// Closure returns what the store knows of the items and of everything that they
// refer to, references first. Every one of them must be valid.
func Closure(ctx context.Context, s Store, paths []Path) ([]*Info, error) {
	seen := make(map[Path]bool)
	var all []*Info
	for next := paths; len(next) > 0; {
		var asked []Path
		for _, p := range next {
			if !seen[p] {
				seen[p] = true
				asked = append(asked, p)
			}
		}
		infos, err := Infos(ctx, s, asked)
		if err != nil {
			return nil, fmt.Errorf("closure: %w", err)
		}
		next = nil
		for i, info := range infos {
			if info == nil {
				return nil, fmt.Errorf("closure: %w", NotValid(asked[i]))
			}
			next = append(next, info.References...)
		}
		all = append(all, infos...)
	}
	return SortInfos(all)
}

// SortInfos orders infos so that each comes after what it refers to, and in the
// same way for the same set. References to items outside the set are ignored. A
// cycle, other than an item's reference to itself, is an error.
func SortInfos(infos []*Info) ([]*Info, error) {
	byPath := make(map[Path]*Info, len(infos))
	paths := make([]Path, 0, len(infos))
	for _, info := range infos {
		if byPath[info.Path] == nil {
			paths = append(paths, info.Path)
		}
		byPath[info.Path] = info
	}
	slices.Sort(paths)

	type frame struct {
		info *Info
		next int // index of the reference to look at
	}
	const (
		unseen = iota
		open
		done
	)
	state := make(map[Path]int, len(paths))
	sorted := make([]*Info, 0, len(paths))
	var stack []frame
	for _, root := range paths {
		if state[root] != unseen {
			continue
		}
		state[root] = open
		stack = append(stack[:0], frame{info: byPath[root]})
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if top.next == len(top.info.References) {
				state[top.info.Path] = done
				sorted = append(sorted, top.info)
				stack = stack[:len(stack)-1]
				continue
			}
			ref := top.info.References[top.next]
			top.next++
			if ref == top.info.Path || byPath[ref] == nil {
				continue
			}
			switch state[ref] {
			case unseen:
				state[ref] = open
				stack = append(stack, frame{info: byPath[ref]})
			case open:
				return nil, fmt.Errorf("references of %s and %s make a cycle", top.info.Path, ref)
			}
		}
	}
	return sorted, nil
}
