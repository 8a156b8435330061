package coordinator

import (
	"context"

	"lighter/internal/api"
	"lighter/internal/coordinator/intake"
	"lighter/internal/coordinator/limits"
	"lighter/internal/coordinator/reply"
	"lighter/internal/coordinator/stage"
)

func newIntake(c *Coordinator) *intake.Intake {
	return intake.New(intake.Options{
		Ledger: c.ledger, Head: c.head, Fetch: c.cfg.Fetch, SubstituteURLs: c.cfg.SubstituteURLs, Published: c.cfg.Published, Elsewhere: c.cfg.Elsewhere,
		Timeout: c.limits.Timeout, MaxSilentTime: c.limits.MaxSilentTime, Now: c.now, AsError: reply.Of,
		Share: func(b *api.Build) string { return c.rules.Load().Of(b) },
		Add:   func(builds []api.Build) { c.post(func(l *loop) { l.addBuilds(builds) }) },
	})
}

// Submit takes requests from somebody who may make them; the submitter may be nil. Each request
// becomes a build that is durable in the ledger when Submit returns, or is answered with an
// error; the answers are in the order of the requests. A request with the id of an existing
// build is answered with that build if it names the same derivation, so a client may ask again.
// Submit waits until Run has read what earlier runs left.
func (c *Coordinator) Submit(ctx context.Context, requests []api.Request, submitter *api.Submitter) ([]api.Submitted, error) {
	if len(requests) > api.MaxSubmit {
		return nil, api.BadRequest("a submission has %d builds, at most %d are taken", len(requests), api.MaxSubmit)
	}
	// A build stored during recovery would be added twice.
	select {
	case <-c.recovered:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.mail.Closed():
		return nil, errStopping
	}
	return c.intake.Take(ctx, requests, submitter)
}

// addBuilds makes durable builds live.
func (l *loop) addBuilds(builds []api.Build) {
	for i := range builds {
		b := &builds[i]
		if l.builds[b.ID] != nil {
			continue
		}
		if b.Attached {
			l.awaitClient(b.ID)
		}
		if b.Check > 0 {
			l.addCheck(b)
			continue
		}
		t := l.tasks[b.Derivation]
		if t == nil {
			t = l.newTask(b.Derivation, b.ID)
			t.attempt = b.Attempt // of a build that is tried again
			t.join(l, *b)
			t.expand(l)
			continue
		}
		t.joinLive(l, b)
	}
}

// joinLive adds a build to a task that is under way already.
func (t *task) joinLive(l *loop, b *api.Build) {
	t.stopEarly(l, "somebody wants the outputs now")
	lb := t.join(l, *b)
	switch t.stage {
	case stage.Made:
		t.bring(l)
		return
	case stage.Postponed:
		return
	}
	lb.Started = t.builds[0].Started
	lb.State, lb.Reason, lb.Attempt = t.joinState(), t.reason, t.attempt
	if t.machine != nil {
		lb.Machine = t.machine.Name
	}
	lb.save(l, false)
	if t.stage != stage.Looking {
		t.spread(l, nil)
		t.moveInQueue(l)
	}
	if t.stage == stage.Queued && (b.Memory > 0 || len(b.Tokens) > 0) {
		t.leaveLine(l)
		t.lineUp(l)
	}
}

// Cancel cancels builds, and returns the ids of those that were not final once that is durable.
// If an id is unknown, that is an error, and nothing is canceled. standIns is how many builds were made
// anew because others need their outputs.
func (c *Coordinator) Cancel(ctx context.Context, ids []string, reason string) (canceled []string, standIns int, err error) {
	for _, id := range ids {
		if _, err := c.ledger.Build(ctx, id); err != nil {
			return nil, 0, err
		}
	}
	if reason == "" {
		reason = "canceled by a client"
	}
	var made []string
	canceled, err = c.changeBuilds(ctx, ids, func(l *loop, lb *liveBuild) {
		if id := lb.cancel(l, reason); id != "" {
			made = append(made, id)
		}
	})
	if err == nil && made != nil {
		err = c.do(ctx, func(l *loop) {
			for _, id := range made {
				if l.builds[id] != nil { // else what needed it was canceled after it
					standIns++
				}
			}
		})
	}
	return canceled, standIns, err
}

// changeBuilds has f change those of some builds that are not final, and returns their ids once
// that is durable.
func (c *Coordinator) changeBuilds(ctx context.Context, ids []string, f func(l *loop, lb *liveBuild)) ([]string, error) {
	return limits.InPieces(ids, func(piece []string) ([]string, error) {
		return c.durablyIn(ctx, func(l *loop) (changed []string) {
			for _, id := range piece {
				if lb := l.builds[id]; lb != nil {
					f(l, lb)
					changed = append(changed, id)
				}
			}
			l.placing = true
			return changed
		})
	})
}
