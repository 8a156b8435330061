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

// The machines file is read again when it changes, and when a client asks. What is wrong
// with it is said, and the machines of before stay. A machine that is new is reached; of one
// that changed, what does not concern the way there holds at once. With another way there, an
// entry may mean another agent, which knows nothing of what was built. So while the machine
// answers it gets no more builds, those that run there end, what it keeps for others is
// brought home, and only then it is reached the new way. If it does not answer, there is
// nothing to wait for: it is reached the new way at once, and its builds go on there if the
// agent knows them. A machine that was removed goes in the first manner.

// machinesFile is what is known of the machines file.
type machinesFile struct {
	status api.MachinesFileStatus
	seen   fileMark // of what was read last, or refused
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

// freshFile is the age below which a file may have changed since the caller of New read it.
const freshFile = 10 * time.Second

// noteFile notes that the caller of New read the machines file.
func (c *Coordinator) noteFile(file string) {
	now := time.Now()
	c.file = machinesFile{status: api.MachinesFileStatus{File: file, Read: &now}}
	if mark, err := markOf(file); err == nil && now.Sub(mark.modified) > freshFile {
		c.file.seen = mark
	}
}

// watchMachines reads the machines file whenever it changed. A change counts when the file
// was the same twice, so that one that is being written is not taken for a short one.
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
			if c.do(ctx, func() { c.refuseFile(fileMark{}, err) }) != nil {
				return
			}
		case gone || mark != before:
			gone = false
		default:
			var seen fileMark
			if c.do(ctx, func() { seen = c.file.seen }) != nil {
				return
			}
			if mark != seen {
				_, _ = c.Reload(ctx) // it says itself what is wrong
			}
		}
		before = mark
	}
}

// Reload reads the machines file and uses what it has. If it is bad, nothing is changed.
func (c *Coordinator) Reload(ctx context.Context) (*api.Reloaded, error) {
	if c.cfg.LoadMachines == nil {
		return nil, badRequest("this coordinator has no machines file to read again")
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
	if e := c.do(ctx, func() { //nolint:contextcheck // streams live as long as their lane
		if err == nil {
			became, err = c.useMachines(list, past)
		}
		if err != nil {
			c.refuseFile(mark, err)
			return
		}
		c.tookFile(mark)
	}); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, &api.Error{
			Status: http.StatusUnprocessableEntity, Code: api.CodeBadRequest,
			Message: "the machines of before stay in use: " + err.Error(),
		}
	}
	return became, nil
}

// refuseFile notes that the machines file cannot be used.
func (c *Coordinator) refuseFile(mark fileMark, err error) {
	text := err.Error()
	if errors.Is(err, fs.ErrNotExist) {
		text = "it is not there any more: " + text
	}
	if mark != c.file.seen || c.file.status.Error != text {
		c.log.Error("the machines file cannot be used; the machines of before stay", "file", c.cfg.MachinesFile, "err", text)
	}
	c.file.seen, c.file.status.Error = mark, text
}

func (c *Coordinator) tookFile(mark fileMark) {
	now := time.Now()
	c.file.seen, c.file.status.Error, c.file.status.Read = mark, "", &now
}

// machinesPast is what the ledger has of machines.
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

// remember gives a machine what the ledger has of it.
func (m *machine) remember(past *machinesPast) {
	l := past.learnt[m.Name]
	m.bandwidth.set(l.Bandwidth)
	m.speed.Log, m.speed.Samples = l.SpeedLog, l.SpeedSamples
	m.setting = past.settings[m.Name]
}

// useMachines makes the machines those of a list, or changes nothing.
func (c *Coordinator) useMachines(list []machines.Machine, past *machinesPast) (*api.Reloaded, error) {
	fresh, err := c.openNew(list)
	if err != nil {
		return nil, err
	}
	var became api.Reloaded
	order := make([]*machine, 0, len(list))
	for i := range list {
		n := &list[i]
		m := c.byName[n.Name]
		switch {
		case m == nil:
			m = fresh[n.Name]
			m.remember(past)
			c.byName[n.Name] = m
			m.start(c.ctx)
			became.Added = append(became.Added, n.Name)
		case m.becomes(n):
			became.Changed = append(became.Changed, n.Name)
		}
		order = append(order, m)
	}
	for _, m := range c.machines {
		if slices.Contains(order, m) {
			continue
		}
		order = append(order, m)
		if !m.removed {
			m.removed, m.next = true, nil
			became.Removed = append(became.Removed, m.Name)
		}
	}
	c.machines = order
	c.tellReloaded(&became)
	c.machinesChanged()
	return &became, nil
}

// openNew makes those machines of a list that are not there.
func (c *Coordinator) openNew(list []machines.Machine) (map[string]*machine, error) {
	fresh := make(map[string]*machine)
	err := error(nil)
	seen := make(map[string]bool)
	for i := range list {
		name := list[i].Name
		if seen[name] {
			err = fmt.Errorf("machine %s: is there twice", name)
			break
		}
		seen[name] = true
		if c.byName[name] != nil {
			continue
		}
		var m *machine
		if m, err = c.openMachine(list[i]); err != nil {
			break
		}
		fresh[name] = m
	}
	if err == nil {
		return fresh, nil
	}
	for _, m := range fresh {
		c.group.Go(m.close)
	}
	return nil, err
}

