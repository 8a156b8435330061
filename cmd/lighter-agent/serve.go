package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/agent"
)

const (
	// lockTimeout is how long an agent waits for the one before it to end.
	lockTimeout = 10 * time.Second
	// shutdownTimeout is how long builds may take to be canceled.
	shutdownTimeout = 15 * time.Second
	// watchInterval is how often an agent looks whether its socket is still there, and
	// touchInterval how often it keeps programs that clean /tmp from thinking that it
	// is of no use.
	watchInterval = 5 * time.Second
	touchInterval = time.Hour
)

// serve is the agent. It ends on SIGTERM and SIGINT: builds that run are canceled, and
// the next agent reports them as failures of this machine, so that the coordinator has
// them built again. Waiting for them is no use: who ends an agent wants it gone.
func serve(ctx context.Context, s *settings, _ []string, io stdio) error {
	signal.Ignore(syscall.SIGHUP) // the login is over
	logger, err := s.logger(io.err)
	if err != nil {
		return err
	}
	p, err := s.place()
	if err != nil {
		return err
	}
	if err := p.makeState(); err != nil {
		return err
	}
	backend, err := s.openStore(ctx, p, logger)
	if err != nil {
		return err
	}
	defer func() {
		if err := backend.close(); err != nil {
			logger.Warn("the store was not closed", "err", err)
		}
	}()
	a, err := s.newAgent(ctx, p, backend, logger)
	if err != nil {
		return err
	}
	logger.Info("agent serves", "pid", os.Getpid(), "socket", p.socket, "state", p.state, "store", backend.kind)
	err = serveUntilOver(ctx, a, s, logger)
	logger.Info("agent ends", "err", err)
	return err
}

// newAgent makes the agent, when the one before it has ended.
func (s *settings) newAgent(ctx context.Context, p place, b *backend, logger *slog.Logger) (*agent.Agent, error) {
	version, err := programVersion()
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockTimeout); ; {
		a, err := agent.New(agent.Options{
			Store: b.store, StoreKind: b.kind, NeedsDerivations: b.needsDerivations, PublicKey: b.publicKey,
			StateDir: p.agent(), DiskDir: b.folder, BuildDir: b.builds, Substituter: b.substituter, Version: version, Logger: logger, Linger: s.linger,
			MaxRunning: s.MaxBuilds,
		})
		if !errors.Is(err, agent.ErrInUse) || time.Now().After(deadline) {
			return a, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pollInterval):
		}
	}
}

// serveUntilOver serves until the context ends, or nobody needs the agent any more.
func serveUntilOver(ctx context.Context, a *agent.Agent, s *settings, logger *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() {
		defer cancel()
		_ = a.Run(ctx) // it says just why it is over
	})
	var serveErr error
	group.Go(func() {
		defer cancel()
		serveErr = listenAndServe(ctx, a, s, logger)
	})
	<-ctx.Done()
	closing, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer stop()
	err := a.Shutdown(closing) // also ends the requests that follow builds
	group.Wait()
	return errors.Join(err, serveErr)
}

// listenAndServe serves on the socket, and makes another one if it is deleted, elsewhere if
// somebody else has taken its folder meanwhile.
func listenAndServe(ctx context.Context, a *agent.Agent, s *settings, logger *slog.Logger) error {
	for {
		p, err := s.place()
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
