package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/store"
	"lighter/store/derivation"
)

// entry is what the agent has under one id.
type entry struct {
	id string
	// turn has room for one: who puts something in may change the entry.
	turn chan struct{}
	// attempt is the current one, nil while the first one is made. It is changed
	// by who has the turn, under Agent.mu.
	attempt *attempt

	// Both are under Agent.mu. hurried counts those who wait for the turn to put an end to
	// the attempt; interrupt ends what gets its inputs from substitute servers, nil if
	// nothing does.
	hurried   int
	interrupt context.CancelCauseFunc
}

// enter waits for the turn to change what is under an id, which create makes if there
// is nothing. The caller calls leave in the end.
func (a *Agent) enter(ctx context.Context, id string, create bool) (e *entry, leave func(), err error) {
	for {
		if e, err = a.entry(id, create); err != nil {
			return nil, nil, err
		}
		select {
		case e.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
		if a.holds(e) {
			return e, func() { a.leave(e) }, nil
		}
		<-e.turn // it was deleted in the meantime
	}
}

func (a *Agent) entry(id string, create bool) (*entry, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.entries[id]
	switch {
	case e != nil:
	case !create:
		return nil, unknownBuild(id)
	case a.ending:
		return nil, errEnding
	case len(a.entries) >= a.opts.MaxBuilds:
		return nil, refuse(503, agentapi.CodeTooMany, "build %s: the agent knows %d builds already, and takes no more", id, len(a.entries))
	default:
		e = &entry{id: id, turn: make(chan struct{}, 1)}
		a.entries[id] = e
	}
	return e, nil
}

func (a *Agent) holds(e *entry) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.entries[e.id] == e
}

// leave ends the turn, and the entry if nothing came of it.
func (a *Agent) leave(e *entry) {
	a.mu.Lock()
	if e.attempt == nil {
		a.forgetLocked(e)
	}
	a.mu.Unlock()
	<-e.turn
}

func (a *Agent) forgetLocked(e *entry) {
	if a.entries[e.id] == e {
		delete(a.entries, e.id)
		a.active = time.Now()
	}
}

func (a *Agent) setAttempt(e *entry, at *attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.attempt = at
}

// attempt returns the current attempt at a build.
func (a *Agent) attempt(id string) (*attempt, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.entries[id]; e != nil && e.attempt != nil {
		return e.attempt, nil
	}
	return nil, unknownBuild(id)
}

// list returns the states of all builds of a head, by id.
func (a *Agent) list(head *Head) []agentapi.BuildStatus {
	list := []agentapi.BuildStatus{}
	attempts := a.attempts()
	// Sorting the states, which are large, would be 20 KB more of machine code to upload.
	slices.SortFunc(attempts, func(x, y *attempt) int { return cmp.Compare(x.id, y.id) })
	for _, at := range attempts {
		if own, ok := head.own(at.snapshot()); ok {
			list = append(list, own)
		}
	}
	return list
}

// put does what PUT asks for.
func (a *Agent) put(ctx context.Context, id string, req *agentapi.BuildRequest) (*agentapi.BuildStatus, error) {
	builder, ok := a.opts.Store.(store.Builder)
	if !ok {
		return nil, refuse(501, "", "build %s: the store of this agent cannot build", id)
	}
	drv, err := a.check(req)
	if err != nil {
		return nil, err
	}
	a.warm()
	waited := a.hurry(id, req.Attempt)
	e, leave, err := a.enter(ctx, id, true)
	waited()
	if err != nil {
		return nil, err
	}
	defer leave()
	at := e.attempt
	switch {
	case at == nil:
	case req.Attempt < at.number:
		return nil, refuse(409, agentapi.CodeOldAttempt, "build %s: attempt %d is older than %d, which is here", id, req.Attempt, at.number)
	case req.Attempt > at.number:
		if err := at.stop(ctx, errReplaced); err != nil {
			return nil, err
		}
	case req.Derivation != at.derivation:
		return nil, refuse(409, agentapi.CodeOtherBuild, "build %s: attempt %d is at %s, not at %s", id, req.Attempt, at.derivation, req.Derivation)
	case at.state() != agentapi.Rooted:
		status := at.snapshot()
		return &status, nil
	}
	if at, err = a.rooted(ctx, e, id, req); err != nil {
		return nil, err
	}
	if err := a.proceed(ctx, at, builder, req, drv); err != nil {
		return nil, err
	}
	status := at.snapshot()
	return &status, nil
}

