package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/ledger"
	"lighter/internal/machinetest"
)

// standing.go is why a machine gets no builds even if it has free slots: the first of the reasons in
// unavailable that holds. Its limits (admit) come after those.

// unavailable says why nothing can be placed on the machine now.
func (m *machine) unavailable() string {
	switch {
	case m.removed:
		return "removed from the machines file"
	case m.setting.Draining:
		return m.setting.Drained()
	case m.state == api.MachineDown:
		return "down: " + m.err
	case m.state != api.MachineUp:
		return "not reached yet"
	case m.next != nil && m.nextError != "":
		return "it cannot be reached the way the machines file now says: " + m.nextError
	case m.next != nil:
		return "its entry in the machines file changed; it is reached the new way once its builds are done"
	case m.standing.Quarantined != "":
		s := &m.standing
		return "in quarantine until " + s.QuarantinedUntil.Format(time.DateTime) + ": " + s.Quarantined
	}
	return cmp.Or(m.problem, m.conduct.Resting(m.c.now()))
}

// saveSetting records a machine's setting in the ledger.
func (m *machine) saveSetting(l *loop) {
	l.change(ledger.Change{Setting: conduct.Save(m.Name, &m.setting, m.standing)})
}

// saveSetting records a host's setting in the ledger, with each of its machines.
func (h *host) saveSetting(l *loop) {
	for _, m := range h.machines {
		m.saveSetting(l)
	}
}

// operate records what an operator did to a machine, and looks at the queue again.
func (m *machine) operate(l *loop, text string) {
	m.saveSetting(l)
	l.machineEvent(api.KindOperator, m.Name, text)
	m.log.Info("an operator changed a machine", "what", text)
	l.placing = true
}

func (m *machine) drain(l *loop, by, reason string) {
	m.setting.Draining, m.setting.DrainedBy, m.setting.DrainReason = true, by, reason
	m.operate(l, m.setting.Drained())
}

// resume ends draining and quarantine.
func (m *machine) resume(l *loop, by, reason string) {
	m.setting.Draining, m.setting.DrainedBy, m.setting.DrainReason = false, "", ""
	m.standing.Free()
	m.host.saveSetting(l)
	m.operate(l, conduct.Done("resumed", by, reason))
}

// disagreed counts a build that failed on a host and succeeded elsewhere, and returns how many
// count against it by now.
func (h *host) disagreed(l *loop) int {
	h.standing.Disagreed++
	h.saveSetting(l)
	return h.standing.Disagreed
}

// quarantine gives a host no builds for a time, because builds fail there that succeed elsewhere.
func (h *host) quarantine(l *loop, why string) {
	until := l.now().Add(l.limits.QuarantineTime).Round(time.Second)
	if h.gone || !h.standing.Quarantine(why, until) {
		return
	}
	h.log.Warn("the machine is in quarantine; machines resume ends that", "why", why, "until", until)
	h.saveSetting(l)
	for _, m := range h.machines {
		l.event(m.Name, "in quarantine until "+until.Format(time.DateTime)+": "+why)
	}
	l.placeBy(until)
}

// endQuarantines lets hosts whose time in quarantine is over be tried again.
func (l *loop) endQuarantines(now time.Time) {
	for _, h := range l.hosts {
		if !h.standing.Expire(now) {
			if until := h.standing.QuarantinedUntil; until != nil {
				l.placeBy(*until)
			}
			continue
		}
		h.log.Info("the machine's quarantine is over")
		h.saveSetting(l)
		for _, m := range h.machines {
			l.event(m.Name, "quarantine is over")
		}
	}
}

// lost notes that a host is lost: its builds go on elsewhere. That is told once, of its first
// machine.
func (h *host) lost(l *loop) {
	if h.standing.Lost {
		return
	}
	h.standing.Lost = true
	h.saveSetting(l)
	away := l.now().Sub(h.down).Round(time.Second)
	h.log.Warn("the machine is lost; what it built is built elsewhere", "away", away)
	l.machineEvent(api.KindMachineLost, h.name(), fmt.Sprintf("not reached for %s: %s%s", away, h.err, h.others()))
}

// back notes that a lost host has been reached again.
func (h *host) back(l *loop) {
	if !h.standing.Lost {
		return
	}
	h.standing.Lost = false
	h.saveSetting(l)
	l.machineEvent(api.KindMachineBack, h.name(), "reached again"+h.others())
}

// others says which machines but the first lead to the host; empty if none.
func (h *host) others() string {
	var names []string
	for _, m := range h.machines[1:] {
		names = append(names, m.Name)
	}
	if len(names) == 0 {
		return ""
	}
	return " (" + strings.Join(names, ", ") + " too, on the same host)"
}

// admit decides whether a machine in its present state gets builds, by its limits.
func (m *machine) admit(l *loop) {
	info := machinetest.WithUnknown(m.info)
	a := &m.admission
	switch changed := a.Judge(l.now(), func(slack float64) string { return machinetest.BeyondLimit(&m.Machine, info, slack) }); {
	case !changed:
	case a.Refuses != "":
		if m.tell(l, "gets no builds for now: "+a.Refuses) {
			m.log.Warn("the machine gets no builds for now", "why", a.Refuses)
		}
	case m.tell(l, "gets builds again"):
		m.log.Info("the machine gets builds again")
	}
}

// tell records something about a machine: at once, or once there is less news of it. It reports
// whether it was told at once.
func (m *machine) tell(l *loop, text string) bool {
	m.news.Add(text)
	return m.tellHeld(l)
}

// tellHeld is called with each look at a machine, and reports whether anything was told.
func (m *machine) tellHeld(l *loop) bool {
	text, leftOut, ok := m.news.Due(l.now())
	if !ok {
		return false
	}
	if leftOut > 0 {
		m.log.Warn("the machine changed so often that not all of it was recorded", "left out", leftOut, "now", text)
	}
	l.event(m.Name, text)
	return true
}

// TagMachine changes the tags of a machine, which change.Check has passed.
func (c *Coordinator) TagMachine(ctx context.Context, name, by string, change *api.TagChange) (*api.MachineStatus, error) {
	return c.changeMachine(ctx, name, func(l *loop, m *machine) error {
		did, err := m.setting.Retag(m.Tags, change)
		if err != nil {
			return api.BadRequest("machine %s would have more than %d tags", m.Name, api.MaxTags)
		}
		m.operate(l, conduct.Done("tags", by, did))
		return nil
	})
}

// changeMachine has f change a machine, and returns its status once that is durable.
func (c *Coordinator) changeMachine(ctx context.Context, name string, f func(l *loop, m *machine) error) (*api.MachineStatus, error) {
	var status api.MachineStatus
	if err := c.durable(ctx, func(l *loop) error {
		m, err := l.named(name)
		if err != nil {
			return err
		}
		if err := f(l, m); err != nil {
			return err
		}
		status = m.status()
		return nil
	}); err != nil {
		return nil, err
	}
	return &status, nil
}

// Drain gives a machine no new builds until ResumeMachine.
func (c *Coordinator) Drain(ctx context.Context, name, by, reason string) (*api.MachineStatus, error) {
	return c.changeMachine(ctx, name, func(l *loop, m *machine) error {
		m.drain(l, by, reason)
		return nil
	})
}

// ResumeMachine ends draining and quarantine of a machine.
func (c *Coordinator) ResumeMachine(ctx context.Context, name, by, reason string) (*api.MachineStatus, error) {
	return c.changeMachine(ctx, name, func(l *loop, m *machine) error {
		m.resume(l, by, reason)
		return nil
	})
}
