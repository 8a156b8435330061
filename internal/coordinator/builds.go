package coordinator

import (
	"context"
	"slices"

	"lighter/internal/api"
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
	story := &api.BuildStory{Build: *b, Events: events}
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
	seen := map[*task]bool{t: true}
	for queue := []*task{t}; len(queue) > 0; queue = queue[1:] {
		for d := range queue[0].dependants.All() {
			if seen[d] {
				continue
			}
			seen[d] = true
			queue = append(queue, d)
			count += len(d.builds)
			for _, lb := range d.builds[:min(len(d.builds), api.MaxListed-len(list))] {
				list = append(list, lb.Build)
			}
		}
	}
	return list, count
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
		seen := make(map[*task]bool)
		var add func(t *task)
		add = func(t *task) {
			if seen[t] {
				return
			}
			seen[t] = true
			for d := range t.dependants.All() {
				add(d)
				for _, lb := range d.builds {
					if ok(&lb.Build) {
						all = append(all, lb.ID)
					} else {
						others++
					}
				}
			}
		}
		for _, id := range ids {
			if lb := l.builds[id]; lb != nil {
				add(lb.task)
			}
		}
	})
	return all, others, err
}