// rooted returns an attempt that protects what the request names. It replaces an older
// one, whose items are let go when those of the new one are safe.
func (a *Agent) rooted(ctx context.Context, e *entry, id string, req *agentapi.BuildRequest) (*attempt, error) {
	old := e.attempt
	at := old
	if at == nil || at.number != req.Attempt {
		at = a.newAttempt(id, req.Attempt, req.Derivation)
	}
	roots := slices.Concat(req.Inputs, []store.Path{req.Derivation}, req.Outputs)
	if err := at.root(ctx, a.opts.Store, roots...); err != nil {
		if at != old {
			at.release()
		}
		return nil, fmt.Errorf("build %s: %w", id, err)
	}
	at.mu.Lock()
	at.asked, at.status.Check = time.Now(), req.Check
	at.mu.Unlock()
	if at != old {
		if old != nil {
			old.discard()
		}
		a.setAttempt(e, at)
	}
	return at, nil
}

// proceed starts a rooted attempt unless inputs are missing, or nothing is to be done.
func (a *Agent) proceed(ctx context.Context, at *attempt, builder store.Builder, req *agentapi.BuildRequest, drv *derivation.Derivation) error {
	if !req.Check {
		outputs, err := a.validOutputs(ctx, drv)
		if err != nil {
			return fmt.Errorf("build %s: %w", at.id, err)
		}
		if outputs != nil {
			return at.succeed(outputs)
		}
	}
	missing, err := store.Missing(ctx, a.opts.Store, a.needed(req))
	if err == nil {
		missing, err = a.substitute(ctx, at, req, missing)
	}
	if err != nil {
		return fmt.Errorf("build %s: %w", at.id, err)
	}
	if len(missing) > 0 {
		at.mu.Lock()
		defer at.mu.Unlock()
		at.status.Missing = missing
		return nil
	}
	return a.start(at, builder, req) //nolint:contextcheck // a build outlives the request
}

// needed returns the items that must be valid for a build to start.
func (a *Agent) needed(req *agentapi.BuildRequest) []store.Path {
	if a.opts.NeedsDerivations || len(req.Text) == 0 {
		if !slices.Contains(req.Inputs, req.Derivation) {
			return append(slices.Clone(req.Inputs), req.Derivation)
		}
	}
	return req.Inputs
}

// validOutputs returns what the store knows of the derivation's outputs, by name, if it
// has them all. For such a build no inputs need to travel.
func (a *Agent) validOutputs(ctx context.Context, drv *derivation.Derivation) (map[string]*store.Info, error) {
	if drv == nil {
		return nil, nil
	}
	paths := make([]store.Path, 0, len(drv.Outputs))
	for _, output := range drv.Outputs {
		paths = append(paths, output.Path)
	}
	known, err := store.Infos(ctx, a.opts.Store, paths)
	if err != nil {
		return nil, err
	}
	infos := make(map[string]*store.Info, len(drv.Outputs))
	for i, output := range drv.Outputs {
		if known[i] == nil {
			return nil, nil
		}
		infos[output.Name] = known[i]
	}
	return infos, nil
}

// succeed finishes an attempt whose outputs are there already.
func (at *attempt) succeed(outputs map[string]*store.Info) error {
	if err := at.begin(nil); err != nil {
		return err
	}
	status := at.snapshot()
	status.State, status.Outputs, status.AlreadyValid = agentapi.Succeeded, outputs, true
	at.finish(status)
	return nil
}

