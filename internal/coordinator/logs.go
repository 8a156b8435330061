package coordinator

import (
	"context"
	"io"

	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
)

// ChosenLog returns the log of a build's attempt, or of its last attempt on a machine. If
// neither is given it returns none.
func (c *Coordinator) ChosenLog(ctx context.Context, b *api.Build, attempt int64, machine string) (chosen buildlog.Name, err error) {
	switch {
	case attempt > 0 && machine != "":
		return chosen, api.BadRequest("attempt and machine: give one of them")
	case attempt > 0:
		return buildlog.OfAttempt(b, attempt)
	case machine == "":
		return chosen, nil
	}
	if b.Check > 0 {
		chosen, err = c.comparedOn(ctx, b, machine)
	} else {
		var events []api.Event
		events, err = c.ledger.BuildEvents(ctx, b.ID)
		chosen = buildlog.LastOn(b, events, machine)
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

// WriteLog writes the log of a build's current or last attempt, as far as it exists.
func (c *Coordinator) WriteLog(ctx context.Context, w io.Writer, b *api.Build) error {
	return c.logs.CopyOf(ctx, w, b, buildlog.Last(b), 0, false, nil)
}

// CopyLog copies one of a build's logs; see [buildlog.Folder.CopyOf].
func (c *Coordinator) CopyLog(ctx context.Context, w io.Writer, b *api.Build, which buildlog.Name, offset int64, follow bool, flush func()) error {
	return c.logs.CopyOf(ctx, w, b, which, offset, follow, flush)
}
