package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"lighter/internal/api"
	"lighter/internal/coordinator/compare"
	"lighter/internal/coordinator/failing"
	"lighter/internal/coordinator/remote"
	"lighter/internal/coordinator/stage"
)

// liveCheck is a check under way. Package compare carries it out; to it, this is the farm.
//
// It keeps nothing of its own in the ledger. All ids follow from that of the check's build, so
// a restarted coordinator does the same again and finds what has been done.
type liveCheck struct {
	c      *Coordinator
	whose  *api.Submitter // of it, and of what is built for it
	ctx    context.Context
	cancel context.CancelCauseFunc
	made   chan *compare.Made // has room for all

	// The rest belongs to the loop.
	build  *liveBuild
	work   *compare.Work
	used   map[string]bool // machines that built it, or build it now
	tasks  map[*task]bool  // comparisons that are not over yet
	others []string        // ids of plain builds that were made for this one
	begun  int             // comparisons
	vain   int             // comparisons that said nothing of the derivation
}

// addCheck starts a check.
func (l *loop) addCheck(b *api.Build) {
	k := &liveCheck{
		c: l.Coordinator, whose: b.Submitter, used: make(map[string]bool), tasks: make(map[*task]bool),
		made: make(chan *compare.Made, api.MaxChecks*(l.limits.MaxAttempts+1)),
	}
	k.ctx, k.cancel = context.WithCancelCause(l.ctx)
	k.build = &liveBuild{Build: *b, task: &task{drv: b.Derivation, id: b.ID, state: b.State}, check: k}
	l.builds[b.ID] = k.build
	request := b.Request
	l.group.Go(func() { k.carryOut(request) })
}

func (k *liveCheck) carryOut(r api.Request) {
	defer k.cancel(nil)
	end := compare.Run(k.ctx, k, k.c.head, r)
	k.c.post(func(l *loop) { k.concluded(l, end) })
}

// ---- what package compare asks for ---------------------------------------------------------

