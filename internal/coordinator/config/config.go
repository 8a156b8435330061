// Package config says what a coordinator is made of.
package config

import (
	"context"
	"log/slog"
	"time"

	"lighter/hooks"
	"lighter/internal/api"
	"lighter/internal/coordinator/headroom"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/limits"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/turns"
	"lighter/internal/ledger"
	"lighter/internal/machinetest"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store"
)

// Config is what a coordinator works with. A field is required unless it says what its zero
// value means.
type Config struct {
	Store    headstore.Backend
	Ledger   *ledger.Ledger
	Machines []machines.Machine
	// NewLink makes the link to a machine, also to one that is Local, without connecting. The
	// coordinator closes the link.
	NewLink func(machines.Machine) (peer.Link, error)
	// NeedsPerson reports whether it looks as if a person must change something before an
	// error of a link goes away; such machines are tried less often. nil means never.
	NeedsPerson func(error) bool
	// Advice is what tests of machines tell people to do.
	Advice machinetest.Advice
	// LoadMachines reads the machines file again; nil means that it is read only once, by the
	// caller. MachinesFile is its name: it is read again when it changes.
	LoadMachines func(context.Context) ([]machines.Machine, error)
	MachinesFile string
	// StoreFolder and StateFolder are the folders whose disks HeadLimits are about: that of the
	// store, and that of ledger and logs. Empty ones are not measured.
	StoreFolder, StateFolder string
	HeadLimits               headroom.Limits
	// ACL returns the keys whose archives Store accepts, so that a machine with another key is
	// noticed before it builds anything. nil means not known.
	ACL func() (*signature.ACL, error)
	// PublicKey is the key with which Store signs, so that a machine that does not accept its
	// archives is noticed before anything is sent. nil means not known.
	PublicKey *signature.PublicKey
	// Fetch brings items home from substitute servers, with all that they refer to. nil means
	// that it can't be done.
	Fetch func(ctx context.Context, urls []string, paths []store.Path) error
	// SubstituteURLs are the servers for derivations that are not at home, if a request names
	// none.
	SubstituteURLs []string
	// Elsewhere says where a derivation may be that is not in Store, and what to do then; empty
	// where nothing is known. nil knows nothing.
	Elsewhere func(store.Path) string
	// Published reports whether an item is published, so that it need not be built. nil means
	// that none is.
	Published func(context.Context, store.Path) bool
	// Reload, if not nil, is called too when somebody asks for the machines file to be read
	// again, for whatever else may have changed.
	Reload  func(context.Context) error
	LogDir  string       // folder of the build logs; made if it does not exist
	Logger  *slog.Logger // nil discards
	Version string
	Limits  limits.Limits
	Shares  turns.Rules // how the machines are divided among those who ask

	// Hooks are the event hooks, with the built-ins that they name, and how programs
	// are run.
	Hooks        []hooks.Config
	BuiltIns     map[string]hooks.BuiltIn
	HookPrograms hooks.Programs

	// PruneAfter is how long builds must have been final before they leave the ledger for an
	// attic in StateFolder, and their logs are removed unless PruneKeepLogs is set; 0 is never.
	PruneAfter    time.Duration
	PruneKeepLogs bool

	Now       func() time.Time                  // nil is the computer's clock; for tests
	NewAgent  func(machines.Machine) peer.Agent // nil is the real one; for tests
	HeadSpace func() (api.HeadStatus, error)    // nil asks the file systems; for tests
	Apply     ApplyFunc                         // nil is the ledger's ApplyEach; for tests
}

// ApplyFunc makes changes durable in the ledger, each for itself.
type ApplyFunc func(context.Context, []ledger.Change) (done int, refused []ledger.Refusal, err error)
