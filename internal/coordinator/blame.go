package coordinator

import (
	"fmt"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

// A machine can be at fault in two ways that no look at it shows. Builds fail there that
// succeed elsewhere: after a few of these it is put into quarantine, where a person finds it.
// Or it fails itself, one build after the other, and would do so with all that wait: then it
// rests, for a time that grows with every failure, and is tried again.

// forgiveAfter is after how many good builds one that failed on a machine alone is forgiven:
// builds that fail now and then are common, and not the machine's fault.
const forgiveAfter = 20

// disagree counts, against the machines on which a derivation failed, that it succeeded on
// another.
func (t *task) disagree(l *loop, on *machine) {
	for name := range t.failedOn {
		m := l.byName[name]
		if m == nil || m == on || l.limits.QuarantineAfter < 0 {
			continue
		}
		n := m.disagreed(l)
		l.log.Warn("a build failed on one machine and succeeded on another", "derivation", t.drv, "failed", name, "succeeded", on.Name)
		if n >= l.limits.QuarantineAfter && m.dispensable(l) {
			m.quarantine(l, fmt.Sprintf("%d builds failed there that succeeded elsewhere, the last one %s on %s", n, t.drv.Name(), on.Name))
		}
	}
	clear(t.failedOn)
}

// dispensable reports whether others can do without a machine: a farm that works now and
// then is better than one that stands still.
func (m *machine) dispensable(l *loop) bool {
	for _, system := range m.Systems {
		if !slices.ContainsFunc(l.machines, func(other *machine) bool {
			return other != m && !other.removed && other.setting.Quarantined == "" && slices.Contains(other.Systems, system)
		}) {
			m.log.Warn("the machine is not put into quarantine: no other builds for its system", "system", system)
			return false
		}
	}
	return true
}

// How long a machine rests that failed itself.
const (
	restAfter = 3 // builds in a row, of different derivations
	firstRest = time.Second
	maxRest   = 10 * time.Minute
	// maxMishaps bounds what is remembered of a machine, and so how its rest grows.
	maxMishaps = 32
)

// conduct is what is held against a machine since it last built something well.
type conduct struct {
	mishaps    map[store.Path]bool // derivations that failed there, and nowhere else, for its own reasons
	faults     int                 // what it may not do
	restUntil  time.Time
	restReason string
	restFault  bool // for a fault of its own, not for mishaps
	goodBuilds int  // since the start
}

// mishap counts a failure for which the machine is said to be to blame. What fails like that
// on one machine after the other speaks against the build: it makes none of them rest, and
// the first one is forgiven. Faults are the machine's alone, whatever the build.
func (m *machine) mishap(l *loop, t *task, f *api.Failure) {
	if f.Kind == api.KindFault {
		m.faulted(l, f.Message)
		return
	}
	x := &m.conduct
	others := 0
	for name := range t.mishapOn {
		if other := l.byName[name]; other != nil && other != m {
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

// faulted has a machine rest at once that did what no agent may.
func (m *machine) faulted(l *loop, what string) {
	m.beginRest(l, m.conduct.faults, what)
	m.conduct.faults++
	m.conduct.restFault = true
}

// beginRest has a machine get no builds for a time that doubles with n.
func (m *machine) beginRest(l *loop, n int, why string) {
	x := &m.conduct
	rest := min(firstRest<<min(n, 20), maxRest)
	x.restUntil, x.restReason = l.now().Add(rest), why
	m.log.Warn("the machine rests", "for", rest, "why", why)
	l.placeBy(x.restUntil)
}

// forgive takes back that a build failed for a machine's reasons, and the rest if it was for that.
func (m *machine) forgive(l *loop, drv store.Path) {
	x := &m.conduct
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
func (m *machine) succeeded(l *loop) {
	good := m.conduct.goodBuilds + 1
	m.conduct = conduct{goodBuilds: good}
	if good%forgiveAfter == 0 && m.setting.Disagreed > 0 {
		m.setting.Disagreed--
		m.saveSetting(l)
	}
}
