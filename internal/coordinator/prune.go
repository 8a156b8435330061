package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/internal/quantity"
	"lighter/store"
)

// How builds leave the ledger in time.
const (
	// firstPrune is when that is looked at first, after the start.
	firstPrune = 5 * time.Minute
	// pruneInterval is the time between two looks.
	pruneInterval = 6 * time.Hour
	// pruneProgress is the time between two lines in the log about one prune.
	pruneProgress = 10 * time.Second
	// logsPatience bounds how long the logs of one batch of builds may take.
	logsPatience = time.Minute
	// maxPruneAge bounds how old builds can be asked to be.
	maxPruneAge = api.MaxTime
)

// pruning keeps apart who removes builds from the ledger and who changes them. Builds
// that are not final never leave it, so that is about those who make final ones go on.
type pruning struct {
	one     sync.Mutex // held by who prunes
	changes *semaphore.Weighted
}

// allChanges is how many may change final builds at the same time.
const allChanges = 1 << 20

func newPruning() *pruning { return &pruning{changes: semaphore.NewWeighted(allChanges)} }

// hold returns when no build is being removed from the ledger, and none is before release
// is called: when what was to be changed of final builds is durable.
func (p *pruning) hold(ctx context.Context) (release func(), err error) {
	if p.changes.Acquire(ctx, 1) != nil {
		return nil, context.Cause(ctx)
	}
	return func() { p.changes.Release(1) }, nil
}

// alone calls f while nobody changes final builds.
func (p *pruning) alone(ctx context.Context, f func() error) error {
	if p.changes.Acquire(ctx, allChanges) != nil {
		return context.Cause(ctx)
	}
	defer p.changes.Release(allChanges)
	return f()
}

func checkPrune(p *api.Prune) error {
	if p.OlderThan <= 0 || p.OlderThan > maxPruneAge {
		return api.BadRequest("olderThan %v: want how many seconds ago builds must have ended, up to %v", float64(p.OlderThan), float64(maxPruneAge))
	}
	if len(p.States) > len(api.States()) {
		return api.BadRequest("%d states, there are %v", len(p.States), api.States())
	}
	for _, s := range p.States {
		if !slices.Contains(api.States(), s) {
			return api.BadRequest("state %q: there is no such state", s)
		}
		if !s.Final() {
			return api.BadRequest("state %s: only builds that are final can leave the ledger", s)
		}
	}
	return nil
}

// Prune moves old builds out of the ledger, into a file. One that a machine may know
// stays: a machine's builds are told from those of other coordinators by the ledger, so
// it could never be made to forget them. There is one prune at a time; a second one is
// refused.
func (c *Coordinator) Prune(ctx context.Context, req *api.Prune) (*api.Pruned, error) {
	if err := checkPrune(req); err != nil {
		return nil, err
	}
	if !c.pruning.one.TryLock() {
		return nil, errPruning
	}
	defer c.pruning.one.Unlock()
	ctx, cancel := c.UntilStopped(ctx)
	defer cancel()
	if err := c.finishAttics(); err != nil {
		return nil, fmt.Errorf("prune: %w", err)
	}
	p, err := c.newPrune(ctx, req)
	if err != nil {
		return nil, err
	}
	result, err := p.run(ctx)
	if errors.Is(err, unix.ENOSPC) {
		err = &api.Error{Status: http.StatusInsufficientStorage, Code: api.CodeDiskFull, Message: err.Error()}
	}
	return result, err
}

var errPruning = &api.Error{Status: http.StatusConflict, Code: api.CodeConflict, Message: "builds are being moved out of the ledger already"}

// finishAttics gives attics that a crash interrupted their names.
func (c *Coordinator) finishAttics() error {
	if c.cfg.StateFolder == "" {
		return errors.New("there is no state folder for the archive")
	}
	names, err := finishAttics(filepath.Join(c.cfg.StateFolder, atticFolder))
	for _, name := range names {
		c.log.Info("an archive of builds was finished that an earlier coordinator had begun", "file", name)
	}
	return err
}

