package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"lighter/internal/api"
	"lighter/internal/ledger"
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

// machinesFile is what is known of the machines file.
type machinesFile struct {
	status api.MachinesFileStatus
	seen   fileMark // of the version that was last read or refused
}

// fileMark tells versions of a file apart without reading them.
type fileMark struct {
	modified time.Time
	size     int64
	inode    uint64
}

func markOf(file string) (fileMark, error) {
	info, err := os.Stat(file)
	if err != nil {
		return fileMark{}, err
	}
	mark := fileMark{modified: info.ModTime(), size: info.Size()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		mark.inode = stat.Ino
	}
	return mark, nil
}

// freshFile is the age below which the file may have changed after the caller of New read it.
const freshFile = 10 * time.Second

// noteFile notes that the caller of New read the machines file.
func (l *loop) noteFile(file string) {
	now := l.now()
	l.file = machinesFile{status: api.MachinesFileStatus{File: file, Read: &now}}
	if mark, err := markOf(file); err == nil && now.Sub(mark.modified) > freshFile {
		l.file.seen = mark
	}
}

// watchMachines reads the machines file whenever it has changed. A change counts once the file
// looked the same twice, so that half a file that is still being written is not read.
func (c *Coordinator) watchMachines(ctx context.Context) {
	var before fileMark
	gone := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.limits.WatchInterval):
		}
		mark, err := markOf(c.cfg.MachinesFile)
		switch {
		case err != nil && gone:
		case err != nil:
			gone = true
			if c.do(ctx, func(l *loop) { l.refuseFile(fileMark{}, err) }) != nil {
				return
			}
		case gone || mark != before:
			gone = false
		default:
			var seen fileMark
			if c.do(ctx, func(l *loop) { seen = l.file.seen }) != nil {
				return
			}
			if mark != seen {
				_, _ = c.Reload(ctx) // it logs what is wrong
			}
		}
		before = mark
	}
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
	if c.cfg.LoadMachines == nil {
		return nil, api.BadRequest("this coordinator has no machines file to read again")
	}
	select {
	case c.reading <- struct{}{}:
		defer func() { <-c.reading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.stopped:
		return nil, errStopping
	}
	mark, err := markOf(c.cfg.MachinesFile)
	if c.cfg.MachinesFile == "" {
		err = nil
	}
	var list []machines.Machine
	if err == nil {
		list, err = c.cfg.LoadMachines(ctx)
	}
	var past *machinesPast
	if err == nil {
		past, err = c.pastOf(ctx)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var became *api.Reloaded
	if e := c.do(ctx, func(l *loop) { //nolint:contextcheck // streams live as long as their lane
		if err == nil {
			became, err = l.useMachines(list, past)
		}
		if err != nil {
			l.refuseFile(mark, err)
			return
		}
		l.tookFile(mark)
	}); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, &api.Error{
			Status: http.StatusUnprocessableEntity, Code: api.CodeBadRequest,
			Message: "the machines in use stay as they are: " + err.Error(),
		}
	}
	return became, nil
}

// refuseFile notes that the machines file cannot be used.
func (l *loop) refuseFile(mark fileMark, err error) {
	text := err.Error()
	if errors.Is(err, fs.ErrNotExist) {
		text = "it is no longer there: " + text
	}
	if mark != l.file.seen || l.file.status.Error != text {
		l.log.Error("the machines file cannot be used; the machines in use stay as they are", "file", l.cfg.MachinesFile, "err", text)
	}
	l.file.seen, l.file.status.Error = mark, text
}

func (l *loop) tookFile(mark fileMark) {
	now := l.now()
	l.file.seen, l.file.status.Error, l.file.status.Read = mark, "", &now
}

// machinesPast is what the ledger has about machines.
type machinesPast struct {
	learnt   map[string]ledger.Machine
	settings map[string]machineSetting
}

