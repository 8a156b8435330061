package cli

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"lighter/internal/agent"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/substitute"
)

// shutdownTimeout is how long the builds of an agent may take to be canceled.
const shutdownTimeout = 15 * time.Second

// inProcessAgent is an agent in this process.
type inProcessAgent struct {
	agent  *agent.Agent
	logger *slog.Logger
	ctx    context.Context // ends with stop
	cancel context.CancelFunc
	group  sync.WaitGroup // streams, and the agent's own housekeeping
	// servers get what the agent's store does not get by itself; nil if it does.
	servers *substitute.Pool
}

// agentSetup says what an agent in this process works with.
type agentSetup struct {
	store  store.Store
	kind   string                         // of the store, machines.StoreLocal or machines.StoreDaemon
	state  string                         // folder for the agent alone
	disk   string                         // folder whose free space counts
	public string                         // key with which the store signs, as an s-expression
	acl    func() (*signature.ACL, error) // whose substitutes it takes
	logger *slog.Logger
	// maxBuilds is how many builds run at a time; 0 is no limit.
	maxBuilds int
}

func startAgent(s agentSetup) (*inProcessAgent, error) {
	p := &inProcessAgent{logger: s.logger}
	substituter, ok := s.store.(agent.Substituter)
	if !ok {
		p.servers = substitute.NewPool(s.store, substitute.Options{ACL: s.acl, Logger: s.logger})
		substituter = p.servers
	}
	a, err := agent.New(agent.Options{
		Store: s.store, StoreKind: s.kind, NeedsDerivations: s.kind == machines.StoreDaemon, StateDir: s.state, DiskDir: s.disk, PublicKey: s.public,
		Substituter: substituter, Logger: s.logger, MaxRunning: s.maxBuilds,
	})
	if err != nil {
		return nil, err
	}
	p.agent = a
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.group.Go(func() { _ = a.Run(p.ctx) }) // it says just why it is over
	return p, nil
}

// dial opens a stream to the agent.
func (p *inProcessAgent) dial(context.Context) (net.Conn, error) {
	if p.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	here, there := net.Pipe()
	p.group.Go(func() { p.serve(p.ctx, there, nil) })
	return here, nil
}

// serve answers on a stream to its end, to a head or, if that is nil, to this process.
func (p *inProcessAgent) serve(ctx context.Context, conn net.Conn, head *agent.Head) {
	if err := p.agent.ServeConn(ctx, conn, head); err != nil && ctx.Err() == nil {
		p.logger.Debug("stream ended", "err", err)
	}
}

// stop cancels the agent's builds and waits for them, also where ctx has ended.
func (p *inProcessAgent) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := p.agent.Shutdown(ctx)
	p.cancel()
	p.group.Wait()
	if p.servers != nil {
		p.servers.Close()
	}
	if err != nil {
		return errors.Join(errors.New("builds did not end in time"), err)
	}
	return nil
}
