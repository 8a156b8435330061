package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lighter/internal/measure"
	"lighter/nar/signature"
	"lighter/store"
)

// DefaultSocket is where guix-daemon listens by default.
const DefaultSocket = "/var/guix/daemon-socket/socket"

// defaultConfigDir is where guix-daemon has its key and its ACL.
const defaultConfigDir = "/etc/guix"

// defaultMaxIdle is Options.MaxIdle.
const defaultMaxIdle = 4

// Options are what a store is opened with. The zero value is fine on a machine with Guix.
type Options struct {
	// Socket is the file on which the daemon listens, or its URI: file:///NAME or
	// unix:///NAME. Empty: the variable GUIX_DAEMON_SOCKET, or else DefaultSocket. Other
	// URIs (guix:, ssh:) are refused.
	Socket string
	// Dir is the daemon's store directory; /gnu/store if empty.
	Dir store.Dir
	// PhysicalDir is where this process finds the items' files; Dir if empty.
	PhysicalDir string
	// ConfigDir has the daemon's signing-key.pub and acl, for PublicKey and ACL. Empty:
	// the variable GUIX_CONFIGURATION_DIRECTORY, or else /etc/guix.
	ConfigDir string

	// Key, if not nil, signs exports, which are then read from the disk by this process.
	// Without it the daemon makes and signs them, with its own key.
	Key *signature.PrivateKey

	// MaxIdle is how many connections are kept for reuse, and as many warm ones; 0 is 4.
	MaxIdle int
	Logger  *slog.Logger // nil is slog.Default()
}

// Store is the store of a daemon. It may be used from several goroutines.
type Store struct {
	dir      store.Dir
	physical string
	socket   string
	config   string
	key      *signature.PrivateKey
	logger   *slog.Logger
	meter    *measure.Meter
	pool     pool
	leases   leases
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Validator = (*Store)(nil)
	_ store.Informer  = (*Store)(nil)
	_ store.Referrer  = (*Store)(nil)
	_ store.NARWriter = (*Store)(nil)
	_ store.Exporter  = (*Store)(nil)
	_ store.Importer  = (*Store)(nil)
	_ store.Adder     = (*Store)(nil)
	_ store.Leaser    = (*Store)(nil)
	_ store.Builder   = (*Store)(nil)
	_ store.Collector = (*Store)(nil)
	_ store.Verifier  = (*Store)(nil)
)

// Open connects to a daemon. Close closes what it opened. The context is for this call
// alone. The error matches fs.ErrNotExist if there is no socket, syscall.ECONNREFUSED if
// nothing listens on it, and fs.ErrPermission if this user may not use it.
func Open(ctx context.Context, opts Options) (*Store, error) {
	s, err := New(opts)
	if err != nil {
		return nil, err
	}
	c, err := s.pool.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.pool.put(c)
	return s, nil
}

// New is Open without a connection: the first call makes one. The error is about the
// options.
func New(opts Options) (*Store, error) {
	s, err := newStore(opts)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

func newStore(opts Options) (*Store, error) {
	s := &Store{
		dir: opts.Dir, physical: opts.PhysicalDir, config: opts.ConfigDir, key: opts.Key,
		logger: opts.Logger,
	}
	if s.dir == "" {
		s.dir = store.DefaultDir
	}
	if _, err := store.ParseDir(string(s.dir)); err != nil {
		return nil, err
	}
	if s.physical == "" {
		s.physical = string(s.dir)
	}
	if s.config == "" {
		s.config = os.Getenv("GUIX_CONFIGURATION_DIRECTORY")
	}
	if s.config == "" {
		s.config = defaultConfigDir
	}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	s.meter = measure.New(measure.Options{Logger: s.logger, NoCgroups: true})
	var err error
	if s.socket, err = SocketName(opts.Socket); err != nil {
		return nil, err
	}
	s.pool.maxIdle = opts.MaxIdle
	if s.pool.maxIdle == 0 {
		s.pool.maxIdle = defaultMaxIdle
	}
	s.pool.stamp = s.aclStamp
	s.pool.dial = func(ctx context.Context) (*conn, error) {
		c, err := dial(ctx, s.socket)
		if err != nil {
			return nil, fmt.Errorf("connect to guix-daemon on %s: %w", s.socket, err)
		}
		return c, nil
	}
	s.leases.init(s)
	return s, nil
}

// SocketName returns the file that a name or a URI of guix-daemon's socket means; if it is empty that of
// GUIX_DAEMON_SOCKET, or else DefaultSocket.
func SocketName(socket string) (string, error) {
	if socket == "" {
		socket = os.Getenv("GUIX_DAEMON_SOCKET")
	}
	if socket == "" {
		return DefaultSocket, nil
	}
	scheme, rest, isURI := strings.Cut(socket, ":")
	switch {
	case strings.HasPrefix(socket, "/"):
		return socket, nil
	case isURI && (scheme == "file" || scheme == "unix"):
		name := strings.TrimPrefix(rest, "//")
		if filepath.IsAbs(name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("socket %q: want an absolute file name, or file:// or unix:// before one", socket)
}

// Close closes all connections, which ends leases. No other method may be running or be
// called any more.
func (s *Store) Close() error {
	s.leases.close()
	s.pool.close()
	return nil
}

// Dir implements store.Store.
func (s *Store) Dir() store.Dir { return s.dir }

// PhysicalPath returns the file or folder in which this process finds an item, valid or
// not.
func (s *Store) PhysicalPath(path store.Path) string {
	return filepath.Join(s.physical, path.Base())
}

// PublicKey returns the key with which Export signs. The error matches fs.ErrNotExist
// if the daemon has none: "guix archive --generate-key", as root, makes one.
func (s *Store) PublicKey() (*signature.PublicKey, error) {
	if s.key != nil {
		return s.key.Public(), nil
	}
	return signature.LoadPublicKey(filepath.Join(s.config, "signing-key.pub"))
}

// ACL returns the keys whose archives the daemon takes. The error matches
// fs.ErrPermission if this process may not know.
func (s *Store) ACL() (*signature.ACL, error) { return signature.LoadACL(s.aclFile()) }

func (s *Store) aclFile() string { return filepath.Join(s.config, "acl") }

// stamp tells versions of a file apart. The zero value is that of no file.
type stamp struct {
	changed time.Time
	size    int64
}

func (s *Store) aclStamp() stamp {
	info, err := os.Stat(s.aclFile())
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size()}
}

// problemTime is how long BuildProblem waits for the daemon.
const problemTime = 10 * time.Second

// BuildProblem returns why nothing can be built or sent home here, with what to change,
// or nil if all is well as far as one can tell without building.
func (s *Store) BuildProblem() error {
	ctx, cancel := context.WithTimeout(context.Background(), problemTime)
	defer cancel()
	if err := s.do(ctx, func(c *conn) error { return s.ping(c) }); err != nil {
		if noEntity(err) {
			return fmt.Errorf("%w; start guix-daemon (herd start guix-daemon, systemctl start guix-daemon), or say where it listens with --daemon-socket", err)
		}
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("%w; let this user use the socket", err)
		}
		return err
	}
	if s.key != nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(s.config, "signing-key.pub")); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("guix-daemon has no key to sign what was built: %w; as root, run: guix archive --generate-key", err)
	}
	return nil
}
