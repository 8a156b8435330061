package coordinator

import (
	"cmp"
	"slices"
	"time"

	"lighter/internal/coordinator/ahead"
	"lighter/internal/coordinator/stage"
	"lighter/scheduler"
	"lighter/store"
)

// soon.go is what comes after the builds that there are: those that will be ready soon, and what guix-daemon will ask
// for, which package ahead finds out.

const (
	// maxSoon bounds how many builds the scheduler is told of that will be ready soon, and maxFollowed by how many a
	// build may be needed for them to be looked at.
	maxSoon     = 64
	maxFollowed = 256
	// soonAgain is after what time builds are placed again while slots are kept for others.
	soonAgain = 2 * time.Second
)

func newScout(c *Coordinator) *ahead.Scout {
	return ahead.New(ahead.Options{
		Head: c.head, Ledger: c.ledger, Logger: c.log, Now: c.now,
		Wanted: func(drv store.Path) bool { return c.liveNode(drv) != nil },
		Needed: func(drv store.Path, n ahead.Need) { c.post(func(l *loop) { l.needed(drv, n) }) },
		Next:   func(drv store.Path, next []ahead.Successor) { c.post(func(l *loop) { l.expect(drv, next) }) },
	})
}

// needed notes what waits for a derivation at guix-daemon.
func (l *loop) needed(drv store.Path, n ahead.Need) {
	t := l.tasks[drv]
	if t == nil || !t.builds.offloaded() || t.stage.Available() {
		return
	}
	t.ahead = n
	t.spread(l, nil)
	t.moveInQueue(l)
}

// needers is how many wait for a task, here or at guix-daemon.
func (t *task) needers() int { return max(t.dependants.Size(), t.ahead.Dependants) }

// expect notes what guix-daemon will ask for when it has a task's outputs, perhaps with those of others.
func (l *loop) expect(drv store.Path, next []ahead.Successor) {
	t := l.tasks[drv]
	if t == nil {
		return
	}
	for i := range next {
		s := &next[i]
		if !s.Estimate.Measured() {
			continue
		}
		n := task{
			drv: s.Node.Path, id: s.Node.Path.String(), seq: l.seq + 1, node: s.Node, estimate: s.Estimate,
			shares: t.shares, priority: t.priority, rank: s.Estimate.Duration.Middle() + s.Need.After, ahead: s.Need,
		}
		b := n.schedulerBuild(l)
		l.coming.Expect(n.drv, &b, s.Waits)
	}
}

// askNext asks what guix-daemon will ask for when it has a task's outputs, if that could matter.
func (t *task) askNext(l *loop) {
	if l.queue.Len() > 0 && t.builds.offloaded() {
		l.scout.AskNext(t.drv)
	}
}

// leaves notes that a task's outputs are on their way to guix-daemon.
func (t *task) leaves(l *loop) {
	t.askNext(l)
	size := int64(0)
	for _, o := range t.node.Outputs {
		size += l.inventory.Size(o.Path)
	}
	rate := cmp.Or(t.kept.peer.HomeRate(), scheduler.DefaultBandwidth)
	l.coming.Leaves(t.drv, l.now().Add(time.Duration(float64(size)/rate*float64(time.Second))))
}

// soon returns the builds that will be ready soon, the most urgent first, if slots could be kept for them.
func (l *loop) soon(now time.Time, described []scheduler.Machine) []scheduler.Soon {
	if l.queue.Len() == 0 || !slices.ContainsFunc(described, func(m scheduler.Machine) bool { return len(m.Busy) < m.Slots }) {
		return nil
	}
	soon := l.coming.Soon(now, scheduler.SoonWindow, func(drv store.Path) bool { return l.tasks[drv] != nil })
	ready := make(map[*task]time.Duration)
	for i := range described {
		if l.machines[i] != l.machines[i].host.machines[0] {
			continue // its builds are those of the first
		}
		for _, r := range described[i].Busy {
			if r.Remaining <= scheduler.SoonWindow && r.Build != nil {
				l.byID[r.Build.ID].follow(r.Remaining, ready)
			}
		}
	}
	next := make([]*task, 0, len(ready))
	for t := range ready {
		next = append(next, t)
	}
	slices.SortFunc(next, func(a, b *task) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(b.rank, a.rank), cmp.Compare(a.seq, b.seq))
	})
	for _, t := range next[:min(len(next), maxSoon)] {
		b := t.schedulerBuild(l)
		soon = append(soon, scheduler.Soon{Build: &b, Ready: ready[t]})
	}
	slices.SortStableFunc(soon, func(a, b scheduler.Soon) int {
		return cmp.Or(cmp.Compare(b.Build.Priority, a.Build.Priority), cmp.Compare(b.Build.Rank, a.Build.Rank))
	})
	if len(soon) > 0 {
		l.placeBy(now.Add(soonAgain))
	}
	return soon[:min(len(soon), maxSoon)]
}

// follow notes the tasks that wait for this one alone, which ends after a time, if both were measured before: for a
// guess no slot stays empty.
func (t *task) follow(end time.Duration, ready map[*task]time.Duration) {
	if t == nil || !t.estimate.Measured() || t.dependants.Size() > maxFollowed {
		return
	}
	for d := range t.dependants.All() {
		if d.waiting == 1 && d.stage == stage.Waiting && d.estimate.Measured() {
			ready[d] = end
		}
	}
}
