package standstill

import (
	"log/slog"
	"time"

	"lighter/scheduler"
)

// Queued is what is known of a build in the queue.
type Queued struct {
	Derivation string
	Since      time.Time
}

// Idle logs which builds have waited too long though a machine was free: those that a plan places, which the loop
// should have placed long ago, and, now and then, those that it keeps waiting.
func (l *Log) Idle(log *slog.Logger, plan scheduler.Plan, now time.Time, tooLong time.Duration, queued func(id string) (Queued, bool)) {
	for i := range plan.Assignments {
		a := &plan.Assignments[i]
		if q, ok := queued(a.Build.ID); ok && now.Sub(q.Since) >= tooLong {
			log.Error("a build waited though a machine was free; this is a bug in lighter",
				"build", a.Build.ID, "derivation", q.Derivation, "machine", a.Machine, "waited", now.Sub(q.Since))
		}
	}
	for i := range plan.Deferrals {
		d := &plan.Deferrals[i]
		q, ok := queued(d.Build.ID)
		if !ok || now.Sub(q.Since) < tooLong || now.Sub(l.idle[d.Build.ID]) < 10*tooLong {
			continue
		}
		if l.idle == nil {
			l.idle = make(map[string]time.Time)
		}
		l.idle[d.Build.ID] = now
		log.Info("a build waits though a machine is free", "build", d.Build.ID, "derivation", q.Derivation, "why", d.Reason())
	}
}

// Forget forgets a build that is over.
func (l *Log) Forget(id string) { delete(l.idle, id) }
