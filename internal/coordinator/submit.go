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

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/ledger"
	"lighter/store"
)

// submitReaders is how many derivations of one submission are read at the same time.
const submitReaders = 8

// Submit takes requests of somebody who may ask for that; the submitter may be nil. Each
// becomes a build that is durable in the ledger when Submit returns, or is answered with an
// error; the answers are in the order of the requests. A request with the id of a build that
// is there already gets that build if it names the same derivation, so that a client may ask
// again. Submit waits until Run has read what earlier runs left.
func (c *Coordinator) Submit(ctx context.Context, requests []api.Request, submitter *api.Submitter) ([]api.Submitted, error) {
	if len(requests) > api.MaxSubmit {
		return nil, api.BadRequest("a submission has %d builds, at most %d are taken", len(requests), api.MaxSubmit)
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
	for i := range answers {
		if b := answers[i].Build; b != nil && answers[i].Skipped == "" {
			b.Submitter = submitter
		}
	}
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
	c.post(func(l *loop) { l.takeUp(fresh) })
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
				answers[i] = submitted(nil, api.BadRequest("id %s is there twice", b.ID))
				continue
			}
			seen[b.ID] = true
		}
	}
}

// Refused is the answer to a request that is not taken.
func Refused(err error) api.Submitted { return submitted(nil, err) }

func submitted(b *api.Build, err error) api.Submitted {
	if err == nil {
		return api.Submitted{Build: b}
	}
	e := AsError(err)
	return api.Submitted{Error: e.Message, Code: e.Code}
}

func (c *Coordinator) prepareOne(ctx context.Context, r *api.Request) api.Submitted {
	if err := c.CheckRequest(r); err != nil {
		return submitted(nil, err)
	}
	n, err := c.nodeOf(ctx, r)
	if errors.Is(err, store.ErrNotValid) {
		return submitted(nil, &api.Error{Status: http.StatusUnprocessableEntity, Code: api.CodeNotValid, Message: err.Error()})
	}
	if err != nil {
		return submitted(nil, api.BadRequest("%s", err))
	}
	wanted, err := n.OutputPaths(r.Outputs)
	if err != nil {
		return submitted(nil, api.BadRequest("%s", err))
	}
	if r.SkipIfBuilt {
		switch reason, err := c.built(ctx, wanted); {
		case err != nil:
			return submitted(nil, err)
		case reason != "":
			return api.Submitted{Skipped: reason}
		}
	}
	b := c.newBuild(r, n)
	if !b.Offload { // guix-daemon has limits of its own
		b.Timeout = cmp.Or(b.Timeout, api.Seconds(c.limits.Timeout.Seconds()))
		b.MaxSilentTime = cmp.Or(b.MaxSilentTime, api.Seconds(c.limits.MaxSilentTime.Seconds()))
	}
	return submitted(b, nil)
}

// newBuild makes the build of a request that is right.
func (c *Coordinator) newBuild(r *api.Request, n *headstore.Node) *api.Build {
	b := &api.Build{
		Request: *r, System: n.System, Features: n.Features, OutputPaths: n.OutputMap(),
		State: api.Queued, Submitted: c.now(),
	}
	if b.ID == "" {
		b.ID = newID()
	}
	return b
}

func (c *Coordinator) CheckRequest(r *api.Request) error {
	switch {
	case r.Derivation == "":
		return api.BadRequest("derivation is missing")
	case !r.Derivation.IsDerivation():
		return api.BadRequest("%s is not a derivation: its name does not end in .drv", r.Derivation)
	case r.Derivation.Dir() != c.head.Dir():
		return api.BadRequest("%s is not in the store %s", r.Derivation, c.head.Dir())
	case r.Timeout < 0 || r.MaxSilentTime < 0 || r.Timeout > api.MaxTime || r.MaxSilentTime > api.MaxTime:
		return api.BadRequest("timeout and maxSilentTime are not negative, and at most %v seconds", float64(api.MaxTime))
	case len(r.Outputs) > api.MaxOutputs:
		return api.BadRequest("%d outputs, at most %d are taken", len(r.Outputs), api.MaxOutputs)
	case r.Retries < -1 || r.Retries > api.MaxRetries:
		return api.BadRequest("retries %d is not in -1 (none) to %d", r.Retries, api.MaxRetries)
	case r.Check < 0 || r.Check > api.MaxChecks:
		return api.BadRequest("check %d is not in 0 to %d", r.Check, api.MaxChecks)
	case r.Priority < -api.MaxPriority || r.Priority > api.MaxPriority:
		return api.BadRequest("priority %d is not in %d to %d", r.Priority, -api.MaxPriority, api.MaxPriority)
	case len(r.On)+len(r.Skip) > api.MaxMachines:
		return api.BadRequest("%d names of machines, at most %d are taken", len(r.On)+len(r.Skip), api.MaxMachines)
	case len(r.DerivationSubstituteURLs) > api.MaxURLs:
		return api.BadRequest("%d substitute URLs, at most %d are taken", len(r.DerivationSubstituteURLs), api.MaxURLs)
	case r.Offload && (r.Check > 0 || r.AllInputs || r.SkipIfBuilt || r.SkipIfSubmitted):
		return api.BadRequest("guix-daemon asks for one build, and no more")
	}
	if err := checkTexts(r); err != nil {
		return api.BadRequest("%s", err)
	}
	if r.ID == "" {
		return nil
	}
	id, err := uuid.Parse(r.ID)
	if err != nil || id.String() != r.ID {
		return api.BadRequest("id %.60q is not a UUID in lower case", r.ID)
	}
	return nil
}

