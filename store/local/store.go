package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
)

// Options are what a store is opened with. Root must be set; the zero values of the
// rest are fine.
type Options struct {
	// Root is the folder that the store is in. It is made if need be.
	Root string
	// Dir is the logical store directory; /gnu/store if empty. It is not the folder
	// that items are in, and need not exist.
	Dir store.Dir

	// Key signs exports. Without one there are none.
	Key *signature.PrivateKey
	// ACL is asked, once per import, who may sign what is imported. Without one
	// nobody may.
	ACL func() (*signature.ACL, error)

	Logger *slog.Logger // nil is slog.Default()

	// NoSync leaves it to the kernel when items reach the disk. If the machine
	// crashes, items may then be there with contents that are not.
	NoSync bool

	// Systems are further systems whose programs the kernel can run, such as by
	// binfmt_misc.
	Systems []string
	// BuildUID is the first of 1,024 users and BuildGID the group, outside the sandbox,
	// that builders run as where this process is root: each build that runs has a user
	// of its own, who is not in /etc/passwd and runs nothing else. 0 is 30001 and 30000. Builds of an ordinary user run as that user.
	BuildUID, BuildGID uint32
	// Hidden are files and folders, beside Root, that no sandbox path may show to a build:
	// keys, and the agent's socket.
	Hidden []string
	// FixedOutputNetwork is the network of fixed-output builds.
	FixedOutputNetwork FixedOutputNetwork
	// MaxProcesses bounds the processes and threads of one build; 0 is 1,024 for
	// each core and for each of four more.
	MaxProcesses uint64
	// MaxOutput bounds what is in the files of a build's outputs, in bytes, sparse files
	// and hard links at their full size; 0 is 1 TiB. MaxOutputFiles bounds how many files,
	// folders and symlinks they have; 0 is 4,194,304. A build that exceeds one of them
	// fails.
	MaxOutput, MaxOutputFiles int64
	// KeepFree is how many bytes of the store's disk are left free: what is to be written
	// beyond that is refused, and a build that writes it is stopped. 0 is a twentieth of the
	// disk, but not more than 1 GiB; negative is nothing.
	KeepFree int64
	// ImpureEnvVars are the variables of this process that derivations with a known hash
	// may ask for (impureEnvVars). nil is DefaultImpureEnvVars. What is not among them, or
	// not set, they get empty.
	ImpureEnvVars []string
}

// Store is an open store. It may be used from several goroutines.
type Store struct {
	opts    Options
	layout  layout
	dir     store.Dir
	logger  *slog.Logger
	network bool // the folder is shared with other machines

	owner    owner
	presence presence
	names    atomic.Uint64 // of files of the owner
	leases   leases
	records  recordCache
	syncer   syncer
	inflight inflight
	problem  problemCache
	disk     diskWatch
	networks networkCache
	users    userPool
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
)

var errClosed = errors.New("the store is closed")

// Open opens a store.
func Open(opts Options) (*Store, error) {
	root, err := filepath.Abs(opts.Root)
	if err == nil && opts.Root == "" {
		err = errors.New("no folder is given")
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{opts: opts, layout: layout(root), dir: opts.Dir, logger: opts.Logger, owner: newOwner()}
	if s.dir == "" {
		s.dir = store.DefaultDir
	}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open store: %w", s.explainSpace(err))
	}
	return s, nil
}

func (s *Store) open() error {
	if err := s.layout.create(); err != nil {
		return err
	}
	// Builds mount what is in the store by its name without symlinks.
	root, err := filepath.EvalSymlinks(string(s.layout))
	if err != nil {
		return err
	}
	s.layout = layout(root)
	if s.network, err = onNetwork(root); err != nil {
		return err
	}
	if s.syncer.folder, err = os.Open(root); err != nil {
		return err
	}
	s.sweepDead()
	return nil
}

// Close ends the store's use by this process: leases that are left end. Nothing
// else of the store may be running or be called any more.
func (s *Store) Close() error {
	err := errors.Join(s.releaseLeases(), s.users.close(), s.disappear(), s.syncer.folder.Close())
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Dir implements store.Store.
func (s *Store) Dir() store.Dir { return s.dir }

// Root returns the folder that the store is in.
func (s *Store) Root() string { return string(s.layout) }

// Info implements store.Store.
func (s *Store) Info(ctx context.Context, path store.Path) (*store.Info, error) {
	r, err := s.record(ctx, path)
	if err != nil {
		return nil, err
	}
	return r.copyInfo(), nil
}

// ValidPaths implements store.Validator.
func (s *Store) ValidPaths(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	var valid []store.Path
	for _, p := range paths {
		switch ok, err := s.isValid(ctx, p); {
		case err != nil:
			return nil, err
		case ok:
			valid = append(valid, p)
		}
	}
	return valid, nil
}

// PhysicalPath returns where the item is. It is to be read only, and is not there
// any more when the item was deleted.
func (s *Store) PhysicalPath(path store.Path) (string, error) {
	r, err := s.record(context.Background(), path)
	if err != nil {
		return "", err
	}
	return s.layout.data(r.data()), nil
}

// tmpName returns a new name in this owner's folder for unfinished work.
func (s *Store) tmpName() (string, error) {
	if err := s.beThere(); err != nil {
		return "", err
	}
	return filepath.Join(s.layout.tmpOf(s.owner), strconv.FormatUint(s.names.Add(1), 10)), nil
}

// sweepDead removes what dead processes of this machine have left unfinished. What
// can't be removed now is left for a garbage collection, which tells.
func (s *Store) sweepDead() {
	for _, problem := range s.sweep(&census{leases: s.layout, known: make(map[owner]bool)}, func(o owner) bool { return o.machine == thisMachine() }) {
		s.logger.Debug("what a dead process left was not removed", "store", string(s.layout), "err", problem)
	}
}

// sweep removes unfinished work and leases of dead owners, if of says so.
func (s *Store) sweep(c *census, of func(owner) bool) []error {
	var problems []error
	for _, folder := range []string{s.layout.tmp(), s.layout.builds(), s.layout.leases()} {
		entries, err := os.ReadDir(folder)
		if err != nil {
			problems = append(problems, err)
		}
		for _, e := range entries {
			o, ok := parseOwner(e.Name())
			if !ok || !of(o) || c.alive(o) {
				continue
			}
			if err := nar.RemoveAll(filepath.Join(folder, e.Name())); err != nil {
				problems = append(problems, err)
			}
		}
	}
	return problems
}
