package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"

	"lighter/internal/coordinator"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/sshtransport"
)

// linkMaker makes the links to machines: over SSH, or to an agent in this process
// for the head itself.
type linkMaker struct {
	folders folders
	home    string
	logger  *slog.Logger
	agents  *agentFinder
	public  *signature.PublicKey // of the head; nil where it has none yet
	store   *headStore           // of the head; nil opens it where it is needed
}

func newLinkMaker(inv *invocation, f folders, agents string, logger *slog.Logger) (*linkMaker, error) {
	public, err := signature.LoadPublicKey(signature.PublicFile(f.signingKey()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &linkMaker{
		folders: f, home: homeFolder(inv.Getenv), logger: logger, public: public,
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
		PrivateKey: m.PrivateKeyFile(l.home), HostKey: m.HostKey, HostKeySource: l.folders.machinesFile(),
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
type localLink struct {
	*inProcessAgent
	own *headStore // to be closed with the link; nil if it is somebody else's
}

func newLocalLink(l *linkMaker, m *machines.Machine) (*localLink, error) {
	link := &localLink{}
	s := l.store
	if s == nil {
		var err error
		if s, err = openHeadStoreOf(context.Background(), l.folders, l.logger); err != nil {
			return nil, err
		}
		link.own = s
	}
	public := ""
	if l.public != nil {
		public = l.public.String()
	}
	a, err := startAgent(agentSetup{
		store: s.Store, kind: s.kind, state: l.folders.localAgent(), disk: s.disk, public: public,
		logger: l.logger.With("machine", m.Name),
	})
	if err != nil {
		return nil, errors.Join(err, link.closeStore())
	}
	link.inProcessAgent = a
	return link, nil
}

func (l *localLink) DialAgent(ctx context.Context) (net.Conn, error) { return l.dial(ctx) }

// Close ends the agent: builds on the head itself end with the coordinator.
func (l *localLink) Close() error {
	return errors.Join(l.stop(context.Background()), l.closeStore())
}

func (l *localLink) closeStore() error {
	if l.own == nil {
		return nil
	}
	return l.own.close()
}
