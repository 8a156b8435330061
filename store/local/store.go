package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"lighter/internal/measure"
	"lighter/nar/signature"
	"lighter/store"
)

// Options are what a store is opened with. Root must be set; the zero values of the
// rest are fine.
type Options struct {
	// Root is the store's folder. It is made if need be.
	Root string
	// Dir is the logical store directory; /gnu/store if empty. It is not the folder
	// with the items, and need not exist.
	Dir store.Dir

	// Key signs exports. Without a key there are none.
	Key *signature.PrivateKey
	// ACL is called once for each import, and says whose signatures count. Without it,
	// nothing can be imported.
	ACL func() (*signature.ACL, error)

	Logger *slog.Logger // nil is slog.Default()

	// NoSync leaves it to the kernel when items reach the disk. If the machine then
	// crashes, there may be items whose contents are lost.
	NoSync bool

	// Systems are further systems whose programs the kernel can run, such as by
	// binfmt_misc.
	Systems []string
	// If this process is root, builders run outside the sandbox as one of 1,024 users, of
	// which BuildUID is the first, and as the group BuildGID: each running build has a user
	// of its own, who is not in /etc/passwd and runs nothing else. 0 is 30001 and 30000.
	// Builds of an ordinary user run as that user.
	BuildUID, BuildGID uint32
	// Hidden are files and folders, besides Root, that no sandbox path may show to a build:
	// keys, and the agent's socket.
	Hidden []string
	// FixedOutputNetwork is the network of fixed-output builds.
	FixedOutputNetwork FixedOutputNetwork
	// MaxProcesses bounds the processes and threads of one build; 0 is 1,024 for
	// each core and for each of four more.
	MaxProcesses uint64
	// MaxOutput bounds the contents of a build's outputs, in bytes, with sparse files and
	// hard links at their full size; 0 is 1 TiB. MaxOutputFiles bounds the number of their
	// files, folders and symlinks; 0 is 4,194,304. A build that exceeds one of them fails.
	MaxOutput, MaxOutputFiles int64
	// KeepFree is how many bytes of the store's disk stay free: what would take more is
	// refused, and a build that takes more is stopped. 0 is a twentieth of the disk, but not
	// more than 1 GiB; negative is nothing.
	KeepFree int64
	// ImpureEnvVars are the variables of this process that derivations with a known hash
	// may ask for (impureEnvVars). nil is DefaultImpureEnvVars. Other variables, and those
	// that are not set, are empty for the builder.
	ImpureEnvVars []string
}

func (o Options) withDefaults() Options {
	o.Dir = cmp.Or(o.Dir, store.DefaultDir)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.BuildUID, o.BuildGID = cmp.Or(o.BuildUID, guestUID), cmp.Or(o.BuildGID, guestGID)
	o.MaxProcesses = cmp.Or(o.MaxProcesses, 1024*(4+uint64(runtime.NumCPU()))) //nolint:gosec // a count
	o.MaxOutput, o.MaxOutputFiles = cmp.Or(o.MaxOutput, defaultMaxOutput), cmp.Or(o.MaxOutputFiles, defaultMaxOutputFiles)
	if o.ImpureEnvVars == nil {
		o.ImpureEnvVars = DefaultImpureEnvVars
	}
	return o
}

// Store is an open store. It may be used from several goroutines.
type Store struct {
	opts      Options
	layout    layout
	claims    *claims
	trash     *trash
	items     *items
	disk      *diskWatch
	sandboxes *sandboxes
	meter     *measure.Meter
	inflight  inflight
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Validator = (*Store)(nil)
	_ store.NARWriter = (*Store)(nil)
	_ store.Exporter  = (*Store)(nil)
	_ store.Importer  = (*Store)(nil)
	_ store.Adder     = (*Store)(nil)
	_ store.Leaser    = (*Store)(nil)
	_ store.Builder   = (*Store)(nil)
	_ store.Collector = (*Store)(nil)
	_ store.Verifier  = (*Store)(nil)
	_ store.Rooter    = (*Store)(nil)
)

var errClosed = errors.New("the store is closed")

// Open opens a store.
func Open(opts Options) (*Store, error) {
	root, err := filepath.Abs(opts.Root)
	if err == nil && opts.Root == "" {
		err = errors.New("no folder was given")
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	opts = opts.withDefaults()
	l := layout{root: root, dir: opts.Dir}
	s, err := open(opts, l)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", l.explainSpace(err))
	}
	return s, nil
}

func open(opts Options, l layout) (*Store, error) {
	err := l.create()
	if err != nil {
		return nil, err
	}
	// Builds mount what is in the store by names without symlinks.
	if l.root, err = filepath.EvalSymlinks(l.root); err != nil {
		return nil, err
	}
	if l.network, err = onNetwork(l.root); err != nil {
		return nil, err
	}
	folder, err := os.Open(l.root)
	if err != nil {
		return nil, err
	}
	c := &claims{layout: l, logger: opts.Logger, owner: newOwner(), leases: make(map[*lease]bool)}
	c.sweepDead()
	t := &trash{layout: l, gc: gcLock{c}}
	return &Store{
		opts:      opts,
		layout:    l,
		claims:    c,
		trash:     t,
		items:     &items{layout: l, claims: c, trash: t, syncer: syncer{folder: folder}, noSync: opts.NoSync},
		disk:      &diskWatch{layout: l, keepFree: opts.KeepFree},
		sandboxes: &sandboxes{opts: opts, claims: c},
		meter:     measure.New(measure.Options{Logger: opts.Logger}),
	}, nil
}

// Close ends the use of the store by this process, and its leases. No other method may be
// running or be called any more.
func (s *Store) Close() error {
	err := errors.Join(s.claims.releaseLeases(), s.sandboxes.users.close(), s.claims.disappear(), s.items.syncer.folder.Close())
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Dir implements store.Store.
func (s *Store) Dir() store.Dir { return s.layout.dir }

// Root returns the store's folder.
func (s *Store) Root() string { return s.layout.root }

// OwnLoad returns the part of the machine's load average of a minute that this store's builds make.
func (s *Store) OwnLoad() float64 { return s.meter.OwnLoad() }

// Info implements store.Store.
func (s *Store) Info(ctx context.Context, path store.Path) (*store.Info, error) {
	r, err := s.items.record(ctx, path)
	if err != nil {
		return nil, err
	}
	return r.copyInfo(), nil
}

// ValidPaths implements store.Validator.
func (s *Store) ValidPaths(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	var valid []store.Path
	for _, p := range paths {
		switch ok, err := s.items.isValid(ctx, p); {
		case err != nil:
			return nil, err
		case ok:
			valid = append(valid, p)
		}
	}
	return valid, nil
}

// PhysicalPath returns where the item is. Callers must only read it; when the item is
// deleted, it is gone.
func (s *Store) PhysicalPath(path store.Path) (string, error) {
	r, err := s.items.record(context.Background(), path)
	if err != nil {
		return "", err
	}
	return s.layout.data(r.data()), nil
}
