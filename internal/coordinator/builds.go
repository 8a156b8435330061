package coordinator

import (
	"context"
	"iter"
	"slices"

	"lighter/internal/api"
	"lighter/internal/coordinator/graph"
)

// Build returns a build of the ledger by its id, or by the start of its id.
func (c *Coordinator) Build(ctx context.Context, id string) (*api.Build, error) {
	return c.ledger.Find(ctx, id)
}

// Story returns a build with its events and the builds that want it, or wanted it until it failed.
func (c *Coordinator) Story(ctx context.Context, b *api.Build) (*api.BuildStory, error) {
	events, err := c.ledger.BuildEvents(ctx, b.ID)
	if err != nil {
		return nil, err
	}
	story := &api.BuildStory{Build: *b, Events: events, Outputs: c.head.Outputs(ctx, b)}
	if story.Cause, err = c.ledger.Cause(ctx, b); err != nil {
		return nil, err
	}
	if b.Dependents > 0 {
		story.WantedByCount = b.Dependents
		story.WantedBy, err = c.ledger.HeldUp(ctx, b, api.MaxListed)
		return story, err
	}
	err = c.do(ctx, func(l *loop) {
		if lb := l.builds[b.ID]; lb != nil {
			story.WantedBy, story.WantedByCount = lb.task.wantedBy()
		}
	})
	return story, err
}

// wantedBy returns builds that need a task, directly or not, the nearest first, as many as people
// want to see; and how many there are.
func (t *task) wantedBy() (list []api.Build, count int) {
	for d := range graph.Reached(t, (*task).needing) {
		count += len(d.builds)
		for _, lb := range d.builds[:min(len(d.builds), api.MaxListed-len(list))] {
			list = append(list, lb.Build)
		}
	}
	return list, count
}

// Blocking returns what holds up most builds; see package blocking.
func (c *Coordinator) Blocking(ctx context.Context, system string, limit int) (*api.Blocking, error) {
	return c.blocking.Ask(ctx, system, limit)
}

// Why explains where a build stands.
func (c *Coordinator) Why(ctx context.Context, b *api.Build) (*api.Why, error) {
	why := &api.Why{Build: *b, Summary: b.Reason}
	view := c.Outlook(ctx)
	if err := c.do(ctx, func(l *loop) {
		if lb := l.builds[b.ID]; lb != nil {
			why = lb.task.why(l, lb)
			why.Attempts = slices.Clone(why.Attempts)
		}
	}); err != nil {
		return nil, err
	}
	view.Mark(&why.Build, c.now())
	for _, list := range [][]api.Build{why.WaitsFor, why.Ahead} {
		for i := range list {
			view.Mark(&list[i], c.now())
		}
	}
	if s := why.Build.State; s == api.Queued || s == api.Waiting {
		why.ExpectedStart = view.Start(b.ID, c.now())
	}
	return why, nil
}

// Dependents returns those builds for which ok holds that wait for others, directly or not,
// each before what it waits for; and how many more wait for which it does not.
func (c *Coordinator) Dependents(ctx context.Context, ids []string, ok func(*api.Build) bool) (all []string, others int, err error) {
	err = c.do(ctx, func(l *loop) {
		var tasks []*task
		for _, id := range ids {
			if lb := l.builds[id]; lb != nil {
				tasks = append(tasks, lb.task)
			}
		}
		for d := range graph.Outermost(tasks, (*task).needing) {
			for _, lb := range d.builds {
				if ok(&lb.Build) {
					all = append(all, lb.ID)
				} else {
					others++
				}
			}
		}
	})
	return all, others, err
}

// needing yields the tasks that need it directly.
func (t *task) needing() iter.Seq[*task] { return t.dependants.All() }