// pruneRun is one prune.
type pruneRun struct {
	c     *Coordinator
	req   *api.Prune
	began time.Time
	known map[string]bool // builds that machines knew after that
	away  map[string]bool // machines that can't say what they know

	attic  attic
	batch  []leaving
	result api.Pruned
	kept   int // builds that stay because of machines
	told   time.Time
	logErr error // the first one about logs
}

// leaving is what is left to be known of a build that is archived.
type leaving struct {
	derivation store.Path
	logs       []AttemptLog // there may be: up to these attempts
}

func (c *Coordinator) newPrune(ctx context.Context, req *api.Prune) (*pruneRun, error) {
	p := &pruneRun{
		c: c, req: req, began: time.Now(), told: time.Now(),
		attic: attic{dir: filepath.Join(c.cfg.StateFolder, atticFolder), now: time.Now},
	}
	return p, p.askMachines(ctx)
}

// askMachines finds out what machines know.
func (p *pruneRun) askMachines(ctx context.Context) error {
	p.known, p.away = make(map[string]bool), make(map[string]bool)
	var up []*machine
	if err := p.c.do(ctx, func(l *loop) {
		for _, m := range l.machines {
			if m.state == api.MachineUp {
				up = append(up, m)
			} else {
				p.away[m.Name] = true
			}
		}
	}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.c.limits.ContactTimeout)
	defer cancel()
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, m := range up {
		group.Go(func() {
			err := m.contain("a list of its builds", func() error {
				_, err := m.client.Builds(ctx, func(id string) (*agentapi.Asked, error) {
					mu.Lock()
					defer mu.Unlock()
					p.known[id] = true
					return nil, nil
				})
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				m.log.Debug("the machine does not say which builds it knows", "err", err)
				p.away[m.Name] = true
			}
		})
	}
	group.Wait()
	return nil
}

// run prunes. What it has archived gets its name also when it fails.
func (p *pruneRun) run(ctx context.Context) (*api.Pruned, error) {
	done, err := p.c.ledger.Prune(ctx, ledger.PruneOptions{
		Before: p.began.Add(-p.req.OlderThan.Duration()), States: p.req.States, DryRun: p.req.DryRun,
		KeepEventsFrom: p.c.hooksSeen() + 1,
		Keep:           p.stays, Sync: p.attic.sync,
		Around: func(remove func() error) error { return p.remove(ctx, remove) },
	}, p.add)
	size, finishErr := p.attic.finish()
	if size > 0 {
		p.result.File, p.result.Bytes = p.attic.name, size
	}
	p.result.Builds, p.result.Events = done.Builds, done.Events
	p.report()
	if err = errors.Join(err, finishErr); err != nil {
		return nil, err
	}
	return &p.result, nil
}

// report logs what was done, be it all or not.
func (p *pruneRun) report() {
	log := p.c.log.With("builds", p.result.Builds, "events", p.result.Events, "logs", p.result.Logs, "kept", p.kept)
	if p.logErr != nil {
		log.Warn("not all logs of builds that left the ledger were removed", "err", p.logErr)
	}
	if p.req.DryRun || p.result.Builds+p.result.Events == 0 {
		log.Debug("looked for old builds in the ledger")
		return
	}
	log.Info("old builds left the ledger", "file", p.result.File, "size", quantity.Bytes(p.result.Bytes), "took", time.Since(p.began).Round(time.Millisecond))
}

// stays reports whether a machine may still know a build.
func (p *pruneRun) stays(b *api.Build, events []api.Event) bool {
	stays := p.known[b.ID] || p.known[b.Shares] || p.away[b.Machine] || p.away[b.OutputsOn] ||
		len(p.away) > 0 && slices.ContainsFunc(events, func(e api.Event) bool { return p.away[e.Machine] })
	switch {
	case stays:
		p.kept++
	case p.req.DryRun && !p.req.KeepLogs:
		for _, l := range p.c.logsOf(b) {
			if l.ID != b.Shares { // that is counted with the build whose id it is
				p.result.Logs += p.c.logs.Count(l.ID, l.Attempt)
			}
		}
	}
	return stays
}

// add archives a build.
func (p *pruneRun) add(b *api.Build, events []api.Event) error {
	p.batch = append(p.batch, leaving{b.Derivation, p.c.logsOf(b)})
	return p.attic.add(b, events)
}

// remove has a batch of archived builds removed, and then their logs.
func (p *pruneRun) remove(ctx context.Context, remove func() error) error {
	batch := p.batch
	p.batch = p.batch[:0]
	err := p.c.pruning.alone(ctx, func() error {
		// The ledger leaves alone what changed. It must have heard of that.
		if err := p.c.durable(ctx, func(l *loop) error { return nil }); err != nil {
			return err
		}
		return remove()
	})
	if err != nil {
		return err
	}
	p.result.Builds += len(batch) // nearly; the ledger knows better in the end
	if time.Since(p.told) >= pruneProgress {
		p.told = time.Now()
		p.c.log.Info("old builds are leaving the ledger", "builds", p.result.Builds, "file", p.attic.name+partSuffix)
	}
	if p.req.KeepLogs {
		return nil
	}
	// Nobody would find them again, so this goes on where all else ends.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logsPatience)
	defer cancel()
	return p.removeLogs(ctx, batch)
}

// removeLogs removes the logs of builds that have left the ledger, but for those that
// are those of other builds too: of the same derivation, that is.
func (p *pruneRun) removeLogs(ctx context.Context, batch []leaving) error {
	used := make(map[store.Path]map[string]bool)
	for _, l := range batch {
		if used[l.derivation] == nil {
			ids, err := p.idsOf(ctx, l.derivation)
			if err != nil {
				return err
			}
			used[l.derivation] = ids
		}
		shared := used[l.derivation]
		for _, l := range l.logs {
			if shared[l.ID] {
				continue
			}
			n, err := p.c.logs.RemoveAll(l.ID, l.Attempt)
			p.result.Logs += n
			if p.logErr == nil {
				p.logErr = err
			}
		}
	}
	return nil
}

// logsOf returns the last logs that there may be of a build: those of earlier attempts have
// the same id.
func (c *Coordinator) logsOf(b *api.Build) []AttemptLog {
	list := []AttemptLog{{b.ID, b.Attempt}}
	if b.Shares != "" {
		list = append(list, AttemptLog{b.Shares, b.Attempt})
	}
	if b.Check > 0 {
		for _, id := range c.comparisons(b) {
			list = append(list, AttemptLog{id, 1})
		}
	}
	return list
}

// idsOf returns the ids under which there may be logs of builds of a derivation.
func (p *pruneRun) idsOf(ctx context.Context, drv store.Path) (map[string]bool, error) {
	ids := make(map[string]bool)
	for b, err := range p.c.ledger.Builds(ctx, ledger.Filter{Filter: api.Filter{Derivation: drv}}) {
		if err != nil {
			return nil, err
		}
		ids[b.ID], ids[b.Shares] = true, true
	}
	return ids, nil
}

// pruneInTime finishes what a crash left of attics, and then prunes as the
// configuration says.
func (c *Coordinator) pruneInTime(ctx context.Context) {
	if c.cfg.StateFolder != "" && c.pruning.one.TryLock() {
		if err := c.finishAttics(); err != nil {
			c.log.Warn("an archive of builds was not finished; that is tried again before the next one", "err", err)
		}
		c.pruning.one.Unlock()
	}
	if c.cfg.PruneAfter > 0 {
		c.pruneEvery(ctx, firstPrune, pruneInterval)
	}
}

// pruneEvery prunes after a time, and then again and again.
func (c *Coordinator) pruneEvery(ctx context.Context, first, interval time.Duration) {
	req := &api.Prune{OlderThan: api.Seconds(c.cfg.PruneAfter.Seconds()), KeepLogs: c.cfg.PruneKeepLogs}
	for wait := first; ; wait = interval {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if _, err := c.Prune(ctx, req); err != nil && ctx.Err() == nil && !errors.Is(err, errPruning) {
			c.log.Warn("old builds stay in the ledger; it is tried again later", "after", interval, "err", err)
		}
	}
}
