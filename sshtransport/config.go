package sshtransport

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net"
	"time"
)

// Config says how to reach one machine. Only Machine, Addr and User must be set.
type Config struct {
	Machine string // name, for errors and logs
	Addr    string // HOST:PORT
	User    string // account on the machine

	// OpenSSH has the program ssh make the connection. Of the fields that say how, only PrivateKey
	// and HostKey count then; Addr is for errors. Nil: this package's own SSH does.
	OpenSSH *OpenSSH

	// PrivateKey is the file of the key to log in with, and its certificates. Empty: those of
	// the Identities that ssh-agent holds, its other keys, then the Identities.
	PrivateKey string
	// Identities are files of private keys. Nil: the usual ones in ~/.ssh.
	Identities []string
	// Certificates are files of certificates for keys, besides FILE-cert.pub for each FILE.
	Certificates []string
	// IdentitiesOnly leaves out keys of ssh-agent that are not among the Identities.
	IdentitiesOnly bool
	// IdentityAgent is the socket of ssh-agent. Empty: SSH_AUTH_SOCK; "none": there is none.
	IdentityAgent string
	// HostKey is the machine's key as "TYPE BASE64 [COMMENT]". Empty: one of those in
	// the KnownHosts files.
	HostKey string
	// HostKeySource says where HostKey is written, e.g. "machines.toml:12"; for errors.
	HostKeySource string
	// KnownHosts are files as in sshd(8), SSH_KNOWN_HOSTS FILE FORMAT. Nil:
	// ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts, and those with a 2 behind their names.
	// Those that don't exist are left out.
	KnownHosts []string
	// HostKeyAlias is the name of the machine there. Empty: that in Addr.
	HostKeyAlias string
	// Via is a host through which the machine is reached, ProxyCommand a command whose standard
	// input and output are a connection to it. Of Via, Machine is not used.
	Via          *Config
	ProxyCommand string
	// Problem is why it isn't known how to reach the machine; empty if it is.
	Problem string
	// Ciphers in order of preference. Nil: AES-GCM first where the processor has
	// instructions for it, else ChaCha20-Poly1305.
	Ciphers []string

	// Time limits; zero means the default.
	ConnectTimeout    time.Duration // until TCP is connected: 10 s
	HandshakeTimeout  time.Duration // from there until logged in: 20 s
	StartTimeout      time.Duration // of each command run to get the agent going: 1 min
	UploadTimeout     time.Duration // of an agent's upload: 15 min
	OpenTimeout       time.Duration // until a stream is open: 20 s
	KeepaliveInterval time.Duration // of silence until the machine is asked for a sign of life: 15 s
	KeepaliveTimeout  time.Duration // until it must have given one: 15 s

	// MaxSessions bounds the streams in ModeSession at a time; further ones wait.
	// Zero means 8: OpenSSH allows 10 sessions a connection if not told otherwise,
	// and one is needed to start an agent.
	MaxSessions int

	Bootstrap Bootstrap

	// Dial replaces connecting to Addr.
	Dial func(ctx context.Context) (net.Conn, error)
	// Logger gets what no caller is told. Nil: nothing is logged.
	Logger *slog.Logger
}

// OpenSSH is what the program ssh is told; ssh_config(5) decides where it is not.
type OpenSSH struct {
	Host         string // as on its command line
	Port         int    // 0: as ssh_config(5) has it
	User         string
	ConfigFile   string // in place of the usual ones; "none" for none
	ProxyJump    string
	ProxyCommand string
}

// Bootstrap says how to get an agent onto a machine and going.
type Bootstrap struct {
	// Agents has the agents that can be uploaded.
	Agents AgentSource
	// Args are arguments for "lighter-agent start".
	Args []string
	// RemoteDir is where agents are uploaded to, relative to where SFTP starts (the
	// home) if not absolute. Empty: ".cache/lighter/agents".
	RemoteDir string
	// StartInput is what "lighter-agent start" finds on its standard input.
	StartInput []byte
	// Forced says that the account has a forced command that is a stream at once.
	// Without it that is found out, at the cost of a stream that is opened for nothing
	// and is sent StartInput.
	Forced bool
}

// AgentSource returns the agent for a platform in Go's words, e.g. "linux", "arm64".
type AgentSource func(ctx context.Context, goos, goarch string) (*AgentBinary, error)

// AgentBinary is an agent's program.
type AgentBinary struct {
	Open   func() (io.ReadCloser, error) // called once an upload
	Size   int64                         // bytes
	SHA256 [32]byte
}

const (
	defaultRemoteDir   = ".cache/lighter/agents"
	defaultMaxSessions = 8
)

func (c Config) withDefaults() Config {
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 10*time.Second)
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, 20*time.Second)
	c.StartTimeout = cmp.Or(c.StartTimeout, time.Minute)
	c.UploadTimeout = cmp.Or(c.UploadTimeout, 15*time.Minute)
	c.OpenTimeout = cmp.Or(c.OpenTimeout, 20*time.Second)
	c.KeepaliveInterval = cmp.Or(c.KeepaliveInterval, 15*time.Second)
	c.KeepaliveTimeout = cmp.Or(c.KeepaliveTimeout, 15*time.Second)
	c.MaxSessions = cmp.Or(c.MaxSessions, defaultMaxSessions)
	c.Bootstrap.RemoteDir = cmp.Or(c.Bootstrap.RemoteDir, defaultRemoteDir)
	c.Logger = c.logger()
	if c.Via != nil {
		via := *c.Via
		via.Machine, via.Logger = c.Machine, c.Logger
		via = via.withDefaults()
		c.Via = &via
	}
	c.Logger = c.Logger.With("machine", c.Machine)
	if c.Dial == nil {
		c.Dial = c.dialer()
	}
	return c
}

// logger is for a Config that may not have its defaults.
func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}
