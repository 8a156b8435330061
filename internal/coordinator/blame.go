package coordinator

import (
	"fmt"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

// A machine can be at fault in two ways that a look at it does not show. If builds fail there
// that succeed elsewhere, it is put into quarantine after a few of them, for a person to find.
// If it fails for its own reasons, one build after the other, it would do so with all that wait:
// it rests, for a time that grows with every failure, and is tried again.

// forgiveAfter is the number of good builds after which a build that failed only on this
// machine is forgiven: builds that fail now and then are common, and not the machine's fault.
const forgiveAfter = 20

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

// How long a machine rests that fails for its own reasons.
const (
	restAfter = 3 // builds in a row, of different derivations
	firstRest = time.Second
	maxRest   = 10 * time.Minute
	// maxMishaps bounds what is remembered of a machine, and so how its rest grows.
	maxMishaps = 32
)

// conduct is what is held against a host since it last built something well.
type conduct struct {
	mishaps    map[store.Path]bool // derivations that failed there, and nowhere else, for its own reasons
	faults     int                 // times that it did what no agent may
	restUntil  time.Time
	restReason string
	restFault  bool // for a fault of its own, not for mishaps
	goodBuilds int  // since the start
}

// mishap counts a failure that was blamed on the machine. A build that fails like that on
// several machines is suspect itself: it makes none of them rest, and the first is forgiven.
// Faults are the machine's alone, whatever the build.
func (m *machine) mishap(l *loop, t *task, f *api.Failure) {
	if f.Kind == api.KindFault {
		m.faulted(l, f.Message)
		return
	}
	x := &m.conduct
	others := 0
	for name := range t.mishapOn {
		if other := l.byName[name]; other != nil && other.host != m.host {
			others++
			other.forgive(l, t.drv)
		}
	}
	mark(&t.mishapOn, m.Name)
	if others > 0 || x.mishaps[t.drv] || len(x.mishaps) == maxMishaps {
		return
	}
	if x.mishaps == nil {
		x.mishaps = make(map[store.Path]bool)
	}
	x.mishaps[t.drv] = true
	if n := len(x.mishaps); n >= restAfter {
		m.beginRest(l, n-restAfter, fmt.Sprintf("%d builds in a row failed for its own reasons, the last one: %s", n, f.Message))
		x.restFault = false
	}
}

// faulted makes a machine that did what no agent may rest at once.
func (h *host) faulted(l *loop, what string) {
	h.beginRest(l, h.conduct.faults, what)
	h.conduct.faults++
	h.conduct.restFault = true
}

// beginRest gives a machine no builds for a time that doubles with n.
func (h *host) beginRest(l *loop, n int, why string) {
	x := &h.conduct
	rest := min(firstRest<<min(n, 20), maxRest)
	x.restUntil, x.restReason = l.now().Add(rest), why
	h.log.Warn("the machine rests", "for", rest, "why", why)
	l.placeBy(x.restUntil)
}

// forgive no longer holds a build's failure against a machine, and ends a rest that was for it.
func (h *host) forgive(l *loop, drv store.Path) {
	x := &h.conduct
	if !x.mishaps[drv] {
		return
	}
	delete(x.mishaps, drv)
	if len(x.mishaps) < restAfter && !x.restFault {
		x.restUntil = time.Time{}
		l.placing = true
	}
}

// resting says why and until when a machine gets no builds; empty if it does.
func (x *conduct) resting(now time.Time) string {
	if !now.Before(x.restUntil) {
		return ""
	}
	return fmt.Sprintf("resting until %s: %s", x.restUntil.Format(time.TimeOnly), x.restReason)
}

// succeeded forgets what was held against a machine that has built something.
func (h *host) succeeded(l *loop) {
	good := h.conduct.goodBuilds + 1
	h.conduct = conduct{goodBuilds: good}
	if good%forgiveAfter == 0 && h.standing.Disagreed > 0 {
		h.standing.Disagreed--
		h.saveSetting(l)
	}
}
