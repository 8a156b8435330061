// Package agent is the command server on a machine: it has the machine's store build
// derivations, and moves items in and out of it. internal/agentapi has its protocol
// and its client.
//
// An [Agent] is an http.Handler. It is reached through streams of an SSH connection,
// by those who may log in as the user that it runs as, so it does not ask who they are.
// It decides nothing: the coordinator says what is built where, and how often.
//
// # Builds
//
// A build is known by an id of the coordinator's, and an attempt number. Asking for
// the same attempt again does nothing, so a coordinator that lost its connection asks
// again without fear. What belongs to a build (state, log, lease) is kept until it is
// deleted, or for a week: no connection is needed for it, and several may look at it.
//
// Inputs, derivation and outputs are leased before it is asked whether they are
// there, so that an item found valid stays valid.
//
// # Files
//
// The state folder belongs to one agent alone:
//
//	lock               held while the agent runs
//	builds/ID.status   the states of a build that was started; see record
//	builds/ID.log-N    what the builder wrote in attempt N so far, if anything
//	builds/ID.made-N-X an output that attempt N made, if it is a check, as a NAR
//
// An agent that starts takes over the finished builds of the one before it. Those that
// ran then are reported as failures of the machine. Nothing here is synced: what a power
// failure takes away is the result of a build, which the coordinator then has built again.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/agentapi"
	"lighter/internal/version"
	"lighter/store"
)

// Options say what an agent works with. Store and StateDir must be set.
type Options struct {
	// Store is where items are and builds are made. What else it can do the agent
	// finds out: store.Builder, Leaser, Importer, Exporter, Collector, and the methods
	// BuildProblem() error, which says why it cannot build;
	// OwnLoad() float64, which part of the load average its builds make;
	// ACL() (*signature.ACL, error), which says whose archives it takes;
	// PublicKey() (*signature.PublicKey, error), with which key it signs; and
	// Warm(context.Context) error, which makes it ready to import and to export.
	Store     store.Store
	StoreKind string // as agentapi.Machine; empty is "local"
	// NeedsDerivations is what agentapi.Machine says under that name.
	NeedsDerivations bool
	// Substituter gets missing inputs from the servers that requests name; nil: nothing does.
	Substituter Substituter
	// SubstituteTimeout bounds how long a request waits for them; 0 is 5 minutes.
	// SubstitutePause is how long the servers are not asked again for what they did not
	// have; 0 is 5 minutes.
	SubstituteTimeout, SubstitutePause time.Duration
	// StateDir is a folder for this agent alone; it is made if need be.
	StateDir string
	// DiskDir is where free disk is measured. Empty: StateDir.
	DiskDir string
	// BuildDir is where builds have their folders, and free disk is measured too. Empty:
	// DiskDir.
	BuildDir string
	// procDir is where the kernel says how the machine is; tests have their own. Empty:
	// /proc.
	procDir string
	// Keep is what garbage collections ask before they delete: see store.GCOptions. nil: whatever
	// no build and no root needs goes.
	Keep func(ctx context.Context, garbage []store.Path) ([]store.Path, error)
	// PublicKey is the key with which Store signs, as an s-expression. Empty: the store
	// is asked each time.
	PublicKey string

	Version string       // empty: version.Version
	Logger  *slog.Logger // nil: nothing is logged

	// Linger is how long Run goes on without builds and requests; 0 means forever.
	Linger time.Duration
	// KeepBuilds is how long a build is kept that nobody deletes, from when it
	// finished, or was asked for last if it never started. Zero: 7 days.
	KeepBuilds time.Duration
	// MaxLog bounds the log of a build, in bytes; the rest is dropped. Zero: 1 GiB.
	MaxLog int64
	// MaxBuilds bounds how many builds are known, MaxRunning how many run at a time.
	// They are far above what a coordinator asks for. Zero: 100,000 and 1,024.
	MaxBuilds, MaxRunning int
}

// Defaults of Options.
const (
	defaultKeepBuilds = 7 * 24 * time.Hour
	defaultMaxLog     = 1 << 30
	defaultMaxBuilds  = 100_000
	defaultMaxRunning = 1024
	defaultSubstitute = 5 * time.Minute
)

