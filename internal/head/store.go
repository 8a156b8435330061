package head

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"lighter/internal/agentd"
	"lighter/internal/coordinator/headstore"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/daemon"
	"lighter/store/local"
)

// Store is the store of the head, as coordinator and local agents use it.
type Store struct {
	headstore.Backend
	Kind      string // machines.StoreLocal or machines.StoreDaemon
	Disk      string // folder whose free space counts
	PublicKey *signature.PublicKey
	ACL       func() (*signature.ACL, error) // whose archives it takes
	Close     func() error
}

// OpenStore opens the head's store. Where it is lighter's own, the key with which it signs is made the first time.
func OpenStore(ctx context.Context, f Folders, logger *slog.Logger) (*Store, error) {
	if f.StoreKind == machines.StoreDaemon {
		return openDaemonStore(ctx, f, logger)
	}
	key, err := agentd.SigningKey(f.SigningKey(), logger)
	if err != nil {
		return nil, err
	}
	s, err := OpenLocal(f, key, logger)
	if err != nil {
		return nil, err
	}
	return &Store{
		Backend: s, Kind: machines.StoreLocal, Disk: f.Store(), PublicKey: key.Public(), Close: s.Close,
		ACL: f.LoadOwnACL,
	}, nil
}

// OpenLocal opens lighter's own store as the head's. Without a key it cannot export.
func OpenLocal(f Folders, key *signature.PrivateKey, logger *slog.Logger) (*local.Store, error) {
	return local.Open(local.Options{
		Root: f.Store(), Dir: store.DefaultDir, Key: key, Logger: logger,
		ACL:    f.LoadOwnACL,
		Hidden: []string{f.State, f.Config, f.Socket},
	})
}

// openDaemonStore opens guix-daemon's store. Where this process may read Guix's secret key
// it signs by itself what it sends; else guix-daemon does, which is slower.
func openDaemonStore(ctx context.Context, f Folders, logger *slog.Logger) (*Store, error) {
	public, err := signature.LoadPublicKey(signature.PublicFile(f.SigningKey()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the head has no signing key at %s; make one, as root, with: guix archive --generate-key", signature.PublicFile(f.SigningKey()))
	}
	if err != nil {
		return nil, err
	}
	key, err := signature.LoadPrivateKey(signature.SecretFile(f.SigningKey()))
	if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s, err := daemon.Open(ctx, daemon.Options{Socket: f.DaemonSocket, ConfigDir: f.Guix, Key: key, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("the head's store: %w", err)
	}
	return &Store{
		Backend: s, Kind: machines.StoreDaemon, Disk: string(s.Dir()), PublicKey: public, Close: s.Close,
		ACL: func() (*signature.ACL, error) { return signature.LoadACLIfAny(f.ACL()) },
	}, nil
}
