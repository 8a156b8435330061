package coordinator

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"

	"lighter/internal/api"
	"lighter/internal/coordinator/explain"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/reserve"
	"lighter/internal/machinetest"
)

// maxRunning bounds the running builds that a status lists.
const maxRunning = 1000

// Status returns the coordinator at one glance.
func (c *Coordinator) Status(ctx context.Context) (*api.Status, error) {
	s := &api.Status{
		Version: c.cfg.Version, PID: os.Getpid(), Started: c.started, Counts: c.ledger.Counts(),
		LastEvent: c.ledger.LastEvent(), LedgerProblems: c.ledger.SetAside(), Running: []api.Build{}, Transfers: c.moving.List(),
	}
	s.HooksPending, s.HooksParked = c.eventHooks.Counts()
	view := c.Outlook(ctx)
	err := c.do(ctx, func(l *loop) {
		now := l.now()
		for _, m := range l.machines {
			s.Machines = append(s.Machines, m.status())
		}
		for _, h := range l.hosts {
			for a := range h.attempts {
				if t := a.task; t.underWay == a && len(t.builds) > 0 && len(s.Running) < maxRunning {
					s.Running = append(s.Running, t.builds[0].Build)
					s.Running[len(s.Running)-1].Overdue = t.overdue(now)
				}
			}
		}
		s.Paused, s.Head, s.MachinesFile = l.whyPaused(), l.space, l.file.Status()
		s.Queues, s.Shares = l.queues(now), l.account.List(now)
		if len(l.builds) > 0 {
			s.Outlook = view.All(now)
		}
		s.Failures = slices.Clone(l.counts.Failures)
	})
	for i := range s.Running {
		view.Mark(&s.Running[i], c.now())
	}
	view.MarkQueues(s.Queues, c.now())
	slices.SortFunc(s.Running, func(a, b api.Build) int { return a.Submitted.Compare(b.Submitted) })
	return s, err
}

// Machines returns the status of all machines.
func (c *Coordinator) Machines(ctx context.Context) ([]api.MachineStatus, error) {
	list := []api.MachineStatus{}
	err := c.do(ctx, func(l *loop) {
		for _, m := range l.machines {
			list = append(list, m.status())
		}
	})
	return list, err
}

// machine returns the machine with a name, and the peer of its host.
func (c *Coordinator) machine(ctx context.Context, name string) (m *machine, p *peer.Peer, err error) {
	if e := c.do(ctx, func(l *loop) {
		if m, err = l.named(name); err == nil {
			p = m.peer
		}
	}); e != nil {
		return nil, nil, e
	}
	return m, p, err
}

func (l *loop) named(name string) (*machine, error) {
	if m := l.byName[name]; m != nil {
		return m, nil
	}
	return nil, &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: fmt.Sprintf("no machine is named %q", name)}
}

// status is what clients are told of a machine.
func (m *machine) status() api.MachineStatus {
	s := api.MachineStatus{
		Name: m.Name, Systems: m.Systems, Features: m.Offers(), MandatoryFeatures: m.MandatoryFeatures,
		ParallelBuilds: m.ParallelBuilds, Speed: m.Speed, MeasuredSpeed: m.speed.Speed(m.Speed), Local: m.Local,
		State: m.state, Error: m.err, Bandwidth: m.peer.Bandwidth.Value(), FetchBandwidth: m.peer.FetchBandwidth.Value(),
		Tags: m.setting.AllTags(m.Tags), Draining: m.setting.Draining, DrainedBy: m.setting.DrainedBy, DrainReason: m.setting.DrainReason,
		Quarantined: m.standing.Quarantined, QuarantinedUntil: m.standing.QuarantinedUntil,
		Removed: m.removed, ParallelTransfers: m.streams(), LastGC: m.standing.LastGC,
		Running: m.running(),
	}
	if len(m.host.machines) > 1 {
		s.Host, s.HostRunning = m.host.name(), m.host.running()
	}
	s.Memory, s.Tokens = m.memory(), m.Tokens
	for a := range m.host.attempts {
		if !a.FetchOnly {
			s.ReservedMemory += a.build.Memory
			s.TakenTokens = reserve.Add(s.TakenTokens, a.build.Tokens, m.Tokens)
		}
	}
	switch {
	case m.state == api.MachineUp && m.problem != "":
		s.State, s.Error = api.MachineUnfit, m.problem
		if m.untrusted {
			s.State = api.MachineUntrusted
		}
	case m.state == api.MachineUp && m.next != nil:
		s.Error = m.unavailable()
	case m.state == api.MachineUp && m.conduct.Resting(m.c.now()) != "":
		s.Error = m.conduct.Resting(m.c.now())
	case m.state == api.MachineUp && m.gcError != "":
		s.Error = "its garbage was not collected: " + m.gcError
	case m.state == api.MachineUp && len(m.systems()) < len(m.Systems):
		s.Error = machinetest.ForeignSystems(&m.Machine, m.info)
	case m.state == api.MachineDown && !m.nextTry.IsZero():
		next := m.nextTry
		s.NextTry = &next
	}
	if m.info != nil {
		machinetest.Describe(&s, m.info, m.skew)
		s.Refuses = m.refusal()
	}
	return s
}

// running is how many builds run on the host.
func (h *host) running() (n int) {
	for a := range h.attempts {
		if !a.FetchOnly {
			n++
		}
	}
	return n
}

// running is how many of the host's builds were placed through the machine.
func (m *machine) running() (n int) {
	for a := range m.attempts {
		if !a.FetchOnly && a.machine == m {
			n++
		}
	}
	return n
}

// building reports whether anything is built on the host, for whichever entry.
func (h *host) building() bool {
	for a := range h.attempts {
		if !a.FetchOnly {
			return true
		}
	}
	return false
}

// refusal says why a machine that is up gets no builds now, if that will pass by itself.
func (m *machine) refusal() string {
	if m.state != api.MachineUp || len(m.systems()) == 0 {
		return ""
	}
	return explain.Refusal(m.schedulerMachine(m.c.now(), nil))
}
