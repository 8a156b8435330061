package coordinator

import (
	"context"
	"net"

	"lighter/internal/api"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/stage"
	"lighter/internal/hookapi"
	"lighter/scheduler"
)

// HookUser says for whom a build hook asks.
type HookUser = delivery.User

// Offload talks with a build hook on a connection, in the frames of package hookapi, until the
// conversation is over or the coordinator stops. It closes the connection.
func (c *Coordinator) Offload(ctx context.Context, conn net.Conn, r *hookapi.Reader, who HookUser) {
	defer conn.Close()
	ctx, cancel := c.UntilStopped(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := c.forDeliveries.Serve(ctx, conn, r, who); err != nil && ctx.Err() == nil {
		c.log.Debug("a build hook ended the conversation", "err", err)
	}
}

// forHooks is what package delivery asks of the coordinator.
func (c *Coordinator) forHooks() delivery.Farm {
	return delivery.Farm{
		Head: c.head, Ledger: c.ledger, Submit: c.Submit,
		Answer: func(ctx context.Context, q *hookapi.Question) (a hookapi.Answer, hopeful bool, err error) {
			if err := c.do(ctx, func(l *loop) { a, hopeful = l.answerTo(q) }); err != nil {
				return hookapi.Answer{}, false, err
			}
			return a, hopeful, nil
		},
		Opened: func(ctx context.Context, d *delivery.Delivery) error {
			return c.do(ctx, func(l *loop) { l.deliveries[d.ID] = d })
		},
		Came: func(ctx context.Context, d *delivery.Delivery) (bool, error) {
			var live bool
			if err := c.durable(ctx, func(l *loop) error {
				live = l.hookCame(d)
				return nil
			}); err != nil {
				return false, err
			}
			return live, nil
		},
		Gone: func(d *delivery.Delivery) { c.post(func(l *loop) { l.hookGone(d) }) },
	}
}

// answerTo answers for this moment, as [delivery.Farm.Answer].
func (l *loop) answerTo(q *hookapi.Question) (a hookapi.Answer, hopeful bool) {
	b := scheduler.Build{ID: "offload", System: q.System, Features: q.Features}
	if reason := l.neverTakes(&b); reason != "" {
		return hookapi.Answer{Verdict: hookapi.Decline, Reason: reason}, false
	}
	if err := l.recorder.Stalled(); err != nil {
		return delivery.Later(q, "the coordinator's ledger takes no changes: "+err.Error()), false
	}
	if why := l.whyPaused(); why != "" {
		return delivery.Later(q, "the coordinator is "+why), false
	}
	if t := l.tasks[q.Derivation]; t != nil && t.builds.wantedHome() {
		// Its outputs go into the store, for which guix-daemon must let go of them.
		return hookapi.Answer{Verdict: hookapi.Postpone, Reason: "a client of the coordinator is already having it built"}, false
	}
	var places []delivery.Place
	for i, v := range scheduler.Explain(&b, l.schedulerMachines(l.now()), nil) {
		m := l.machines[i]
		places = append(places, delivery.Place{Verdict: v, Host: m.host, Slots: m.ParallelBuilds, Tried: m.tried()})
	}
	return delivery.AnswerFor(q, places, l.queue.Len())
}

// tried reports whether the first try to reach the machine has ended.
func (m *machine) tried() bool { return m.state == api.MachineUp || m.state == api.MachineDown }

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
	case t.stage == stage.Made && t.kept != nil:
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
