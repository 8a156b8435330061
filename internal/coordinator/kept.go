package coordinator

import (
	"fmt"

	"lighter/internal/api"
	"lighter/internal/coordinator/failing"
	"lighter/internal/coordinator/graph"
	"lighter/internal/coordinator/inventory"
	"lighter/internal/coordinator/stage"
	"lighter/store"
)

// keep notes that a task's outputs stay on a machine.
func (t *task) keep(l *loop, m *machine, made []*inventory.Item) {
	t.kept = m
	l.inventory.Add(m.peer, made)
	t.setAvailable(l)
}

// release lets a machine drop what it keeps for a task that is over.
func (t *task) release(l *loop, m *machine) {
	t.kept = nil
	if t.node != nil {
		paths, _ := t.node.OutputPaths(nil) // naming none cannot fail
		l.inventory.Remove(m.peer, paths)
	}
	id := t.id
	l.durably(func() { m.forget(l, id) })
}

// forget makes a host's agent forget a build, unless another attempt at it is under way
// there: that one replaces what the agent has, and is forgotten when it is over.
func (h *host) forget(l *loop, id string) {
	if t := l.byID[id]; t != nil && t.uses(h) {
		return
	}
	if h.state == api.MachineDown {
		return // when it is back, what it has is compared with what is wanted
	}
	h.peer.Forgetter.Forget(id)
}

// bring starts what is next for builds whose outputs exist: build hooks get them first, since
// guix-daemon then makes them valid at home.
func (t *task) bring(l *loop) {
	switch {
	case t.kept == nil:
		t.endServed(l, "the outputs were already there")
	case t.builds.offloaded():
		t.deliver(l)
	case t.builds.wantedHome():
		t.fetchHome(l)
	default:
		t.endServed(l, "the outputs are on "+t.kept.Name)
	}
}

// endServed ends builds for which it is enough that the outputs are where they are.
func (t *task) endServed(l *loop, reason string) {
	for _, lb := range t.builds {
		lb.OutputPaths = t.node.OutputMap()
		if t.kept != nil {
			lb.OutputsOn = t.kept.Name
		}
	}
	t.finish(l, reason)
}

// withoutBuild goes on with a task that has lost one of its builds.
func (t *task) withoutBuild(l *loop) {
	if t.stage == stage.Made {
		t.bring(l)
		return
	}
	t.dropUnneeded(l)
}

// fetchHome starts an attempt that fetches outputs which a machine keeps.
func (t *task) fetchHome(l *loop) { t.fetch(l, t.wantedOutputs(), false) }

// fetch is fetchHome for some outputs, nil for all; later says that nobody waits for them.
func (t *task) fetch(l *loop, outputs []string, later bool) {
	a := l.newAttempt(t, t.kept)
	a.FetchOnly, a.Outputs, a.Later = true, outputs, later
	t.machine = t.kept
	t.setState(l, api.Fetching, "the outputs are on "+t.kept.Name)
	a.start(l, nil)
}

// loseAll gives up all outputs that a host keeps.
func (h *host) loseAll(l *loop, why string) {
	for _, t := range l.tasks {
		if t.keptOn(h) {
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
	dependants := t.dependants
	t.dependants = graph.Set[*task]{}
	t.abandon(l, why)
	if len(t.builds) > 0 {
		t.setState(l, api.Queued, "built again: "+why)
		t.expand(l)
	} else {
		t.enter(l, stage.Over)
		t.releaseInputs(l)
	}
	for d := range dependants.All() {
		d.inputs.Remove(t)
		if d.begun() {
			continue
		}
		d.setState(l, api.Waiting, fmt.Sprintf("%s is built again: %s", t.drv, why))
		d.expand(l)
	}
}

// inputsLost deals with an attempt whose inputs turned out to be nowhere.
func (a *attempt) inputsLost(l *loop, lost []store.Path) {
	t := a.task
	m, id := a.machine, a.ID
	l.durably(func() { m.forget(l, id) })
	t.failed.Blamed++
	for _, p := range t.node.Sources {
		for _, gone := range lost {
			if p == gone {
				t.fail(l, failing.NoSource(p))
				return
			}
		}
	}
	if t.failed.Blamed >= l.limits.MaxAttempts {
		t.fail(l, failing.InputsLost(t.failed.Blamed, lost[0]))
		return
	}
	t.setState(l, api.Waiting, fmt.Sprintf("%s was lost and is built again", lost[0]))
	for in := range t.inputs.All() {
		if in.kept != nil {
			in.lose(l, "its outputs were no longer found there")
		}
	}
	t.expand(l)
}
