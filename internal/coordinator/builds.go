package coordinator

import (
	"context"
	"fmt"
	"slices"

	"lighter/internal/api"
	"lighter/internal/ledger"
)

const (
	uuidLength = 36
	minPrefix  = 4 // digits of an id that name a build
)

// Build returns a build of the ledger by its id, or by the start of its id.
func (c *Coordinator) Build(ctx context.Context, id string) (*api.Build, error) {
	if len(id) >= uuidLength {
		return c.ledger.Build(ctx, id)
	}
	if len(id) < minPrefix {
		return nil, api.BadRequest("id %q is too short: give at least its first %d characters", id, minPrefix)
	}
	ids, err := c.ledger.ByPrefix(ctx, id, 2)
	switch {
	case err != nil:
		return nil, err
	case len(ids) == 0:
		return nil, fmt.Errorf("build %s: %w", id, ledger.ErrNotFound)
	case len(ids) > 1:
		return nil, api.BadRequest("id %s is the start of %s and of %s", id, ids[0], ids[1])
	}
	return c.ledger.Build(ctx, ids[0])
}

// dependentsLooked bounds how many builds of the ledger are looked at for those that one held up.
const dependentsLooked = 20_000

// Story returns a build with its events and the builds that want it, or wanted it until it failed.
func (c *Coordinator) Story(ctx context.Context, b *api.Build) (*api.BuildStory, error) {
	events, err := c.ledger.BuildEvents(ctx, b.ID)
	if err != nil {
		return nil, err
	}
	story := &api.BuildStory{Build: *b, Events: events}
	if b.Dependents > 0 {
		story.WantedByCount = b.Dependents
		story.WantedBy, err = c.heldUp(ctx, b)
		return story, err
	}
	err = c.do(ctx, func(l *loop) {
		if lb := l.builds[b.ID]; lb != nil {
			story.WantedBy, story.WantedByCount = lb.task.wantedBy()
		}
	})
	return story, err
}

// heldUp returns builds that failed because one did, as many as people want to see.
func (c *Coordinator) heldUp(ctx context.Context, b *api.Build) ([]api.Build, error) {
	var list []api.Build
	filter := ledger.Filter{Filter: api.Filter{States: []api.State{api.DependencyFailed}}, Limit: dependentsLooked}
	for d, err := range c.ledger.Builds(ctx, filter) {
		if err != nil || len(list) == min(b.Dependents, maxListed) {
			return list, err
		}
		if d.Failure != nil && d.Failure.Input == b.Derivation {
			list = append(list, *d)
		}
	}
	return list, nil
}

// wantedBy returns builds that need a task, directly or not, the nearest first, as many as people
// want to see; and how many there are.
func (t *task) wantedBy() (list []api.Build, count int) {
	seen := map[*task]bool{t: true}
	for queue := []*task{t}; len(queue) > 0; queue = queue[1:] {
		for d := range queue[0].dependants.all() {
			if seen[d] {
				continue
			}
			seen[d] = true
			queue = append(queue, d)
			count += len(d.builds)
			for _, lb := range d.builds[:min(len(d.builds), maxListed-len(list))] {
				list = append(list, lb.Build)
			}
		}
	}
	return list, count
}

// Why explains where a build stands.
func (c *Coordinator) Why(ctx context.Context, b *api.Build) (*api.Why, error) {
	why := &api.Why{Build: *b, Summary: b.Reason}
	if err := c.do(ctx, func(l *loop) {
		if lb := l.builds[b.ID]; lb != nil {
			why = lb.task.why(l, lb)
			why.Attempts = slices.Clone(why.Attempts)
		}
	}); err != nil {
		return nil, err
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
			for d := range t.dependants.all() {
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
