package hooks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lighter/internal/api"
	"lighter/internal/backoff"
)

// Options are what an engine works with. Ledger is required.
type Options struct {
	Ledger   Ledger
	Hooks    []Config
	BuiltIns map[string]BuiltIn // by name; Config.BuiltIn is one of the names
	Programs Programs
	Logger   *slog.Logger // nil discards

	limits limits // for tests
}

// limits are the numbers that an engine works with.
type limits struct {
	window   int           // runs of one hook in memory
	scan     int           // events looked at before anything else is done
	unsaved  uint64        // unwanted events before a cursor is written because of them
	details  int64         // parked runs of all hooks whose output is kept
	pace     time.Duration // least time between two turns at the ledger
	stall    time.Duration // until a refused change is tried again
	retryMin time.Duration // before the second try, about; it doubles each time
	retryMax time.Duration
}

func (l limits) withDefaults() limits {
	l.window = cmp.Or(l.window, 4096)
	l.scan = cmp.Or(l.scan, 4096)
	l.unsaved = cmp.Or(l.unsaved, 10_000)
	l.details = cmp.Or(l.details, 10_000)
	l.pace = cmp.Or(l.pace, 20*time.Millisecond)
	l.stall = cmp.Or(l.stall, time.Second)
	l.retryMin = cmp.Or(l.retryMin, time.Second)
	l.retryMax = cmp.Or(l.retryMax, 10*time.Minute)
	return l
}

// Engine runs hooks; see the package comment. Its methods may be called from several
// goroutines at the same time.
type Engine struct {
	ledger   Ledger
	programs Programs
	log      *slog.Logger
	limits   limits
	details  atomic.Int64 // parked runs whose output is kept
	recent   *recent
	started  time.Time // since when runs that are done are counted

	// change is held while hooks are started and stopped, which may take a while.
	change sync.Mutex
	group  sync.WaitGroup // the watcher

	mu       sync.Mutex // owns all below
	configs  []Config
	builtIns map[string]BuiltIn
	ctx      context.Context // of Start; nil before
	hooks    []*hook         // in the order of the configuration
}

// New returns an engine that has not started anything. An error says what is wrong
// with the hooks.
func New(o Options) (*Engine, error) {
	if err := checkAll(o.Hooks, o.BuiltIns); err != nil {
		return nil, err
	}
	e := &Engine{
		ledger: o.Ledger, programs: o.Programs, log: o.Logger, limits: o.limits.withDefaults(),
		configs: slices.Clone(o.Hooks), builtIns: o.BuiltIns,
	}
	e.started = time.Now()
	e.recent = &recent{ledger: e.ledger, max: e.limits.scan}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	return e, nil
}

// errStopping is the cause of the end of every try when the engine stops.
var errStopping = errors.New("the coordinator stops")

// errRemoved is the cause of the end of a hook's tries when it is taken out of the
// configuration.
var errRemoved = errors.New("the hook is no longer in the configuration")

// Start starts the hooks, which run until ctx ends; Wait waits for that. A hook that
// the ledger does not know gets events from now on. One that is not configured any
// more loses its runs.
func (e *Engine) Start(ctx context.Context) error {
	e.change.Lock()
	defer e.change.Unlock()
	seen := e.ledger.LastEvent() // before any hook looks
	e.mu.Lock()
	e.ctx = ctx
	configs := e.configs
	e.mu.Unlock()
	if err := e.adopt(ctx, configs); err != nil {
		return fmt.Errorf("hooks: %w", err)
	}
	e.group.Go(func() { e.watch(ctx, seen) })
	return nil
}

// Wait returns when all hooks have stopped, after the context of Start has ended.
func (e *Engine) Wait() {
	e.group.Wait()
	e.change.Lock()
	defer e.change.Unlock()
	for _, h := range e.all() {
		<-h.over
	}
}

// SetHooks takes another configuration: hooks that are new start with the next event,
// those that are missing are stopped and lose their runs, and the others go on as they
// are configured now. A nil map leaves the built-ins as they are. A bad configuration
// is refused whole.
func (e *Engine) SetHooks(ctx context.Context, configs []Config, builtIns map[string]BuiltIn) error {
	e.change.Lock()
	defer e.change.Unlock()
	e.mu.Lock()
	if builtIns == nil {
		builtIns = e.builtIns
	}
	err := checkAll(configs, builtIns)
	if err == nil {
		e.configs, e.builtIns = slices.Clone(configs), builtIns
	}
	started := e.ctx
	e.mu.Unlock()
	switch {
	case err != nil:
		return err
	case started == nil:
		return nil // Start takes it
	case started.Err() != nil:
		return errStopping
	}
	return e.adopt(ctx, configs)
}

