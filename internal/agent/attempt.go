package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/disk"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/store"
)

// attempt is one attempt at a build.
type attempt struct {
	id         string
	number     int
	derivation store.Path
	log        *slog.Logger
	output     *buildLog
	record     record

	madePrefix string // of the names of files with what a check makes

	// lease belongs to who has the turn of the entry.
	lease store.Lease

	mu     sync.Mutex // owns all below
	status agentapi.BuildStatus
	asked  time.Time // when it was put last
	// cancel ends the running build, whose end closes over. Nil if it was not started.
	cancel context.CancelCauseFunc
	over   chan struct{}
	// outputs are the names of those that a check has begun to make.
	outputs map[string]bool
}

func (a *Agent) newAttempt(id string, number int, derivation store.Path) *attempt {
	at := &attempt{
		id: id, number: number, derivation: derivation,
		log:    a.log.With("build", id, "attempt", number),
		record: record{name: a.buildFile(id + recordSuffix)}, madePrefix: a.buildFile(madePrefix(id, number)),
	}
	at.status = agentapi.BuildStatus{ID: id, Attempt: number, Derivation: derivation, State: agentapi.Rooted}
	at.output = newBuildLog(a.buildFile(logName(id, number)), a.opts.MaxLog, at.log)
	return at
}

func (a *Agent) buildFile(name string) string { return filepath.Join(a.opts.StateDir, "builds", name) }

// snapshot returns the state now. Its maps are not to be changed.
func (at *attempt) snapshot() agentapi.BuildStatus {
	at.mu.Lock()
	defer at.mu.Unlock()
	status := at.status
	status.LogSize, status.Written = at.output.length(), at.output.output()
	return status
}

func (at *attempt) state() string {
	at.mu.Lock()
	defer at.mu.Unlock()
	return at.status.State
}

// unused returns since when nobody needs the attempt, or zero while it runs.
func (at *attempt) unused() time.Time {
	at.mu.Lock()
	defer at.mu.Unlock()
	switch {
	case at.status.State == agentapi.Running:
		return time.Time{}
	case at.status.Finished():
		return at.status.Stopped
	}
	return at.asked
}

// root starts the attempt's lease, or adds to it.
func (at *attempt) root(ctx context.Context, s store.Store, paths ...store.Path) error {
	leaser, ok := s.(store.Leaser)
	if !ok {
		return nil // a store that collects no garbage
	}
	if at.lease == nil {
		lease, err := leaser.Lease(ctx, fmt.Sprintf("build %s, attempt %d", at.id, at.number))
		if err != nil {
			return err
		}
		at.lease = lease
	}
	return at.lease.Add(ctx, paths...)
}

// release gives the lease back.
func (at *attempt) release() {
	if at.lease == nil {
		return
	}
	if err := at.lease.Release(); err != nil {
		at.log.Warn("the lease of a build was not released", "err", err)
	}
	at.lease = nil
}

// discard releases what the attempt holds and removes its files. It must not run.
func (at *attempt) discard() {
	at.release()
	at.removeOutputs()
	if err := errors.Join(at.record.remove(), at.output.remove()); err != nil {
		at.log.Warn("the files of a build were not removed", "err", err)
	}
}

