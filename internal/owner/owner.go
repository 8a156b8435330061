// Package owner is what the owner of a machine says of the agent there: in the file
// agent.toml, and on the command line of the agent, which counts more. The head that has
// builds made there has no say in it.
//
// An option is one line of the table in [NewOptions], which makes it a key of the file and
// a flag, and a field of [Settings]. docs/machines.md documents the keys.
package owner

import (
	"os"
	"path/filepath"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/store/local"
)

// Settings is what an owner says. The zero values of what has no other default are fine.
type Settings struct {
	// Of the agent itself. Empty names are the defaults of the program.
	State        string // folder
	Store        string // StoreAuto, StoreLocal or StoreDaemon
	DaemonSocket string
	MaxBuilds    int // that run at a time; 0 means no limit of the owner's
	// FixedOutputNetwork is of the embedded store, as are the next ones.
	FixedOutputNetwork string

	// Of the embedded store; 0 and nil are the defaults of local.Options.
	MaxOutputSize  int64 // bytes
	MaxOutputFiles int
	KeepFreeDisk   int64 // bytes
	ImpureEnvVars  []string

	// Of what heads may ask for; see agentapi.Offer.
	SandboxPaths           []string
	SubstituteURLs         []string
	KeepFailed             bool
	CollectGarbage         bool
	MaxCores               int
	MaxTime, MaxSilentTime time.Duration
}

// The kinds of stores.
const (
	StoreAuto   = "auto"
	StoreLocal  = "local"
	StoreDaemon = "guix-daemon"
)

// Greatest values, beyond any need, so that a digit too many is noticed.
const (
	maxCores  = 1 << 16
	maxBuilds = 1024
	maxFiles  = 1 << 30
)

// NewOptions returns the options with their defaults.
func NewOptions() *Options {
	o := &Options{Settings: Settings{Store: StoreAuto, FixedOutputNetwork: string(local.NetworkBest), KeepFailed: true, CollectGarbage: true}}
	s := &o.Settings
	o.All = []*Option{
		// Of the agent.
		file("state-directory", "state", "folder `DIR` with store, key and builds (default /var/lib/lighter for root, ~/.local/share/lighter for others)", &s.State),
		choice("store", "`KIND` of store: local, guix-daemon, or auto, which is guix-daemon where one answers", &s.Store, StoreAuto, StoreLocal, StoreDaemon),
		file("daemon-socket", "daemon-socket", "`FILE` on which guix-daemon listens (default GUIX_DAEMON_SOCKET, or its usual place)", &s.DaemonSocket),
		number("max-builds", "at most `N` builds run at the same time; 0 leaves it to the heads", &s.MaxBuilds, maxBuilds),
		// Of the embedded store.
		size("max-output-size", "outputs of a build may have at most `SIZE`, sparse or not (default 1TiB)", "100GiB", &s.MaxOutputSize),
		number("max-output-files", "outputs of a build may have at most `N` files, folders and symlinks (default 4194304)", &s.MaxOutputFiles, maxFiles),
		size("keep-free-disk", "a build that leaves less than `SIZE` of the store's disk free is stopped (default a twentieth, at most 1GiB)", "10GiB", &s.KeepFreeDisk),
		variables("impure-env-vars", "impure-env-var", "variable of the agent by `NAME` that derivations with a known hash may ask for (default those of proxies and locale); may be repeated; empty for none", &s.ImpureEnvVars),
		choice("fixed-output-network", "`NETWORK` of builds with known outputs, which may use one: isolated, of their own, by slirp4netns or pasta; host, this machine's; best, isolated where one of these is installed", &s.FixedOutputNetwork,
			string(local.NetworkBest), string(local.NetworkIsolated), string(local.NetworkHost)),
		// Of what heads may ask for.
		list("sandbox-paths", "sandbox-path", "`PATH` here that heads may let builds see besides their inputs, also as INSIDE=OUTSIDE; may be repeated", &s.SandboxPaths, agentapi.CheckSandboxPath).ofHeads(),
		list("substitute-urls", "substitute-url", "substitute server that heads may name, as `URL`; may be repeated", &s.SubstituteURLs, checkURL).ofHeads(),
		boolean("keep-failed", "whether heads may have the folders of failed builds kept", &s.KeepFailed).ofHeads(),
		boolean("collect-garbage", "whether heads may have the store's garbage collected", &s.CollectGarbage).ofHeads(),
		number("max-cores", "a build may use at most `N` cores (NIX_BUILD_CORES); 0 leaves it to the heads", &s.MaxCores, maxCores).ofHeads(),
		duration("max-time", "a build may take at most this `TIME`, such as 6h; 0 leaves it to the heads", &s.MaxTime).ofHeads(),
		duration("max-silent-time", "a build may write nothing to its log for at most this `TIME`; 0 leaves it to the heads", &s.MaxSilentTime).ofHeads(),
	}
	return o
}

// StoreOptions puts what the owner says of the embedded store into its options.
func (s *Settings) StoreOptions(opts *local.Options) {
	opts.MaxOutput, opts.MaxOutputFiles, opts.KeepFree = s.MaxOutputSize, int64(s.MaxOutputFiles), s.KeepFreeDisk
	opts.ImpureEnvVars = s.ImpureEnvVars
	opts.FixedOutputNetwork = local.FixedOutputNetwork(s.FixedOutputNetwork)
}

// Offer returns what heads may ask for.
func (s *Settings) Offer() *agentapi.Offer {
	return &agentapi.Offer{
		SandboxPaths: s.SandboxPaths, SubstituteURLs: s.SubstituteURLs, KeepFailed: s.KeepFailed, CollectGarbage: s.CollectGarbage,
		MaxBuilds: s.MaxBuilds, MaxCores: s.MaxCores, MaxTime: api.Seconds(s.MaxTime.Seconds()), MaxSilentTime: api.Seconds(s.MaxSilentTime.Seconds()),
	}
}

// DefaultFile is where the file is by default; empty for a user without a home.
func DefaultFile() string {
	if os.Getuid() == 0 {
		return "/etc/lighter/" + agentapi.OwnerFile
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".config", "lighter", agentapi.OwnerFile)
}
