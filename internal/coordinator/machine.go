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
	"lighter/internal/coordinator/inventory"
	"lighter/internal/coordinator/peer"
	"lighter/internal/ledger"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/scheduler"
)

// machine is the loop's view of one machine. The way to it (see sameWay) never changes: with
// another way in the file it is replaced by another machine.
type machine struct {
	machines.Machine // all but the name belongs to the loop
	c                *Coordinator
	log              *slog.Logger
	peer             *peer.Peer
	cancel           context.CancelCauseFunc // ends all that start started

	// All below belongs to the loop.
	state     api.MachineState
	err       string // why it is down
	problem   string // why it gets no builds though it is up
	down      time.Time
	nextTry   time.Time
	info      *agentapi.Machine // of the last contact
	skew      time.Duration     // its clock minus ours
	attempts  map[*attempt]struct{}
	has       *inventory.Set // items that it is believed to have
	speed     scheduler.SpeedEstimate
	removed   bool              // from the file; it is let go when its builds are done
	next      *machines.Machine // its entry in the file now, if that has another way to it
	nextError string            // why that way cannot be tried
	setting   machineSetting
	refuses   string    // which limit it is beyond, as beyondLimit says; empty if none
	refusedAt time.Time // when it was last beyond one
	gcError   string    // why its garbage was last not collected
	gcAfter   time.Time // when it may be tried again
	learnt    bool      // something about it that is not in the ledger yet
	conduct   conduct   // what is held against it
	news      news

	saved time.Time
}

// errRemoved is why all that concerns a machine ends when it is let go.
var errRemoved = errors.New("the machine is no longer in the machines file")

// openMachine makes a machine and its link.
func (l *loop) openMachine(m machines.Machine) (*machine, error) {
	link, err := l.cfg.NewLink(m)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", m.Name, err)
	}
	return &machine{
		Machine: m, c: l.Coordinator, log: l.log.With("machine", m.Name), peer: peer.New(&l.forPeers, m, link),
		state: api.MachineUnknown, attempts: make(map[*attempt]struct{}), has: l.items.NewSet(),
	}, nil
}

// start starts the goroutines of the machine, which run until ctx ends or stop is called.
func (m *machine) start(ctx context.Context) {
	ctx, m.cancel = context.WithCancelCause(ctx)
	var s sighting
	m.peer.Start(ctx, peer.Watch{
		Connecting: func() { m.c.post(func(l *loop) { m.connecting(l) }) },
		Look: func(ctx context.Context, up bool) error {
			s = m.look(ctx, !up)
			return s.err
		},
		Looked: func(wait time.Duration, err error) {
			found := s
			found.wait, found.err = wait, err
			m.c.post(func(l *loop) { m.sighted(l, found) })
		},
	})
}

// stop ends all that start started. What the machine's agent does goes on.
func (m *machine) stop() {
	m.cancel(errRemoved)
	m.c.group.Go(m.peer.Close)
}

// sighting is what a look at a machine found.
type sighting struct {
	info   *agentapi.Machine
	skew   time.Duration
	builds []agentapi.BuildStatus          // that its agent has, if it was not up before
	ours   map[string]*api.Build           // those of them that the ledger has
	wrong  map[*agentapi.BuildStatus]error // why some of ours cannot be what it was given
	wait   time.Duration                   // until it is tried again, if it was not reached
	acl    *signature.ACL
	err    error
}

