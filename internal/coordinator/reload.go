package coordinator

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/coordinator/machinesfile"
	"lighter/internal/coordinator/stage"
	"lighter/machines"
	"lighter/store"
)

// The machines file is read again when it changes, and when a client asks. If it is bad, that is
// reported, and the machines in use stay as they are. A new machine is connected to. For a
// changed one, all that does not concern the way to it takes effect at once. With another way,
// an entry may mean another agent, which knows nothing of what was built. So while the machine
// answers, it gets no more builds, those that run there end, what it keeps for others is brought
// home, and only then is it reached the new way. If it does not answer, there is nothing to wait
// for: it is reached the new way at once, and its builds go on there if that agent knows them. A
// removed machine is let go like one that answers.

func newMachinesFile(c *Coordinator) *machinesfile.File {
	return machinesfile.New(machinesfile.Options{
		Name: c.cfg.MachinesFile, Load: c.cfg.LoadMachines, Now: c.now, Logger: c.log,
		Use: func(ctx context.Context, list []machines.Machine) (became *api.Reloaded, err error) {
			past, err := conduct.Recall(ctx, c.ledger, c.log)
			if err != nil {
				return nil, err
			}
			if e := c.do(ctx, func(l *loop) { became, err = l.useMachines(list, past) }); e != nil { //nolint:contextcheck // streams live as long as their lane
				<-ctx.Done() // it ends with the coordinator
				return nil, e
			}
			return became, err
		},
	})
}

// Refresh calls Reload if the machines file has changed since it was last read; see
// [machinesfile.File].
func (c *Coordinator) Refresh(ctx context.Context) error {
	ctx, cancel := c.UntilStopped(ctx)
	defer cancel()
	return c.file.Refresh(ctx)
}

// ReloadAll calls Reload, and then Config.Reload.
func (c *Coordinator) ReloadAll(ctx context.Context) (*api.Reloaded, error) {
	became, err := c.Reload(ctx)
	if err != nil || c.cfg.Reload == nil {
		return became, err
	}
	if err := c.cfg.Reload(ctx); err != nil {
		return nil, &api.Error{Status: http.StatusUnprocessableEntity, Code: api.CodeBadRequest, Message: err.Error()}
	}
	return became, nil
}

// Reload reads the machines file and uses its machines. If it is bad, nothing changes.
func (c *Coordinator) Reload(ctx context.Context) (*api.Reloaded, error) {
	ctx, cancel := c.UntilStopped(ctx)
	defer cancel()
	return c.file.Read(ctx)
}

// remember gives a machine, and its host, what the ledger has about it.
func (m *machine) remember(past *conduct.Past) {
	l := past.Learnt[m.Name]
	m.peer.Bandwidth.Set(l.Bandwidth)
	m.peer.FetchBandwidth.Set(l.FetchBandwidth)
	m.speed.Log, m.speed.Samples = l.SpeedLog, l.SpeedSamples
	setting, standing := past.Of(m.Name)
	m.setting, m.standing = setting, m.standing.And(standing)
}

// useMachines replaces the machines by those of a list, or changes nothing.
func (l *loop) useMachines(list []machines.Machine, past *conduct.Past) (*api.Reloaded, error) {
	fresh, opened, err := l.openNew(list)
	if err != nil {
		return nil, err
	}
	l.learnt = past.Learnt
	var became api.Reloaded
	order := make([]*machine, 0, len(list))
	for i := range list {
		n := &list[i]
		m := l.byName[n.Name]
		switch {
		case m == nil:
			m = fresh[n.Name]
			m.remember(past)
			l.byName[n.Name] = m
			if m.info != nil {
				m.judge(l, true)
			}
			became.Added = append(became.Added, n.Name)
		case m.becomes(l, n):
			became.Changed = append(became.Changed, n.Name)
		}
		order = append(order, m)
	}
	for _, m := range l.machines {
		if slices.Contains(order, m) {
			continue
		}
		order = append(order, m)
		if !m.removed {
			m.removed, m.next = true, nil
			became.Removed = append(became.Removed, m.Name)
		}
	}
	l.machines = order
	l.regroup()
	for _, h := range opened {
		h.start(l.ctx)
	}
	l.tellReloaded(&became)
	l.machinesChanged()
	return &became, nil
}