// checkTexts says what is wrong with the texts of a request, each by itself and together.
func checkTexts(r *api.Request) error {
	size := 0
	for _, of := range []struct {
		what  string
		texts []string
		most  int
	}{
		{"the name of an output", r.Outputs, api.MaxName},
		{"the name of a machine", r.On, api.MaxName},
		{"the name of a machine", r.Skip, api.MaxName},
		{"a substitute URL", r.DerivationSubstituteURLs, api.MaxURL},
	} {
		for _, text := range of.texts {
			size += len(text)
			if err := api.CheckText(of.what, text, of.most); err != nil {
				return err
			}
		}
	}
	for k, v := range r.Tags {
		size += len(k) + len(v)
	}
	if err := api.CheckTags(r.Tags); err != nil {
		return err
	}
	// What JSON makes of plain text is less than twice as long.
	if size > api.MaxRequest/2 {
		return fmt.Errorf("names, tags and URLs have %d bytes, at most %d are taken", size, api.MaxRequest/2)
	}
	return nil
}

// store makes the builds durable and returns those that are new. An id that the
// ledger has is answered with what is there, and a build that it refuses with why.
func (c *Coordinator) store(ctx context.Context, answers []api.Submitted) (fresh []api.Build, err error) {
	var which []int // of the answers have a build to be made
	for i := range answers {
		if answers[i].Build != nil && answers[i].Skipped == "" {
			which = append(which, i)
		}
	}
	for len(which) > 0 {
		changes := make([]ledger.Change, len(which))
		for n, i := range which {
			changes[n] = ledger.Change{Build: answers[i].Build, Create: true}
		}
		_, err := c.ledger.Apply(ctx, changes, true)
		var refused *ledger.RefusedError
		switch {
		case errors.Is(err, ledger.ErrTooLarge):
			return nil, api.BadRequest("%s", err)
		case errors.As(err, &refused): // and the others are made in another try
			for _, one := range slices.Backward(refused.Refusals) {
				i := which[one.Index]
				answers[i] = c.refusal(ctx, answers[i].Build, one.Err)
				which = slices.Delete(which, one.Index, one.Index+1)
			}
			continue
		case err != nil:
			return nil, err
		}
		break
	}
	for _, i := range which {
		fresh = append(fresh, *answers[i].Build)
	}
	return fresh, nil
}

// refusal is the answer to a request whose build the ledger refuses to make.
func (c *Coordinator) refusal(ctx context.Context, b *api.Build, err error) api.Submitted {
	if errors.Is(err, ledger.ErrExists) {
		return submitted(c.existing(ctx, b))
	}
	return submitted(nil, api.BadRequest("%s", err))
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
func (l *loop) takeUp(builds []api.Build) {
	for i := range builds {
		b := &builds[i]
		if l.builds[b.ID] != nil {
			continue
		}
		if b.Attached {
			l.awaitClient(b.ID)
		}
		if b.Check > 0 {
			l.takeUpCheck(b)
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
	r := t.join(l, *b)
	if t.available && t.underWay == nil {
		if !l.delayed[t] {
			t.bring(l)
		}
		return
	}
	r.Started = t.builds[0].Started
	r.State, r.Reason, r.Attempt = t.standing(), t.reason, t.attempt
	if t.machine != nil {
		r.Machine = t.machine.Name
	}
	r.save(l, false)
	if t.node != nil && !t.expanding {
		t.spread(l, nil)
		t.moveInQueue(l)
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
	return inPieces(ids, func(piece []string) ([]string, error) { return c.cancelAll(ctx, piece, reason) })
}

func (c *Coordinator) cancelAll(ctx context.Context, ids []string, reason string) ([]string, error) {
	return c.durablyIn(ctx, func(l *loop) []string {
		var found []string
		for _, id := range ids {
			if r := l.builds[id]; r != nil {
				r.cancel(l, reason)
				found = append(found, id)
			}
		}
		return found
	})
}