// Have submits a plain build and waits until it has succeeded.
func (k *liveCheck) Have(ctx context.Context, r api.Request) (*api.Build, error) {
	if err := k.c.do(ctx, func(l *loop) { k.others = append(k.others, r.ID) }); err != nil {
		return nil, err
	}
	answers, err := k.c.Submit(ctx, []api.Request{r}, k.whose)
	if err != nil {
		return nil, err
	}
	if answers[0].Build == nil {
		return nil, fmt.Errorf("%s: %s", r.Derivation, answers[0].Error)
	}
	b, err := k.c.awaitFinal(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if b.State != api.Succeeded {
		return nil, &compare.BuildError{Build: b, Failure: failing.Of(b)}
	}
	return b, nil
}

// Begin queues comparisons on want machines, none of them on but.
func (k *liveCheck) Begin(ctx context.Context, w *compare.Work, but string, want int) error {
	var short error
	if err := k.c.do(ctx, func(l *loop) {
		k.work = w
		built := 0
		if but != "" {
			k.use(l, but)
			built = 1
		}
		if n := k.possible(l); n < want {
			short = failing.TooFew(k.build.Check, built+n, len(l.hosts) < len(l.machines))
			return
		}
		k.next(l, want)
	}); err != nil {
		return err
	}
	return short
}

// Again queues one more comparison, in place of one that was in vain.
func (k *liveCheck) Again(ctx context.Context, m *compare.Made, why error) error {
	var hopeless error
	if err := k.c.do(ctx, func(l *loop) {
		k.vain++
		var f *api.Failure
		unable := errors.As(why, &f) && f.Kind == api.KindUnable
		left := k.possible(l)
		if k.vain >= l.limits.MaxAttempts || unable && left == 0 {
			hopeless = why
			return
		}
		if on := l.byName[m.Name]; on != nil && left == 0 { // rather than none at all
			for _, same := range on.host.machines {
				delete(k.used, same.Name)
			}
		}
		k.next(l, 1)
	}); err != nil {
		return err
	}
	return hopeless
}

// Made has what machines made.
func (k *liveCheck) Made() <-chan *compare.Made { return k.made }

// Drop lets a machine drop what it made.
func (k *liveCheck) Drop(m *compare.Made) {
	k.c.post(func(l *loop) {
		for _, h := range l.hosts {
			if h.peer == m.Machine {
				h.forget(l, m.ID)
			}
		}
	})
}

// Tell tells how far the check is.
func (k *liveCheck) Tell(s api.State, reason string, results []api.CheckResult) {
	k.c.post(func(l *loop) {
		if lb := k.build; !lb.State.Final() {
			changed := lb.State != s || lb.Reason != reason
			lb.State, lb.Reason, lb.Results = s, reason, results
			if changed {
				lb.save(l, true)
			}
		}
	})
}

// awaitFinal waits until a build is final.
func (c *Coordinator) awaitFinal(ctx context.Context, id string) (*api.Build, error) {
	final := make(chan struct{})
	err := c.do(ctx, func(l *loop) {
		if l.builds[id] == nil {
			close(final)
		} else {
			l.finals[id] = append(l.finals[id], final)
		}
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-final:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	// What the loop changed before is in the ledger after this.
	if err := c.durable(ctx, func(l *loop) error { return nil }); err != nil {
		return nil, err
	}
	return c.ledger.Build(ctx, id)
}

// ---- in the loop ---------------------------------------------------------------------------

// possible counts the hosts that may still build the derivation for the check.
func (k *liveCheck) possible(l *loop) int {
	t := k.newTask(l)
	b := t.schedulerBuild(l)
	n := 0
	for _, h := range l.hosts {
		if slices.ContainsFunc(h.machines, func(m *machine) bool { return !m.removed && m.possible(&b) }) {
			n++
		}
	}
	return n
}

// use notes that a machine builds the derivation for the check: no other entry of its host shall.
func (k *liveCheck) use(l *loop, name string) {
	k.used[name] = true
	if m := l.byName[name]; m != nil {
		m.avoidHost(&k.used)
	}
}

// newTask makes the task of a comparison. It is not part of the graph of tasks.
func (k *liveCheck) newTask(l *loop) *task {
	return &task{
		drv: k.build.Derivation, id: compare.ID(k.build.ID, k.begun), seq: l.seq, state: api.Queued,
		node: k.work.Node, check: k, priority: k.build.Priority, shares: l.account.Of(&k.build.Build),
		skip: maps.Clone(k.used),
	}
}

// next queues a comparison on one more machine; when it is placed, the next one, until left are.
func (k *liveCheck) next(l *loop, left int) {
	l.seq++
	t := k.newTask(l)
	k.begun++
	t.inputPaths, t.checksLeft = k.work.Inputs, left-1
	k.tasks[t] = true
	l.byID[t.id] = t
	t.enter(l, stage.Queued)
}

// placed is called when a comparison goes to a machine.
func (k *liveCheck) placed(l *loop, t *task, m *machine) {
	k.use(l, m.Name)
	if t.checksLeft > 0 {
		k.next(l, t.checksLeft)
	}
}

// checkEnded hands over what a machine made.
func (a *attempt) checkEnded(l *loop, out *remote.Outcome, err error) {
	t := a.task
	a.detach(l, "")
	t.enter(l, stage.Over)
	delete(t.check.tasks, t)
	if err != nil {
		f := a.blame(err)
		if f.Kind == api.KindFault {
			a.machine.faulted(l, f.Message)
		}
		err = f
	}
	lb := t.check.build
	lb.SentBytes += a.Sent.Load()
	t.check.made <- &compare.Made{Machine: a.machine.peer, Name: a.machine.Name, ID: a.ID, Attempt: a.Number, Outcome: out, Err: err}
}

// concluded ends the check's build.
func (k *liveCheck) concluded(l *loop, end *compare.Conclusion) {
	k.endTasks(l, "the check is over")
	lb := k.build
	if l.builds[lb.ID] != lb || l.ctx.Err() != nil {
		return
	}
	lb.Results, lb.OutputPaths, lb.Failure = end.Results, end.Outputs, end.Failure
	lb.end(l, end.State, end.Reason)
}

// cancelBy cancels a check.
func (k *liveCheck) cancelBy(l *loop, reason string) {
	k.end(l, api.Canceled, reason, k.build.Failure)
}

// end ends a check before its conclusion.
func (k *liveCheck) end(l *loop, state api.State, reason string, f *api.Failure) {
	k.build.Failure = f
	k.build.end(l, state, reason)
	k.cancel(errAbandoned)
	k.endTasks(l, reason)
	for _, id := range k.others {
		if other := l.builds[id]; other != nil {
			other.cancel(l, reason)
		}
	}
}

func (k *liveCheck) endTasks(l *loop, why string) {
	for t := range k.tasks {
		t.abandon(l, why)
		t.enter(l, stage.Over)
	}
	clear(k.tasks)
}
