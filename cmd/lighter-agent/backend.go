package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"lighter/internal/agent"
	"lighter/internal/owner"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/daemon"
	"lighter/store/local"
	"lighter/store/substitute"
)

// backend is the store that an agent serves.
type backend struct {
	store            store.Store
	kind             string
	folder           string // where its disk space is
	builds           string // where its builds have their folders
	publicKey        string // empty if the store says it itself
	needsDerivations bool
	substituter      agent.Substituter // nil if it gets nothing from servers
	close            func() error
}

// daemonTimeout is how long guix-daemon may take to answer before it is taken not to be
// there.
const daemonTimeout = 5 * time.Second

// daemonBuilds is where guix-daemon has the folders of its builds, if it was started
// without TMPDIR, which it does not say.
const daemonBuilds = "/tmp"

// openStore opens the store that the flags ask for.
func (s *settings) openStore(ctx context.Context, p place, logger *slog.Logger) (*backend, error) {
	kind, err := s.kind(ctx, logger)
	if err != nil {
		return nil, err
	}
	if kind == owner.StoreDaemon {
		return s.openDaemon(logger)
	}
	return s.openLocal(p, logger)
}

// kind returns the kind of store that the flags ask for: with auto that of guix-daemon,
// if one answers.
func (s *settings) kind(ctx context.Context, logger *slog.Logger) (string, error) {
	if s.Store != owner.StoreAuto {
		return s.Store, nil
	}
	opts, err := s.daemonOptions(logger)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	d, err := daemon.Open(ctx, opts)
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, fs.ErrNotExist) {
			level = slog.LevelDebug
		}
		logger.Log(ctx, level, "no guix-daemon answers; this agent has a store of its own", "err", err)
		return owner.StoreLocal, nil
	}
	return owner.StoreDaemon, d.Close()
}

func (s *settings) daemonOptions(logger *slog.Logger) (daemon.Options, error) {
	dir, err := store.ParseDir(s.storeDir)
	if err != nil {
		return daemon.Options{}, usageError{err}
	}
	return daemon.Options{Socket: s.DaemonSocket, Dir: dir, Logger: logger}, nil
}

// openDaemon uses the machine's guix-daemon, as this user. That it does not answer now is
// no error: the agent says so to who asks, and it may be started later.
func (s *settings) openDaemon(logger *slog.Logger) (*backend, error) {
	opts, err := s.daemonOptions(logger)
	if err != nil {
		return nil, err
	}
	d, err := daemon.New(opts)
	if err != nil {
		return nil, usageError{err}
	}
	return &backend{store: d, kind: owner.StoreDaemon, folder: string(d.Dir()), builds: daemonBuilds, needsDerivations: true, substituter: d, close: d.Close}, nil
}

func (s *settings) openLocal(p place, logger *slog.Logger) (*backend, error) {
	dir, err := store.ParseDir(s.storeDir)
	if err != nil {
		return nil, usageError{err}
	}
	key, err := ownKey(p.signingKey())
	if err != nil {
		return nil, err
	}
	acl := func() (*signature.ACL, error) { return readACL(p.acl()) }
	opts := local.Options{Root: p.store(), Dir: dir, Key: key, Logger: logger, ACL: acl, Hidden: append(socketFolders(p.state), p.state, p.socket)}
	s.StoreOptions(&opts)
	l, err := local.Open(opts)
	if err != nil {
		return nil, err
	}
	servers := substitute.NewPool(l, substitute.Options{ACL: acl, Logger: logger})
	return &backend{
		store: l, kind: owner.StoreLocal, folder: p.store(), builds: p.store(), publicKey: key.Public().String(), substituter: servers,
		close: func() error {
			servers.Close()
			return l.Close()
		},
	}, nil
}

// ownKey returns the key with which this store signs, and makes it the first time. Of
// several computers that share the folder one makes it.
func ownKey(file string) (*signature.PrivateKey, error) {
	key, err := signature.LoadPrivateKey(signature.SecretFile(file))
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = signature.GenerateKey(); err != nil {
		return nil, err
	}
	switch err := signature.WriteKeyPair(file, key); {
	case errors.Is(err, fs.ErrExist):
		return signature.LoadPrivateKey(signature.SecretFile(file))
	case err != nil:
		return nil, err
	}
	return key, nil
}

// readACL returns an empty ACL where there is no file.
func readACL(file string) (*signature.ACL, error) {
	acl, err := signature.LoadACL(file)
	if errors.Is(err, fs.ErrNotExist) {
		return new(signature.ACL), nil
	}
	return acl, err
}
