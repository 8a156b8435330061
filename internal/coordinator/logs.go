package coordinator

import (
	"context"
	"fmt"
	"io"

	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
)

// LastLog returns the log of a build's current or last attempt; of a check, that of the first
// machine on which the build fails, or of the first machine.
func LastLog(b *api.Build) buildlog.Name {
	if b.Check == 0 {
		return buildlog.Name{ID: b.LogID(), Attempt: b.Attempt}
	}
	var last buildlog.Name
	for i := range b.Results {
		r := &b.Results[i]
		if r.LogID != "" && (last.ID == "" || r.Failure != nil) {
			last = buildlog.Name{ID: r.LogID, Attempt: r.LogAttempt}
		}
		if r.Failure != nil {
			break
		}
	}
	return last
}

// ChosenLog returns the log of a build's attempt, or of its last attempt on a machine. If
// neither is given it returns none.
func (c *Coordinator) ChosenLog(ctx context.Context, b *api.Build, attempt int64, machine string) (chosen buildlog.Name, err error) {
	switch {
	case attempt > 0 && machine != "":
		return chosen, api.BadRequest("attempt and machine: give one of them")
	case attempt > 0 && b.Check > 0:
		return chosen, api.BadRequest("build %s is a check: it has logs by machine, not by attempt", b.ID)
	case attempt > int64(b.Attempt) && b.Attempt == 0:
		return chosen, api.BadRequest("build %s has no attempt %d: it was not tried", b.ID, attempt)
	case attempt > int64(b.Attempt):
		return chosen, api.BadRequest("build %s has no attempt %d: the last one is %d", b.ID, attempt, b.Attempt)
	case attempt > 0:
		return buildlog.Name{ID: b.LogID(), Attempt: int(attempt)}, nil
	case machine == "":
		return chosen, nil
	}
	if b.Check > 0 {
		chosen, err = c.comparedOn(ctx, b, machine)
	} else {
		chosen, err = c.triedOn(ctx, b, machine)
	}
	if err == nil && chosen.Attempt == 0 {
		err = api.BadRequest("build %s was not tried on a machine %q", b.ID, machine)
	}
	return chosen, err
}

// comparedOn returns the log of what a machine built, or is building, for a check.
func (c *Coordinator) comparedOn(ctx context.Context, b *api.Build, machine string) (found buildlog.Name, err error) {
	for i := range b.Results {
		if r := &b.Results[i]; r.Machine == machine && r.LogID != "" {
			return buildlog.Name{ID: r.LogID, Attempt: r.LogAttempt}, nil
		}
	}
	err = c.do(ctx, func(l *loop) {
		if lb := l.builds[b.ID]; lb != nil && lb.check != nil {
			for t := range lb.check.tasks {
				if t.machine != nil && t.machine.Name == machine {
					found = buildlog.Name{ID: t.id, Attempt: t.attempt}
				}
			}
		}
	})
	return found, err
}

// triedOn returns the log of a build's last attempt on a machine.
func (c *Coordinator) triedOn(ctx context.Context, b *api.Build, machine string) (found buildlog.Name, err error) {
	events, err := c.ledger.BuildEvents(ctx, b.ID)
	for i := range events {
		if events[i].Machine == machine && events[i].Attempt > 0 {
			found = buildlog.Name{ID: b.LogID(), Attempt: events[i].Attempt}
		}
	}
	return found, err
}

// WriteLog writes the log of a build's current or last attempt, as far as it exists.
func (c *Coordinator) WriteLog(ctx context.Context, w io.Writer, b *api.Build) error {
	return c.CopyLog(ctx, w, b, LastLog(b), 0, false, nil)
}

// CopyLog copies one of a build's logs from an offset on; with follow, until it is complete.
// flush, if not nil, is called whenever there is nothing more at the moment.
func (c *Coordinator) CopyLog(ctx context.Context, w io.Writer, b *api.Build, which buildlog.Name, offset int64, follow bool, flush func()) error {
	if which.Attempt == 0 {
		if b.State.Final() {
			return fmt.Errorf("build %s: %w: it was never tried", b.ID, buildlog.ErrNoLog)
		}
		return fmt.Errorf("build %s: %w: it has not been tried yet", b.ID, buildlog.ErrNoLog)
	}
	if err := c.logs.CopyTo(ctx, w, which.ID, which.Attempt, offset, follow, flush); err != nil {
		return fmt.Errorf("build %s: %w", b.ID, err)
	}
	return nil
}
