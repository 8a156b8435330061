// Package agentd is what being an agent on a computer means: where it has its things, which store and
// key it has, how it is found, started, served and ended. What an agent answers is package agent's.
//
// [Options] say which agent of this account is meant, and are for processes: Ensure starts one that
// outlives the caller, Serve is one, Stop ends it. [Start] has an agent in this process, for a head that
// builds itself and for a server of lighter's own.
package agentd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"lighter/internal/agent"
	"lighter/internal/owner"
	"lighter/store"
	"lighter/store/substitute"
)

// Options say which agent of this account is meant, and how one that is started is to be.
type Options struct {
	*owner.Options
	StoreDir store.Dir     // as derivations write it
	Socket   string        // on which the agent listens; empty is one named after the state folder
	Linger   time.Duration // it ends after this time without builds and requests; 0 means never
	LogLevel string        // least level of what it logs
	Timeout  time.Duration // of Ensure and of Stop
}

// UsageError is about an option that is wrong whatever the computer is like.
type UsageError struct{ error }

// Unwrap returns what is wrong.
func (e UsageError) Unwrap() error { return e.error }

// shutdownTimeout is how long the builds of an agent may take to be canceled.
const shutdownTimeout = 15 * time.Second

// Agent is an agent in this process.
type Agent struct {
	agent   *agent.Agent
	backend *Backend
	servers *substitute.Pool // get what the store does not get by itself; nil if it does
	logger  *slog.Logger
	ctx     context.Context // ends with Stop, and when nobody needs the agent any more
	cancel  context.CancelFunc
	group   sync.WaitGroup // streams, and the agent's own housekeeping
}

// Start makes an agent that serves the store, with options of which those about the store need not be
// set. From then on the store is the agent's, and closed with it.
func Start(b *Backend, o agent.Options) (*Agent, error) {
	p := &Agent{backend: b, logger: o.Logger}
	o.Store, o.StoreKind, o.NeedsDerivations, o.DiskDir, o.BuildDir = b.Store, b.Kind, b.Kind == owner.StoreDaemon, b.Disk, b.Builds
	if b.PublicKey != nil {
		o.PublicKey = b.PublicKey.String()
	}
	var ok bool
	if o.Substituter, ok = b.Store.(agent.Substituter); !ok {
		p.servers = substitute.NewPool(b.Store, substitute.Options{ACL: b.ACL, Logger: o.Logger})
		o.Substituter = p.servers
	}
	var err error
	if p.agent, err = agent.New(o); err != nil {
		p.closeServers()
		return nil, err
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.group.Go(func() {
		defer p.cancel()
		_ = p.agent.Run(p.ctx) // it says just why it is over
	})
	return p, nil
}

// Dial opens a stream to the agent, with the rights of its account.
func (p *Agent) Dial(context.Context) (net.Conn, error) {
	if p.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	here, there := net.Pipe()
	p.group.Go(func() { p.ServeConn(p.ctx, there, nil) })
	return here, nil
}

// ServeConn answers on a stream to its end, to a head or, if that is nil, to who has the account.
func (p *Agent) ServeConn(ctx context.Context, conn net.Conn, head *agent.Head) {
	if err := p.agent.ServeConn(ctx, conn, head); err != nil && ctx.Err() == nil {
		p.logger.Debug("stream ended", "err", err)
	}
}

// Stop cancels the agent's builds and waits for them, even where ctx has ended. Then it closes the store.
func (p *Agent) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := p.agent.Shutdown(ctx) // also ends the requests that follow builds
	p.cancel()
	p.group.Wait()
	if err != nil {
		err = errors.Join(errors.New("builds did not end in time"), err)
	}
	p.closeServers()
	return errors.Join(err, p.backend.close())
}

func (p *Agent) closeServers() {
	if p.servers != nil {
		p.servers.Close()
	}
}