// errEnding makes the connection break, so that the coordinator dials again and thereby
// starts another agent.
var errEnding = errors.New("the agent ends")

// start has the store build.
func (a *Agent) start(at *attempt, builder store.Builder, req *agentapi.BuildRequest) error {
	if err := a.takeSlot(at.id); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(a.ctx)
	if err := at.begin(cancel); err != nil {
		cancel(err)
		a.giveSlot()
		a.group.Done()
		return fmt.Errorf("build %s: %w", at.id, err)
	}
	go func() {
		a.build(ctx, at, builder, storeRequest(req, at))
		cancel(nil)
	}()
	return nil
}

// takeSlot counts a build that is to run. Shutdown waits for it until group.Done.
func (a *Agent) takeSlot(id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ending {
		return errEnding
	}
	if a.running >= a.opts.MaxRunning {
		return refuse(503, agentapi.CodeTooMany, "build %s: %d builds run already, and no more are started", id, a.running)
	}
	a.running++
	a.group.Add(1)
	return nil
}

func (a *Agent) giveSlot() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running--
	a.active = time.Now()
}

// storeRequest translates the request for the store.
func storeRequest(req *agentapi.BuildRequest, at *attempt) *store.BuildRequest {
	r := &store.BuildRequest{
		Derivation: req.Derivation, Inputs: req.Inputs, Cores: req.Cores, KeepFailed: req.KeepFailed, SandboxPaths: req.SandboxPaths,
		Timeout: req.Timeout.Duration(), MaxSilentTime: req.MaxSilentTime.Duration(), Log: at.output,
		Check: req.Check, Made: at.makeOutput, MemoryLimit: req.MemoryLimit, Measured: new(store.Measured),
	}
	if len(req.Text) > 0 {
		r.Text = req.Text
	}
	if r.Inputs == nil {
		r.Inputs = []store.Path{} // none, as opposed to unknown
	}
	return r
}

// build runs in a goroutine of its own, which Agent.group waits for.
func (a *Agent) build(ctx context.Context, at *attempt, builder store.Builder, req *store.BuildRequest) {
	defer a.group.Done()
	at.log.Debug("build", "derivation", req.Derivation)
	kills := a.machine.oomKills()
	result, err := a.guarded(ctx, at, builder, req)
	a.giveSlot() // before the coordinator hears of the end and puts the next one
	status := at.snapshot()
	if *req.Measured != (store.Measured{}) {
		status.Measured = req.Measured
	}
	status = a.outcome(ctx, status, kills, result, err)
	if status.State != agentapi.Succeeded {
		at.removeOutputs()
	}
	if err := at.output.problem(); err != nil && status.Failure != nil {
		status.Failure.Message = shorten(beforeLastLines(status.Failure.Message, fmt.Sprintf("; the rest of its log is not kept (%v)", err)))
	}
	at.finish(status)
	if f := status.Failure; f != nil && f.Culprit == api.CulpritMachine {
		at.log.Warn("build failed for reasons of this machine", "derivation", req.Derivation, "err", f.Message)
		return
	}
	at.log.Debug("build ended", "derivation", req.Derivation, "state", status.State)
}

// guarded keeps a mistake in one build from ending the others.
func (a *Agent) guarded(ctx context.Context, at *attempt, builder store.Builder, req *store.BuildRequest) (result *store.BuildResult, err error) {
	defer func() {
		if p := recover(); p != nil {
			at.log.Error("a build panicked", "panic", p, "stack", string(debug.Stack()))
			result, err = nil, fmt.Errorf("build %s: the agent panicked: %v", req.Derivation, p)
		}
	}()
	result, err = builder.Build(ctx, req)
	if err == nil && result == nil {
		err = errors.New("the store says neither that it built nor why not")
	}
	return result, err
}