// look asks the agent how the machine is, and, if it was not up before, also which builds it
// knows.
func (m *machine) look(ctx context.Context, first bool) sighting {
	limit := m.c.limits.ContactTimeout
	if first {
		limit = m.c.limits.ConnectTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var s sighting
	asked := m.c.now()
	if s.info, s.err = m.peer.Client.Machine(ctx); s.err != nil {
		return s
	}
	s.skew = s.info.Now.Sub(asked.Add(m.c.now().Sub(asked) / 2))
	if m.c.cfg.ACL != nil {
		if s.acl, s.err = m.c.cfg.ACL(); s.err != nil {
			m.log.Warn("the head's list of authorized keys cannot be read", "err", s.err)
			s.acl, s.err = nil, nil
		}
	}
	if !first || s.info.Protocol != agentapi.Protocol {
		return s
	}
	s.ours = make(map[string]*api.Build)
	s.builds, s.err = m.peer.Client.Builds(ctx, func(id string) (*agentapi.Asked, error) {
		b, err := m.c.ourBuild(ctx, id)
		if err != nil || b == nil {
			return nil, err
		}
		s.ours[id] = b
		return askedOf(b), nil
	})
	if s.err == nil {
		s.wrong, s.err = m.c.inventory.Vet(ctx, m.peer, s.builds, s.ours)
	}
	return s
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

func (m *machine) connecting(l *loop) {
	if m.state == api.MachineUnknown && l.byName[m.Name] == m {
		m.state = api.MachineConnecting
	}
}

// sighted deals with what a look at a machine found.
func (m *machine) sighted(l *loop, s sighting) {
	if l.byName[m.Name] != m {
		return // it is gone
	}
	if s.err != nil {
		m.unreachable(l, s)
		return
	}
	was, systems := m.state, m.systems()
	m.state, m.err, m.info, m.skew = api.MachineUp, "", s.info, s.skew
	m.peer.SetStoreKind(s.info.StoreKind)
	m.down, m.nextTry = time.Time{}, time.Time{}
	problem := m.problemOf(&s)
	switch {
	case problem == m.problem && was == api.MachineUp:
	case problem != "":
		if m.tell(l, "up, but gets no builds: "+problem) {
			m.log.Warn("the machine gets no builds", "why", problem)
		}
	case m.tell(l, "up"):
		m.log.Info("the machine is up", "agent", s.info.Version, "kernel", s.info.Kernel, "store", s.info.StoreKind)
	}
	if !slices.Equal(systems, m.systems()) {
		if text := m.foreignSystems(); text != "" {
			m.log.Warn("the machine gets no builds for some of its systems", "why", text)
		}
		l.machinesChanged()
	}
	m.tellHeld(l)
	m.problem = problem
	m.admit(l, l.now())
	m.back(l)
	if was != api.MachineUp {
		m.reconcile(l, &s)
	}
	l.endGrace(m)
	m.saveLearnt(l)
	l.placing = true
}

func (m *machine) unreachable(l *loop, s sighting) {
	now := l.now()
	text := agentapi.Printable(s.err.Error(), api.MaxProblem)
	if m.state != api.MachineDown {
		m.down = now
		m.has.Clear()
		if m.tell(l, "down: "+text) {
			m.log.Warn("the machine cannot be reached", "err", text)
		}
	}
	m.tellHeld(l)
	m.state, m.err, m.nextTry = api.MachineDown, text, now.Add(s.wait)
	if now.Sub(m.down) >= l.limits.MachineLostAfter {
		m.loseAll(l, "its machine "+m.Name+" cannot be reached")
		m.lost(l)
	}
	l.endGrace(m)
	l.placing = true
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

// problemOf says why a machine that is up gets no builds; empty if it does.
func (m *machine) problemOf(s *sighting) string {
	return m.c.advice().Unfit(&m.Machine, s.info, s.acl)
}

// saveInterval is the least time between two writes of what was learnt about a machine.
const saveInterval = 10 * time.Second

func (m *machine) saveLearnt(l *loop) {
	if m.peer.Bandwidth.TakeChanged() {
		m.learnt = true
	}
	if !m.learnt || l.now().Sub(m.saved) < saveInterval {
		return
	}
	m.learnt, m.saved = false, l.now()
	l.change(ledger.Change{Machine: &ledger.Machine{
		Name: m.Name, Bandwidth: m.peer.Bandwidth.Value(), SpeedLog: m.speed.Log, SpeedSamples: m.speed.Samples,
		PublicKey: m.info.PublicKey, Updated: m.saved,
	}})
}
