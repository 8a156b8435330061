// Package ledger keeps the coordinator's truth on disk: builds, events, measured durations.
package ledger

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

// ErrNotFound is matched by the error of a question about a build that the
// ledger does not have.
var ErrNotFound = errors.New("no such build")

// ErrExists is matched by the error of creating a build that is there already.
var ErrExists = errors.New("build exists")

// ErrDiskFull is matched by the error of a change for which there is no room. The
// ledger stays usable, and takes changes again when there is room again.
var ErrDiskFull = errors.New("disk full")

// ErrClosed is matched by the errors of a closed ledger.
var ErrClosed = errors.New("ledger is closed")

// Options are the choices of Open. The zero value is good.
type Options struct {
	Logger    *slog.Logger     // Pebble's own words, at debug level; nil discards them
	CacheSize int64            // bytes; 0 is 32 MiB
	MinFree   int64            // bytes of disk kept free: below it changes are refused with ErrDiskFull; 0 is 32 MiB, negative none
	Now       func() time.Time // clock for events; nil is time.Now
}

// Change is one change of the ledger. The changes of one Apply are made together or not at all.
type Change struct {
	// Build is the full new record, or nil. It is put in place of the old one with the same ID.
	Build *api.Build
	// Create says that the build must be new; ErrExists otherwise.
	Create bool
	// Event is appended; its Seq and Time are the ledger's. If nil, and Build's
	// state, attempt or machine is new, an event is made from the record.
	Event *api.Event
	// Duration, if not nil, is recorded.
	Duration *Duration
	// Machine, if not nil, replaces what is known of that machine.
	Machine *Machine
}

// Sample is one measured build.
type Sample struct {
	Machine string    `json:"machine"`
	Speed   float64   `json:"speed"`   // of the machine then
	Seconds float64   `json:"seconds"` // that the build took there
	Time    time.Time `json:"time"`
}

// Duration says that a package of that name, for that system, took so long.
type Duration struct {
	Name, System string
	Sample       Sample
}

// Machine is what was learnt of a machine and is worth keeping.
type Machine struct {
	Name         string    `json:"name"`
	Bandwidth    float64   `json:"bandwidth,omitempty"`    // measured, bytes/s
	SpeedLog     float64   `json:"speedLog,omitempty"`     // scheduler.SpeedEstimate
	SpeedSamples int       `json:"speedSamples,omitempty"` // the same
	PublicKey    string    `json:"publicKey,omitempty"`    // of its store, last seen
	Updated      time.Time `json:"updated,omitzero"`
}

// Filter selects builds. The zero value selects all.
type Filter struct {
	States     []api.State       // any of these; empty means all
	Derivation store.Path        // exactly
	Machine    string            // of the current or last attempt
	Tags       map[string]string // all of these
	Since      time.Time         // submitted then or later
	// After is the id of a build: only what comes behind it in the listing.
	After string
	Limit int // 0 is none
	// OldestFirst turns the listing round. Usually the newest comes first.
	OldestFirst bool
}

// NonFinal lists the states of builds that are not finished.
func NonFinal() []api.State {
	var states []api.State
	for _, s := range api.States() {
		if !s.Final() {
			states = append(states, s)
		}
	}
	return states
}

// Ledger is an open ledger. All methods may be called from several goroutines at the same time.
type Ledger struct{}

// Open opens the ledger in a folder, which is made if it isn't there.
func Open(dir string, opts Options) (*Ledger, error) { return nil, errPending }

// Apply makes changes and returns the number of each one's event (0 if it has none).
func (l *Ledger) Apply(ctx context.Context, changes []Change, durable bool) ([]uint64, error) {
	return nil, errPending
}

// Build returns a build's record, which the caller owns, or an error that matches ErrNotFound.
func (l *Ledger) Build(ctx context.Context, id string) (*api.Build, error) { return nil, errPending }

// Builds lists builds, newest first.
func (l *Ledger) Builds(ctx context.Context, f Filter) iter.Seq2[*api.Build, error] { return nil }

// Counts returns how many builds are in each state.
func (l *Ledger) Counts(ctx context.Context) (map[api.State]int, error) { return nil, errPending }

// Events calls fn for every event from number from on (0 counts as 1), in order, none twice and none missed.
// With follow it goes on until the context ends or the ledger is closed.
func (l *Ledger) Events(ctx context.Context, from uint64, follow bool, fn func(api.Event) error) error {
	return errPending
}

// BuildEvents returns the history of one build, oldest first.
func (l *Ledger) BuildEvents(ctx context.Context, id string) ([]api.Event, error) {
	return nil, errPending
}

// LastEvent returns the number of the last event, 0 if there is none.
func (l *Ledger) LastEvent() uint64 { return 0 }

// AddDuration records a measured build; it is not durable before the next sync.
func (l *Ledger) AddDuration(ctx context.Context, name, system string, sample Sample) error {
	return errPending
}

// Durations returns the last samples (at most 16) of a package, most recent first.
func (l *Ledger) Durations(ctx context.Context, name, system string) ([]Sample, error) {
	return nil, errPending
}

// Machines returns what was learnt of machines, by name.
func (l *Ledger) Machines(ctx context.Context) (map[string]Machine, error) { return nil, errPending }

// Check verifies every invariant of the ledger, and returns all that is wrong, joined.
func (l *Ledger) Check(ctx context.Context) error { return errPending }

// Close makes everything durable and closes the ledger.
func (l *Ledger) Close() error { return nil }

var errPending = errors.New("ledger: not here yet")
