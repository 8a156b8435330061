package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/coordinator/reserve"
	"lighter/internal/ledger"
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

// ourBuild returns the ledger's build with the id that an agent told. It is nil if there is
// none: that build is another coordinator's.
func (c *Coordinator) ourBuild(ctx context.Context, id string) (*api.Build, error) {
	if !isID(id) {
		return nil, nil
	}
	b, err := c.ledger.Build(ctx, id)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, nil
	}
	return b, err
}

func isID(id string) bool { return uuid.Validate(id) == nil }

// askedOf says what an agent may say of a build.
func askedOf(b *api.Build) *agentapi.Asked {
	return &agentapi.Asked{ID: b.ID, Derivation: b.Derivation, Outputs: b.OutputPaths}
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
		if text := m.foreignSystems(); text != "" {
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

// systems returns those that the machine is for by its entry in the machines file, without those that
// it has said not to build for.
func (m *machine) systems() []string {
	if m.info == nil || len(m.info.Systems) == 0 {
		return m.Systems
	}
	builds := m.info.Builds()
	if foreign := func(system string) bool { return !slices.Contains(builds, system) }; slices.ContainsFunc(m.Systems, foreign) {
		return slices.DeleteFunc(slices.Clone(m.Systems), foreign)
	}
	return m.Systems
}

// memory is how many bytes the builds on its host may need together for it to get another one; 0 if that is
// not counted, or not known yet.
func (m *machine) memory() int64 {
	if m.info == nil {
		return reserve.MachineMemory(m.Memory, 0)
	}
	return reserve.MachineMemory(m.Memory, m.info.Hardware.Memory)
}

// foreignSystems says which systems of its entry a machine does not build for; empty if there are
// none.
func (m *machine) foreignSystems() string {
	mine := m.systems()
	foreign := slices.DeleteFunc(slices.Clone(m.Systems), func(system string) bool { return slices.Contains(mine, system) })
	if len(foreign) == 0 {
		return ""
	}
	return m.unlike(strings.Join(foreign, ", "))
}

// unlike says that a machine does not build for a system that its entry names.
func (m *machine) unlike(system string) string {
	return fmt.Sprintf("the machines file says that it builds for %s, but it builds for %s", system, strings.Join(m.info.Builds(), ", "))
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