func (c *Coordinator) tellReloaded(r *api.Reloaded) {
	for _, did := range []struct {
		what  string
		names []string
	}{{"added", r.Added}, {"changed", r.Changed}, {"removed", r.Removed}} {
		for _, name := range did.names {
			c.log.Info("the machines file changed", "machine", name, "what", did.what)
			c.machineEvent(api.KindOperator, name, did.what+" in the machines file")
		}
	}
}

// becomes takes over a machine's entry of a new file, and reports whether that changes
// anything.
func (m *machine) becomes(n *machines.Machine) bool {
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
	m.take(n)
	return changed
}

// way is what of a machine's entry decides which agent is reached, and how.
type way struct {
	host                                              string
	port                                              int
	user, key, hostKey, kind, daemonSocket, directory string
	local                                             bool
}

func wayTo(m *machines.Machine) way {
	return way{m.Host, m.Port, m.User, m.PrivateKey, m.HostKey, m.Store, m.DaemonSocket, m.StateDirectory, m.Local}
}

func sameWay(a, b *machines.Machine) bool { return wayTo(a) == wayTo(b) }

// take takes over what does not concern the way to the machine. The name and the way are not
// written, since others than the loop read them.
func (m *machine) take(n *machines.Machine) {
	m.Systems, m.ParallelBuilds, m.Speed = n.Systems, n.ParallelBuilds, n.Speed
	m.Features, m.MandatoryFeatures = n.Features, n.MandatoryFeatures
	m.OverloadThreshold, m.MinFreeDisk, m.MinFreeInodes = n.OverloadThreshold, n.MinFreeDisk, n.MinFreeInodes
	m.MinFreeMemory, m.MaxCPUPressure, m.MaxMemoryPressure = n.MinFreeMemory, n.MaxCPUPressure, n.MaxMemoryPressure
	m.ParallelTransfers, m.SubstituteURLs, m.BuildCores = n.ParallelTransfers, n.SubstituteURLs, n.BuildCores
	m.Timeout, m.MaxSilentTime, m.Tags, m.SandboxPaths = n.Timeout, n.MaxSilentTime, n.Tags, n.SandboxPaths
	m.GCInterval, m.GCOlderThan, m.GCMaxFreed = n.GCInterval, n.GCOlderThan, n.GCMaxFreed
	for _, lane := range []*lane{m.sending, m.fetching} {
		lane.setStreams(m.streams())
	}
	if m.info != nil {
		m.c.admit(m, time.Now())
	}
}

// requeueAtOnce is how many tasks the loop looks at in one go when the machines changed.
const requeueAtOnce = 2000

// machinesChanged goes on with builds that became possible, or impossible.
func (c *Coordinator) machinesChanged() {
	c.static = nil
	c.placing = true
	tasks := make([]*task, 0, len(c.tasks))
	for _, t := range c.tasks {
		if t.inQueue() {
			tasks = append(tasks, t)
		}
	}
	c.requeue(tasks)
	c.settleMachines()
}

// inQueue reports whether the task waits for nothing but a machine.
func (t *task) inQueue() bool {
	return t.state == api.Queued && t.node != nil && t.run == nil && t.resume == nil && !t.available && !t.expanding && t.waiting == 0
}

// requeue looks anew where tasks may be built. Of very many it leaves some for later, so that
// the loop does other things meanwhile.
func (c *Coordinator) requeue(tasks []*task) {
	for _, t := range tasks[:min(len(tasks), requeueAtOnce)] {
		if c.tasks[t.drv] != t || !t.inQueue() || c.delayed[t] {
			continue
		}
		if len(t.skip) > 0 && !c.elsewhere(t) {
			clear(t.skip)
		}
		if _, queued := c.queue.Get(t.id); queued {
			c.queue.Remove(t.id)
			c.queue.Push(c.schedulerBuild(t))
		}
		c.setState(t, api.Queued, c.neverReason(t))
	}
	c.placing = true
	if rest := tasks[min(len(tasks), requeueAtOnce):]; len(rest) > 0 {
		c.post(func() { c.requeue(rest) })
	}
}

// leavingInterval is the time between looks whether machines that are to go can.
const leavingInterval = 500 * time.Millisecond

// watchLeaving looks after machines that are to go until there are none.
func (c *Coordinator) watchLeaving(ctx context.Context) {
	for more := true; more; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(leavingInterval):
		}
		if c.do(ctx, func() {
			c.leavingWatched = false
			c.settleLeaving()
			if more = slices.ContainsFunc(c.machines, (*machine).leaving); more {
				c.leavingWatched = true
			}
		}) != nil {
			return
		}
	}
}

// leaving reports whether the machine is to go, or to be reached another way.
func (m *machine) leaving() bool { return m.removed || m.next != nil }

