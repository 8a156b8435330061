package coordinator

// restart.go is how a coordinator or a machine goes on after an absence: with what is left in the
// ledger, with what machines say they have, and with the build hooks that come back.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/intake"
	"lighter/internal/coordinator/inventory"
	"lighter/internal/coordinator/remote"
	"lighter/internal/coordinator/stage"
	"lighter/internal/human"
	"lighter/internal/ledger"
	"lighter/store"
)

// ---- what the ledger left ------------------------------------------------------------------

// recover fills the loop from the ledger, before it runs.
func (l *loop) recover(ctx context.Context) error {
	if err := l.recoverMachines(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	var tags map[string]string
	for b, err := range l.ledger.Builds(ctx, ledger.Filter{Filter: api.Filter{States: ledger.NonFinal()}, OldestFirst: true}) {
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		tags = intake.SameTags(b.Tags, tags)
		b.Tags = tags
		l.recoverBuild(b)
	}
	if len(l.tasks) == 0 {
		return nil
	}
	l.group.Go(func() {
		select {
		case <-l.ctx.Done():
		case <-time.After(l.limits.HookGrace):
			l.endHookGrace(l.ctx)
		}
	})
	l.log.Info("unfinished builds were found", "builds", len(l.builds), "derivations", len(l.tasks))
	l.grace = make(map[*host]bool)
	for _, h := range l.hosts {
		l.grace[h] = true
	}
	for _, t := range l.tasks {
		t.enter(l, stage.Looking)
	}
	if len(l.machines) == 0 {
		l.endGrace(nil)
		return nil
	}
	l.group.Go(func() {
		select {
		case <-l.ctx.Done():
		case <-time.After(l.limits.StartGrace):
			l.post(func(l *loop) { l.endGrace(nil) })
		}
	})
	return nil
}

func (l *loop) recoverMachines(ctx context.Context) error {
	past, err := conduct.Recall(ctx, l.ledger, l.log)
	if err != nil {
		return err
	}
	l.learnt = past.Learnt
	for _, m := range l.machines {
		m.remember(past)
	}
	if err := l.counts.Recover(ctx, l.ledger, l.now()); err != nil {
		return err
	}
	if err := l.account.Recover(ctx, l.ledger, l.log, l.now()); err != nil {
		return err
	}
	if l.pause, err = conduct.RecallPause(ctx, l.ledger); err == nil && l.pause.Paused {
		l.log.Warn("nothing is started: an operator paused the coordinator", "reason", l.pause.Reason)
	}
	return err
}

// recoverBuild makes a build of the ledger live again. Builds of the same derivation
// share a task, as they did.
func (l *loop) recoverBuild(b *api.Build) {
	if b.Attached {
		l.awaitClient(b.ID)
	}
	if b.Check > 0 {
		l.addCheck(b)
		return
	}
	id := b.ID
	if b.Shares != "" {
		id = b.Shares
	}
	t := l.tasks[b.Derivation]
	if t == nil {
		t = l.newTask(b.Derivation, id)
		t.state = "" // so that whatever comes first is recorded
	}
	if b.Attempt > t.attempt || t.id != id && b.Attempt == t.attempt && b.State.Running() {
		delete(l.byID, t.id)
		t.id = id
		l.byID[id] = t
	}
	if m := l.successor(b.Machine); b.State.Running() && m != nil && b.Attempt >= t.attempt {
		t.takeUpOn, t.state, t.machine = m, b.State, m
	} else if b.State.Running() && m == nil {
		t.state = b.State // so that a host that has the attempt is believed
		l.log.Warn("an attempt is lost, unless another machine leads to the same host: its machine is no longer in the machines file", "build", b.ID, "machine", b.Machine)
	}
	t.attempt, t.retried = max(t.attempt, b.Attempt), max(t.retried, b.Retried)
	if b.Failure != nil {
		t.failed.Recall(b.Failure, min(t.attempt-1-b.Retried, l.limits.MaxAttempts-1))
	}
	t.join(l, *b)
}

// successor returns the machine with a name; or, if its entry is no longer in the file, or has got
// another way, one that leads where it led when it was last reached. It returns nil if there is none.
func (l *loop) successor(name string) *machine {
	m, led := l.byName[name], l.learnt[name].Route
	if m == nil || led != "" && led != m.Route().String() {
		for _, other := range l.machines {
			if other.Route().String() == led {
				return other
			}
		}
	}
	return m
}

// takeUp goes on with the attempt that is under way on the machine takeUpOn, once before is
// closed, if that is not nil.
func (t *task) takeUp(l *loop, reason string, before <-chan struct{}) {
	m := t.takeUpOn
	t.takeUpOn = nil
	a := l.newAttempt(t, m)
	a.TakenUp = t.state
	a.Phase = t.state
	if t.state != api.Building && t.state != api.Fetching {
		a.TakenUp = api.Placed
	}
	t.setState(l, t.state, reason)
	a.start(l, before)
}

// ---- what machines say they have -----------------------------------------------------------

// spare is a build that an agent finished and a task may need, after a start.
type spare struct {
	machine *machine
	status  agentapi.BuildStatus
}

// addKept makes a task whose outputs a machine keeps already, for the tasks that need them.
func (l *loop) addKept(n *headstore.Node, s *spare) {
	delete(l.spare, n.Path)
	t := l.newTask(n.Path, s.status.ID)
	t.node, t.state, t.machine, t.attempt = n, api.Succeeded, s.machine, s.status.Attempt
	l.live.Store(t.drv, n)
	t.keep(l, s.machine, inventory.Made(s.status.Outputs, nil))
}

// adopt makes a task that waits for its turn use what a machine has built already.
func (t *task) adopt(l *loop, m *machine, s *agentapi.BuildStatus) {
	t.enter(l, stage.Undecided)
	if s.ID != t.id {
		delete(l.byID, t.id)
		t.id = s.ID
		l.byID[t.id] = t
	}
	t.machine, t.attempt = m, max(t.attempt, s.Attempt)
	t.keep(l, m, inventory.Made(s.Outputs, nil))
	if t.builds.wantedHome() || t.builds.offloaded() {
		t.bring(l)
		return
	}
	for _, lb := range t.builds {
		lb.OutputPaths, lb.OutputsOn = t.node.OutputMap(), m.Name
	}
	t.finish(l, "the outputs were on "+m.Name)
}

// reconcile compares the builds that an agent knows with those that are wanted of it, whichever
// machine they were placed through.
func (h *host) reconcile(l *loop, s *inventory.Listed) {
	listed := make(map[string]bool, len(s.Builds))
	for i := range s.Builds {
		status := &s.Builds[i]
		listed[status.ID] = true
		b := s.Ours[status.ID]
		if b == nil {
			h.log.Debug("the agent has a build of another coordinator", "build", status.ID)
			continue
		}
		h.reconcileBuild(l, status, b.Machine, s.Wrong[status])
	}
	h.tellWrong(l, s.Wrong)
	for _, t := range l.tasks {
		if t.keptOn(h) && !listed[t.id] && t.underWay == nil {
			t.lose(l, "its agent no longer knows it")
		}
	}
}

// reconcileBuild decides about one build that an agent knows. through is the name of the machine
// through which its last attempt was placed. wrong says why it cannot be what the host was given;
// nil if it can.
func (h *host) reconcileBuild(l *loop, s *agentapi.BuildStatus, through string, wrong error) {
	t := l.tasks[s.Derivation]
	own := t != nil && t.id == s.ID
	m := h.makerOf(t, through) // nil if none may make it
	switch {
	case own && (t.attempt == s.Attempt && t.worksOn(h) || t.has(h, s)):
		// It goes on.
	case own && t.keptOn(h) && s.State == agentapi.Succeeded && l.inventory.Has(h.peer, s.Outputs):
		// It is still there.
	case own && t.keptOn(h):
		if t.underWay == nil {
			t.lose(l, "its agent now says something else about it")
		}
	case own && t.attempt == s.Attempt && t.somewhere():
		// No two attempts have the same number: it is the same agent, which is reached another way.
		h.log.Info("the agent has a build that was placed on another machine; it is left alone", "build", s.ID, "attempt", s.Attempt)
	case own && l.grace != nil && !t.begun() && t.attempt == s.Attempt && t.state.Running() && wrong == nil:
		// It was placed there through a machine that is no longer in the file. It goes on, whatever
		// the others are for.
		t.machine = cmp.Or(m, h.machines[0])
		t.takeUpOn, t.state = t.machine, api.Placed
	case own && l.grace != nil && m != nil && !t.begun() && t.attempt+1 == s.Attempt:
		// It was placed there, but a crash kept that from the ledger. Nothing is placed before all
		// hosts were asked, so no other attempt has that number.
		t.attempt, t.machine, t.takeUpOn, t.state = s.Attempt, m, m, api.Placed
	case wrong != nil:
		h.forget(l, s.ID)
	case t.stillWanted(l, m, s):
		t.useOld(l, m, s)
	case s.State != agentapi.Succeeded || m == nil:
		h.forget(l, s.ID)
	case l.grace != nil && (t == nil || !t.begun()):
		if other := l.spare[s.Derivation]; other != nil && (other.machine.host != h || other.status.ID != s.ID) {
			h.forget(l, s.ID) // one is enough
			return
		}
		l.spare[s.Derivation] = &spare{m, *s}
	case t != nil && t.stage.Idle():
		t.adopt(l, m, s)
	default:
		h.forget(l, s.ID)
	}
}

// tellWrong tells that a machine lists builds that it was not given, or outputs that they do not
// have.
func (h *host) tellWrong(l *loop, wrong map[*agentapi.BuildStatus]error) {
	var own *headstore.Error
	var texts []string
	for _, err := range wrong {
		if !errors.As(err, &own) {
			texts = append(texts, err.Error())
		}
	}
	if len(texts) == 0 {
		return
	}
	slices.Sort(texts)
	text := fmt.Sprintf("%s that it lists cannot be used: %s", human.Count(len(texts), "build"), texts[0])
	h.faulted(l, text)
	h.machines[0].tell(l, text)
}

// endGrace notes that a host has said what it has, or cannot be asked. After the last one, the
// tasks that a start found are expanded.
func (l *loop) endGrace(h *host) {
	if l.grace == nil {
		return
	}
	if h != nil {
		delete(l.grace, h)
		if len(l.grace) > 0 {
			return
		}
	}
	l.grace = nil
	// One walk for all: a task whose dependants are not known yet would be dropped.
	var questions []question
	for _, t := range l.tasks {
		if t.stage == stage.Looking {
			questions = append(questions, t.question())
		}
	}
	// What is still spare after that walk is not needed.
	l.questions.Put(append(questions, question{whenDone: l.dropSpare})...)
	l.placing = true
}

func (l *loop) dropSpare() {
	again := false
	for drv, s := range l.spare {
		t := l.tasks[drv]
		if t != nil && t.stage == stage.Looking {
			again = true
			continue
		}
		delete(l.spare, drv)
		if t != nil && t.stage.Idle() && s.machine.host.makerOf(t, s.machine.Name) != nil {
			t.adopt(l, s.machine, &s.status)
		} else {
			s.machine.forget(l, s.status.ID)
		}
	}
	if again {
		l.questions.Put(question{whenDone: l.dropSpare})
	}
}

// ---- what a machine brings back ------------------------------------------------------------

// A machine that was away for long comes back with what it was building. Its attempts were
// given up, and others may be under way elsewhere: their numbers say who owns a build, and
// nothing that an old attempt reports is believed. But what it made is as good as any other
// result. If nobody has one yet, a new attempt, with the next number, takes it up: whatever else
// is under way is abandoned, and the new attempt reads the log of what the agent finished and
// fetches it. So there is one owner at any time, and if this fails, the build goes on as after
// any other attempt. If the build still runs there and was not tried again since, its attempt is
// still the last one, and is taken up itself.

// stillWanted reports whether a machine came back with something of an attempt that was given up,
// for a task that is not done yet.
func (t *task) stillWanted(l *loop, m *machine, s *agentapi.BuildStatus) bool {
	if l.grace != nil || t == nil || t.id != s.ID || !t.stage.Idle() && t.stage != stage.Working || m == nil || m.problem != "" {
		return false
	}
	if s.State == agentapi.Running {
		return t.stage.Idle() && t.attempt == s.Attempt && t.waiting == 0
	}
	// What is being fetched elsewhere is done there too, and nearer.
	return remote.Complete(t.node, s) && s.Attempt <= t.attempt && t.attempt < api.MaxAttempt && (t.stage.Idle() || t.machine.host != m.host)
}

// useOld uses what stillWanted found.
func (t *task) useOld(l *loop, m *machine, s *agentapi.BuildStatus) {
	if t.stage.Idle() {
		t.enter(l, stage.Undecided)
	}
	if s.State == agentapi.Running {
		m.log.Info("the machine is back and still building; the attempt goes on", "build", t.id, "attempt", s.Attempt)
		t.takeUpOn, t.machine, t.state = m, m, api.Building
		t.takeUp(l, "its machine is back and is still building it", nil)
		return
	}
	m.log.Info("the machine is back with a build that is still wanted", "build", t.id, "attempt", s.Attempt)
	t.abandon(l, m.Name+" came back with what it built")
	t.attempt++
	t.takeUpOn, t.machine, t.state = m, m, api.Building
	t.takeUp(l, fmt.Sprintf("%s came back with what attempt %d made there", m.Name, s.Attempt), nil)
}

// ---- build hooks that come back ------------------------------------------------------------

// awaitGraph waits until it is known which of the tasks that a start found need which.
func (c *Coordinator) awaitGraph(ctx context.Context) error {
	for {
		walked := make(chan struct{})
		err := c.do(ctx, func(l *loop) {
			if l.grace == nil {
				c.questions.Put(question{whenDone: func() { close(walked) }})
			}
		})
		if err != nil {
			return err
		}
		select {
		case <-walked:
			return nil
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// endHookGrace ends builds that an earlier coordinator left and whose hooks did not come back. If
// the outputs are valid, the hook had them.
func (c *Coordinator) endHookGrace(ctx context.Context) {
	if c.awaitGraph(ctx) != nil {
		return
	}
	waiting := make(map[string][]store.Path)
	err := c.do(ctx, func(l *loop) {
		for id, lb := range l.builds {
			if lb.Offload && lb.delivery == nil && l.deliveries[id] == nil {
				waiting[id] = slices.Collect(maps.Values(lb.OutputPaths))
			}
		}
	})
	if err != nil {
		return
	}
	for id, outputs := range waiting {
		absent, err := store.Missing(ctx, c.head.Backend, outputs)
		done := err == nil && len(outputs) > 0 && len(absent) == 0
		c.post(func(l *loop) {
			lb := l.builds[id]
			if lb == nil || lb.delivery != nil || l.deliveries[id] != nil {
				return
			}
			if !done {
				lb.cancel(l, "guix-daemon's build hook did not come back for it")
				return
			}
			lb.leave(l, api.Succeeded, "guix-daemon has the outputs")
			if t := lb.task; len(t.builds) == 0 && t.dependants.Size() > 0 && !t.stage.Available() {
				t.standIn(l, lb)
			} else {
				t.withoutBuild(l)
			}
		})
	}
}