// stop cancels the build if it runs and waits for its end.
func (at *attempt) stop(ctx context.Context, cause error) error {
	at.mu.Lock()
	cancel, over := at.cancel, at.over
	at.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel(cause)
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// final waits for the end of a build that was started, and returns its last state.
func (at *attempt) final(ctx context.Context) (agentapi.BuildStatus, error) {
	at.mu.Lock()
	over := at.over
	at.mu.Unlock()
	if over != nil {
		select {
		case <-over:
		case <-ctx.Done():
			return agentapi.BuildStatus{}, context.Cause(ctx)
		}
	}
	return at.snapshot(), nil
}

// begin makes a rooted attempt a running one.
func (at *attempt) begin(cancel context.CancelCauseFunc) error {
	at.mu.Lock()
	defer at.mu.Unlock()
	status := at.status
	status.State, status.Missing, status.Started = agentapi.Running, nil, time.Now()
	if err := at.record.begin(&status); err != nil {
		return err
	}
	at.status, at.cancel, at.over = status, cancel, make(chan struct{})
	return nil
}

// finish publishes the outcome of an attempt, to the followers of its log too.
func (at *attempt) finish(status agentapi.BuildStatus) {
	at.output.end()
	status.Stopped, status.LogSize, status.Missing = time.Now(), at.output.length(), nil
	if status.Started.IsZero() {
		status.Started = status.Stopped
	}
	if err := at.record.end(&status); err != nil {
		at.log.Warn("the outcome of a build was not written; an agent that starts later does not know it", "err", err)
	}
	at.mu.Lock()
	defer at.mu.Unlock()
	at.status = status
	if at.over != nil {
		close(at.over)
	}
}

// outcome makes a status of what a store's Build returned. The context is that of
// the build, and kills is what oomKills said before it.
func (a *Agent) outcome(ctx context.Context, status agentapi.BuildStatus, kills int64, result *store.BuildResult, err error) agentapi.BuildStatus {
	status.State = agentapi.Failed
	cause := context.Cause(ctx)
	var failed *store.BuildError
	var unable *store.UnableError
	switch {
	case err == nil:
		status.State, status.Outputs, status.AlreadyValid = agentapi.Succeeded, result.Outputs, result.AlreadyValid
		if !result.Started.IsZero() {
			status.Started = result.Started
		}
	case errors.Is(cause, errCanceled), errors.Is(cause, errReplaced):
		status.State = agentapi.Canceled
	case errors.Is(cause, errShutdown):
		status.Failure = machineFailure(errShutdown)
	case diskFull(err):
		if !strings.Contains(err.Error(), "the disk") { // the embedded store says which
			err = fmt.Errorf("the disk is full: %w", err)
		}
		status.Failure = machineFailure(err)
	case errors.As(err, &failed):
		status.Failure = a.blame(failed, kills, status.Measured)
	case errors.As(err, &unable):
		status.Failure = machineFailure(unable)
		status.Failure.Kind = api.KindUnable
	default:
		status.Failure = machineFailure(err)
	}
	return status
}

// minFreeDisk is so little that a derivation is not blamed for a failure, in bytes;
// guix offload does the same.
const minFreeDisk = 10 << 20

// blame says whose fault it is that a derivation failed.
func (a *Agent) blame(failed *store.BuildError, kills int64, used *store.Measured) *api.Failure {
	for _, dir := range []string{a.machine.diskDir, a.machine.buildDir} {
		if space, err := disk.Free(dir); err == nil && space.Free < minFreeDisk {
			return machineFailure(fmt.Errorf("only %s are free in %s: %s", quantity.Bytes(space.Free), dir, failed.Message))
		}
	}
	message := failed.Message
	if failed.Failure == store.FailedKilled {
		message = beforeLastLines(message, ": "+a.whyKilled(kills, used))
	}
	return &api.Failure{
		Culprit: api.CulpritDerivation, Phase: api.Building, Kind: string(failed.Failure),
		ExitCode: failed.ExitCode, Message: shorten(message), KeptIn: failed.KeptIn,
	}
}

// lastLines is how a store's message goes on with the end of the log.
const lastLines = "; its last lines were:"

// beforeLastLines adds to the first line of a message: the last lines of the log come after it.
func beforeLastLines(message, text string) string {
	first, rest, more := strings.Cut(message, lastLines)
	if more {
		return first + text + lastLines + rest
	}
	return first + text
}

// whyKilled says what may have killed a builder: most often that is the kernel, for want of
// memory. In a control group that is certain.
func (a *Agent) whyKilled(kills int64, used *store.Measured) string {
	text, who := "the machine may have run out of memory", "it"
	switch now := a.machine.oomKills(); {
	case used != nil && used.KilledForMemory && used.MemoryLimit > 0 && used.PeakMemory > used.MemoryLimit-used.MemoryLimit/16:
		return fmt.Sprintf("killed for want of memory (it had %s at its peak, and no more than %s was given to it)",
			quantity.Bytes(used.PeakMemory), quantity.Bytes(used.MemoryLimit))
	case used != nil && used.KilledForMemory:
		text, who = fmt.Sprintf("killed for want of memory (it had %s at its peak)", quantity.Bytes(used.PeakMemory)), "the machine"
	case used != nil && used.Method == store.MeasuredCgroup:
		return "not for want of memory, says the kernel; something else killed it"
	case kills >= 0 && now > kills:
		text = "the machine ran out of memory meanwhile, and its kernel killed something for that"
	}
	builds := "no other build ran"
	if n := a.countRunning(); n > 0 { // this one has given its slot back
		builds = human.Count(n, "other build") + " ran"
	}
	if memory := a.machine.hardware.Memory; memory > 0 {
		return fmt.Sprintf("%s; %s has %s, and %s", text, who, quantity.Bytes(memory), builds)
	}
	return text + "; " + builds
}

func machineFailure(err error) *api.Failure {
	return &api.Failure{Culprit: api.CulpritMachine, Phase: api.Building, Message: shorten(err.Error())}
}

// maxMessage bounds the message of a failure, in bytes.
const maxMessage = 8 << 10

// shorten keeps the start and the end of a long message.
func shorten(text string) string {
	if len(text) > maxMessage {
		const half = maxMessage / 2
		text = text[:half] + " … " + text[len(text)-half:]
	}
	return human.ValidText(text) // names of files need not be
}

func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// has reports whether a file of the build is of this attempt, and not of one before it that an
// agent was killed over.
func (at *attempt) has(kind fileKind, name string) bool {
	switch kind {
	case logFile:
		return name == logName(at.id, at.number)
	case madeFile:
		return at.made(name)
	case recordFile:
	}
	return true
}
