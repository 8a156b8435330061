package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"lighter/machines"

	"lighter/internal/agentd"
	"lighter/internal/coordinator"
	"lighter/nar/signature"
	"lighter/store/daemon"
)

// headStore is the store of the head, as coordinator and local agents use it.
type headStore struct {
	coordinator.Store
	kind      string
	disk      string // folder whose free space counts
	publicKey *signature.PublicKey
	acl       func() (*signature.ACL, error) // whose archives it takes
	close     func() error
}

func openHeadStoreOf(ctx context.Context, f folders, logger *slog.Logger) (*headStore, error) {
	if f.kind == machines.StoreDaemon {
		return openDaemonStore(ctx, f, logger)
	}
	key, err := agentd.SigningKey(f.signingKey(), logger)
	if err != nil {
		return nil, err
	}
	s, err := openStore(f, key, logger)
	if err != nil {
		return nil, err
	}
	return &headStore{
		Store: s, kind: machines.StoreLocal, disk: f.store(), publicKey: key.Public(), close: s.Close,
		acl: func() (*signature.ACL, error) { return loadOwnACL(f) },
	}, nil
}

// openDaemonStore opens guix-daemon's store. Where this process may read Guix's secret key
// it signs by itself what it sends; else guix-daemon does, which is slower.
func openDaemonStore(ctx context.Context, f folders, logger *slog.Logger) (*headStore, error) {
	public, err := signature.LoadPublicKey(signature.PublicFile(f.signingKey()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the head has no signing key at %s; make one, as root, with: guix archive --generate-key", signature.PublicFile(f.signingKey()))
	}
	if err != nil {
		return nil, err
	}
	key, err := signature.LoadPrivateKey(signature.SecretFile(f.signingKey()))
	if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s, err := daemon.Open(ctx, daemon.Options{Socket: f.daemonSocket, ConfigDir: f.guix, Key: key, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("the head's store: %w", err)
	}
	return &headStore{
		Store: s, kind: machines.StoreDaemon, disk: string(s.Dir()), publicKey: public, close: s.Close,
		acl: func() (*signature.ACL, error) { return signature.LoadACLIfAny(f.acl()) },
	}, nil
}

// guixMachinesFile is what "guix offload" reads.
const guixMachinesFile = "machines.scm"

// isFile reports whether there is a file of that name.
func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}