// openNew makes those machines of a list that are not in use yet, and opens the hosts that only they
// lead to.
func (l *loop) openNew(list []machines.Machine) (fresh map[string]*machine, opened []*host, err error) {
	fresh = make(map[string]*machine)
	seen := make(map[string]bool)
	for i := range list {
		name := list[i].Name
		if seen[name] {
			err = fmt.Errorf("machine %s appears twice", name)
			break
		}
		seen[name] = true
		if l.byName[name] != nil {
			continue
		}
		h, isNew, e := l.hostFor(&list[i])
		if err = e; err != nil {
			break
		}
		if isNew {
			opened = append(opened, h)
		}
		fresh[name] = l.newMachine(list[i], h)
	}
	if err != nil {
		l.regroup() // drops what was opened
		return nil, nil, err
	}
	return fresh, opened, nil
}

func (l *loop) tellReloaded(r *api.Reloaded) {
	for _, did := range []struct {
		what  string
		names []string
	}{{"added", r.Added}, {"changed", r.Changed}, {"removed", r.Removed}} {
		for _, name := range did.names {
			l.log.Info("the machines file changed", "machine", name, "what", did.what)
			l.machineEvent(api.KindOperator, name, did.what+" in the machines file")
		}
	}
}

// becomes gives a machine its entry in a new file, and reports whether that changes anything.
func (m *machine) becomes(l *loop, n *machines.Machine) bool {
	was := m.removed
	m.removed = false
	if m.Route() != n.Route() {
		changed := was || m.next == nil || !reflect.DeepEqual(m.next, n)
		next := *n
		m.next = &next
		return changed
	}
	changed := was || m.next != nil || !reflect.DeepEqual(&m.Machine, n)
	m.next = nil
	m.useEntry(l, n)
	return changed
}

// useEntry takes over an entry. What follows for its host is regroup's.
func (m *machine) useEntry(l *loop, n *machines.Machine) {
	m.Machine = *n
	if m.info != nil {
		m.admit(l)
	}
}

// requeueAtOnce is how many tasks the loop looks at in one go when the machines have changed.
const requeueAtOnce = 2000

// changesSoon has machinesChanged called once for all machines of which something new is known now.
func (l *loop) changesSoon() {
	if l.changing {
		return
	}
	l.changing = true
	l.post(func(l *loop) {
		l.changing = false
		l.machinesChanged()
	})
}

// machinesChanged goes on with builds that became possible, or impossible.
func (l *loop) machinesChanged() {
	l.static = nil
	l.placing = true
	tasks := make([]*task, 0, len(l.tasks))
	for _, t := range l.tasks {
		if t.stage == stage.Queued {
			tasks = append(tasks, t)
		}
	}
	l.requeue(tasks)
	l.letMachinesGo()
}

// requeue looks again at where tasks may be built. If there are very many it leaves some for
// later, so that the loop does other things meanwhile.
func (l *loop) requeue(tasks []*task) {
	for _, t := range tasks[:min(len(tasks), requeueAtOnce)] {
		if t.stage != stage.Queued {
			continue
		}
		if len(t.skip) > 0 && !t.elsewhere(l) {
			clear(t.skip)
		}
		t.leaveLine(l)
		t.lineUp(l)
		t.setState(l, api.Queued, t.neverReason(l))
	}
	l.placing = true
	if rest := tasks[min(len(tasks), requeueAtOnce):]; len(rest) > 0 {
		l.post(func(l *loop) { l.requeue(rest) })
	}
}

// leavingInterval is the time between two looks at whether leaving machines can be let go.
const leavingInterval = 500 * time.Millisecond

// watchLeaving lets leaving machines go, one after the other, until there are none.
func (c *Coordinator) watchLeaving(ctx context.Context) {
	for more := true; more; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(leavingInterval):
		}
		if c.do(ctx, func(l *loop) { //nolint:contextcheck // streams live as long as their lane
			l.leavingWatched = false
			l.letLeavingGo()
			if more = slices.ContainsFunc(l.machines, (*machine).leaving); more {
				l.leavingWatched = true
			}
		}) != nil {
			return
		}
	}
}