// remove does what DELETE asks for.
func (a *Agent) remove(ctx context.Context, id string) error {
	waited := a.hurry(id, math.MaxInt)
	e, leave, err := a.enter(ctx, id, false)
	waited()
	if err != nil {
		return err
	}
	defer leave()
	return a.removeEntry(ctx, e)
}

func (a *Agent) removeEntry(ctx context.Context, e *entry) error {
	if e.attempt == nil {
		return unknownBuild(e.id)
	}
	if err := e.attempt.stop(ctx, errCanceled); err != nil {
		return err
	}
	e.attempt.discard()
	a.setAttempt(e, nil) // so that leave forgets it
	return nil
}

// drop removes an attempt unless it was replaced in the meantime.
func (a *Agent) drop(ctx context.Context, at *attempt) error {
	e, leave, err := a.enter(ctx, at.id, false)
	if err != nil {
		return err
	}
	defer leave()
	if e.attempt != at || at.state() == agentapi.Running {
		return nil
	}
	return a.removeEntry(ctx, e)
}

// load takes over the builds of the agent before this one.
func (a *Agent) load(ctx context.Context) error {
	files, err := os.ReadDir(a.buildFile(""))
	if err != nil {
		return err
	}
	for _, file := range files {
		id, kind := buildOf(file.Name())
		if kind != recordFile {
			continue
		}
		at, err := a.restore(ctx, id)
		if err != nil {
			a.log.Warn("a build of an earlier agent cannot be taken over", "build", id, "err", err)
			continue
		}
		a.entries[at.id] = &entry{id: at.id, turn: make(chan struct{}, 1), attempt: at}
	}
	for _, file := range files {
		id, kind := buildOf(file.Name())
		if e := a.entries[id]; e != nil && e.attempt.has(kind, file.Name()) {
			continue
		}
		if err := removeFile(a.buildFile(file.Name())); err != nil {
			a.log.Warn("a file that belongs to no build was not removed", "err", err)
		}
	}
	return nil
}

// restore returns an earlier agent's build, with its outputs protected again.
func (a *Agent) restore(ctx context.Context, id string) (*attempt, error) {
	status, err := readRecord(a.buildFile(id + recordSuffix))
	if err != nil {
		return nil, err
	}
	if status.ID != id || !validKey(id) || status.Attempt < 1 {
		return nil, fmt.Errorf("its record is of build %q, attempt %d", status.ID, status.Attempt)
	}
	at := a.newAttempt(id, status.Attempt, status.Derivation)
	at.output = openBuildLog(at.output.name, at.log)
	at.asked = time.Now()
	if status.State == agentapi.Succeeded && status.Check {
		if lost := at.lostOutput(status); lost != nil {
			status.State, status.Outputs, status.Failure = agentapi.Failed, nil, machineFailure(lost)
		}
	} else if status.State == agentapi.Succeeded {
		if lost := a.protect(ctx, at, status); lost != nil {
			status.State, status.Outputs, status.Failure = agentapi.Failed, nil, machineFailure(lost)
		}
	}
	if status.Finished() {
		at.status = *status
		return at, nil
	}
	at.log.Warn("a build ended with the agent before this one", "derivation", status.Derivation)
	status.State, status.Failure = agentapi.Failed, machineFailure(errKilled)
	at.finish(*status)
	return at, nil
}

// protect leases the outputs of a build, and returns why they are lost if they are.
func (a *Agent) protect(ctx context.Context, at *attempt, status *agentapi.BuildStatus) error {
	var paths []store.Path
	for name, info := range status.Outputs {
		if info == nil {
			return fmt.Errorf("nothing is known of output %q", name)
		}
		paths = append(paths, info.Path)
	}
	err := at.root(ctx, a.opts.Store, append(paths, at.derivation)...)
	if err != nil {
		return err
	}
	missing, err := store.Missing(ctx, a.opts.Store, paths)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("output %s was built, and deleted before it was fetched", missing[0])
	}
	return err
}
