package coordinator

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"lighter/internal/coordinator/conduct"
	"lighter/internal/coordinator/reserve"
	"lighter/internal/ledger"
	"lighter/internal/machinetest"
	"lighter/machines"
	"lighter/scheduler"
)

// machine is the loop's view of one entry of the machines file: for which builds it is, and how
// many of them. What it leads to it has from its host, with other entries or alone.
type machine struct {
	machines.Machine
	*host
	log *slog.Logger

	counted   int64    // its memory, as of the last contact
	builds    []string // its systems, as of the last contact or else its entry
	problem   string   // why it gets no builds though its host is up
	untrusted bool     // problem is about keys
	speed     scheduler.SpeedEstimate
	removed   bool              // from the file; it is let go when its builds are done
	next      *machines.Machine // its entry in the file now, if that has another way to it
	nextError string            // why that way cannot be tried
	setting   conduct.Setting
	admission conduct.Admission // by its limits
	learnt    bool              // something about it that is not in the ledger yet
	news      conduct.News

	saved time.Time
}

// errRemoved is why all that concerns a host ends when it is let go.
var errRemoved = errors.New("the machine is no longer in the machines file")

// newMachine makes the machine of an entry that leads to a host. The caller regroups.
func (l *loop) newMachine(m machines.Machine, h *host) *machine {
	return &machine{Machine: m, host: h, builds: m.Systems, log: l.log.With("machine", m.Name)}
}

// judge decides, after a contact with its host, whether a machine gets builds, and tells what has
// changed; came says that the host was not up before.
func (m *machine) judge(l *loop, came bool) {
	problem, untrusted := m.c.advice().Unfit(&m.Machine, m.info, m.acl)
	switch {
	case problem == m.problem && !came:
	case problem != "":
		if m.tell(l, "up, but gets no builds: "+problem) {
			m.log.Warn("the machine gets no builds", "why", problem)
		}
	case m.tell(l, "up"):
		m.log.Info("the machine is up", "agent", m.info.Version, "kernel", m.info.Kernel, "store", m.info.StoreKind)
	}
	if systems := m.systems(); !slices.Equal(systems, m.builds) {
		m.builds = systems
		if text := machinetest.ForeignSystems(&m.Machine, m.info); text != "" {
			m.log.Warn("the machine gets no builds for some of its systems", "why", text)
		}
		l.changesSoon()
	}
	if memory := m.memory(); memory != m.counted {
		m.counted, l.static = memory, nil
		if l.farm.Matters(memory) {
			l.changesSoon()
		}
	}
	m.tellHeld(l)
	m.problem, m.untrusted = problem, untrusted
	m.admit(l)
}

// systems returns those that the machine is for.
func (m *machine) systems() []string { return machinetest.Systems(&m.Machine, m.info) }

// memory is how many bytes the builds on its host may need together for it to get another one; 0 if that is
// not counted, or not known yet.
func (m *machine) memory() int64 {
	if m.info == nil {
		return reserve.MachineMemory(m.Memory, 0)
	}
	return reserve.MachineMemory(m.Memory, m.info.Hardware.Memory)
}

// saveInterval is the least time between two writes of what was learnt about a machine.
const saveInterval = 10 * time.Second

// saveLearnt records what was learnt about a host's machines. How they are reached is recorded at
// once: a restart needs it.
func (h *host) saveLearnt(l *loop) {
	changed := h.peer.Bandwidth.TakeChanged()
	changed = h.peer.FetchBandwidth.TakeChanged() || changed
	for _, m := range h.machines {
		m.learnt = m.learnt || changed
		known := l.learnt[m.Name]
		moved := known.Route != m.Route().String() || known.Agent != h.info.ID
		if !moved && (!m.learnt || l.now().Sub(m.saved) < saveInterval) {
			continue
		}
		m.learnt, m.saved = false, l.now()
		known = ledger.Machine{
			Name: m.Name, Bandwidth: h.peer.Bandwidth.Value(), FetchBandwidth: h.peer.FetchBandwidth.Value(), SpeedLog: m.speed.Log, SpeedSamples: m.speed.Samples,
			PublicKey: h.info.PublicKey, Updated: m.saved, Route: m.Route().String(), Agent: h.info.ID,
		}
		l.learnt[m.Name] = known
		l.change(ledger.Change{Machine: &known})
	}
}

// makerOf returns a machine of the host that may make a task's outputs, or nil: the one with a
// name, rather than others. For a task that is not known, nil, any may.
func (h *host) makerOf(t *task, name string) *machine {
	var maker *machine
	for _, m := range h.machines {
		if (t == nil || m.mayMake(t)) && (maker == nil || m.Name == name) {
			maker = m
		}
	}
	return maker
}
