package coordinator

import (
	"errors"

	"lighter/internal/api"
	"lighter/internal/coordinator/failing"
	"lighter/internal/ledger"
)

// refused deals with a change that the ledger refuses. If it is about a build, the build ends as
// failed: otherwise ledger and loop would disagree about it.
func (c *Coordinator) refused(ch ledger.Change, cause error) {
	if ch.Build == nil || ch.Event != nil && ch.Event.Kind == api.KindRefused {
		return // it is not about a build, or even the failure was refused
	}
	id := ch.Build.ID
	c.post(func(l *loop) { l.endRefused(id, cause) })
}

// endRefused ends a build about which the ledger refused a change.
func (l *loop) endRefused(id string, cause error) {
	f := failing.NotRecorded(cause)
	switch lb := l.builds[id]; {
	case lb == nil:
		l.durably(func() { l.group.Go(func() { l.endUnended(id, f) }) })
	case lb.check != nil:
		lb.Results = nil
		lb.check.end(l, api.Failed, f.Message, f)
	default:
		lb.task.fail(l, f)
	}
}

// endUnended ends a build in the ledger that is over for the loop, if the change that says so was
// refused: what the ledger has of it is good, and is given an end.
func (c *Coordinator) endUnended(id string, f *api.Failure) {
	b, err := c.ledger.Build(c.ctx, id)
	if err != nil || b.State.Final() {
		if err != nil && !errors.Is(err, ledger.ErrNotFound) {
			c.log.Error("a build of which the ledger refused a change can't be read", "build", id, "err", err)
		}
		return
	}
	now := c.now()
	b.State, b.Reason, b.Failure, b.Stopped, b.Results = api.Failed, f.Message, f, &now, nil
	c.post(func(l *loop) {
		if l.builds[id] == nil {
			l.change(ledger.Change{Build: b, Event: &api.Event{Kind: api.KindRefused, Reason: f.Message, Failure: f}})
		}
	})
}
