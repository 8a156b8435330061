package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
)

// submitReaders is how many derivations of one submission are read at the same time.
const submitReaders = 8

// Submit takes requests. Each becomes a build that is durable in the ledger when
// Submit returns, or is answered with an error; the answers are in the order of the
// requests. A request with the id of a build that is there already gets that build
// if it names the same derivation, so that a client may ask again. Submit waits until
// Run has read what earlier runs left.
func (c *Coordinator) Submit(ctx context.Context, requests []api.Request) ([]api.Submitted, error) {
	if len(requests) > api.MaxSubmit {
		return nil, badRequest("a submission has %d builds, at most %d are taken", len(requests), api.MaxSubmit)
	}
	// A build stored during recovery would be taken up twice.
	select {
	case <-c.recovered:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.stopped:
		return nil, errStopping
	}
	for i := 1; i < len(requests); i++ {
		requests[i].Tags = sameTags(requests[i].Tags, requests[i-1].Tags)
	}
	answers := make([]api.Submitted, len(requests))
	c.prepare(ctx, requests, answers)
	if err := c.submitInputs(ctx, answers); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(requests, func(r api.Request) bool { return r.SkipIfSubmitted }) {
		c.skipping.Lock() // of two that come together, one sees the other
		defer c.skipping.Unlock()
		if err := c.skipSubmitted(ctx, answers); err != nil {
			return nil, err
		}
	}
	fresh, err := c.store(ctx, answers)
	if err != nil {
		return nil, err
	}
	c.post(func() { c.takeUp(fresh) })
	return answers, nil
}

// sameTags returns the tags of the build before if they are equal: those of builds that
// wait stay in memory, and are not changed.
func sameTags(tags, before map[string]string) map[string]string {
	if maps.Equal(tags, before) {
		return before
	}
	return tags
}

// prepare makes a build of each request that is right.
func (c *Coordinator) prepare(ctx context.Context, requests []api.Request, answers []api.Submitted) {
	var group sync.WaitGroup
	next := make(chan int)
	for range min(submitReaders, len(requests)) {
		group.Go(func() {
			for i := range next {
				answers[i] = c.prepareOne(ctx, &requests[i])
			}
		})
	}
	for i := range requests {
		next <- i
	}
	close(next)
	group.Wait()
	seen := make(map[string]bool, len(answers))
	for i := range answers {
		if b := answers[i].Build; b != nil {
			if seen[b.ID] {
				answers[i] = submitted(nil, badRequest("id %s is there twice", b.ID))
				continue
			}
			seen[b.ID] = true
		}
	}
}

func submitted(b *api.Build, err error) api.Submitted {
	if err == nil {
		return api.Submitted{Build: b}
	}
	e := asError(err)
	return api.Submitted{Error: e.Message, Code: e.Code}
}

func (c *Coordinator) prepareOne(ctx context.Context, r *api.Request) api.Submitted {
	if err := c.checkRequest(r); err != nil {
		return submitted(nil, err)
	}
	n, err := c.nodeOf(ctx, r)
	if errors.Is(err, store.ErrNotValid) {
		return submitted(nil, &api.Error{Status: http.StatusUnprocessableEntity, Code: api.CodeNotValid, Message: err.Error()})
	}
	if err != nil {
		return submitted(nil, badRequest("%s", err))
	}
	wanted, err := n.outputPaths(r.Outputs)
	if err != nil {
		return submitted(nil, badRequest("%s", err))
	}
	if r.SkipIfBuilt {
		switch reason, err := c.built(ctx, wanted); {
		case err != nil:
			return submitted(nil, err)
		case reason != "":
			return api.Submitted{Skipped: reason}
		}
	}
	b := newBuild(r, n)
	if !b.Offload { // guix-daemon has limits of its own
		b.Timeout = cmp.Or(b.Timeout, api.Seconds(c.limits.Timeout.Seconds()))
		b.MaxSilentTime = cmp.Or(b.MaxSilentTime, api.Seconds(c.limits.MaxSilentTime.Seconds()))
	}
	return submitted(b, nil)
}

// newBuild makes the build of a request that is right.
func newBuild(r *api.Request, n *node) *api.Build {
	b := &api.Build{
		Request: *r, System: n.system, Features: n.features, OutputPaths: n.outputMap(),
		State: api.Queued, Submitted: time.Now(),
	}
	if b.ID == "" {
		b.ID = newID()
	}
	return b
}

// Limits on a request.
const (
	maxTags     = 64
	maxTagBytes = 1 << 10
	maxOutputs  = 256
	maxRetries  = 1000
	maxChecks   = 100
	maxNames    = 1000 // of machines
	maxURLs     = 32
)

