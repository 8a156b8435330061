package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/ledger"
)

// standing.go is why a machine gets no builds even if it has free slots: the first of the reasons in
// unavailable that holds. Its limits (admission.go) come after those.

// unavailable says why nothing can be placed on the machine now.
func (m *machine) unavailable() string {
	switch {
	case m.removed:
		return "removed from the machines file"
	case m.setting.Draining:
		return withReason("draining", m.setting.DrainReason)
	case m.state == api.MachineDown:
		return "down: " + m.err
	case m.state != api.MachineUp:
		return "not reached yet"
	case m.next != nil && m.nextError != "":
		return "it cannot be reached the way the machines file now says: " + m.nextError
	case m.next != nil:
		return "its entry in the machines file changed; it is reached the new way once its builds are done"
	case m.setting.Quarantined != "":
		return "in quarantine until " + m.setting.QuarantinedUntil.Format(time.DateTime) + ": " + m.setting.Quarantined
	}
	return cmp.Or(m.problem, m.conduct.resting(m.c.now()))
}

// machineSettings is the start of the names of those settings in the ledger that are about a
// machine.
const machineSettings = "machine/"

// machineSetting is what the ledger keeps of a machine besides what was learnt about it: what
// operators decided, and what must survive a restart.
type machineSetting struct {
	Draining    bool   `json:"draining,omitempty"`
	DrainReason string `json:"drainReason,omitempty"`
	// Tags are those that operators set; Untagged, tags of the file that they removed.
	Tags     map[string]string `json:"tags,omitempty"`
	Untagged []string          `json:"untagged,omitempty"`
	// Quarantined says why it gets no builds until QuarantinedUntil.
	Quarantined      string     `json:"quarantined,omitempty"`
	QuarantinedUntil *time.Time `json:"quarantinedUntil,omitempty"`
	// Disagreed counts builds that failed there and succeeded elsewhere.
	Disagreed int        `json:"disagreed,omitempty"`
	Lost      bool       `json:"lost,omitempty"` // its builds go on elsewhere
	LastGC    *time.Time `json:"lastGC,omitempty"`
}

// saveSetting records a machine's setting in the ledger.
func (m *machine) saveSetting(l *loop) {
	s := m.setting
	s.Tags, s.Untagged = maps.Clone(s.Tags), slices.Clone(s.Untagged)
	l.change(ledger.Change{Setting: &ledger.Setting{Name: machineSettings + m.Name, Value: s}})
}

// withReason adds a person's reason to what was done, if there is one.
func withReason(what, reason string) string {
	if reason == "" {
		return what
	}
	return what + ": " + reason
}

// operate records what an operator did to a machine, and looks at the queue again.
func (m *machine) operate(l *loop, text string) {
	m.saveSetting(l)
	l.machineEvent(api.KindOperator, m.Name, text)
	m.log.Info("an operator changed a machine", "what", text)
	l.placing = true
}

func (m *machine) drain(l *loop, reason string) {
	m.setting.Draining, m.setting.DrainReason = true, reason
	m.operate(l, withReason("draining", reason))
}

// resume ends draining and quarantine.
func (m *machine) resume(l *loop, reason string) {
	s := &m.setting
	s.Draining, s.DrainReason = false, ""
	s.Quarantined, s.QuarantinedUntil, s.Disagreed = "", nil, 0
	m.operate(l, withReason("resumed", reason))
}

// disagreed counts a build that failed on a machine and succeeded elsewhere, and returns how
// many count against it by now.
func (m *machine) disagreed(l *loop) int {
	m.setting.Disagreed++
	m.saveSetting(l)
	return m.setting.Disagreed
}

// quarantine gives a machine no builds for a time, because builds fail there that succeed
// elsewhere.
func (m *machine) quarantine(l *loop, why string) {
	if l.byName[m.Name] != m || m.setting.Quarantined != "" {
		return
	}
	until := l.now().Add(l.limits.QuarantineTime).Round(time.Second)
	m.setting.Quarantined, m.setting.QuarantinedUntil = why, &until
	m.log.Warn("the machine is in quarantine; machines resume ends that", "why", why, "until", until)
	m.saveSetting(l)
	l.event(m.Name, "in quarantine until "+until.Format(time.DateTime)+": "+why)
	l.placeBy(until)
}

// endQuarantines lets machines whose time in quarantine is over be tried again. Half of what was
// held against them is forgiven.
func (l *loop) endQuarantines(now time.Time) {
	for _, m := range l.machines {
		s := &m.setting
		switch {
		case s.QuarantinedUntil == nil:
		case now.Before(*s.QuarantinedUntil):
			l.placeBy(*s.QuarantinedUntil)
		default:
			s.Quarantined, s.QuarantinedUntil, s.Disagreed = "", nil, s.Disagreed/2
			m.log.Info("the machine's quarantine is over")
			m.saveSetting(l)
			l.event(m.Name, "quarantine is over")
		}
	}
}

// lost notes that a machine is lost: its builds go on elsewhere.
func (m *machine) lost(l *loop) {
	if m.setting.Lost {
		return
	}
	m.setting.Lost = true
	m.saveSetting(l)
	m.log.Warn("the machine is lost; what it built is built elsewhere", "away", l.now().Sub(m.down).Round(time.Second))
	l.machineEvent(api.KindMachineLost, m.Name, fmt.Sprintf("not reached for %s: %s", l.now().Sub(m.down).Round(time.Second), m.err))
}

// back notes that a lost machine has been reached again.
func (m *machine) back(l *loop) {
	if !m.setting.Lost {
		return
	}
	m.setting.Lost = false
	m.saveSetting(l)
	l.machineEvent(api.KindMachineBack, m.Name, "reached again")
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
func (c *Coordinator) Drain(ctx context.Context, name, reason string) (*api.MachineStatus, error) {
	return c.changeMachine(ctx, name, func(l *loop, m *machine) error {
		m.drain(l, reason)
		return nil
	})
}

// ResumeMachine ends draining and quarantine of a machine.
func (c *Coordinator) ResumeMachine(ctx context.Context, name, reason string) (*api.MachineStatus, error) {
	return c.changeMachine(ctx, name, func(l *loop, m *machine) error {
		m.resume(l, reason)
		return nil
	})
}
