// Package machines is the model of the machines that builds can run on, and the
// files in which a person lists them: lighter's own in TOML, Guix's machines.scm, and
// Nix's machines.
//
// [Load] reads such a file, checks everything that can be checked without connecting
// to a machine, and fills in the defaults. What is wrong is reported all at once,
// each with file, line, column, the text of the line, and what would be right; see
// [Error]. [FormatTOML] writes a file in TOML. [Read] does what Load does, says what a
// good file has that is not taken over, and can have a guix program evaluate what is
// beyond package scheme.
//
// The package connects to nothing and decides nothing: which build goes to which
// machine is package scheduler's business, and how to get there sshtransport's.
package machines

import (
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What a key that is absent from the file stands for. Where Guix has the same
// field, the value is Guix's.
const (
	DefaultPort              = 22
	DefaultParallelBuilds    = 1
	DefaultSpeed             = 1.0
	DefaultOverloadThreshold = 0.8
	DefaultMinFreeDisk       = 100 << 20 // bytes
	DefaultMinFreeInodes     = 10000
	DefaultDaemonSocket      = "/var/guix/daemon-socket/socket"
)

// The kinds of store that a machine can be told to use.
const (
	StoreAuto   = "auto"        // guix-daemon if its socket answers, else local
	StoreDaemon = "guix-daemon" // guix-daemon, at DaemonSocket
	StoreLocal  = "local"       // lighter's embedded store, in StateDirectory
)

// The ways of SSH to a machine.
const (
	TransportNative  = "native"  // lighter's own SSH
	TransportOpenSSH = "openssh" // the program ssh of the coordinator's user, with all that is in its ssh_config(5)
)

// What Memory and BuildCores have where the file has a word instead of a number.
const (
	MemoryUnlimited = -1 // false
	BuildCoresAuto  = -1 // "auto"
)

// Machine is one entry of the machines file. A value that came from this package
// is valid and has the defaults filled in.
type Machine struct {
	// Name is what people call the machine; unique in its file. It is made of
	// letters, digits, dots, dashes and underscores.
	Name string
	// Host is the address to connect to: a host name or an IP address. It is Name
	// where the file does not say; empty for a local machine.
	Host string
	// Port is the SSH server's; 0 for a local machine. PortGiven says that the file has it, so
	// that OpenSSH's configuration has no say.
	Port      int
	PortGiven bool
	// Systems lists what it can build for, such as "x86_64-linux"; never empty.
	Systems []string
	// User is the account to log in to. Empty means, until [Resolve] has filled it in, the one
	// that OpenSSH's configuration has, or this user's; it stays empty for a local machine.
	User string
	// PrivateKey names a file, perhaps starting with "~/": see PrivateKeyFile.
	// Empty means ssh-agent and the user's default keys.
	PrivateKey string
	// HostKey is "TYPE BASE64", without a comment. Empty means that known_hosts
	// has it.
	HostKey string
	// Transport is TransportNative or TransportOpenSSH; empty for a local machine.
	Transport string
	// SSHConfig is the file of OpenSSH's configuration that has a say where the entry has none:
	// empty means those that ssh(1) reads, SSHConfigNone none.
	SSHConfig string
	// ProxyJump lists the hosts through which it is reached, as ssh(1) -J does:
	// "[USER@]HOST[:PORT]", the first to connect to first, with commas. ProxyCommand is a command
	// that connects to it, with %h, %p and %r for its host, port and user. Either may be
	// ProxyNone, for none; empty lets OpenSSH's configuration decide.
	ProxyJump    string
	ProxyCommand string
	// Way is how it is reached, after [Resolve]; nil before, and for a local machine.
	Way *Way

	ParallelBuilds int     // slots, at least 1
	Speed          float64 // relative to a machine of speed 1; above 0

	// Features are what derivations may require of it. What a build must require
	// to be placed here at all is in MandatoryFeatures, which the machine offers
	// too, whether or not Features repeats them.
	Features          []string
	MandatoryFeatures []string

	// OverloadThreshold is the 1-minute load average per core from which on the
	// machine gets no build; 0 disregards the load.
	OverloadThreshold float64
	// MinFreeDisk is how many bytes stay free where its store is, and where its builds
	// have their folders.
	MinFreeDisk int64
	// MinFreeInodes is how many inodes stay free there; 0 disregards them.
	MinFreeInodes int64
	// MinFreeMemory is how many bytes of memory must be available for it to get another
	// build; 0 disregards memory.
	MinFreeMemory int64
	// MaxCPUPressure and MaxMemoryPressure are the percentages of the last 10 seconds in
	// which some task waited for the CPU, or for memory, from which on it gets no build (pressure
	// stall information, the kernel's Documentation/accounting/psi.rst); 0 disregards them.
	MaxCPUPressure    float64
	MaxMemoryPressure float64

	// Memory is how many bytes the builds on its host may need together for it to get another
	// one; 0 is what the machine says that it has, less a part that is for itself, and
	// MemoryUnlimited stops counting.
	Memory int64
	// MemoryLimit is how many bytes one build may use there, or what is reserved for it if that
	// is more, where the machine can see to that; 0 is no limit.
	MemoryLimit int64
	// Tokens says how many there are of whatever else is scarce there, by name: licences,
	// graphics cards. A build takes those that its request asks for, and one of each name that it
	// requires as a feature.
	Tokens map[string]int

	// ParallelTransfers bounds the streams of items to it, and those from it, at the same
	// time; 0 is the coordinator's choice.
	ParallelTransfers int
	// SubstituteURLs are the servers from which it fetches inputs that it lacks, before
	// the head sends them.
	SubstituteURLs []string
	// BuildCores is how many cores each build may use (NIX_BUILD_CORES); 0 lets the machine
	// decide, and BuildCoresAuto divides its cores among the builds that run there.
	BuildCores int
	// Timeout and MaxSilentTime bound builds there whose requests say nothing, and those
	// that allow more; 0 means no limit.
	Timeout       time.Duration
	MaxSilentTime time.Duration
	// Tags are for people, and for filters.
	Tags map[string]string
	// GCInterval is how often its garbage is collected; 0 means never. Of that, what was not
	// used for GCOlderThan, and at most GCMaxFreed bytes (0 means no limit).
	GCInterval  time.Duration
	GCOlderThan time.Duration
	GCMaxFreed  int64

	Store        string   // StoreAuto, StoreDaemon or StoreLocal
	DaemonSocket string   // of guix-daemon there
	SandboxPaths []string // "/path" or "/inside=/outside": more that its builds may see
	// AgentDirectory is the folder there to which the agent's program is uploaded: absolute,
	// or relative to the home, perhaps starting with "~/". Empty means ~/.cache/lighter.
	AgentDirectory string
	// StateDirectory is the folder there for the agent's store and what it knows of builds;
	// empty means AgentDirectory or, if that is empty too, lets the agent decide.
	StateDirectory string
	// Local says that it is the head itself, reached without SSH.
	Local bool
}

// Offers returns the features that derivations may require of it: those of the file, and the names of
// tokens.
func (m *Machine) Offers() []string {
	features := slices.Clip(m.Features)
	for _, name := range slices.Sorted(maps.Keys(m.Tokens)) {
		if m.Tokens[name] > 0 && !slices.Contains(features, name) {
			features = append(features, name)
		}
	}
	return features
}

// Addr returns "host:port" of what is connected to, with an IPv6 address in brackets. It is
// empty for a local machine.
func (m *Machine) Addr() string {
	if m.Local {
		return ""
	}
	t := m.Target()
	return net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
}

// PrivateKeyFile returns the name of the private key's file, with a leading "~/"
// replaced by the home folder. It is empty if the file names none.
func (m *Machine) PrivateKeyFile(home string) string { return inHome(m.PrivateKey, home) }

// SSHConfigFile does the same for SSHConfig, which may also be SSHConfigNone.
func (m *Machine) SSHConfigFile(home string) string { return inHome(m.SSHConfig, home) }

func inHome(file, home string) string {
	if rest, ok := strings.CutPrefix(file, "~/"); ok {
		return filepath.Join(home, rest)
	}
	return file
}
