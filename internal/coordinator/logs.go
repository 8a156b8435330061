package coordinator

import (
	"context"
	"io"

	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
)

// ChosenLog returns the log of a build's attempt, or of its last attempt on a machine. If
// neither is given it returns none.
func (c *Coordinator) ChosenLog(ctx context.Context, b *api.Build, attempt int64, machine string) (buildlog.Name, error) {
	return buildlog.Choose(b, attempt, machine, func() ([]api.Event, error) { return c.ledger.BuildEvents(ctx, b.ID) },
		func() (found buildlog.Name, err error) { return c.comparing(ctx, b.ID, machine) })
}

// comparing returns the log of what a machine is building for a check.
func (c *Coordinator) comparing(ctx context.Context, check, machine string) (found buildlog.Name, err error) {
	err = c.do(ctx, func(l *loop) {
		if lb := l.builds[check]; lb != nil && lb.check != nil {
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

// Logs returns the folder with the logs of builds.
func (c *Coordinator) Logs() *buildlog.Folder { return c.logs }
