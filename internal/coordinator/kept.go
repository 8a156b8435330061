package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/store"
)

// keptItems knows the outputs that stay on the machine where they were built. The
// loop writes it, runs read it.
type keptItems struct {
	mu sync.Mutex
	// items has one of each machine that keeps an item, the first one first: different
	// derivations may have the same output.
	items map[store.Path][]keptItem
}

type keptItem struct {
	made    *madeItem
	machine *machine
}

func newKeptItems() *keptItems { return &keptItems{items: make(map[store.Path][]keptItem)} }

// get returns an item from the machine that had it first.
func (k *keptItems) get(p store.Path) (keptItem, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if items := k.items[p]; len(items) > 0 {
		return items[0], true
	}
	return keptItem{}, false
}

// on returns an item that a machine keeps, or nil.
func (k *keptItems) on(m *machine, p store.Path) *madeItem {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.onLocked(m, p)
}

func (k *keptItems) onLocked(m *machine, p store.Path) *madeItem {
	for _, item := range k.items[p] {
		if item.machine == m {
			return item.made
		}
	}
	return nil
}

// has reports whether a machine is known to keep all of some outputs, just as they are.
func (k *keptItems) has(m *machine, outputs map[string]*store.Info) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, info := range outputs {
		if info == nil {
			return false
		}
		if made := k.onLocked(m, info.Path); made == nil || difference(made.info, info) != "" {
			return false
		}
	}
	return len(outputs) > 0
}

// add notes that a machine keeps items. What is known of one stays as it is.
func (k *keptItems) add(m *machine, made []*madeItem) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, item := range made {
		if p := item.info.Path; k.onLocked(m, p) == nil {
			k.items[p] = append(k.items[p], keptItem{item, m})
		}
	}
}

func (k *keptItems) remove(m *machine, paths []store.Path) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range paths {
		left := slices.DeleteFunc(k.items[p], func(item keptItem) bool { return item.machine == m })
		if k.items[p] = left; len(left) == 0 {
			delete(k.items, p)
		}
	}
}

// move notes that a machine is another one now.
func (k *keptItems) move(from, to *machine) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, items := range k.items {
		for i := range items {
			if items[i].machine == from {
				items[i].machine = to
			}
		}
	}
}

// spare is a build that an agent finished and a task may need, after a start.
type spare struct {
	machine *machine
	status  agentapi.BuildStatus
}

// keep notes that a task's outputs stay on a machine.
func (t *task) keep(l *loop, m *machine, made []*madeItem) {
	t.kept = m
	l.kept.add(m, made)
	t.setAvailable(l)
}

// release lets a machine drop what it keeps for a task that is over.
func (t *task) release(l *loop, m *machine) {
	t.kept = nil
	l.unkeep(t, m)
	id := t.id
	l.durably(func() { m.forget(l, id) })
}

// forget has a machine's agent forget a build, unless another attempt at it is under
// way there: that one replaces what the agent has, and is forgotten when it is over.
func (m *machine) forget(l *loop, id string) {
	if t := l.byID[id]; t != nil && t.uses(m) {
		return
	}
	if m.state == api.MachineDown {
		return // what is still wanted of what it has is known when it is back
	}
	m.forgetter.forget(id)
}

func (c *Coordinator) unkeep(t *task, m *machine) {
	if t.node == nil {
		return
	}
	paths, _ := t.node.OutputPaths(nil) // naming none cannot fail
	c.kept.remove(m, paths)
}

// addKept makes a task that is over, for the sake of those that need its outputs.
func (l *loop) addKept(n *headstore.Node, s *spare) {
	delete(l.spare, n.Path)
	t := l.newTask(n.Path, s.status.ID)
	t.node, t.state, t.machine, t.attempt = n, api.Succeeded, s.machine, s.status.Attempt
	l.live.Store(t.drv, n)
	t.keep(l, s.machine, madeOf(s.status.Outputs, nil))
}

