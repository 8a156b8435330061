package delivery

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/reply"
	"lighter/internal/coordinator/turns"
	"lighter/internal/hookapi"
	"lighter/internal/ledger"
)

// Farm is what has builds made. All of its functions may wait for the coordinator's loop.
type Farm struct {
	Head   *headstore.Store
	Ledger *ledger.Ledger
	// Answer answers a question for this moment. It is hopeful if the answer may be better once machines
	// are reached that were never tried.
	Answer func(context.Context, *hookapi.Question) (a hookapi.Answer, hopeful bool, err error)
	// Opened notes that there is a conversation about a build, before that is submitted.
	Opened func(context.Context, *Delivery) error
	Submit func(context.Context, []api.Request, *api.Submitter) ([]api.Submitted, error)
	// Came gives a build its conversation, and reports whether it is live, once what happened before is
	// in the ledger.
	Came func(context.Context, *Delivery) (live bool, err error)
	Gone func(*Delivery) // it never waits
}

// User says for whom a build hook asks.
type User struct {
	Submitter *api.Submitter // of what the hook has built
	// UserName returns what the user database calls a user, or "".
	UserName func(uid uint32) string
	// MayTakeOver says what speaks against handing a build of somebody else's to the hook.
	MayTakeOver func(*api.Build) error
}

// Serve talks with a build hook until the conversation is over, or ctx ends.
func (c *Config) Serve(ctx context.Context, conn net.Conn, r *hookapi.Reader, who User) error {
	order, release, err := c.converse(ctx, conn, r, c.Answer)
	if err != nil {
		return err
	}
	return c.take(ctx, conn, r, order, release, who)
}

// FirstContact is how long a question waits for machines that have not been reached yet.
const FirstContact = 3 * time.Second

// Answer decides about one build. What was accepted once, guix-daemon builds neither itself nor
// elsewhere, so whatever speaks against accepting is found out here.
func (c *Config) Answer(ctx context.Context, q *hookapi.Question) (*hookapi.Answer, error) {
	if _, err := c.Farm.Head.Node(ctx, q.Derivation); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return &hookapi.Answer{Verdict: hookapi.Decline, Reason: err.Error()}, nil
	}
	deadline := time.Now().Add(FirstContact)
	for {
		a, hopeful, err := c.Farm.Answer(ctx, q)
		if err != nil {
			return nil, err
		}
		if !hopeful || time.Now().After(deadline) {
			return &a, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take has a build done and its outputs handed over. It returns when that is over, or when
// the hook is gone, which cancels the build. It calls release once the order's inputs are no
// longer needed.
func (c *Config) take(ctx context.Context, conn net.Conn, r *hookapi.Reader, o *hookapi.Order, release func(), who User) error {
	inputs := o.Inputs
	o.Inputs = nil
	ctx, cancel := context.WithCancelCause(ctx)
	d := Open(ctx, cancel, c, conn, r, o)
	var group sync.WaitGroup
	defer group.Wait()
	defer d.Close()
	group.Go(func() {
		defer release()
		c.Farm.Head.Prefetch(ctx, inputs)
	})
	b, err := c.submit(ctx, d, o, who)
	defer c.Farm.Gone(d)
	if err != nil {
		if ctx.Err() != nil || passes(err) {
			return err // the hook comes back
		}
		e := reply.Of(err)
		return d.End(hookapi.Result{State: api.Failed, Failure: &api.Failure{
			Culprit: api.CulpritCoordinator, Phase: api.Queued, Message: e.Message,
		}})
	}
	if b.State.Final() {
		return d.End(ResultOf(b))
	}
	return d.Report()
}

// passes reports whether an order that was not submitted because of an error may be submitted
// later, or to a restarted coordinator.
func passes(err error) bool {
	for _, target := range []error{reply.Stopping, ledger.ErrDiskFull, ledger.ErrFailed, ledger.ErrClosed} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// submit submits the build, or finds it if an earlier conversation was about it.
func (c *Config) submit(ctx context.Context, d *Delivery, o *hookapi.Order, who User) (*api.Build, error) {
	if err := o.Check(); err != nil {
		return nil, api.BadRequest("%v", err)
	}
	n, err := c.Farm.Head.Node(ctx, o.Derivation)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, out := range n.Outputs {
		if slices.Contains(o.Outputs, out.Path) {
			names = append(names, out.Name)
		}
	}
	if len(names) != len(o.Outputs) {
		return nil, api.BadRequest("%s: not all of %v are its outputs", o.Derivation, o.Outputs)
	}
	// Whoever has the conversation about a build gets its outputs, and cancels it by ending that.
	switch old, err := c.Farm.Ledger.Build(ctx, o.ID); {
	case errors.Is(err, ledger.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		if err := who.MayTakeOver(old); err != nil {
			return nil, err
		}
	}
	if err := c.Farm.Opened(ctx, d); err != nil {
		return nil, err
	}
	answers, err := c.Farm.Submit(ctx, []api.Request{{
		ID: o.ID, Derivation: o.Derivation, Outputs: names, Offload: true,
		Timeout: o.Timeout, MaxSilentTime: o.MaxSilentTime,
	}}, turns.OnBehalfOf(who.Submitter, o.Client, who.UserName))
	if err != nil {
		return nil, err
	}
	b := answers[0].Build
	switch {
	case b == nil:
		return nil, &api.Error{Code: answers[0].Code, Message: answers[0].Error}
	case !b.Offload:
		return nil, api.BadRequest("id %s is the id of a client's build", o.ID)
	}
	switch live, err := c.Farm.Came(ctx, d); {
	case err != nil:
		return nil, err
	case live:
		return b, nil
	}
	return c.Farm.Ledger.Build(ctx, o.ID)
}