// leaving reports whether the machine was removed, or is to be reached another way.
func (m *machine) leaving() bool { return m.removed || m.next != nil }

// letMachinesGo lets go of leaving machines that have nothing left to do, and starts watching
// the others.
func (l *loop) letMachinesGo() {
	l.letLeavingGo()
	if !l.leavingWatched && slices.ContainsFunc(l.machines, (*machine).leaving) {
		l.leavingWatched = true
		l.group.Go(func() { l.watchLeaving(l.ctx) })
	}
}

func (l *loop) letLeavingGo() {
	if l.grace != nil {
		return // it is not known yet what the hosts have
	}
	for _, m := range slices.Clone(l.machines) {
		other := m.sibling()
		switch {
		case !m.leaving():
		case other != nil:
			m.handTo(l, other)
			m.letGo(l)
		case m.next != nil && m.state != api.MachineUp, m.quiet(l):
			m.letGo(l)
		default:
			m.evacuate(l)
		}
	}
	for _, h := range slices.Clone(l.hosts) {
		l.rewire(h)
	}
}

// quiet reports whether nothing is under way on a machine and it keeps nothing.
func (m *machine) quiet(l *loop) bool {
	if len(m.attempts) > 0 || m.peer.Sending.Pending() > 0 || m.peer.Fetching.Pending() > 0 || m.state == api.MachineUp && !m.peer.Forgetter.Idle() {
		return false
	}
	for _, t := range l.tasks {
		if t.uses(m.host) {
			return false
		}
	}
	for _, s := range l.spare {
		if s.machine.host == m.host {
			return false
		}
	}
	return true
}

// letGo removes a machine, or has it reached another way.
func (m *machine) letGo(l *loop) {
	if m.removed {
		l.machines = slices.DeleteFunc(slices.Clone(l.machines), func(x *machine) bool { return x == m })
		delete(l.byName, m.Name)
		l.regroup()
		m.log.Info("the machine is no longer used")
		return
	}
	to, fresh, err := l.hostFor(m.next)
	if err != nil {
		if text := err.Error(); m.nextError != text {
			m.nextError = text
			m.log.Error("the machine cannot be reached the way the machines file now says", "err", text)
		}
		return // it is tried again
	}
	from := m.host
	m.Machine, m.next, m.nextError, m.problem = *m.next, nil, "", ""
	m.admission = conduct.Admission{}
	if fresh {
		to.start(l.ctx)
	}
	if len(from.machines) == 1 {
		from.moveAll(l, to, "reached another way")
		return
	}
	m.host = to
	l.regroup()
	m.log.Info("the machine is reached another way now", "addr", m.Addr())
	l.event(m.Name, "reached another way")
	if m.info != nil {
		m.judge(l, true)
	}
}

// evacuate empties a leaving machine: of the outputs that it keeps for others, those that are at
// home by now are released, and the rest is fetched.
func (m *machine) evacuate(l *loop) {
	var tasks []*task
	var paths []store.Path
	for _, t := range l.tasks {
		if t.keptOn(m.host) && t.stage == stage.Made && len(t.builds) == 0 {
			tasks = append(tasks, t)
			outputs, _ := t.node.OutputPaths(nil) // naming none cannot fail
			paths = append(paths, outputs...)
		}
	}
	if len(tasks) == 0 {
		return
	}
	l.group.Go(func() {
		absent, err := store.Missing(l.ctx, l.head.Backend, paths)
		if err != nil {
			return // asked again soon
		}
		l.post(func(l *loop) { m.evacuated(l, tasks, absent) })
	})
}

func (m *machine) evacuated(l *loop, tasks []*task, absent []store.Path) {
	missing := make(map[store.Path]bool, len(absent))
	for _, p := range absent {
		missing[p] = true
	}
	for _, t := range tasks {
		if t.stage != stage.Made || !t.keptOn(m.host) || !m.leaving() {
			continue
		}
		outputs, _ := t.node.OutputPaths(nil)
		if slices.ContainsFunc(outputs, func(p store.Path) bool { return missing[p] }) {
			t.fetchHome(l)
		} else {
			t.release(l, m)
		}
	}
}
