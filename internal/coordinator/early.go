package coordinator

import (
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/early"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/stage"
	"lighter/scheduler"
)

// early.go has outputs come home before anybody asks for them; see package early. It is an attempt
// that only fetches, at a task without builds, so nobody is told of it but the log.

// earlyRetry is the time after which outputs that could not come home early may be tried again.
const earlyRetry = 10 * time.Minute

// offerEarly has all outputs come home early for which that is worth it.
func (l *loop) offerEarly() {
	if l.slow = l.slowHosts(); len(l.slow) == 0 {
		return
	}
	for _, t := range l.tasks {
		t.offer(l)
	}
}

// slowHosts returns the hosts behind slow links.
func (l *loop) slowHosts() map[*host]bool {
	if len(l.hosts) < 2 || l.grace != nil {
		return nil
	}
	slow := make(map[*host]bool)
	rates := make([]float64, len(l.hosts))
	for i, h := range l.hosts {
		if !h.peer.Local {
			rates[i] = h.peer.HomeRate()
		}
	}
	for i, h := range l.hosts {
		if early.Slow(rates[i], rates) {
			slow[h] = true
		}
	}
	return slow
}

// offer lets a task's outputs come home early when it is their turn, if that is worth it.
func (t *task) offer(l *loop) {
	if t.kept != nil && l.slow[t.kept.host] && t.maySoon(l) {
		t.kept.early.Add(t)
		l.placing = true
	}
}

// maySoon reports whether nobody wants a task's outputs yet, and others will.
func (t *task) maySoon(l *loop) bool {
	return t.stage == stage.Made && t.kept != nil && len(t.builds) == 0 && !l.now().Before(t.notBefore) && t.neededElsewhere(l)
}

// maxLookedAt bounds how many of the tasks that need a task's outputs are looked at.
const maxLookedAt = 16

// neededElsewhere reports whether another host than that which keeps a task's outputs may be given a
// build that needs them.
func (t *task) neededElsewhere(l *loop) bool {
	looked := 0
	for d := range t.dependants.All() {
		if looked++; looked > maxLookedAt {
			break
		}
		if d.begun() || d.node == nil {
			continue
		}
		b := scheduler.Build{System: d.node.System, Features: d.node.Features}
		static := l.staticMachines()
		for i := range static {
			m := l.byName[static[i].Name]
			if m.host != t.kept.host && d.allows(m.Name) && scheduler.Possible(&b, static[i:i+1]) {
				return true
			}
		}
	}
	return false
}

// bringEarly starts bringing home what is next, from each host.
func (l *loop) bringEarly() {
	for _, h := range l.hosts {
		for h.state == api.MachineUp {
			t, ok := h.early.Next(func(t *task) (int64, bool) {
				if !t.keptOn(h) || !t.maySoon(l) {
					return 0, false
				}
				bytes := t.outputBytes(l)
				return bytes, l.room.Spare(&l.space, bytes)
			})
			if !ok {
				break
			}
			l.log.Info("outputs come home early, over a slow link", "derivation", t.drv, "machine", t.kept.Name)
			t.fetch(l, t.neededOutputs(), true)
		}
	}
}

// outputBytes returns the size of what a machine keeps for a task.
func (t *task) outputBytes(l *loop) (sum int64) {
	for _, o := range t.node.Outputs {
		if item := l.inventory.On(t.kept.peer, o.Path); item != nil {
			sum += item.Info.NARSize
		}
	}
	return sum
}

// neededOutputs returns the names of the outputs that others need; nil for all.
func (t *task) neededOutputs() []string {
	return t.node.NeededBy(func(yield func(*headstore.Node) bool) {
		for d := range t.dependants.All() {
			if d.node != nil && !yield(d.node) {
				return
			}
		}
	})
}

// stopEarly ends bringing outputs home for which nobody asked, for a reason.
func (t *task) stopEarly(l *loop, why string) {
	if t.early() {
		t.abandon(l, why)
	}
}

// stopEarly ends bringing home what a task needs and, now that it is placed, nobody needs elsewhere.
func (l *loop) stopEarly(placed *task) {
	for in := range placed.inputs.All() {
		if in.early() && !in.neededElsewhere(l) {
			in.stopEarly(l, "nobody needs the outputs elsewhere any more")
		}
	}
}

// earlyFailed leaves outputs that could not come home early where they are. Whoever needs them finds
// out whether something is wrong with them.
func (a *attempt) earlyFailed(l *loop, err error) {
	f := a.blame(err)
	l.log.Info("outputs did not come home early", "derivation", a.task.drv, "machine", a.machine.Name, "culprit", f.Culprit, "err", f.Message)
	a.task.notBefore = l.now().Add(earlyRetry)
	if f.Kind == api.KindFault {
		a.machine.faulted(l, f.Message)
	}
}