func (c *Coordinator) checkRequest(r *api.Request) error {
	switch {
	case r.Derivation == "":
		return badRequest("derivation is missing")
	case !r.Derivation.IsDerivation():
		return badRequest("%s is not a derivation: its name does not end in .drv", r.Derivation)
	case r.Derivation.Dir() != c.head.Dir():
		return badRequest("%s is not in the store %s", r.Derivation, c.head.Dir())
	case r.Timeout < 0 || r.MaxSilentTime < 0:
		return badRequest("timeout and maxSilentTime are not negative")
	case len(r.Tags) > maxTags:
		return badRequest("%d tags, at most %d are taken", len(r.Tags), maxTags)
	case len(r.Outputs) > maxOutputs:
		return badRequest("%d outputs, at most %d are taken", len(r.Outputs), maxOutputs)
	}
	switch {
	case r.Retries < -1 || r.Retries > maxRetries:
		return badRequest("retries %d is not in -1 (none) to %d", r.Retries, maxRetries)
	case r.Check < 0 || r.Check > maxChecks:
		return badRequest("check %d is not in 0 to %d", r.Check, maxChecks)
	case r.Priority < -maxPriority || r.Priority > maxPriority:
		return badRequest("priority %d is not in %d to %d", r.Priority, -maxPriority, maxPriority)
	case len(r.On)+len(r.Skip) > maxNames:
		return badRequest("%d names of machines, at most %d are taken", len(r.On)+len(r.Skip), maxNames)
	case len(r.DerivationSubstituteURLs) > maxURLs:
		return badRequest("%d substitute URLs, at most %d are taken", len(r.DerivationSubstituteURLs), maxURLs)
	case r.Offload && (r.Check > 0 || r.AllInputs || r.SkipIfBuilt || r.SkipIfSubmitted):
		return badRequest("guix-daemon asks for one build, and no more")
	}
	for k, v := range r.Tags {
		if k == "" || len(k)+len(v) > maxTagBytes {
			return badRequest("tag %.40q: a tag has a name, and at most %d bytes", k, maxTagBytes)
		}
	}
	if r.ID == "" {
		return nil
	}
	id, err := uuid.Parse(r.ID)
	if err != nil || id.String() != r.ID {
		return badRequest("id %.60q is not a UUID in lower case", r.ID)
	}
	return nil
}

// store makes the builds durable and returns those that are new. An id that the
// ledger has is answered with what is there.
func (c *Coordinator) store(ctx context.Context, answers []api.Submitted) (fresh []api.Build, err error) {
	var changes []ledger.Change
	for i := range answers {
		if b := answers[i].Build; b != nil && answers[i].Skipped == "" {
			changes = append(changes, ledger.Change{Build: b, Create: true})
			fresh = append(fresh, *b)
		}
	}
	if len(changes) == 0 {
		return nil, nil
	}
	_, err = c.ledger.Apply(ctx, changes, true)
	if !errors.Is(err, ledger.ErrExists) {
		return fresh, err
	}
	// Some are there already, as where a client asks again.
	changes, fresh = nil, nil
	var created []int // answers
	for i := range answers {
		b := answers[i].Build
		if b == nil || answers[i].Skipped != "" {
			continue
		}
		old, err := c.existing(ctx, b)
		if errors.Is(err, ledger.ErrNotFound) {
			changes = append(changes, ledger.Change{Build: b, Create: true})
			fresh = append(fresh, *b)
			created = append(created, i)
			continue
		}
		answers[i] = submitted(old, err)
	}
	if _, err = c.ledger.Apply(ctx, changes, true); !errors.Is(err, ledger.ErrExists) {
		return fresh, err
	}
	fresh = nil // somebody was faster; one by one, then
	for _, i := range created {
		b := answers[i].Build
		_, err := c.ledger.Apply(ctx, []ledger.Change{{Build: b, Create: true}}, true)
		switch {
		case errors.Is(err, ledger.ErrExists):
			old, err := c.existing(ctx, b)
			answers[i] = submitted(old, err)
		case err != nil:
			c.post(func() { c.takeUp(fresh) })
			return nil, err
		default:
			fresh = append(fresh, *b)
		}
	}
	return fresh, nil
}

// existing returns the build of the ledger that has the id of a request.
func (c *Coordinator) existing(ctx context.Context, b *api.Build) (*api.Build, error) {
	old, err := c.ledger.Build(ctx, b.ID)
	if err != nil {
		return nil, err
	}
	if old.Derivation != b.Derivation {
		return nil, &api.Error{
			Status: http.StatusConflict, Code: api.CodeConflict,
			Message: fmt.Sprintf("id %s is the id of a build of %s", b.ID, old.Derivation),
		}
	}
	return old, nil
}

// takeUp makes builds that are durable live.
func (c *Coordinator) takeUp(builds []api.Build) {
	for i := range builds {
		b := &builds[i]
		if c.builds[b.ID] != nil {
			continue
		}
		if b.Attached {
			c.awaitClient(b.ID)
		}
		if b.Check > 0 {
			c.takeUpCheck(b)
			continue
		}
		t := c.tasks[b.Derivation]
		if t == nil {
			t = c.newTask(b.Derivation, b.ID)
			t.attempt = b.Attempt // of a build that is tried again
			c.join(t, *b)
			c.expand(t)
			continue
		}
		c.joinLive(t, b)
	}
}

// joinLive adds a build to a task that is under way already.
func (c *Coordinator) joinLive(t *task, b *api.Build) {
	r := c.join(t, *b)
	if t.available && t.run == nil {
		if !c.delayed[t] {
			c.bring(t)
		}
		return
	}
	r.Started = t.builds[0].Started
	r.State, r.Reason, r.Attempt = t.standing(), t.reason, t.attempt
	if t.machine != nil {
		r.Machine = t.machine.Name
	}
	c.save(r, false)
	if t.node != nil && !t.expanding {
		c.spread(t, nil)
		c.moveInQueue(t)
	}
}

// Cancel cancels builds and returns those that were not final, once that is durable.
// An unknown id is an error, and nothing is canceled then.
func (c *Coordinator) Cancel(ctx context.Context, ids []string, reason string) ([]string, error) {
	for _, id := range ids {
		if _, err := c.ledger.Build(ctx, id); err != nil {
			return nil, err
		}
	}
	if reason == "" {
		reason = "canceled by a client"
	}
	return c.durablyIn(ctx, func() []string {
		var found []string
		for _, id := range ids {
			if r := c.builds[id]; r != nil {
				c.cancelBuild(r, reason)
				found = append(found, id)
			}
		}
		return found
	})
}