// adopt makes a task that waits for its turn use what a machine built before.
func (t *task) adopt(l *loop, m *machine, s *agentapi.BuildStatus) {
	l.queue.Remove(t.id)
	l.kept.add(m, madeOf(s.Outputs, nil))
	if s.ID != t.id {
		delete(l.byID, t.id)
		t.id = s.ID
		l.byID[t.id] = t
	}
	t.machine, t.attempt = m, max(t.attempt, s.Attempt)
	t.kept = m
	t.setAvailable(l)
	if t.wantedHome() || t.offloaded() {
		t.bring(l)
		return
	}
	for _, r := range t.builds {
		r.OutputPaths, r.OutputsOn = t.node.OutputMap(), m.Name
	}
	t.finish(l, "the outputs were on "+m.Name)
}

// bring starts what is next for builds whose outputs are there: build hooks get them
// first, since guix-daemon makes them valid at home by that.
func (t *task) bring(l *loop) {
	switch {
	case t.kept == nil:
		t.endServed(l, "the outputs were there")
	case t.offloaded():
		t.deliver(l)
	case t.wantedHome():
		t.fetchHome(l)
	default:
		t.endServed(l, "the outputs are on "+t.kept.Name)
	}
}

// endServed ends builds that need nothing but that the outputs are where they are.
func (t *task) endServed(l *loop, reason string) {
	for _, r := range t.builds {
		r.OutputPaths = t.node.OutputMap()
		if t.kept != nil {
			r.OutputsOn = t.kept.Name
		}
	}
	t.finish(l, reason)
}

// withoutBuild goes on with a task that has one build less, and others.
func (t *task) withoutBuild(l *loop) {
	if t.available && t.run == nil && !l.delayed[t] {
		t.bring(l)
		return
	}
	t.dropUnneeded(l)
}

// fetchHome starts a run that fetches outputs which a machine keeps.
func (t *task) fetchHome(l *loop) {
	r := l.newRun(t, t.kept)
	r.fetchOnly = true
	t.machine = t.kept
	t.setState(l, api.Fetching, "the outputs are on "+t.kept.Name)
	l.group.Go(r.main)
}

// loseAll gives up what a machine keeps.
func (m *machine) loseAll(l *loop, why string) {
	for _, t := range l.tasks {
		if t.kept == m {
			t.lose(l, why)
		}
	}
}

// lose gives up the outputs that a machine keeps for a task. They are built again if
// somebody needs them.
func (t *task) lose(l *loop, why string) {
	m := t.kept
	l.log.Warn("outputs were lost", "derivation", t.drv, "machine", m.Name, "why", why)
	t.release(l, m)
	t.available = false
	dependants := t.dependants
	t.dependants = taskSet{}
	if len(t.builds) > 0 {
		t.abandon(l, why)
		t.setState(l, api.Queued, "built again: "+why)
		t.expand(l)
	} else {
		t.remove(l)
		t.releaseInputs(l)
	}
	for d := range dependants.all() {
		d.inputs.remove(t)
		if d.run != nil || d.resume != nil || d.available {
			continue
		}
		d.setState(l, api.Waiting, fmt.Sprintf("%s is built again: %s", t.drv, why))
		d.expand(l)
	}
}

// inputsLost deals with a run that found inputs to be nowhere.
func (r *run) inputsLost(l *loop, lost []store.Path) {
	t := r.task
	m, id := r.machine, r.id
	l.durably(func() { m.forget(l, id) })
	t.blamed++
	for _, p := range t.node.Sources {
		for _, gone := range lost {
			if p == gone {
				t.fail(l, &api.Failure{
					Culprit: api.CulpritCoordinator, Phase: api.Sending,
					Message: fmt.Sprintf("source %s is not in the head's store", p),
				})
				return
			}
		}
	}
	if t.blamed >= l.limits.MaxAttempts {
		t.fail(l, &api.Failure{
			Culprit: api.CulpritCoordinator, Phase: api.Sending,
			Message: fmt.Sprintf("inputs were lost %d times, the last time %s", t.blamed, lost[0]),
		})
		return
	}
	t.setState(l, api.Waiting, fmt.Sprintf("%s was lost and is built again", lost[0]))
	for in := range t.inputs.all() {
		if in.kept != nil {
			in.lose(l, "its outputs were not found there any more")
		}
	}
	t.expand(l)
}

