package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/store"
)

// build is one build that the agent knows.
type build struct {
	agent *Agent
	id    string
	dir   string

	// put serialises PUT and DELETE of this build; it is taken before mu.
	put sync.Mutex

	mu     sync.Mutex
	req    agentapi.BuildRequest // guarded by mu; Text is dropped when it is finished
	status agentapi.BuildStatus  // guarded by mu
	lease  store.Lease           // guarded by mu; nil once released
	log    *buildLog
	cancel context.CancelCauseFunc // guarded by mu; nil unless it runs
	done   chan struct{}           // closed when it is finished
	gone   bool                    // guarded by mu; deleted
}

// errCanceled is why a build ends that was deleted.
var errCanceled = errors.New("canceled")

// record is what is kept on disk of a finished build.
type record struct {
	Status  agentapi.BuildStatus `json:"status"`
	Outputs []store.Path         `json:"outputs"`
}

func (b *build) recordFile() string { return filepath.Join(b.dir, "status.json") }

func (b *build) snapshot() agentapi.BuildStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	if b.log != nil {
		s.LogSize = b.log.Size()
	}
	return s
}

// Put has a build rooted, and started if it lacks nothing.
func (a *Agent) Put(ctx context.Context, id string, req *agentapi.BuildRequest) (*agentapi.BuildStatus, error) {
	for {
		b, err := a.claim(ctx, id, req)
		if err != nil {
			return nil, err
		}
		status, err := b.proceed(ctx, req)
		if errors.Is(err, errGone) {
			continue // deleted between the two
		}
		return status, err
	}
}

// errGone says that a build was deleted meanwhile.
var errGone = errors.New("deleted meanwhile")

// claim returns the build with that id and attempt; older attempts make room.
func (a *Agent) claim(ctx context.Context, id string, req *agentapi.BuildRequest) (*build, error) {
	for {
		a.mu.Lock()
		if a.closing {
			a.mu.Unlock()
			return nil, &agentapi.Error{Status: http.StatusServiceUnavailable, Message: "the agent is stopping"}
		}
		b := a.builds[id]
		if b == nil {
			if len(a.builds) >= maxBuilds {
				a.mu.Unlock()
				return nil, &agentapi.Error{Status: http.StatusServiceUnavailable, Message: fmt.Sprintf("the agent knows %d builds, and takes no more", maxBuilds)}
			}
			b = a.newBuild(id, req)
			a.builds[id] = b
			a.mu.Unlock()
			return b, nil
		}
		a.mu.Unlock()

		known := b.snapshot()
		switch {
		case req.Attempt < known.Attempt:
			return nil, &agentapi.Error{Status: http.StatusConflict, Code: agentapi.CodeOldAttempt, Message: fmt.Sprintf("build %s: attempt %d is older than %d", id, req.Attempt, known.Attempt)}
		case req.Attempt > known.Attempt:
			if err := a.Delete(ctx, id); err != nil {
				return nil, err
			}
		case req.Derivation != known.Derivation:
			return nil, badRequest("build %s is of %s, not of %s", id, known.Derivation, req.Derivation)
		default:
			return b, nil
		}
	}
}

func (a *Agent) newBuild(id string, req *agentapi.BuildRequest) *build {
	return &build{
		agent: a, id: id, dir: filepath.Join(a.buildsDir(), id), req: *req, done: make(chan struct{}),
		status: agentapi.BuildStatus{ID: id, Attempt: req.Attempt, Derivation: req.Derivation, State: agentapi.Rooted},
	}
}

// proceed roots what the build needs, then asks what is there, and starts it if
// nothing is missing. Roots come first: what is found valid afterwards stays so.
func (b *build) proceed(ctx context.Context, req *agentapi.BuildRequest) (*agentapi.BuildStatus, error) {
	b.put.Lock()
	defer b.put.Unlock()
	b.mu.Lock()
	state, gone, lease := b.status.State, b.gone, b.lease
	b.mu.Unlock()
	if gone {
		return nil, errGone
	}
	if state != agentapi.Rooted {
		s := b.snapshot()
		return &s, nil
	}
	if lease == nil {
		if err := b.root(ctx, req); err != nil {
			b.agent.forget(b)
			return nil, err
		}
	}
	missing, err := b.missing(ctx, req)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.status.Missing = missing
	b.mu.Unlock()
	if len(missing) == 0 {
		if err := b.start(); err != nil {
			return nil, err
		}
	}
	s := b.snapshot()
	return &s, nil
}

