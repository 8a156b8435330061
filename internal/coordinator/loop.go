package coordinator

import (
	"context"
	"fmt"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/ahead"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/inventory"
	"lighter/internal/coordinator/recorder"
	"lighter/internal/coordinator/reserve"
	"lighter/internal/coordinator/standstill"
	"lighter/internal/coordinator/tally"
	"lighter/internal/coordinator/turns"
	"lighter/internal/ledger"
	"lighter/scheduler"
	"lighter/store"
)

// loop is what belongs to one goroutine, that of Run; others post functions that are given it.
// Its methods, and all functions with a *loop among their arguments, are called only there.
type loop struct {
	*Coordinator
	journal

	items   *inventory.Numbers // of what machines have
	lacking lackedItems        // the build that missing was asked about last
	// described is the memory of schedulerMachines.
	described []scheduler.Machine
	machines  []*machine // in the order of the file, then those that are leaving
	hosts     []*host    // to which they lead
	byName    map[string]*machine
	learnt    map[string]ledger.Machine // what the ledger has of machines, and of earlier ones, by name
	pause     conduct.Pause
	space     api.HeadStatus
	counts    *tally.Counts
	gc        timedGC

	leavingWatched bool // watchLeaving runs

	deliveries map[string]*delivery.Delivery // of build hooks that talk to us, by build id
	tasks      map[store.Path]*task
	builds     map[string]*liveBuild      // that are not final
	finals     map[string][]chan struct{} // closed when the build is final
	attached   map[string]int             // clients that want a build with Attached, by its id
	queue      *scheduler.Queue
	account    *turns.Account   // of who asks
	doubtful   map[*task]bool   // for whom they count must be settled
	byID       map[string]*task // tasks by id, which is the id in queue
	seq        uint64
	slow       map[*host]bool // those behind slow links, when that was last looked at
	placing    bool           // call place before waiting for mail again
	placeAt    time.Time      // or at that time; zero is never
	delayed    map[*task]bool // those whose notBefore is in the future
	coming     ahead.Coming   // what guix-daemon will ask for
	// grace has the hosts that have not said yet, after a start, what they have. Expansion
	// waits for them. It is nil once that time is over.
	grace      map[*host]bool
	static     []scheduler.Machine   // what the machines file says; nil if it must be made again
	farm       reserve.Farm          // the same, for reservations
	changing   bool                  // machinesChanged was posted
	spare      map[store.Path]*spare // during the grace: outputs that machines keep
	standstill standstill.Log
}

func newLoop(c *Coordinator) *loop {
	return &loop{
		Coordinator: c, counts: tally.New(), byName: make(map[string]*machine), items: inventory.NewNumbers(),
		deliveries: make(map[string]*delivery.Delivery), tasks: make(map[store.Path]*task), builds: make(map[string]*liveBuild),
		finals: make(map[string][]chan struct{}), attached: make(map[string]int),
		queue: scheduler.NewQueue(), account: turns.New(c.cfg.Shares), doubtful: make(map[*task]bool), byID: make(map[string]*task),
		delayed: make(map[*task]bool), spare: make(map[store.Path]*spare),
	}
}

// openMachines opens the machines of the configuration.
func (l *loop) openMachines() error {
	for _, m := range l.cfg.Machines {
		if l.byName[m.Name] != nil {
			l.closeLinks()
			return fmt.Errorf("machine %s appears twice", m.Name)
		}
		h, _, err := l.hostFor(&m)
		if err != nil {
			l.closeLinks()
			return err
		}
		machine := l.newMachine(m, h)
		l.machines = append(l.machines, machine)
		l.byName[m.Name] = machine
	}
	l.regroup()
	return nil
}