// settleMachines lets machines go that can, and sees to it that the others can soon.
func (c *Coordinator) settleMachines() {
	c.settleLeaving()
	if !c.leavingWatched && slices.ContainsFunc(c.machines, (*machine).leaving) {
		c.leavingWatched = true
		c.group.Go(func() { c.watchLeaving(c.ctx) })
	}
}

func (c *Coordinator) settleLeaving() {
	if c.grace != nil {
		return // what the machines have is not known yet
	}
	for _, m := range slices.Clone(c.machines) {
		switch {
		case !m.leaving():
		case m.next != nil && m.state != stateUp, c.quiet(m):
			c.letGo(m)
		default:
			c.evacuate(m)
		}
	}
}

// quiet reports whether nothing is under way on a machine, and it keeps nothing.
func (c *Coordinator) quiet(m *machine) bool {
	if len(m.runs) > 0 || m.sending.pending() > 0 || m.fetching.pending() > 0 || m.state == stateUp && !m.forgetter.idle() {
		return false
	}
	for _, t := range c.tasks {
		if t.uses(m) {
			return false
		}
	}
	for _, s := range c.spare {
		if s.machine == m {
			return false
		}
	}
	return true
}

// letGo removes a machine, or has it reached another way.
func (c *Coordinator) letGo(m *machine) {
	if m.removed {
		c.machines = slices.DeleteFunc(slices.Clone(c.machines), func(x *machine) bool { return x == m })
		delete(c.byName, m.Name)
		c.static = nil
		m.stop()
		m.log.Info("the machine is not used any more")
		return
	}
	n, err := c.openMachine(*m.next)
	if err != nil {
		if text := err.Error(); m.nextError != text {
			m.nextError = text
			m.log.Error("the machine cannot be reached as the machines file says now", "err", text)
		}
		return // it is tried again
	}
	c.replace(m, n)
}

// replace puts a machine that is reached another way in the place of one.
func (c *Coordinator) replace(m, n *machine) {
	n.setting, n.speed, n.learnt = m.setting, m.speed, m.learnt
	n.bandwidth.set(m.bandwidth.value())
	c.machines = slices.Clone(c.machines)
	c.machines[slices.Index(c.machines, m)] = n
	c.byName[n.Name] = n
	c.static = nil
	c.kept.move(m, n)
	for _, s := range c.spare {
		if s.machine == m {
			s.machine = n
		}
	}
	n.start(c.ctx)
	for _, t := range c.tasks {
		if t.machine == m {
			t.machine = n
		}
		if t.resume == m {
			t.resume = n
		}
		if t.kept == m {
			t.kept = n
		}
		if r := t.run; r != nil && r.machine == m {
			c.moveRun(r, n)
		}
	}
	m.stop()
	n.log.Info("the machine is reached another way now", "addr", n.Addr())
	c.event(n.Name, "reached another way")
	c.placing = true
}

// moveRun has an attempt go on where its machine is reached another way.
func (c *Coordinator) moveRun(old *run, n *machine) {
	const why = "its machine is reached another way now"
	t := old.task
	t.run = nil
	old.stale = why
	old.cancel(errAbandoned)
	delete(old.machine.runs, old)
	if old.fetchOnly {
		c.bring(t)
		return
	}
	t.resume = n
	c.takeAgain(t, why, old.over)
}

// evacuate sees to it that a machine keeps nothing that others need: what is at home by now
// is released, and the rest is fetched.
func (c *Coordinator) evacuate(m *machine) {
	var tasks []*task
	var paths []store.Path
	for _, t := range c.tasks {
		if t.kept == m && t.run == nil && len(t.builds) == 0 && t.node != nil && !c.delayed[t] {
			tasks = append(tasks, t)
			outputs, _ := t.node.outputPaths(nil) // naming none cannot fail
			paths = append(paths, outputs...)
		}
	}
	if len(tasks) == 0 {
		return
	}
	c.group.Go(func() {
		absent, err := store.Missing(c.ctx, c.head.Store, paths)
		if err != nil {
			return // asked again soon
		}
		c.post(func() { c.evacuated(m, tasks, absent) })
	})
}

func (c *Coordinator) evacuated(m *machine, tasks []*task, absent []store.Path) {
	missing := make(map[store.Path]bool, len(absent))
	for _, p := range absent {
		missing[p] = true
	}
	for _, t := range tasks {
		if c.tasks[t.drv] != t || t.kept != m || t.run != nil || !m.leaving() {
			continue
		}
		outputs, _ := t.node.outputPaths(nil)
		if slices.ContainsFunc(outputs, func(p store.Path) bool { return missing[p] }) {
			c.fetchHome(t)
		} else {
			c.release(t, m)
		}
	}
}

func (c *Coordinator) postReload(w http.ResponseWriter, r *http.Request) error {
	if err := readJSON(r, &struct{}{}); err != nil {
		return err
	}
	became, err := c.Reload(r.Context())
	if err == nil && c.cfg.Reload != nil {
		if err = c.cfg.Reload(r.Context()); err != nil {
			err = &api.Error{Status: http.StatusUnprocessableEntity, Code: api.CodeBadRequest, Message: err.Error()}
		}
	}
	if err != nil {
		return err
	}
	return answer(w, became)
}