// reconcile compares the builds that an agent knows with what is wanted of it.
func (m *machine) reconcile(l *loop, s *sighting) {
	listed := make(map[string]bool, len(s.builds))
	for i := range s.builds {
		status := &s.builds[i]
		listed[status.ID] = true
		if s.known[status.ID] == nil {
			m.log.Debug("the agent has a build of another coordinator", "build", status.ID)
			continue
		}
		m.reconcileBuild(l, status, s.wrong[status])
	}
	m.tellWrong(l, s.wrong)
	for _, t := range l.tasks {
		if t.kept == m && !listed[t.id] && t.run == nil {
			t.lose(l, "its agent does not know it any more")
		}
	}
}

// reconcileBuild decides about one build that an agent knows. If that cannot be what the
// machine was given, wrong says why.
func (m *machine) reconcileBuild(l *loop, s *agentapi.BuildStatus, wrong error) {
	t := l.tasks[s.Derivation]
	own := t != nil && t.id == s.ID
	switch {
	case own && t.attempt == s.Attempt && (t.run != nil && t.run.machine == m || t.resume == m):
		// It goes on.
	case own && t.kept == m && s.State == agentapi.Succeeded && l.kept.has(m, s.Outputs):
		// It is still there.
	case own && t.kept == m:
		if t.run == nil {
			t.lose(l, "its agent says something else of it now")
		}
	case own && l.grace != nil && t.attempt+1 == s.Attempt && t.run == nil && t.resume == nil && !t.available && l.mayMake(t, m):
		// It was placed there, and the ledger did not hear of that any more. Nothing is placed
		// before all machines were asked, so no other attempt has that number.
		t.attempt, t.machine, t.resume, t.state = s.Attempt, m, m, api.Placed
	case wrong != nil:
		m.forget(l, s.ID)
	case t.stillWanted(l, m, s):
		t.useOld(l, m, s)
	case s.State != agentapi.Succeeded || t != nil && !l.mayMake(t, m):
		m.forget(l, s.ID)
	case l.grace != nil && (t == nil || t.run == nil && t.resume == nil):
		if other := l.spare[s.Derivation]; other != nil && (other.machine != m || other.status.ID != s.ID) {
			m.forget(l, s.ID) // one is enough
			return
		}
		l.spare[s.Derivation] = &spare{m, *s}
	case t != nil && t.node != nil && t.run == nil && t.resume == nil && !t.available && !t.expanding:
		t.adopt(l, m, s)
	default:
		m.forget(l, s.ID)
	}
}

// tellWrong says that a machine lists builds which it was not given, or outputs that they
// don't have.
func (m *machine) tellWrong(l *loop, wrong map[*agentapi.BuildStatus]error) {
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
	text := fmt.Sprintf("builds that it lists and that are not used: %d; %s", len(texts), texts[0])
	m.faulted(l, text)
	m.tell(l, text)
}

// endGrace notes that a machine said what it has, or cannot. When all did, the tasks
// that a start found are looked at.
func (l *loop) endGrace(m *machine) {
	if l.grace == nil {
		return
	}
	if m != nil {
		delete(l.grace, m)
		if len(l.grace) > 0 {
			return
		}
	}
	l.grace = nil
	// One walk for all: a task whose dependants are not known yet would be dropped.
	var questions []question
	for _, t := range l.tasks {
		if t.expanding {
			questions = append(questions, t.question())
		}
	}
	// What is still spare after that walk is not needed.
	l.expander.mail.put(append(questions, question{whenDone: l.dropSpare})...)
	l.placing = true
}

func (l *loop) dropSpare() {
	again := false
	for drv, s := range l.spare {
		t := l.tasks[drv]
		if t != nil && t.expanding {
			again = true
			continue
		}
		delete(l.spare, drv)
		if t != nil && t.node != nil && t.run == nil && t.resume == nil && !t.available && l.mayMake(t, s.machine) {
			t.adopt(l, s.machine, &s.status)
		} else {
			s.machine.forget(l, s.status.ID)
		}
	}
	if again {
		l.expander.mail.put(question{whenDone: l.dropSpare})
	}
}

// uses reports whether what the machine's agent has of the task is still wanted, or
// about to be replaced there.
func (t *task) uses(m *machine) bool {
	return t.run != nil && t.run.machine == m || t.resume == m || t.kept == m
}
