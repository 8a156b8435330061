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

	"lighter/internal/agent"
	"lighter/internal/agentd"
	"lighter/internal/coordinator/peer"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/sshtransport"
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
	return sshtransport.New(sshtransport.Config{
		Machine: m.Name, Addr: m.Addr(), User: m.User,
		PrivateKey: m.PrivateKeyFile(l.Home), HostKey: m.HostKey, HostKeySource: l.MachinesFile,
		OpenSSH: openSSH(&m),
		Bootstrap: sshtransport.Bootstrap{
			Agents: l.Agents.Find, Args: agentArgs(&m), StartInput: input, RemoteDir: uploadDir(&m),
		},
		Logger: l.logger,
	}), nil
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
func openSSH(m *machines.Machine) *sshtransport.OpenSSH {
	if m.Transport != machines.TransportOpenSSH {
		return nil
	}
	o := &sshtransport.OpenSSH{Host: m.Host, User: m.User}
	if m.Port != machines.DefaultPort {
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
		agent.Options{StateDir: l.LocalAgent, Logger: l.logger.With("machine", m.Name)},
	)
	if err != nil {
		return nil, err
	}
	return &localLink{a}, nil
}

func (l *localLink) DialAgent(ctx context.Context) (net.Conn, error) { return l.Dial(ctx) }

// Close ends the agent: builds on the head itself end with the coordinator.
func (l *localLink) Close() error { return l.Stop(context.Background()) }
