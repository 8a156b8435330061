// Package attic moves builds that ended long ago out of the ledger, into files in the folder
// "archive".
//
// Such a file is an attic: a line of JSON for each build, with its events, compressed with
// zstd. A build is removed from the ledger once the attic that has it is on the disk; a crash
// between the two leaves it in both. Nothing reads an attic back.
package attic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"lighter/internal/api"
	"lighter/internal/backoff"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/ledger"
	"lighter/internal/quantity"
	"lighter/store"
)

// How builds leave the ledger by themselves.
const (
	// firstPrune is the time from the start to the first prune.
	firstPrune = 5 * time.Minute
	// pruneInterval is the time between two prunes.
	pruneInterval = 6 * time.Hour
	// progress is the time between two lines in the log about one prune.
	progress = 10 * time.Second
	// logsPatience bounds how long removing the logs of one batch of builds may take.
	logsPatience = time.Minute
)

// Options are what a Pruner works with. All of them are required.
type Options struct {
	Ledger *ledger.Ledger
	Logs   *buildlog.Folder
	Logger *slog.Logger
	Now    func() time.Time
	// StateFolder is where the folder of attics is. Without it nothing leaves the ledger.
	StateFolder string
	// KnownToMachines returns the builds that machines know, by id, and the names of the
	// machines that can't say what they know.
	KnownToMachines func(context.Context) (builds, away map[string]bool, err error)
	// LogsOf returns the last logs that a build may have: those of earlier attempts have the
	// same ids.
	LogsOf func(*api.Build) []buildlog.Name
	// HooksSeen returns the number of the last event that no event hook needs any longer, nor
	// anything before it.
	HooksSeen func() uint64
	// Flush returns once all changes made before the call are in the ledger.
	Flush func(context.Context) error
}

// Pruner moves builds out of a ledger, never while they change. Builds that are not final never
// leave, so it must know only of changes that make final ones go on: see Hold.
type Pruner struct {
	Options

	one     sync.Mutex // held by whoever prunes
	first   sync.Mutex // held while Run finishes what a crash left; then one is too
	changes *semaphore.Weighted
}

// allChanges is how many callers may change final builds at the same time.
const allChanges = 1 << 20

// New returns a Pruner that has not started anything.
func New(opts Options) *Pruner {
	return &Pruner{Options: opts, changes: semaphore.NewWeighted(allChanges)}
}

// Hold returns when no build is being removed from the ledger. None is until release is called,
// which is to be when the caller's changes to final builds are durable.
func (p *Pruner) Hold(ctx context.Context) (release func(), err error) {
	if p.changes.Acquire(ctx, 1) != nil {
		return nil, context.Cause(ctx)
	}
	return func() { p.changes.Release(1) }, nil
}

// alone calls f while nobody changes final builds.
func (p *Pruner) alone(ctx context.Context, f func() error) error {
	if p.changes.Acquire(ctx, allChanges) != nil {
		return context.Cause(ctx)
	}
	defer p.changes.Release(allChanges)
	return f()
}

// Prune moves old builds out of the ledger into an attic. One that a machine may know stays:
// only the ledger tells a machine's builds from those of other coordinators, so the machine
// could never be made to forget it. There is one prune at a time; a second one is refused.
func (p *Pruner) Prune(ctx context.Context, req *api.Prune) (*api.Pruned, error) {
	if err := api.CheckPrune(req); err != nil {
		return nil, err
	}
	p.first.Lock()
	alone := p.one.TryLock()
	p.first.Unlock()
	if !alone {
		return nil, errPruning
	}
	defer p.one.Unlock()
	if err := p.finishAll(); err != nil {
		return nil, fmt.Errorf("prune: %w", err)
	}
	r, err := p.newRun(ctx, req)
	if err != nil {
		return nil, err
	}
	result, err := r.prune(ctx)
	if errors.Is(err, unix.ENOSPC) {
		err = &api.Error{Status: http.StatusInsufficientStorage, Code: api.CodeDiskFull, Message: err.Error()}
	}
	return result, err
}

var errPruning = &api.Error{Status: http.StatusConflict, Code: api.CodeConflict, Message: "builds are already being moved out of the ledger"}

// finishAll gives attics that a crash left unfinished their names.
func (p *Pruner) finishAll() error {
	if p.StateFolder == "" {
		return errors.New("there is no state folder for attics")
	}
	names, err := finishAll(filepath.Join(p.StateFolder, folder))
	for _, name := range names {
		p.Logger.Info("an attic that an earlier coordinator had begun was finished", "file", name)
	}
	return err
}

// run is one prune.
type run struct {
	*Pruner
	req   *api.Prune
	began time.Time
	known map[string]bool // builds that machines knew after it began
	away  map[string]bool // machines that can't say what they know

	file   writer
	batch  []leaving
	result api.Pruned
	kept   int       // builds that stay because machines may know them
	told   time.Time // when progress was last logged
	logErr error     // the first error about logs
}

// leaving is what is still needed of a build that an attic has.
type leaving struct {
	derivation store.Path
	logs       []buildlog.Name // that may exist: up to these attempts
}

func (p *Pruner) newRun(ctx context.Context, req *api.Prune) (r *run, err error) {
	r = &run{
		Pruner: p, req: req, began: p.Now(), told: p.Now(),
		file: writer{dir: filepath.Join(p.StateFolder, folder), now: p.Now},
	}
	r.known, r.away, err = p.KnownToMachines(ctx)
	return r, err
}

