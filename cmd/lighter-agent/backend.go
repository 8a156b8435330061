package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/local"
)

// backend is the store that an agent serves.
type backend struct {
	store            store.Store
	kind             string
	folder           string // where its disk space is
	publicKey        string
	needsDerivations bool
	close            func() error
}

// openStore opens the store that the flags ask for.
func (s *settings) openStore(p place, logger *slog.Logger) (*backend, error) {
	switch s.store {
	case "auto", "local":
		return s.openLocal(p, logger)
	case "guix-daemon":
		return nil, errors.New("--store=guix-daemon: this agent cannot use guix-daemon yet; use local")
	}
	return nil, usageError{fmt.Errorf("--store %q: want auto, local or guix-daemon", s.store)}
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
	l, err := local.Open(local.Options{
		Root: p.store(), Dir: dir, Key: key, Logger: logger,
		ACL: func() (*signature.ACL, error) { return readACL(p.acl()) },
	})
	if err != nil {
		return nil, err
	}
	return &backend{store: l, kind: "local", folder: p.store(), publicKey: key.Public().String(), close: l.Close}, nil
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
