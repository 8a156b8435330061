package coordinator

import (
	"context"
	"time"

	"lighter/internal/coordinator/limits"
	"lighter/internal/coordinator/outlook"
	"lighter/internal/coordinator/reserve"
	"lighter/scheduler"
	"lighter/scheduler/forecast"
)

// outlook.go is what package outlook is given to say when builds will be done.

// Outlook returns a forecast of when builds will be done, made lately.
func (c *Coordinator) Outlook(ctx context.Context) *outlook.View { return c.outlook.Ask(ctx) }

// Now is the coordinator's time.
func (c *Coordinator) Now() time.Time { return c.now() }

func (c *Coordinator) snapshot(ctx context.Context) (s *outlook.Snapshot, err error) {
	err = c.do(ctx, func(l *loop) { s = l.snapshot(l.now()) })
	return s, err
}

// snapshot copies what a forecast is made from.
func (l *loop) snapshot(now time.Time) *outlook.Snapshot {
	s := &outlook.Snapshot{Stock: *l.stock()}
	s.Now, s.Overhead = now, l.outlook.Overhead()
	switch {
	case len(l.byID) > outlook.MaxTasks:
		s.Unknown = outlook.TooMany
		return s
	case l.grace != nil:
		s.Unknown = "the coordinator has just started and asks its machines what they have"
		return s
	case l.recorder.Stalled() != nil:
		s.Unknown = "the ledger takes no changes"
	default:
		s.Unknown = l.whyPaused()
	}
	s.Weight, s.Used = l.account.Outlook(now)
	for _, m := range l.machines {
		described := m.schedulerMachine(now, nil)
		described.Tokens = s.Stock.Tokens(&described)
		if described.Unavailable == m.conduct.Resting(now) {
			described.Unavailable = "" // a rest is short
		}
		if s.Unknown != "" {
			described.Unavailable = s.Unknown
		}
		s.Machines = append(s.Machines, described)
	}
	tasks := make([]*task, 0, len(l.byID))
	for id, t := range l.byID {
		if id == t.id && !t.stage.Available() {
			t.inOutlook = int32(len(tasks)) // #nosec G115 -- bounded above
			tasks = append(tasks, t)
		}
	}
	s.Tasks, s.Needs = make([]forecast.Task, 0, len(tasks)), make([]reserve.Needs, 0, len(tasks))
	s.Unmeasured, s.Builds = make([]bool, 0, len(tasks)), make([]outlook.Build, 0, len(tasks))
	for _, t := range tasks {
		s.Tasks = append(s.Tasks, t.outlook(l, tasks, now))
		s.Needs = append(s.Needs, t.needs())
		s.Unmeasured = append(s.Unmeasured, t.node != nil && !t.estimate.Measured())
		for _, lb := range t.builds {
			s.Builds = append(s.Builds, outlook.Build{ID: lb.ID, Task: t.inOutlook})
		}
	}
	return s
}

// outlook describes a task for a forecast. Without a node it is one that no machine can take, since it is not known yet what
// it needs.
func (t *task) outlook(l *loop, tasks []*task, now time.Time) forecast.Task {
	f := forecast.Task{Build: scheduler.Build{ID: t.id}}
	if t.node == nil {
		return f
	}
	f.Build, f.After = t.unreserved(l), max(0, t.notBefore.Sub(now))
	if t.expected() > 0 {
		f.Quantile = t.estimate.Duration.Quantile
	} else {
		f.Build.Expected = scheduler.DefaultDuration
	}
	if a := t.underWay; a != nil {
		f.On, f.Elapsed = a.machine.Name, now.Sub(a.began)
		return f
	}
	f.Inputs = make([]int32, 0, t.inputs.Size())
	for in := range t.inputs.All() {
		if at := int(in.inOutlook); at < len(tasks) && tasks[at] == in {
			f.Inputs = append(f.Inputs, in.inOutlook)
		}
	}
	return f
}

// unrestricted reports whether nothing is said of the machines that may build a task.
func (t *task) unrestricted() bool {
	return len(t.skip) == 0 && t.failed.Unable.Empty() && limits.AllowAll(t.requests())
}
