package agentd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/agent"
	"lighter/internal/backoff"
	"lighter/internal/measure"
	"lighter/machines"
)

const (
	// lockTimeout is how long an agent waits for the one before it to end.
	lockTimeout = 10 * time.Second
	// watchInterval is how often an agent looks whether its socket is still there, and
	// touchInterval how often it keeps programs that clean /tmp from thinking that it
	// is of no use.
	watchInterval = time.Second
	touchInterval = time.Hour
)

// Serve is the agent, until ctx ends or it is no longer needed. Builds that run are canceled then, and
// the next agent reports them as failures of this machine, so that the coordinator has them built again.
// Waiting for them is no use: who ends an agent wants it gone.
func (o *Options) Serve(ctx context.Context, logger *slog.Logger) error {
	p, err := o.place()
	if err != nil {
		return err
	}
	if err := p.makeState(); err != nil {
		return err
	}
	if err := measure.LeaveLogin(ctx); err != nil {
		logger.Info("builds get no control groups of their own", "why", err)
	}
	backend, err := o.openStore(ctx, p, logger)
	if err != nil {
		return err
	}
	a, err := o.start(ctx, p, backend, logger)
	if err != nil {
		return errors.Join(err, backend.close())
	}
	logger.Info("agent serves", "pid", os.Getpid(), "socket", p.socket, "state", string(p.Folders), "store", backend.Kind)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var serveErr error
	a.group.Go(func() {
		defer cancel()
		serveErr = o.listenAndServe(ctx, a.agent, logger)
	})
	select {
	case <-ctx.Done():
	case <-a.ctx.Done():
		cancel()
	}
	err = errors.Join(a.Stop(ctx), serveErr)
	logger.Info("agent ends", "err", err)
	return err
}

// start makes the agent, when the one before it has ended.
func (o *Options) start(ctx context.Context, p place, b *Backend, logger *slog.Logger) (*Agent, error) {
	version, err := ProgramVersion()
	if err != nil {
		return nil, err
	}
	opts := agent.Options{StateDir: p.Agent(), Version: version, Logger: logger, Linger: o.Linger, MaxRunning: o.MaxBuilds}
	if b.Kind == machines.StoreLocal {
		opts.Keep = p.Keep
	}
	for deadline := time.Now().Add(lockTimeout); ; {
		a, err := Start(b, opts)
		if !errors.Is(err, agent.ErrInUse) || time.Now().After(deadline) {
			return a, err
		}
		if err := backoff.Wait(ctx, pollInterval); err != nil {
			return nil, err
		}
	}
}

// listenAndServe serves on the socket, and makes another one if it is deleted, elsewhere if
// another agent has taken its folder meanwhile.
func (o *Options) listenAndServe(ctx context.Context, a *agent.Agent, logger *slog.Logger) error {
	for {
		p, err := o.place()
		if err != nil {
			return err
		}
		socket := p.socket
		l, err := listen(ctx, socket)
		if err != nil {
			return err
		}
		serving, gone := context.WithCancel(ctx)
		var watcher sync.WaitGroup
		watcher.Go(func() {
			defer gone()
			watch(serving, socket)
		})
		err = a.Serve(serving, l)
		gone()
		watcher.Wait()
		if err != nil || ctx.Err() != nil {
			return err
		}
		logger.Warn("the agent's socket was deleted; another one is made", "socket", socket)
	}
}

// listen makes the socket, in the place of one that an agent left behind which is dead:
// the lock on the agent's folder says so. Nobody else may connect.
func listen(ctx context.Context, socket string) (net.Listener, error) {
	if info, err := os.Lstat(socket); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("socket %s: there is a file of another kind", socket)
		}
		if err := os.Remove(socket); err != nil {
			return nil, err
		}
	}
	// Made with no rights for others, so that there is no moment when they may connect.
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	var config net.ListenConfig
	return config.Listen(ctx, "unix", socket)
}

// watch returns when the socket is gone, or the context has ended.
func watch(ctx context.Context, socket string) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	touched := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if _, err := os.Lstat(socket); errors.Is(err, fs.ErrNotExist) {
				return
			}
			if now.Sub(touched) > touchInterval {
				touched = now
				// If this fails, the worst is that the file is deleted.
				_ = os.Chtimes(socket, now, now)
				_ = os.Chtimes(socket+".lock", now, now)
			}
		}
	}
}
