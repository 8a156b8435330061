// Package coordinator owns the queue: it takes requests, finds out what must be built for
// them, places builds on machines, sends there what they need, brings home what they made,
// and records all of it in the ledger. Whether a build is tried again is decided here alone.
//
// [New] makes a coordinator, and [Coordinator.Run] runs it until its context ends. Package
// apiserver is its face for clients.
//
// # One owner
//
// One goroutine, the loop in Run, owns the queue and the state of every build, task, attempt
// and machine. What belongs to it is reached through a *loop, which only a function that was
// posted to the loop's mailbox is given; whoever wants to know or change something posts one.
// Each task is in one stage, and moves to another through one function that knows which moves
// there are.
//
// Whatever waits runs in goroutines of its own, for which Run waits; most of that is in the
// packages below this one. The expander reads derivations (expand), the recorder writes the ledger
// (recorder), the pruner moves old builds out of it (attic), and the head's disks are measured
// (headroom). Each machine has a supervisor that looks at it, one that makes its agent forget
// builds, and streams of items in both directions (peer). Each attempt at a build is carried
// out by one goroutine (remote), each check by one (compare), and a build hook's conversation
// by the goroutine of its request (delivery). They post their reports; what an attempt that is
// no longer its task's current one says late is noted, but not believed.
//
// # Truth
//
// A request is durable in the ledger before it is acknowledged (intake). What the loop changes
// goes to the ledger in order, many changes at a time; what must not happen before a change is
// durable, such as making a machine forget a build, waits for that. After a crash the loop is
// filled from the ledger, and what machines are still doing is found there under the same id
// and attempt.
//
// The package knows no SSH and no particular store: it is given its links to machines and the
// head's store.
package coordinator

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lighter/hooks"
	"lighter/internal/api"
	"lighter/internal/coordinator/ahead"
	"lighter/internal/coordinator/attic"
	"lighter/internal/coordinator/blocking"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/coordinator/config"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/headroom"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/intake"
	"lighter/internal/coordinator/inventory"
	"lighter/internal/coordinator/limits"
	"lighter/internal/coordinator/machinesfile"
	"lighter/internal/coordinator/mailbox"
	"lighter/internal/coordinator/outlook"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/recorder"
	"lighter/internal/coordinator/remote"
	"lighter/internal/coordinator/reply"
	"lighter/internal/coordinator/tally"
	"lighter/internal/coordinator/turns"
	"lighter/internal/ledger"
	"lighter/store"
)

// Config is what a coordinator works with.
type Config = config.Config

// Coordinator is described in the package comment.
type Coordinator struct {
	cfg           Config
	limits        limits.Limits
	log           *slog.Logger
	ledger        *ledger.Ledger
	head          *headstore.Store
	logs          *buildlog.Folder
	inventory     *inventory.Inventory
	moving        *peer.Transfers
	forPeers      peer.Config
	forDeliveries delivery.Config
	forAttempts   remote.Config
	started       time.Time
	rules         atomic.Pointer[turns.Rules] // the loop's account has the same
	latency       prometheus.Histogram        // from when a build could be placed to when it was

	mail       *mailbox.Desk[*loop] // closed when Run is about to return
	intake     *intake.Intake
	pruner     *attic.Pruner
	recorder   *recorder.Recorder
	questions  *mailbox.Mailbox[question] // for the expander
	scout      *ahead.Scout
	eventHooks *hooks.Engine
	outlook    *outlook.Outlook
	blocking   *blocking.Blocking
	group      sync.WaitGroup // every goroutine that Run started
	// recovered is closed when Run has read what the ledger has of earlier runs.
	recovered chan struct{}
	fatal     chan error // with which Run is to end

	// live has the *headstore.Node of every task that was expanded, by derivation. The loop
	// writes it, the expander reads it.
	live sync.Map
	room *headroom.Room
	file *machinesfile.File

	ctx context.Context // of Run
	// first is the loop until Run takes it; from then on only posted functions are given it.
	first *loop
}