func (c *Coordinator) pastOf(ctx context.Context) (*machinesPast, error) {
	learnt, err := c.ledger.Machines(ctx)
	if err != nil {
		return nil, err
	}
	past := &machinesPast{learnt: learnt, settings: make(map[string]machineSetting)}
	err = c.ledger.Settings(ctx, machineSettings, func(name string, value json.RawMessage) error {
		var s machineSetting
		if err := json.Unmarshal(value, &s); err != nil {
			c.log.Error("what operators decided about a machine can't be read and is left out", "setting", name, "err", err)
			return nil
		}
		past.settings[strings.TrimPrefix(name, machineSettings)] = s
		return nil
	})
	return past, err
}

// remember gives a machine what the ledger has about it.
func (m *machine) remember(past *machinesPast) {
	l := past.learnt[m.Name]
	m.peer.Bandwidth.Set(l.Bandwidth)
	m.speed.Log, m.speed.Samples = l.SpeedLog, l.SpeedSamples
	m.setting = past.settings[m.Name]
}

// useMachines replaces the machines by those of a list, or changes nothing.
func (l *loop) useMachines(list []machines.Machine, past *machinesPast) (*api.Reloaded, error) {
	fresh, err := l.openNew(list)
	if err != nil {
		return nil, err
	}
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
			m.start(l.ctx)
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
	l.tellReloaded(&became)
	l.machinesChanged()
	return &became, nil
}

