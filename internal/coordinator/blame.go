package coordinator

import (
	"fmt"
	"slices"
	"time"

	"lighter/internal/api"
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
func (c *Coordinator) disagree(t *task, on *machine) {
	for name := range t.failedOn {
		m := c.byName[name]
		if m == nil || m == on || c.limits.QuarantineAfter < 0 {
			continue
		}
		n := c.disagreed(m)
		c.log.Warn("a build failed on one machine and succeeded on another", "derivation", t.drv, "failed", name, "succeeded", on.Name)
		if n >= c.limits.QuarantineAfter && c.dispensable(m) {
			c.quarantine(m, fmt.Sprintf("%d builds failed there that succeeded elsewhere, the last one %s on %s", n, t.drv.Name(), on.Name))
		}
	}
	clear(t.failedOn)
}

// dispensable reports whether others can do without a machine: a farm that works now and
// then is better than one that stands still.
func (c *Coordinator) dispensable(m *machine) bool {
	for _, system := range m.Systems {
		if !slices.ContainsFunc(c.machines, func(other *machine) bool {
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
)

// mishap counts a failure for which the machine is to blame.
func (c *Coordinator) mishap(m *machine, t *task, f *api.Failure) {
	if m.failedLast == t.drv {
		return // it may be the derivation's fault, who knows
	}
	m.failedLast = t.drv
	if m.mishaps++; m.mishaps < restAfter {
		return
	}
	rest := min(firstRest<<min(m.mishaps-restAfter, 20), maxRest)
	m.restUntil = time.Now().Add(rest)
	m.restReason = fmt.Sprintf("%d builds in a row failed for its own reasons, the last one: %s", m.mishaps, f.Message)
	m.log.Warn("the machine rests", "for", rest, "why", m.restReason)
	c.placeBy(m.restUntil)
}

// resting says why and until when the machine gets no builds; empty if it does.
func (m *machine) resting(now time.Time) string {
	if !now.Before(m.restUntil) {
		return ""
	}
	return fmt.Sprintf("resting until %s: %s", m.restUntil.Format(time.TimeOnly), m.restReason)
}

// succeeded forgets what was held against a machine that has built something.
func (c *Coordinator) succeeded(m *machine) {
	m.mishaps, m.failedLast, m.restUntil = 0, "", time.Time{}
	if m.goodBuilds++; m.goodBuilds%forgiveAfter == 0 && m.setting.Disagreed > 0 {
		m.setting.Disagreed--
		c.saveSetting(m)
	}
}