func (b *build) root(ctx context.Context, req *agentapi.BuildRequest) error {
	lease, err := b.agent.opts.Store.Lease(ctx, "build "+b.id)
	if err != nil {
		return err
	}
	paths := slices.Concat(req.Outputs, req.Inputs, []store.Path{req.Derivation})
	if err := lease.Add(ctx, paths...); err != nil {
		return errors.Join(err, lease.Release())
	}
	b.mu.Lock()
	b.lease = lease
	b.mu.Unlock()
	return nil
}

// missing returns what must be sent. Where the outputs are there already, that is nothing.
func (b *build) missing(ctx context.Context, req *agentapi.BuildRequest) ([]store.Path, error) {
	s := b.agent.opts.Store
	if len(req.Outputs) > 0 {
		lacking, err := store.Missing(ctx, s, req.Outputs)
		if err != nil || len(lacking) == 0 {
			return nil, err
		}
	}
	return store.Missing(ctx, s, req.Inputs)
}

// start runs the build in a goroutine that the agent waits for.
func (b *build) start() error {
	a := b.agent
	// What an older attempt left must not be taken for this one's.
	if err := os.RemoveAll(b.dir); err != nil {
		return fmt.Errorf("build %s: %w", b.id, err)
	}
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		return fmt.Errorf("build %s: %w", b.id, err)
	}
	log, err := createLog(filepath.Join(b.dir, "log"), a.opts.MaxLog)
	if err != nil {
		return fmt.Errorf("build %s: %w", b.id, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		return errors.Join(&agentapi.Error{Status: http.StatusServiceUnavailable, Message: "the agent is stopping"}, log.Close())
	}
	ctx, cancel := context.WithCancelCause(a.ctx)
	b.mu.Lock()
	b.log, b.cancel = log, cancel
	b.status.State = agentapi.Running
	b.status.Started = time.Now()
	req := b.req
	b.mu.Unlock()
	a.wg.Go(func() {
		defer cancel(nil)
		b.run(ctx, &req)
	})
	return nil
}

func (b *build) run(ctx context.Context, req *agentapi.BuildRequest) {
	a := b.agent
	logger := a.log.With("build", b.id, "attempt", req.Attempt)
	logger.Debug("building", "derivation", req.Derivation)
	result, err := a.opts.Store.Build(ctx, &store.BuildRequest{
		Derivation: req.Derivation, Text: req.Text, Inputs: req.Inputs,
		Timeout: req.Timeout.Duration(), MaxSilentTime: req.MaxSilentTime.Duration(),
		Cores: req.Cores, KeepFailed: req.KeepFailed, Log: b.log,
		SandboxPaths: slices.Concat(a.opts.SandboxPaths, req.SandboxPaths),
	})
	if closeErr := b.log.Close(); closeErr != nil && err == nil {
		logger.Warn("the log is incomplete", "error", closeErr)
	}
	b.finish(ctx, result, err)
	logger.Debug("built", "error", err)
}

// finish records the outcome: on disk first, so that whoever is told can rely on it.
func (b *build) finish(ctx context.Context, result *store.BuildResult, err error) {
	b.mu.Lock()
	status := b.status
	status.Stopped = time.Now()
	status.LogSize = b.log.Size()
	switch {
	case err == nil:
		status.State = agentapi.Succeeded
		status.Outputs = result.Outputs
		status.AlreadyValid = result.AlreadyValid
		if !result.Started.IsZero() {
			status.Started, status.Stopped = result.Started, result.Stopped
		}
	case errors.Is(context.Cause(ctx), errCanceled):
		status.State = agentapi.Canceled
	default:
		status.State = agentapi.Failed
		status.Failure = b.agent.failure(err)
	}
	req := b.req
	b.mu.Unlock()

	if err := b.write(&record{Status: status, Outputs: req.Outputs}); err != nil {
		b.agent.log.Warn("the outcome of a build is not kept", "build", b.id, "error", err)
	}
	b.mu.Lock()
	b.status = status
	b.req.Text = nil
	b.mu.Unlock()
	close(b.done)
}

// lowDisk is how much free disk makes the machine, not the derivation, the one to
// blame for a failed build (guix offload's rule).
const lowDisk = 10 << 20