// openNew makes those machines of a list that are not in use yet.
func (l *loop) openNew(list []machines.Machine) (map[string]*machine, error) {
	fresh := make(map[string]*machine)
	err := error(nil)
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
		var m *machine
		if m, err = l.openMachine(list[i]); err != nil {
			break
		}
		fresh[name] = m
	}
	if err == nil {
		return fresh, nil
	}
	for _, m := range fresh {
		l.group.Go(m.peer.Close)
	}
	return nil, err
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
	if !sameWay(&m.Machine, n) {
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

// way is the part of a machine's entry that decides which agent is reached, and how.
type way struct {
	host                                              string
	port                                              int
	user, key, hostKey, kind, daemonSocket, directory string
	transport, agentDirectory                         string
	local                                             bool
}

func wayTo(m *machines.Machine) way {
	return way{m.Host, m.Port, m.User, m.PrivateKey, m.HostKey, m.Store, m.DaemonSocket, m.StateDirectory, m.Transport, m.AgentDirectory, m.Local}
}

func sameWay(a, b *machines.Machine) bool {
	return wayTo(a) == wayTo(b) && reflect.DeepEqual(a.Way, b.Way)
}

// useEntry takes over all of an entry that does not concern the way to the machine. Name and way
// are not written, since other goroutines than the loop read them.
func (m *machine) useEntry(l *loop, n *machines.Machine) {
	m.Systems, m.ParallelBuilds, m.Speed = n.Systems, n.ParallelBuilds, n.Speed
	m.Features, m.MandatoryFeatures = n.Features, n.MandatoryFeatures
	m.OverloadThreshold, m.MinFreeDisk, m.MinFreeInodes = n.OverloadThreshold, n.MinFreeDisk, n.MinFreeInodes
	m.MinFreeMemory, m.MaxCPUPressure, m.MaxMemoryPressure = n.MinFreeMemory, n.MaxCPUPressure, n.MaxMemoryPressure
	m.ParallelTransfers, m.SubstituteURLs, m.BuildCores = n.ParallelTransfers, n.SubstituteURLs, n.BuildCores
	m.Timeout, m.MaxSilentTime, m.Tags, m.SandboxPaths = n.Timeout, n.MaxSilentTime, n.Tags, n.SandboxPaths
	m.GCInterval, m.GCOlderThan, m.GCMaxFreed = n.GCInterval, n.GCOlderThan, n.GCMaxFreed
	m.peer.SetStreams(m.ParallelTransfers)
	if m.info != nil {
		m.admit(l, l.now())
	}
}

// requeueAtOnce is how many tasks the loop looks at in one go when the machines have changed.
const requeueAtOnce = 2000

// machinesChanged goes on with builds that became possible, or impossible.
func (l *loop) machinesChanged() {
	l.static = nil
	l.placing = true
	tasks := make([]*task, 0, len(l.tasks))
	for _, t := range l.tasks {
		if t.stage == stageQueued {
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
		if t.stage != stageQueued {
			continue
		}
		if len(t.skip) > 0 && !t.elsewhere(l) {
			clear(t.skip)
		}
		l.queue.Remove(t.id)
		l.queue.Push(t.schedulerBuild(l))
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
		if c.do(ctx, func(l *loop) {
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
		return // it is not known yet what the machines have
	}
	for _, m := range slices.Clone(l.machines) {
		switch {
		case !m.leaving():
		case m.next != nil && m.state != api.MachineUp, m.quiet(l):
			m.letGo(l)
		default:
			m.evacuate(l)
		}
	}
}

// quiet reports whether nothing is under way on a machine and it keeps nothing.
func (m *machine) quiet(l *loop) bool {
	if len(m.attempts) > 0 || m.peer.Sending.Pending() > 0 || m.peer.Fetching.Pending() > 0 || m.state == api.MachineUp && !m.peer.Forgetter.Idle() {
		return false
	}
	for _, t := range l.tasks {
		if t.uses(m) {
			return false
		}
	}
	for _, s := range l.spare {
		if s.machine == m {
			return false
		}
	}
	return true
}

// letGo removes a machine, or replaces it by one that is reached another way.
func (m *machine) letGo(l *loop) {
	if m.removed {
		l.machines = slices.DeleteFunc(slices.Clone(l.machines), func(x *machine) bool { return x == m })
		delete(l.byName, m.Name)
		l.static = nil
		m.stop()
		m.log.Info("the machine is no longer used")
		return
	}
	n, err := l.openMachine(*m.next)
	if err != nil {
		if text := err.Error(); m.nextError != text {
			m.nextError = text
			m.log.Error("the machine cannot be reached the way the machines file now says", "err", text)
		}
		return // it is tried again
	}
	m.replace(l, n)
}

// replace puts n, the same machine reached another way, in the place of m.
func (m *machine) replace(l *loop, n *machine) {
	n.setting, n.speed, n.learnt = m.setting, m.speed, m.learnt
	n.peer.Bandwidth.Set(m.peer.Bandwidth.Value())
	l.machines = slices.Clone(l.machines)
	l.machines[slices.Index(l.machines, m)] = n
	l.byName[n.Name] = n
	l.static = nil
	l.inventory.Move(m.peer, n.peer)
	for _, s := range l.spare {
		if s.machine == m {
			s.machine = n
		}
	}
	n.start(l.ctx)
	for _, t := range l.tasks {
		if t.machine == m {
			t.machine = n
		}
		if t.takeUpOn == m {
			t.takeUpOn = n
		}
		if t.kept == m {
			t.kept = n
		}
		if a := t.underWay; a != nil && a.machine == m {
			a.moveTo(l, n)
		}
	}
	m.stop()
	n.log.Info("the machine is reached another way now", "addr", n.Addr())
	l.event(n.Name, "reached another way")
	l.placing = true
}

// moveTo goes on with an attempt on its machine, which is now reached another way.
func (a *attempt) moveTo(l *loop, n *machine) {
	const why = "its machine is reached another way now"
	t := a.task
	a.detach(l, why)
	if a.FetchOnly {
		t.bring(l)
		return
	}
	t.takeUpOn = n
	t.takeUp(l, why, a.over)
}

// evacuate empties a leaving machine: of the outputs that it keeps for others, those that are at
// home by now are released, and the rest is fetched.
func (m *machine) evacuate(l *loop) {
	var tasks []*task
	var paths []store.Path
	for _, t := range l.tasks {
		if t.kept == m && t.stage == stageMade && len(t.builds) == 0 {
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
		if t.stage != stageMade || t.kept != m || !m.leaving() {
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
