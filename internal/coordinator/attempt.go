package coordinator

import (
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/remote"
)

// attempt is one attempt at a task, as the loop has it. What it does on its machine is package
// remote's; its goroutine reports to the loop, which believes it as long as it is the task's
// current one.
type attempt struct {
	*remote.Attempt
	task    *task
	machine *machine
	began   time.Time
	deliver *liveBuild    // whose hook gets outputs that are kept on the machine, if not nil
	stale   string        // why it was given up
	over    chan struct{} // closed when its goroutine ends
}

// place starts the next attempt at a task.
func (t *task) place(l *loop, m *machine, reason string) {
	if t.check != nil {
		t.check.placed(l, t, m)
	}
	t.attempt++
	t.machine = m
	r := l.newAttempt(t, m)
	if m.info != nil && m.info.Hardware != (api.Hardware{}) {
		hardware := m.info.Hardware
		for _, rec := range t.builds {
			rec.Hardware = &hardware
		}
	}
	t.setState(l, api.Placed, reason)
	r.start(l, nil)
}

// hookOnly reports whether none but build hooks want a task. guix-daemon protects what it
// needs for those.
func (t *task) hookOnly() bool {
	return t.dependants.size() == 0 && len(t.builds) > 0 && !slices.ContainsFunc(t.builds, func(r *liveBuild) bool { return !r.Offload })
}

// newAttempt makes a task's attempt on a machine, which is to be started.
func (l *loop) newAttempt(t *task, m *machine) *attempt {
	c := l.Coordinator
	r := &attempt{task: t, machine: m, began: c.now(), over: make(chan struct{})}
	r.Attempt = remote.New(c.ctx, &c.forAttempts, remote.Job{
		ID: t.id, Number: t.attempt, Machine: m.peer, Node: t.node, Inputs: t.inputPaths, Known: t.known, Options: m.optionsFor(t),
		NeedsDerivations: m.info != nil && m.info.NeedsDerivations, Protected: t.hookOnly(), Phase: api.Placed,
		Report: func(phase api.State, started time.Time, reason string) {
			c.post(func(l *loop) { r.report(l, phase, started, reason) })
		},
		LogOpened: func() { c.post(func(l *loop) { r.logOpened() }) },
	})
	t.underWay = r
	m.attempts[r] = struct{}{}
	return r
}

// start has the attempt carried out, once before is closed, if that is not nil.
func (r *attempt) start(l *loop, before <-chan struct{}) {
	c := l.Coordinator
	if r.FetchOnly {
		r.task.enter(l, stageFetching)
	} else {
		r.task.enter(l, stageWorking)
	}
	c.group.Go(func() {
		defer close(r.over)
		if before != nil {
			<-before
		}
		r.Run(func(out *remote.Outcome, err error) { c.post(func(l *loop) { r.ended(l, out, err) }) })
	})
}

// report takes over what the attempt says of itself.
func (r *attempt) report(l *loop, phase api.State, started time.Time, reason string) {
	t := r.task
	if t.underWay != r {
		return
	}
	if !started.IsZero() {
		for _, rec := range t.builds {
			rec.Started = &started
		}
	}
	t.setState(l, phase, reason)
}

// errAbandoned is the cause of the end of an attempt whose result nobody wants.
const errAbandoned = peer.Ended("the attempt was abandoned")