func (a *Agent) failure(err error) *api.Failure {
	f := &api.Failure{Culprit: api.CulpritMachine, Phase: api.Building, Message: err.Error()}
	var failed *store.BuildError
	if !errors.As(err, &failed) {
		return f
	}
	f.Message = failed.Message
	f.Kind, f.ExitCode, f.KeptIn = string(failed.Failure), failed.ExitCode, failed.KeptIn
	if free, err := freeDisk(a.opts.DiskDir); err == nil && free < lowDisk || errors.Is(err, syscall.ENOSPC) {
		f.Message = "the disk is full; " + f.Message
		return f
	}
	f.Culprit = api.CulpritDerivation
	return f
}

// write publishes the record by rename. It isn't synced: after a crash of the machine
// the build is unknown and runs again, and finds its outputs valid if they are.
func (b *build) write(r *record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temporary := b.recordFile() + ".new"
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, b.recordFile())
}

// release gives the roots back. It may be called twice.
func (b *build) release() error {
	b.mu.Lock()
	lease := b.lease
	b.lease = nil
	b.mu.Unlock()
	if lease == nil {
		return nil
	}
	return lease.Release()
}

// Delete cancels a build if it runs, waits until it has ended, and forgets it.
func (a *Agent) Delete(ctx context.Context, id string) error {
	b, err := a.find(id)
	if err != nil {
		return err
	}
	b.put.Lock()
	defer b.put.Unlock()
	b.mu.Lock()
	cancel, gone := b.cancel, b.gone
	b.mu.Unlock()
	if gone {
		return unknownBuild(id)
	}
	if cancel != nil {
		cancel(errCanceled)
		select {
		case <-b.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	a.forget(b)
	return errors.Join(b.release(), os.RemoveAll(b.dir))
}

// forget takes the build out of the agent's memory.
func (a *Agent) forget(b *build) {
	b.mu.Lock()
	b.gone = true
	b.mu.Unlock()
	a.mu.Lock()
	if a.builds[b.id] == b {
		delete(a.builds, b.id)
	}
	a.mu.Unlock()
}

// dropOld forgets outcomes that nobody fetched for too long, and roots of builds that
// were never started.
func (a *Agent) dropOld(now time.Time) {
	for _, b := range a.all() {
		s := b.snapshot()
		if s.Finished() && now.Sub(s.Stopped) > a.opts.KeepFor {
			a.log.Info("nobody asked for the outcome of a build", "build", b.id, "stopped", s.Stopped)
			if err := a.Delete(a.ctx, b.id); err != nil {
				a.log.Warn("forget a build", "build", b.id, "error", err)
			}
		}
	}
}

// load reads the outcomes that an earlier agent left, and roots their outputs again.
// Outputs that were collected meanwhile make the build unknown.
func (a *Agent) load() error {
	entries, err := os.ReadDir(a.buildsDir())
	if err != nil {
		return fmt.Errorf("agent's state: %w", err)
	}
	for _, entry := range entries {
		if err := a.loadBuild(entry.Name()); err != nil {
			a.log.Debug("a build of an earlier agent is dropped", "build", entry.Name(), "reason", err)
			if err := os.RemoveAll(filepath.Join(a.buildsDir(), entry.Name())); err != nil {
				return fmt.Errorf("agent's state: %w", err)
			}
		}
	}
	return nil
}

func (a *Agent) loadBuild(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	b := &build{agent: a, id: id, dir: filepath.Join(a.buildsDir(), id), done: make(chan struct{})}
	close(b.done)
	text, err := os.ReadFile(b.recordFile())
	if err != nil {
		return err
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	if r.Status.ID != id || !r.Status.Finished() {
		return fmt.Errorf("its record is of another build, or of one that was not finished")
	}
	b.status, b.req.Outputs = r.Status, r.Outputs
	if b.log, err = openLog(filepath.Join(b.dir, "log")); err != nil {
		return err
	}
	if r.Status.State == agentapi.Succeeded {
		if b.lease, err = a.opts.Store.Lease(a.ctx, "build "+id); err != nil {
			return err
		}
		err := b.lease.Add(a.ctx, r.Outputs...)
		var lacking []store.Path
		if err == nil {
			lacking, err = store.Missing(a.ctx, a.opts.Store, r.Outputs)
		}
		if err != nil || len(lacking) > 0 {
			return errors.Join(fmt.Errorf("%d outputs are gone", len(lacking)), err, b.release())
		}
	}
	a.builds[id] = b
	return nil
}