// New returns a coordinator that has not started anything.
func New(cfg Config) (*Coordinator, error) {
	c := &Coordinator{
		cfg: cfg, limits: cfg.Limits.WithDefaults(), log: cfg.Logger, ledger: cfg.Ledger,
		head: headstore.New(cfg.Store), moving: peer.NewTransfers(), latency: tally.NewLatency(),
		mail: mailbox.NewDesk[*loop](errStopping), questions: mailbox.New[question](), recovered: make(chan struct{}), fatal: make(chan error, 1),
	}
	c.started = c.now()
	c.rules.Store(&cfg.Shares)
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.room = headroom.New(headroom.Options{
		Limits: cfg.HeadLimits, StoreFolder: cfg.StoreFolder, StateFolder: cfg.StateFolder, Measure: cfg.HeadSpace, Logger: c.log,
	})
	c.inventory = inventory.New(c.head, c.ledger)
	c.scout = newScout(c)
	c.forPeers = peer.Config{
		Head: c.head, Hint: cfg.Advice.Hint, Transfers: c.moving, Logger: c.log, Group: &c.group, Room: c.room.Wait, NeedsPerson: cfg.NeedsPerson, NewAgent: cfg.NewAgent,
		Limits: peer.Limits{
			Streams: c.limits.Streams, BatchBytes: c.limits.BatchBytes, BatchItems: c.limits.BatchItems,
			PollInterval: c.limits.PollInterval, ContactTimeout: c.limits.ContactTimeout,
			RetryMin: c.limits.RetryMin, RetryMax: c.limits.RetryMax, AnswerTimeout: c.limits.AnswerTimeout,
		},
	}
	var err error
	if c.logs, err = buildlog.OpenFolder(cfg.LogDir, c.limits.MaxLog); err != nil {
		return nil, err
	}
	c.forDeliveries = delivery.Config{
		Logs: c.logs, Logger: c.log, LongOrders: make(chan struct{}, delivery.MaxLongOrders), Farm: c.forHooks(), Alive: func(ctx context.Context) error { return c.do(ctx, func(*loop) {}) },
	}
	c.forAttempts = remote.Config{
		Head: c.head, Logs: c.logs, Inventory: c.inventory, Reserve: c.room.Reserve, Logger: c.log, Limits: remote.Limits{
			AnswerTimeout: c.limits.AnswerTimeout, MachineLostAfter: c.limits.MachineLostAfter, SendPatience: c.limits.SendPatience,
		},
	}
	if c.eventHooks, err = newEventHooks(c); err != nil {
		return nil, err
	}
	c.outlook = outlook.New(c.now, c.snapshot)
	c.blocking = blocking.New(c.now, c.outlook.Ask, c.ledger)
	c.pruner = newPruner(c)
	c.intake = newIntake(c)
	c.recorder = newRecorder(c)
	c.file = newMachinesFile(c)
	c.first = newLoop(c)
	if err := c.first.openMachines(); err != nil {
		return nil, err
	}
	return c, nil
}

// now is the time by which everything is decided.
func (c *Coordinator) now() time.Time {
	if c.cfg.Now != nil {
		return c.cfg.Now()
	}
	return time.Now()
}

// Version returns the configuration's.
func (c *Coordinator) Version() string { return c.cfg.Version }

// StoreDir returns the folder of the head's store.
func (c *Coordinator) StoreDir() store.Dir { return c.head.Dir() }

// Ledger returns the configuration's.
func (c *Coordinator) Ledger() *ledger.Ledger { return c.ledger }

// AsError finds the answer for an error.
func AsError(err error) *api.Error { return reply.Of(err) }

// errStopping is the cause of the end of everything that Run started.
const errStopping = reply.Stopping

// Run coordinates until ctx ends, and then returns nil; builds go on on their machines. It
// returns an error if the ledger cannot be used. Call it once.
func (c *Coordinator) Run(ctx context.Context) error {
	runCtx, cancel := context.WithCancelCause(ctx)
	c.ctx = runCtx
	l := c.first
	c.first = nil
	err := l.recover(runCtx)
	if err == nil {
		err = c.eventHooks.Start(runCtx)
	}
	if err == nil {
		close(c.recovered)
		l.start()
		err = l.run()
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	c.mail.Close()
	cancel(errStopping)
	l.closeLinks()
	c.eventHooks.Wait()
	c.group.Wait()
	l.flush() //nolint:contextcheck // ctx is over; the last write has its own bound
	return err
}
