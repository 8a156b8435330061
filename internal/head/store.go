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
	// Files returns where an item's files really are.
	Files func(store.Path) (string, error)
}

// Adder adds items to the store.
func (s *Store) Adder() store.Adder { return s.Backend.(store.Adder) }

// OpenToLook opens the head's store for what needs no signing key, and makes none.
func OpenToLook(ctx context.Context, f Folders, logger *slog.Logger) (*Store, error) {
	if f.StoreKind == machines.StoreDaemon {
		return openDaemonStore(ctx, f, logger)
	}
	return openLocalStore(f, nil, logger)
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
	s, err := openLocalStore(f, key, logger)
	if err != nil {
		return nil, err
	}
	s.PublicKey = key.Public()
	return s, nil
}

func openLocalStore(f Folders, key *signature.PrivateKey, logger *slog.Logger) (*Store, error) {
	s, err := OpenLocal(f, key, logger)
	if err != nil {
		return nil, err
	}
	return &Store{
		Backend: s, Kind: machines.StoreLocal, Disk: f.Store(), Close: s.Close, ACL: f.LoadOwnACL, Files: s.PhysicalPath,
	}, nil
}

// elsewhere says of an item that is not in a store of lighter's own that it is in Guix's.
func (f Folders) elsewhere(p store.Path) string {
	if f.StoreKind == machines.StoreDaemon || !IsFile(string(p)) {
		return ""
	}
	return "this coordinator has a store of its own and does not see Guix's; start it with --store=" + machines.StoreDaemon
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
		return nil, fmt.Errorf("the head has no signing key at %s; make one, as root, with: guix archive --generate-key; or have a store of lighter's own: --store=local", signature.PublicFile(f.SigningKey()))
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
		ACL:   func() (*signature.ACL, error) { return signature.LoadACLIfAny(f.ACL()) },
		Files: func(p store.Path) (string, error) { return s.PhysicalPath(p), nil },
	}, nil
}