// adopt makes what runs what is configured. The caller holds change.
func (e *Engine) adopt(ctx context.Context, configs []Config) error {
	running := make(map[string]*hook)
	for _, h := range e.all() {
		running[h.name] = h
	}
	wanted := make(map[string]bool)
	for i := range configs {
		wanted[configs[i].Name] = true
	}
	for name, h := range running {
		if !wanted[name] {
			h.stop(errRemoved)
			e.details.Add(-h.details)
		}
	}
	var list []*hook
	var failed error
	for _, c := range configs {
		runner := e.runner(&c)
		h := running[c.Name]
		if h != nil {
			h.configure(c, runner)
		} else {
			var err error
			if h, err = e.open(ctx, c, runner); err != nil {
				failed = errors.Join(failed, fmt.Errorf("hook %s: %w", c.Name, err))
				continue
			}
		}
		list = append(list, h)
	}
	e.mu.Lock()
	e.hooks = list
	e.mu.Unlock()
	for _, h := range list {
		h.nudge() // what happened since it first looked, which nothing else would tell it
	}
	return errors.Join(failed, e.forgetOthers(ctx, wanted))
}

// runner returns what carries a hook's runs out.
func (e *Engine) runner(c *Config) BuiltIn {
	if c.Runner != nil {
		return c.Runner
	}
	if c.BuiltIn != "" {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.builtIns[c.BuiltIn]
	}
	return &program{Programs: e.programs, command: c.Command}
}

func (e *Engine) all() []*hook {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.hooks)
}

// forgetOthers removes what the ledger has of hooks that are not wanted.
func (e *Engine) forgetOthers(ctx context.Context, wanted map[string]bool) error {
	var gone []string
	err := e.ledger.Settings(ctx, cursorPrefix, func(name string, _ json.RawMessage) error {
		if name = strings.TrimPrefix(name, cursorPrefix); !wanted[name] {
			gone = append(gone, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range gone {
		counts := make(map[string]int)
		for _, prefix := range runPrefixes {
			if counts[prefix], err = e.forgetAll(ctx, prefix+name+"/"); err != nil {
				return err
			}
		}
		// The cursor goes last: what a crash leaves is found by it.
		if err := e.ledger.Apply(ctx, []Setting{{Name: cursorPrefix + name}}, true); err != nil {
			return err
		}
		e.log.Warn("a hook is no longer in the configuration; its runs are dropped", "hook", name,
			"waiting", counts[runPrefix]+counts[againPrefix], "parked", counts[parkedPrefix])
	}
	return nil
}

// forgetChunk is how many values are removed at a time.
const forgetChunk = 1000

// forgetAll removes all values with a prefix and returns how many there were.
func (e *Engine) forgetAll(ctx context.Context, prefix string) (count int, err error) {
	for {
		var changes []Setting
		err := e.ledger.Settings(ctx, prefix, func(name string, _ json.RawMessage) error {
			changes = append(changes, Setting{Name: name})
			if len(changes) == forgetChunk {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			return count, err
		}
		if len(changes) == 0 {
			return count, nil
		}
		if err := e.ledger.Apply(ctx, changes, false); err != nil {
			return count, err
		}
		count += len(changes)
	}
}

// watch wakes the hooks when there are events after those seen, until ctx ends.
func (e *Engine) watch(ctx context.Context, seen uint64) {
	for {
		err := e.ledger.Events(ctx, seen+1, true, func(api.Event) error { return errEnough })
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, errEnough) {
			// The ledger has failed or is closed, which ends the coordinator too.
			e.log.Debug("hooks hear of no more events", "err", err)
			return
		}
		seen = e.ledger.LastEvent()
		for _, h := range e.all() {
			h.nudge()
		}
		if backoff.Wait(ctx, e.limits.pace) != nil {
			return
		}
	}
}

// Seen returns the number of the event up to which no run that is still to come needs
// the events and the builds of the ledger. Parked runs have copies of their builds, but
// where too many are parked; those know then only what their events say.
func (e *Engine) Seen() uint64 {
	seen := e.ledger.LastEvent()
	e.mu.Lock()
	started := e.ctx != nil && (len(e.hooks) > 0 || len(e.configs) == 0)
	e.mu.Unlock()
	if !started {
		return 0
	}
	for _, h := range e.all() {
		seen = min(seen, h.needs())
	}
	return seen
}

// Counts returns how many runs are to be carried out, and how many are parked.
func (e *Engine) Counts() (pending, parked int) {
	for _, h := range e.all() {
		h.mu.Lock()
		pending += len(h.window.runs) + h.again
		parked += h.parked
		h.mu.Unlock()
	}
	return pending, parked
}
