package coordinator

import (
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/remote"
	"lighter/internal/coordinator/stage"
	"lighter/scheduler"
)

// attempt is the loop's view of one attempt at a task. Package remote carries it out; its
// goroutine reports to the loop, which believes it only while it is the task's current one.
type attempt struct {
	*remote.Attempt
	task      *task
	machine   *machine
	host      *host // that it was begun on
	began     time.Time
	build     *scheduler.Build // as it was when the attempt took a slot; nil if it takes none
	recipient *liveBuild       // whose hook gets outputs that are kept on the machine, if not nil
	stale     string           // why it was given up
	fresh     bool             // it was placed, and not taken up
	phase     api.State        // that it has reached
	over      chan struct{}    // closed when its goroutine ends
}

// place starts the next attempt at a task.
func (t *task) place(l *loop, m *machine, reason string) {
	if t.check != nil {
		t.check.placed(l, t, m)
	}
	t.attempt++
	t.machine = m
	a := l.newAttempt(t, m)
	a.fresh = true
	if m.info != nil && m.info.Hardware != (api.Hardware{}) {
		hardware := m.info.Hardware
		for _, lb := range t.builds {
			lb.Hardware = &hardware
		}
	}
	t.setState(l, api.Placed, reason)
	t.askNext(l)
	a.start(l, nil)
	l.stopEarly(t)
}

// newAttempt makes an attempt at a task on a machine. The caller starts it.
func (l *loop) newAttempt(t *task, m *machine) *attempt {
	c := l.Coordinator
	a := &attempt{task: t, machine: m, host: m.host, began: c.now(), phase: api.Placed, over: make(chan struct{})}
	a.Attempt = remote.New(c.ctx, &c.forAttempts, remote.Job{
		ID: t.id, Number: t.attempt, Machine: m.peer, Node: t.node, Inputs: t.inputPaths, Recorded: t.recorded, Options: m.optionsFor(t),
		NeedsDerivations: m.info != nil && m.info.NeedsDerivations, Protected: t.dependants.Size() == 0 && t.builds.onlyOffloaded(), Phase: api.Placed,
		Report: func(phase api.State, started time.Time, reason string) {
			c.post(func(l *loop) { a.report(l, phase, started, reason) })
		},
		LogOpened: func() { c.post(func(l *loop) { a.logOpened() }) },
	})
	t.underWay = a
	m.attempts[a] = struct{}{}
	return a
}

// start has the attempt carried out, once before is closed if it is not nil.
func (a *attempt) start(l *loop, before <-chan struct{}) {
	c := l.Coordinator
	if a.FetchOnly {
		a.task.enter(l, stage.Fetching)
	} else {
		a.task.enter(l, stage.Working)
		a.hold(l)
	}
	c.group.Go(func() {
		defer close(a.over)
		if before != nil {
			<-before
		}
		a.Run(func(out *remote.Outcome, err error) { c.post(func(l *loop) { a.ended(l, out, err) }) })
	})
}

// report notes the phase that an attempt has reached.
func (a *attempt) report(l *loop, phase api.State, started time.Time, reason string) {
	t := a.task
	a.phase = phase
	if t.underWay != a {
		return
	}
	if !started.IsZero() {
		for _, lb := range t.builds {
			lb.Started = &started
		}
	}
	t.setState(l, phase, reason)
}

// blame says who is to blame for the error with which an attempt ended. Package remote knows the host
// alone: here it gets the name of the machine through which the attempt was placed.
func (a *attempt) blame(err error) *api.Failure {
	f := a.Failure(err)
	if f.Machine == a.host.name() {
		f.Machine = a.machine.Name
	}
	return f
}

// errAbandoned is the cause of the end of an attempt whose result nobody wants.
const errAbandoned = peer.Ended("the attempt was abandoned")