// start starts what runs as long as the coordinator.
func (l *loop) start() {
	l.group.Go(func() { l.recorder.Run(l.ctx) })
	l.group.Go(func() { l.expand(l.ctx) })
	l.group.Go(func() { l.scout.Run(l.ctx) })
	for _, h := range l.hosts {
		h.start(l.ctx)
	}
	l.group.Go(func() { l.file.Watch(l.ctx, l.limits.WatchInterval) })
	l.group.Go(func() {
		l.room.Watch(l.ctx, func(s api.HeadStatus) { l.post(func(l *loop) { l.headMeasured(s) }) })
	})
	l.group.Go(func() { l.outlook.Run(l.ctx) })
	l.group.Go(func() { l.pruner.Run(l.ctx, l.cfg.PruneAfter, l.cfg.PruneKeepLogs) })
}

// run is the loop.
func (l *loop) run() error {
	tick := time.NewTicker(max(l.limits.IdleAlarm/2, time.Millisecond))
	defer tick.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l.write(l.recorder)
		if !l.placeAt.IsZero() {
			timer.Reset(l.placeAt.Sub(l.now()))
		}
		select {
		case <-l.ctx.Done():
			return nil
		case err := <-l.fatal:
			return err
		case <-l.ledger.Failed():
			return l.ledger.Err()
		case <-l.mail.Ready():
			for _, f := range l.mail.Take() {
				f(l)
			}
		case <-timer.C:
			l.placing, l.placeAt = true, time.Time{}
		case <-tick.C:
			l.read(l.now(), false)
			l.lookForIdleMachines()
			l.offerEarly()
			l.collectWhenDue(l.now())
		}
		if l.placing {
			l.place()
		}
	}
}

// flush writes what the loop and its goroutines still changed to the ledger. Nobody waits for
// those changes.
func (l *loop) flush() {
	l.read(l.now(), true)
	if s := l.account.Save(l.now(), true); s != nil {
		l.change(ledger.Change{Setting: s})
	}
	l.write(l.recorder)
	l.recorder.Flush()
}

// post asks the loop to call f. It never blocks; f is not called if Run is over.
func (c *Coordinator) post(f func(l *loop)) { c.mail.Put(f) }

// do has the loop call f, and waits for that; see [mailbox.Desk.Do].
func (c *Coordinator) do(ctx context.Context, f func(l *loop)) error { return c.mail.Do(ctx, f) }

// durable has the loop call f, and returns when what f changed is in the ledger.
func (c *Coordinator) durable(ctx context.Context, f func(l *loop) error) error {
	done := make(chan error, 1)
	c.post(func(l *loop) {
		if err := f(l); err != nil {
			done <- err
			return
		}
		l.durably(func() { done <- nil })
	})
	return c.mail.Await(ctx, done)
}

// durablyIn has the loop call f, and returns its result once what it changed is durable.
func (c *Coordinator) durablyIn(ctx context.Context, f func(l *loop) []string) ([]string, error) {
	var list []string
	err := c.durable(ctx, func(l *loop) error {
		list = f(l)
		return nil
	})
	if err != nil {
		return nil, err // and the list is the loop's, which may not have come to it
	}
	return list, nil
}

// UntilStopped returns a context that ends with ctx, or when the coordinator stops.
func (c *Coordinator) UntilStopped(ctx context.Context) (context.Context, context.CancelFunc) {
	return c.mail.While(ctx)
}

// stop ends Run with an error.
func (c *Coordinator) stop(err error) {
	select {
	case c.fatal <- err:
	default: // another one is on its way
	}
}

func (l *loop) closeLinks() {
	for _, h := range l.hosts {
		h.peer.Close()
	}
}

func newRecorder(c *Coordinator) *recorder.Recorder {
	return recorder.New(recorder.Options{
		Ledger: c.ledger, Apply: c.cfg.Apply, Logger: c.log, Refused: c.refused, Failed: c.stop,
		Unstalled: func() { c.post(func(l *loop) { l.placing = true }) },
		Durable: func(after []func()) {
			c.post(func(*loop) {
				for _, f := range after {
					f()
				}
			})
		},
	})
}
