package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"

	"lighter/internal/agent"
	"lighter/internal/agentd"
	"lighter/internal/coordinator"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/sshtransport"
)

// linkMaker makes the links to machines: over SSH, or to an agent in this process
// for the head itself.
type linkMaker struct {
	folders folders
	file    string // that lists the machines, for errors
	home    string
	logger  *slog.Logger
	agents  *agentFinder
	public  *signature.PublicKey // of the head; nil where it has none yet
	store   *headStore           // of the head; needed for machines that are local
}

func newLinkMaker(inv *invocation, f folders, agents string, logger *slog.Logger) (*linkMaker, error) {
	public, err := signature.LoadPublicKey(signature.PublicFile(f.signingKey()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &linkMaker{
		folders: f, file: f.machinesFile(), home: homeFolder(inv.Getenv), logger: logger, public: public,
		agents: newAgentFinder(agents, inv.Getenv("LIGHTER_AGENTS")),
	}, nil
}

// link makes the link to a machine; it does not connect.
func (l *linkMaker) link(m machines.Machine) (coordinator.Link, error) {
	if m.Local {
		return newLocalLink(l, &m)
	}
	input, err := l.startInput()
	if err != nil {
		return nil, err
	}
	return sshtransport.New(sshtransport.Config{
		Machine: m.Name, Addr: m.Addr(), User: m.User,
		PrivateKey: m.PrivateKeyFile(l.home), HostKey: m.HostKey, HostKeySource: l.file,
		Bootstrap: sshtransport.Bootstrap{
			Agents: l.agents.find, Args: agentArgs(&m), StartInput: input,
		},
		Logger: l.logger,
	}), nil
}

// startInput tells an agent whose archives its store shall take.
func (l *linkMaker) startInput() ([]byte, error) {
	var input struct {
		Authorize []string `json:"authorize"`
	}
	if l.public != nil {
		input.Authorize = append(input.Authorize, l.public.String())
	}
	return json.Marshal(input)
}

// agentArgs are the arguments of "lighter-agent start" that follow from the machines
// file.
func agentArgs(m *machines.Machine) []string {
	var args []string
	for _, a := range []struct{ flag, value, absent string }{
		{"--state", m.StateDirectory, ""},
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

func newLocalLink(l *linkMaker, m *machines.Machine) (*localLink, error) {
	a, err := agentd.Start(
		&agentd.Backend{Store: l.store.Store, Kind: l.store.kind, PublicKey: l.public, ACL: l.store.acl, Disk: l.store.disk},
		agent.Options{StateDir: l.folders.localAgent(), Logger: l.logger.With("machine", m.Name)},
	)
	if err != nil {
		return nil, err
	}
	return &localLink{a}, nil
}

func (l *localLink) DialAgent(ctx context.Context) (net.Conn, error) { return l.Dial(ctx) }

// Close ends the agent: builds on the head itself end with the coordinator.
func (l *localLink) Close() error { return l.Stop(context.Background()) }