func (o Options) withDefaults() Options {
	o.StoreKind = cmp.Or(o.StoreKind, "local")
	o.DiskDir = cmp.Or(o.DiskDir, o.StateDir)
	o.BuildDir = cmp.Or(o.BuildDir, o.DiskDir)
	o.procDir = cmp.Or(o.procDir, "/proc")
	o.Version = cmp.Or(o.Version, version.Version)
	o.KeepBuilds = cmp.Or(o.KeepBuilds, defaultKeepBuilds)
	o.SubstituteTimeout = cmp.Or(o.SubstituteTimeout, defaultSubstitute)
	o.SubstitutePause = cmp.Or(o.SubstitutePause, defaultSubstitute)
	o.MaxLog = cmp.Or(o.MaxLog, defaultMaxLog)
	o.MaxBuilds = cmp.Or(o.MaxBuilds, defaultMaxBuilds)
	o.MaxRunning = cmp.Or(o.MaxRunning, defaultMaxRunning)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Agent serves one store. Use Serve or ServeConn, or ServeHTTP with a server of
// your own; call Shutdown in the end.
type Agent struct {
	opts    Options
	log     *slog.Logger
	machine *machine
	handler handler
	lock    *os.File
	warming atomic.Bool // the store is being made ready

	substitutes *substitutes // nil if there is no Substituter

	// ctx is that of all builds. It ends with Shutdown.
	ctx    context.Context
	cancel context.CancelCauseFunc
	group  sync.WaitGroup // the builds that run, and warm

	mu       sync.Mutex // owns all below
	entries  map[string]*entry
	running  int
	requests int       // under way
	active   time.Time // when the last of builds and requests ended
	ending   bool      // no build starts any more
}

var (
	errShutdown = errors.New("the agent was stopped during the build")
	errCanceled = errors.New("the build was canceled")
	errReplaced = errors.New("the build was replaced by a later attempt")
	errKilled   = errors.New("the agent was killed or restarted during the build")
)

// ErrInUse is matched by the error of New for a state folder that has its agent.
var ErrInUse = errors.New("another agent works in this folder")

// New returns an agent with the builds that the last one in the folder left behind.
func New(opts Options) (*Agent, error) {
	opts = opts.withDefaults()
	if opts.Store == nil || opts.StateDir == "" {
		return nil, errors.New("agent: Options.Store and StateDir must be set")
	}
	if err := os.MkdirAll(filepath.Join(opts.StateDir, "builds"), 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFolder(opts.StateDir)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		opts: opts, log: opts.Logger, lock: lock, machine: newMachine(&opts),
		entries: make(map[string]*entry), active: time.Now(),
	}
	a.handler = newHandler(a)
	if opts.Substituter != nil {
		a.substitutes = newSubstitutes(&opts, a.log)
	}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	if err := a.load(a.ctx); err != nil {
		a.cancel(err)
		return nil, errors.Join(err, a.lock.Close())
	}
	a.warm()
	return a, nil
}

// warm has the store make itself ready for imports and exports, if it has to and is not
// at it. It does not wait.
func (a *Agent) warm() {
	s, ok := a.opts.Store.(interface {
		Warm(ctx context.Context) error
	})
	if !ok || !a.warming.CompareAndSwap(false, true) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ending {
		return
	}
	a.group.Go(func() {
		defer a.warming.Store(false)
		if err := s.Warm(a.ctx); err != nil {
			a.log.Debug("the store is not warm", "err", err)
		}
	})
}

// lockFolder makes sure that one agent alone works in the folder, as far as its file
// system can tell: on some NFS servers there are no locks.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		f.Close()
		return nil, fmt.Errorf("%s: %w", dir, ErrInUse)
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// Run drops builds that nobody deletes, and returns nil when there were neither builds
// nor requests for Options.Linger; from then on no build starts, and connections that
// ask for one are closed. Else it returns the context's error when that ends.
func (a *Agent) Run(ctx context.Context) error {
	for {
		wait := a.tidy(ctx, time.Now())
		if wait == 0 {
			a.log.Info("the agent ends, because nobody needs it", "after", a.opts.Linger)
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// maxTidyInterval is how often Run looks at least.
const maxTidyInterval = 10 * time.Minute

// tidy drops old builds and returns how long to wait until it is to be called again,
// or zero if the agent is to end.
func (a *Agent) tidy(ctx context.Context, now time.Time) time.Duration {
	for _, at := range a.attempts() {
		if since := at.unused(); !since.IsZero() && now.Sub(since) >= a.opts.KeepBuilds {
			at.log.Warn("a build that nobody collected is dropped", "since", since)
			if err := a.drop(ctx, at); err != nil {
				at.log.Warn("a build was not dropped", "err", err)
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opts.Linger == 0 {
		return maxTidyInterval
	}
	left := a.active.Add(a.opts.Linger).Sub(now)
	if len(a.entries) > 0 || a.requests > 0 {
		left = a.opts.Linger
	}
	if left <= 0 {
		a.ending = true
		return 0
	}
	return min(left, maxTidyInterval)
}

// Shutdown cancels all builds, which then count as failures of the machine, and gives
// leases and folder back. It waits for the builds until the context ends; in that case
// it leaves behind what it did not get to, and the error is the context's. It may be
// called again.
func (a *Agent) Shutdown(ctx context.Context) error {
	a.mu.Lock()
	a.ending = true
	a.mu.Unlock()
	a.cancel(errShutdown)
	over := make(chan struct{})
	go func() {
		defer close(over)
		a.group.Wait()
	}()
	select {
	case <-over:
	case <-ctx.Done():
		return fmt.Errorf("builds do not end: %w", context.Cause(ctx))
	}
	if err := a.releaseAll(ctx); err != nil {
		return err
	}
	if err := a.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) { // by an earlier call
		return err
	}
	return nil
}

func (a *Agent) releaseAll(ctx context.Context) error {
	a.mu.Lock()
	ids := slices.Collect(maps.Keys(a.entries))
	a.mu.Unlock()
	for _, id := range ids {
		e, leave, err := a.enter(ctx, id, false)
		if err != nil {
			if context.Cause(ctx) != nil {
				return err
			}
			continue // it was deleted in the meantime
		}
		if e.attempt != nil {
			e.attempt.release()
		}
		leave()
	}
	return nil
}

// attempts returns the current attempts at all builds.
func (a *Agent) attempts() []*attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*attempt, 0, len(a.entries))
	for _, e := range a.entries {
		if e.attempt != nil {
			list = append(list, e.attempt)
		}
	}
	return list
}

// request notes that a request is under way, until the result is called.
func (a *Agent) request() (done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.requests--
		a.active = time.Now()
	}
}

// countRunning returns how many builds run.
func (a *Agent) countRunning() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running
}

func unknownBuild(id string) error {
	return refuse(404, agentapi.CodeUnknownBuild, "build %s: unknown here", id)
}

// InUse reports whether an agent works in a state folder.
func InUse(dir string) (bool, error) {
	lock, err := lockFolder(dir)
	switch {
	case errors.Is(err, ErrInUse):
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return false, lock.Close()
}
