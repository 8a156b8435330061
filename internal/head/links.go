package head

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"path"
	"strconv"

	"lighter/internal/agent"
	"lighter/internal/agentd"
	"lighter/internal/coordinator/peer"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/sshtransport"
	"lighter/store"
)

// Links makes the links to machines: over SSH, or to an agent in this process
// for the head itself.
type Links struct {
	MachinesFile string               // that lists the machines, for errors
	Agents       *Agents              // that are uploaded
	PublicKey    *signature.PublicKey // of the head; nil where it has none yet
	Store        *Store               // of the head; needed for machines that are local
	LocalAgent   string               // folder of their agent
	Home         string               // of this user, where private keys may be
	// Needed says which items of the head's store its builds need, so that no machine's
	// garbage collection deletes them; needed for machines that are local.
	Needed func(ctx context.Context, items []store.Path) ([]store.Path, error)

	logger *slog.Logger
}

// NewLinks reads the head's public key.
func NewLinks(f Folders, getenv func(string) string, logger *slog.Logger) (*Links, error) {
	public, err := signature.LoadPublicKey(signature.PublicFile(f.SigningKey()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &Links{
		MachinesFile: f.MachinesFile(), Agents: NewAgents(f.Agents, getenv("LIGHTER_AGENTS")), PublicKey: public,
		LocalAgent: f.LocalAgent(), Home: Home(getenv), logger: logger,
	}, nil
}

// Link makes the link to a machine; it does not connect.
func (l *Links) Link(m machines.Machine) (peer.Link, error) {
	if m.Local {
		return newLocalLink(l, &m)
	}
	input, err := l.startInput()
	if err != nil {
		return nil, err
	}
	cfg := sshConfig(m.Way)
	cfg.Machine, cfg.Addr, cfg.User = m.Name, m.Addr(), m.User
	cfg.PrivateKey, cfg.HostKey, cfg.HostKeySource = m.PrivateKeyFile(l.Home), m.HostKey, l.MachinesFile
	cfg.OpenSSH = openSSH(&m, l.Home)
	cfg.Bootstrap = sshtransport.Bootstrap{
		Agents: l.Agents.Find, Args: agentArgs(&m), StartInput: input, RemoteDir: uploadDir(&m),
	}
	cfg.Logger = l.logger
	return sshtransport.New(cfg), nil
}

// sshConfig is how a server is reached, and who it must be; nil is a way of which nothing is known.
func sshConfig(w *machines.Way) sshtransport.Config {
	if w == nil {
		return sshtransport.Config{}
	}
	cfg := sshtransport.Config{
		Addr: net.JoinHostPort(w.Host, strconv.Itoa(w.Port)), User: w.User,
		Identities: w.Identities, Certificates: w.Certificates, IdentitiesOnly: w.IdentitiesOnly, IdentityAgent: w.IdentityAgent,
		KnownHosts: w.KnownHosts, HostKeyAlias: w.HostKeyAlias,
		ProxyCommand: w.ProxyCommand, Problem: w.Problem,
	}
	if w.Via != nil {
		via := sshConfig(w.Via)
		cfg.Via = &via
	}
	return cfg
}

// startInput tells an agent whose archives its store shall take.
func (l *Links) startInput() ([]byte, error) {
	var input struct {
		Authorize []string `json:"authorize"`
	}
	if l.PublicKey != nil {
		input.Authorize = append(input.Authorize, l.PublicKey.String())
	}
	return json.Marshal(input)
}

// openSSH is what the program ssh is told, where it makes the connection.
func openSSH(m *machines.Machine, home string) *sshtransport.OpenSSH {
	if m.Transport != machines.TransportOpenSSH {
		return nil
	}
	o := &sshtransport.OpenSSH{
		Host: m.Host, User: m.User, ConfigFile: m.SSHConfigFile(home), ProxyJump: m.ProxyJump, ProxyCommand: m.ProxyCommand,
	}
	if m.PortGiven || m.Port != machines.DefaultPort {
		o.Port = m.Port
	}
	return o
}

// uploadDir is where agents are uploaded to; empty means the default.
func uploadDir(m *machines.Machine) string {
	if m.AgentDirectory == "" {
		return ""
	}
	return path.Join(m.AgentDirectory, "agents")
}

// agentArgs are the arguments of "lighter-agent start" that follow from the machines
// file.
func agentArgs(m *machines.Machine) []string {
	var args []string
	for _, a := range []struct{ flag, value, absent string }{
		{"--state", cmp.Or(m.StateDirectory, m.AgentDirectory), ""},
		{"--store", m.Store, machines.StoreAuto},
		{"--daemon-socket", m.DaemonSocket, machines.DefaultDaemonSocket},
	} {
		if a.value != a.absent {
			args = append(args, a.flag, a.value)
		}
	}
	return args
}

// localLink is the way to the agent in this process that builds in the head's store.
type localLink struct{ *agentd.Agent }

func newLocalLink(l *Links, m *machines.Machine) (*localLink, error) {
	a, err := agentd.Start(
		&agentd.Backend{Store: l.Store.Backend, Kind: l.Store.Kind, PublicKey: l.PublicKey, ACL: l.Store.ACL, Disk: l.Store.Disk},
		agent.Options{StateDir: l.LocalAgent, Logger: l.logger.With("machine", m.Name), Keep: l.Needed},
	)
	if err != nil {
		return nil, err
	}
	return &localLink{a}, nil
}

func (l *localLink) DialAgent(ctx context.Context) (net.Conn, error) { return l.Dial(ctx) }

// Close ends the agent: builds on the head itself end with the coordinator.
func (l *localLink) Close() error { return l.Stop(context.Background()) }
