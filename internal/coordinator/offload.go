package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/reply"
	"lighter/internal/coordinator/turns"
	"lighter/internal/hookapi"
	"lighter/internal/ledger"
	"lighter/scheduler"
)

// HookUser says for whom a build hook asks.
type HookUser struct {
	Submitter *api.Submitter // of what the hook has built
	// UserName returns what the user database calls a user, or "".
	UserName func(uid uint32) string
	// MayTakeOver says what speaks against handing a build of somebody else's to the hook.
	MayTakeOver func(*api.Build) error
}

// Offload talks with a build hook on a connection, in the frames of package hookapi, until the
// conversation is over or the coordinator stops. It closes the connection.
func (c *Coordinator) Offload(ctx context.Context, conn net.Conn, r *hookapi.Reader, who HookUser) {
	defer conn.Close()
	ctx, cancel := c.UntilStopped(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	order, release, err := c.forDeliveries.Converse(ctx, conn, r, c.mayOffload)
	if err == nil {
		err = c.takeOrder(ctx, conn, r, order, release, who)
	}
	if err != nil && ctx.Err() == nil {
		c.log.Debug("a build hook ended the conversation", "err", err)
	}
}

// ---- whether to take it --------------------------------------------------------------

// Limits on what is taken from build hooks.
const (
	// firstContact is how long a question waits for machines that have not been reached yet.
	firstContact = 3 * time.Second
	// maxQueuedPerSlot is how many offloaded builds may wait for each slot. Each is a
	// process on the head.
	maxQueuedPerSlot = 64
	// maxLongOrders is how many orders longer than a chunk are in memory at a time; each may
	// have tens of MB.
	maxLongOrders = 4
)

// mayOffload decides about one build. What was accepted once, guix-daemon builds neither itself
// nor elsewhere, so whatever speaks against accepting is found out here.
func (c *Coordinator) mayOffload(ctx context.Context, q *hookapi.Question) (*hookapi.Answer, error) {
	if _, err := c.head.Node(ctx, q.Derivation); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return &hookapi.Answer{Verdict: hookapi.Decline, Reason: err.Error()}, nil
	}
	deadline := c.now().Add(firstContact)
	for {
		var a hookapi.Answer
		var hopeful bool
		if err := c.do(ctx, func(l *loop) { a, hopeful = l.answerTo(q) }); err != nil {
			return nil, err
		}
		if !hopeful || c.now().After(deadline) {
			return &a, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// answerTo answers for this moment. It is hopeful if the answer may be better once machines are
// reached that were never tried.
func (l *loop) answerTo(q *hookapi.Question) (a hookapi.Answer, hopeful bool) {
	b := scheduler.Build{ID: "offload", System: q.System, Features: q.Features}
	if reason := l.neverTakes(&b); reason != "" {
		return hookapi.Answer{Verdict: hookapi.Decline, Reason: reason}, false
	}
	later := func(reason string) hookapi.Answer {
		if q.WantsLocal {
			return hookapi.Answer{Verdict: hookapi.Decline, Reason: reason}
		}
		return hookapi.Answer{Verdict: hookapi.Postpone, Reason: reason}
	}
	if err := l.recorder.Stalled(); err != nil {
		return later("the coordinator's ledger takes no changes: " + err.Error()), false
	}
	if why := l.whyPaused(); why != "" {
		return later("the coordinator is " + why), false
	}
	if t := l.tasks[q.Derivation]; t != nil && t.wantedHome() {
		// Its outputs go into the store, for which guix-daemon must let go of them.
		return hookapi.Answer{Verdict: hookapi.Postpone, Reason: "a client of the coordinator is already having it built"}, false
	}
	free, slots, queued := false, make(map[*host]int), l.queue.Len()
	var why []string
	for i, v := range scheduler.Explain(&b, l.schedulerMachines(l.now()), nil) {
		switch {
		case v.OK(), v.Rule == scheduler.RuleSlots:
			m := l.machines[i]
			free = free || v.OK()
			slots[m.host] = max(slots[m.host], m.ParallelBuilds) // machines of a host share them
		case v.Rule == scheduler.RuleAvailable && !l.machines[i].tried():
			hopeful = true
			why = append(why, v.Machine+": "+v.Actual)
		case v.Rule == scheduler.RuleAvailable, v.Rule == scheduler.RuleAdmission, v.Rule == scheduler.RuleLoad, v.Rule == scheduler.RuleDisk:
			why = append(why, v.Machine+": "+v.Actual)
		}
	}
	all := 0
	for _, n := range slots {
		all += n
	}
	switch {
	case all == 0:
		return later("no machine can take it now: " + strings.Join(why, "; ")), hopeful
	case !free && q.WantsLocal:
		return later("all slots are taken, and guix-daemon has a free one"), false
	case queued >= maxQueuedPerSlot*all:
		return later(fmt.Sprintf("%d builds are already waiting", queued)), false
	}
	return hookapi.Answer{Verdict: hookapi.Accept}, false
}

// tried reports whether the first try to reach the machine has ended.
func (m *machine) tried() bool { return m.state == api.MachineUp || m.state == api.MachineDown }

// ---- one build -------------------------------------------------------------------------

// takeOrder has a build done and its outputs handed over. It returns when that is over, or when
// the hook is gone, which cancels the build. It calls release once the order's inputs are no
// longer needed.
func (c *Coordinator) takeOrder(ctx context.Context, conn net.Conn, r *hookapi.Reader, o *hookapi.Order, release func(), who HookUser) error {
	inputs := o.Inputs
	o.Inputs = nil
	ctx, cancel := context.WithCancelCause(ctx)
	d := delivery.Open(ctx, cancel, &c.forDeliveries, conn, r, o)
	var group sync.WaitGroup
	defer group.Wait()
	defer d.Close()
	group.Go(func() {
		defer release()
		c.head.Prefetch(ctx, inputs)
	})
	b, err := c.submitOrder(ctx, d, o, who)
	defer c.post(func(l *loop) { l.hookGone(d) })
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
		return d.End(delivery.ResultOf(b))
	}
	return d.Report()
}

// passes reports whether an order that was not submitted because of an error may be submitted
// later, or to a restarted coordinator.
func passes(err error) bool {
	for _, target := range []error{errStopping, ledger.ErrDiskFull, ledger.ErrFailed, ledger.ErrClosed} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// submitOrder submits the build, or finds it if an earlier conversation was about it.
func (c *Coordinator) submitOrder(ctx context.Context, d *delivery.Delivery, o *hookapi.Order, who HookUser) (*api.Build, error) {
	if err := o.Check(); err != nil {
		return nil, api.BadRequest("%v", err)
	}
	n, err := c.head.Node(ctx, o.Derivation)
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
	switch old, err := c.ledger.Build(ctx, o.ID); {
	case errors.Is(err, ledger.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		if err := who.MayTakeOver(old); err != nil {
			return nil, err
		}
	}
	if err := c.do(ctx, func(l *loop) { l.deliveries[d.ID] = d }); err != nil {
		return nil, err
	}
	answers, err := c.Submit(ctx, []api.Request{{
		ID: o.ID, Derivation: o.Derivation, Outputs: names, Offload: true,
		Timeout: o.Timeout, MaxSilentTime: o.MaxSilentTime,
	}}, turns.OnBehalfOf(who.Submitter, o.Client, who.UserName))
	if err != nil {
		return nil, err
	}
	switch b := answers[0].Build; {
	case b == nil:
		return nil, &api.Error{Code: answers[0].Code, Message: answers[0].Error}
	case !b.Offload:
		return nil, api.BadRequest("id %s is the id of a client's build", o.ID)
	}
	found := make(chan bool, 1)
	c.post(func(l *loop) {
		live := l.hookCame(d)
		l.durably(func() { found <- live })
	})
	select {
	case live := <-found:
		if live {
			return answers[0].Build, nil
		}
		return c.ledger.Build(ctx, o.ID)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.mail.Closed():
		return nil, errStopping
	}
}

// hookCame gives a build its hook's delivery, and reports whether the build is live.
func (l *loop) hookCame(d *delivery.Delivery) bool {
	lb := l.builds[d.ID]
	if lb == nil {
		return false
	}
	if old := lb.delivery; old != nil && old != d {
		old.Drop()
	}
	lb.delivery = d
	t := lb.task
	d.Tell(&lb.Build)
	if t.logAttempt > 0 && t.logAttempt == t.attempt {
		d.OpenLog(t.logID, t.logAttempt)
	}
	switch {
	case t.stage == stageMade && t.kept != nil:
		t.deliver(l)
	case !t.begun():
		l.scout.Ask(t.drv)
	}
	return true
}

// hookGone cancels the build of a hook that is gone, if no other hook has come for it.
func (l *loop) hookGone(d *delivery.Delivery) {
	if l.deliveries[d.ID] == d {
		delete(l.deliveries, d.ID)
	}
	lb := l.builds[d.ID]
	if lb == nil || !lb.Offload || l.ctx.Err() != nil {
		return
	}
	if lb.delivery == d {
		lb.delivery = nil
	}
	if lb.delivery != nil || l.deliveries[d.ID] != nil {
		return
	}
	if f := d.Overtime(&lb.Build, l.now()); f != nil {
		lb.timeOut(l, f)
	} else {
		lb.cancel(l, "guix-daemon no longer wants it")
	}
	l.placing = true
}

// logOpened notes that the log of an attempt begins, and tells hooks that wait for it.
func (a *attempt) logOpened() {
	t := a.task
	if t.underWay != a {
		return
	}
	t.logID, t.logAttempt = a.ID, a.Number
	for _, lb := range t.builds {
		if lb.delivery != nil {
			lb.delivery.OpenLog(a.ID, a.Number)
		}
	}
}

// deliver starts handing over the outputs that a machine keeps to a hook that wants them. Hooks
// get them one after the other.
func (t *task) deliver(l *loop) {
	t.machine = t.kept
	for _, lb := range t.builds {
		if lb.Offload && lb.delivery != nil {
			a := l.newAttempt(t, t.kept)
			a.FetchOnly, a.recipient, a.To, a.Outputs = true, lb, lb.delivery, lb.Outputs
			t.setState(l, api.Fetching, "guix-daemon takes the outputs")
			t.leaves(l)
			a.start(l, nil)
			return
		}
	}
	t.setState(l, api.Fetching, "waits for guix-daemon's build hook to come back for the outputs")
}

// delivered ends a build whose hook has the outputs.
func (a *attempt) delivered(l *loop) {
	t := a.task
	l.coming.Arrived(t.drv, l.now())
	if l.builds[a.recipient.ID] == a.recipient {
		a.recipient.leave(l, api.Succeeded, "guix-daemon has the outputs")
	}
	if len(t.builds) > 0 {
		t.bring(l)
		return
	}
	t.state = api.Succeeded
	t.releaseInputs(l)
	t.dropUnneeded(l)
}