// prune prunes. If it fails, the attic with what it has written gets its name all the same.
func (r *run) prune(ctx context.Context) (*api.Pruned, error) {
	done, err := r.Ledger.Prune(ctx, ledger.PruneOptions{
		Before: r.began.Add(-r.req.OlderThan.Duration()), States: r.req.States, DryRun: r.req.DryRun,
		KeepEventsFrom: r.HooksSeen() + 1,
		Keep:           r.stays, Sync: r.file.sync,
		Around: func(remove func() error) error { return r.remove(ctx, remove) },
	}, r.add)
	size, finishErr := r.file.finish()
	if size > 0 {
		r.result.File, r.result.Bytes = r.file.name, size
	}
	r.result.Builds, r.result.Events = done.Builds, done.Events
	r.report()
	if err = errors.Join(err, finishErr); err != nil {
		return nil, err
	}
	return &r.result, nil
}

// report logs what was done, complete or not.
func (r *run) report() {
	log := r.Logger.With("builds", r.result.Builds, "events", r.result.Events, "logs", r.result.Logs, "kept", r.kept)
	if r.logErr != nil {
		log.Warn("not all logs of builds that left the ledger were removed", "err", r.logErr)
	}
	if r.req.DryRun || r.result.Builds+r.result.Events == 0 {
		log.Debug("looked for old builds in the ledger")
		return
	}
	log.Info("old builds left the ledger", "file", r.result.File, "size", quantity.Bytes(r.result.Bytes), "took", r.Now().Sub(r.began).Round(time.Millisecond))
}

// stays reports whether a machine may still know a build.
func (r *run) stays(b *api.Build, events []api.Event) bool {
	stays := r.known[b.ID] || r.known[b.Shares] || r.away[b.Machine] || r.away[b.OutputsOn] ||
		len(r.away) > 0 && slices.ContainsFunc(events, func(e api.Event) bool { return r.away[e.Machine] })
	switch {
	case stays:
		r.kept++
	case r.req.DryRun && !r.req.KeepLogs:
		for _, l := range r.LogsOf(b) {
			if l.ID != b.Shares { // those are counted with the build whose id it is
				r.result.Logs += r.Logs.Count(l.ID, l.Attempt)
			}
		}
	}
	return stays
}

// add writes a build into the attic.
func (r *run) add(b *api.Build, events []api.Event) error {
	r.batch = append(r.batch, leaving{b.Derivation, r.LogsOf(b)})
	return r.file.add(b, events)
}

// remove has a batch of builds that the attic has removed from the ledger, and then their logs.
func (r *run) remove(ctx context.Context, remove func() error) error {
	batch := r.batch
	r.batch = r.batch[:0]
	err := r.alone(ctx, func() error {
		// The ledger leaves builds that have changed alone. It must have heard of the changes.
		if err := r.Flush(ctx); err != nil {
			return err
		}
		return remove()
	})
	if err != nil {
		return err
	}
	r.result.Builds += len(batch) // nearly; the ledger knows better in the end
	if r.Now().Sub(r.told) >= progress {
		r.told = r.Now()
		r.Logger.Info("old builds are leaving the ledger", "builds", r.result.Builds, "file", r.file.name+partSuffix)
	}
	if r.req.KeepLogs {
		return nil
	}
	// Nobody would find the logs again, so this goes on when all else ends.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logsPatience)
	defer cancel()
	return r.removeLogs(ctx, batch)
}

// removeLogs removes the logs of builds that have left the ledger, except those that they share
// with other builds of the same derivation.
func (r *run) removeLogs(ctx context.Context, batch []leaving) error {
	used := make(map[store.Path]map[string]bool)
	for _, l := range batch {
		if used[l.derivation] == nil {
			ids, err := r.idsOf(ctx, l.derivation)
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
			n, err := r.Logs.RemoveAll(l.ID, l.Attempt)
			r.result.Logs += n
			if r.logErr == nil {
				r.logErr = err
			}
		}
	}
	return nil
}

// idsOf returns the ids under which builds of a derivation may have logs.
func (r *run) idsOf(ctx context.Context, drv store.Path) (map[string]bool, error) {
	ids := make(map[string]bool)
	for b, err := range r.Ledger.Builds(ctx, ledger.Filter{Filter: api.Filter{Derivation: drv}}) {
		if err != nil {
			return nil, err
		}
		ids[b.ID], ids[b.Shares] = true, true
	}
	return ids, nil
}

// Run finishes attics that a crash left unfinished. Then, until ctx ends, it prunes builds that
// have been final for some time, now and then, and removes their logs unless keepLogs is set. If
// after is 0 it prunes nothing.
func (p *Pruner) Run(ctx context.Context, after time.Duration, keepLogs bool) {
	if p.StateFolder != "" {
		p.finishFirst()
	}
	if after > 0 {
		p.pruneEvery(ctx, firstPrune, pruneInterval, &api.Prune{OlderThan: api.Seconds(after.Seconds()), KeepLogs: keepLogs})
	}
}

// finishFirst calls finishAll, unless somebody prunes, who has done that.
func (p *Pruner) finishFirst() {
	p.first.Lock()
	defer p.first.Unlock()
	if !p.one.TryLock() {
		return
	}
	defer p.one.Unlock()
	if err := p.finishAll(); err != nil {
		p.Logger.Warn("an attic was not finished; that is tried again before the next one", "err", err)
	}
}

// pruneEvery prunes after a first wait, and then at each interval.
func (p *Pruner) pruneEvery(ctx context.Context, first, interval time.Duration, req *api.Prune) {
	for wait := first; backoff.Wait(ctx, wait) == nil; wait = interval {
		if _, err := p.Prune(ctx, req); err != nil && ctx.Err() == nil && !errors.Is(err, errPruning) {
			p.Logger.Warn("old builds stay in the ledger; moving them out is tried again later", "after", interval, "err", err)
		}
	}
}
