package agentd

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"lighter/internal/owner"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/daemon"
	"lighter/store/local"
)

// Backend is the store that an agent serves.
type Backend struct {
	Store     store.Store
	Kind      string                         // owner.StoreLocal or StoreDaemon
	PublicKey *signature.PublicKey           // with which the store signs; nil if it says it itself
	ACL       func() (*signature.ACL, error) // whose substitutes it takes; a store that substitutes by itself knows
	Disk      string                         // folder whose free space counts
	Builds    string                         // folder where builds have theirs; empty is Disk
	Close     func() error                   // nil where others close the store
}

func (b *Backend) close() error {
	if b.Close == nil {
		return nil
	}
	return b.Close()
}

// daemonTimeout is how long guix-daemon may take to answer before it is taken not to be
// there.
const daemonTimeout = 5 * time.Second

// daemonBuilds is where guix-daemon has the folders of its builds, if it was started
// without TMPDIR, which it does not say.
const daemonBuilds = "/tmp"

// openStore opens the store that the options ask for.
func (o *Options) openStore(ctx context.Context, p place, logger *slog.Logger) (*Backend, error) {
	kind, err := o.StoreKind(ctx, logger)
	if err != nil {
		return nil, err
	}
	if kind == owner.StoreDaemon {
		return o.openDaemon(logger)
	}
	return OpenLocal(&o.Settings, p.Folders, o.StoreDir, append(socketFolders(string(p.Folders)), p.socket), logger)
}

// StoreKind returns the kind of store that the options ask for, owner.StoreLocal or StoreDaemon: with
// owner.StoreAuto that of guix-daemon, if one answers.
func (o *Options) StoreKind(ctx context.Context, logger *slog.Logger) (string, error) {
	if o.Store != owner.StoreAuto {
		return o.Store, nil
	}
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	d, err := daemon.Open(ctx, o.daemonOptions(logger))
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

func (o *Options) daemonOptions(logger *slog.Logger) daemon.Options {
	return daemon.Options{Socket: o.DaemonSocket, Dir: o.StoreDir, Logger: logger}
}

// openDaemon uses the machine's guix-daemon, as this user. That it does not answer now is
// no error: the agent says so to who asks, and it may be started later.
func (o *Options) openDaemon(logger *slog.Logger) (*Backend, error) {
	d, err := daemon.New(o.daemonOptions(logger))
	if err != nil {
		return nil, UsageError{err}
	}
	return &Backend{Store: d, Kind: owner.StoreDaemon, Disk: string(d.Dir()), Builds: daemonBuilds, Close: d.Close}, nil
}

// OpenLocal opens the embedded store in an agent's folders, with a key that is made the first time, as the
// machine's owner says. Its builds see neither the agent's folders nor what else is hidden.
func OpenLocal(s *owner.Settings, f Folders, dir store.Dir, hidden []string, logger *slog.Logger) (*Backend, error) {
	key, err := SigningKey(f.SigningKey(), logger)
	if err != nil {
		return nil, err
	}
	acl := func() (*signature.ACL, error) { return signature.LoadACLIfAny(f.ACL()) }
	opts := local.Options{Root: f.Store(), Dir: dir, Key: key, Logger: logger, ACL: acl, Hidden: append(hidden, string(f))}
	s.StoreOptions(&opts)
	l, err := local.Open(opts)
	if err != nil {
		return nil, err
	}
	return &Backend{Store: l, Kind: owner.StoreLocal, PublicKey: key.Public(), ACL: acl, Disk: f.Store(), Close: l.Close}, nil
}
