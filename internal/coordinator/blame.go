package coordinator

import (
	"fmt"
	"slices"
	"time"

	"lighter/internal/api"
)

// disagree counts it against the machines on which a derivation failed that it has succeeded
// on another.
func (t *task) disagree(l *loop, on *machine) {
	counted := map[*host]bool{on.host: true}
	for name := range t.failedOn {
		m := l.byName[name]
		if m == nil || counted[m.host] || l.limits.QuarantineAfter < 0 {
			continue
		}
		counted[m.host] = true
		n := m.disagreed(l)
		l.log.Warn("a build failed on one machine and succeeded on another", "derivation", t.drv, "failed", name, "succeeded", on.Name)
		if n >= l.limits.QuarantineAfter && m.dispensable(l) {
			m.quarantine(l, fmt.Sprintf("%d builds failed there that succeeded elsewhere, the last one %s on %s", n, t.drv.Name(), on.Name))
		}
	}
	clear(t.failedOn)
}

// dispensable reports whether others can take a host's builds: a farm that works now and
// then is better than one that stands still.
func (h *host) dispensable(l *loop) bool {
	for _, m := range h.machines {
		for _, system := range m.Systems {
			if !slices.ContainsFunc(l.machines, func(other *machine) bool {
				return other.host != h && !other.removed && other.standing.Quarantined == "" && slices.Contains(other.systems(), system)
			}) {
				m.log.Warn("the machine is not put into quarantine: no other builds for its system", "system", system)
				return false
			}
		}
	}
	return true
}

// mishap counts a failure that was blamed on the machine. A build that fails like that on
// several machines is suspect itself: it makes none of them rest, and the first is forgiven.
// Faults are the machine's alone, whatever the build.
func (m *machine) mishap(l *loop, t *task, f *api.Failure) {
	if f.Kind == api.KindFault {
		m.faulted(l, f.Message)
		return
	}
	others := 0
	for name := range t.mishapOn {
		if other := l.byName[name]; other != nil && other.host != m.host {
			others++
			if other.conduct.Forgive(t.drv) {
				l.placing = true
			}
		}
	}
	mark(&t.mishapOn, m.Name)
	if others == 0 {
		m.rests(l, m.conduct.Mishap(t.drv, f.Message, l.now()))
	}
}

// faulted makes a machine that did what no agent may rest at once.
func (h *host) faulted(l *loop, what string) { h.rests(l, h.conduct.Fault(what, l.now())) }

// rests notes that a host gets no builds for a time, unless that is 0.
func (h *host) rests(l *loop, rest time.Duration) {
	if rest == 0 {
		return
	}
	until := h.conduct.RestUntil()
	h.log.Warn("the machine rests", "for", rest, "why", h.conduct.RestReason())
	l.placeBy(until)
}

// succeeded forgets what was held against a machine that has built something.
func (h *host) succeeded(l *loop) {
	if h.conduct.Succeeded() && h.standing.Disagreed > 0 {
		h.standing.Disagreed--
		h.saveSetting(l)
	}
}
