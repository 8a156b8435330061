package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/coordinator/early"
	"lighter/internal/coordinator/inventory"
	"lighter/internal/coordinator/peer"
	"lighter/internal/ledger"
	"lighter/machines"
	"lighter/nar/signature"
)

// host is the loop's view of one account of a computer, with the agent and the store that are
// there. Entries of the machines file that lead to it share it: those whose routes are the same from
// the start, others as soon as the same agent answers them.
type host struct {
	c      *Coordinator
	log    *slog.Logger
	peer   *peer.Peer
	cancel context.CancelCauseFunc // ends all that start started
	route  machines.Route          // by which it is reached

	// All below belongs to the loop.
	machines []*machine // that lead to it, in the order of loop.machines
	gone     bool       // nothing leads there any more
	state    api.MachineState
	err      string // why it is down
	down     time.Time
	nextTry  time.Time
	info     *agentapi.Machine // of the last contact
	// tellsOwnLoad says that its agent can measure what its builds add to the load: it has told some
	// at some time. That of another can't be told from that of one which builds nothing.
	tellsOwnLoad bool
	acl          *signature.ACL // the head's, as of the last contact; nil if not known
	skew         time.Duration  // its clock minus ours
	attempts     map[*attempt]struct{}
	coming       int               // builds that are about to be placed there
	awaited      bool              // builds in the queue may be placed there
	has          *inventory.Set    // items that it is believed to have
	early        early.Line[*task] // whose outputs come home early
	standing     conduct.Standing
	gcError      string         // why its garbage was last not collected
	gcAfter      time.Time      // when it may be tried again
	conduct      conduct.Record // what is held against it
}

// hostFor returns the host to which an entry leads; it is opened, but not started, if
// there is none yet.
func (l *loop) hostFor(m *machines.Machine) (h *host, fresh bool, err error) {
	route := m.Route()
	for _, h := range l.hosts {
		if h.route == route {
			return h, false, nil
		}
	}
	link, err := l.cfg.NewLink(*m)
	if err != nil {
		return nil, false, fmt.Errorf("machine %s: %w", m.Name, err)
	}
	h = &host{
		c: l.Coordinator, log: l.log.With("machine", m.Name), peer: peer.New(&l.forPeers, *m, link), route: route,
		state: api.MachineUnknown, attempts: make(map[*attempt]struct{}),
	}
	h.has = l.items.NewSet(h.peer)
	l.hosts = append(l.hosts, h)
	return h, true, nil
}

// regroup notes which machines lead to which host, after that has changed, and stops hosts to
// which none leads any more.
func (l *loop) regroup() {
	for _, h := range slices.Clone(l.hosts) {
		h.machines = slices.Clone(h.machines[:0])
		streams := 0
		for _, m := range l.machines {
			if m.host == h {
				h.machines = append(h.machines, m)
				streams = max(streams, m.ParallelTransfers)
			}
		}
		if len(h.machines) == 0 {
			l.drop(h)
			continue
		}
		h.peer.SetName(h.machines[0].Name)
		h.peer.SetStreams(streams)
	}
	l.static = nil
	l.placing = true
}

// drop lets go of a host. What its agent does goes on.
func (l *loop) drop(h *host) {
	h.gone = true
	l.hosts = slices.DeleteFunc(l.hosts, func(other *host) bool { return other == h })
	if h.cancel != nil {
		h.cancel(errRemoved)
	}
	l.group.Go(h.peer.Close)
}

// name is that of the first entry that leads to the host.
func (h *host) name() string { return h.peer.Name() }

// start starts the goroutines of the host, which run until ctx ends or it is dropped.
func (h *host) start(ctx context.Context) {
	ctx, h.cancel = context.WithCancelCause(ctx)
	var s sighting
	h.peer.Start(ctx, peer.Watch{
		Connecting: func() { h.c.post(func(*loop) { h.connecting() }) },
		Look: func(ctx context.Context, up bool) error {
			s = h.look(ctx, !up)
			return s.err
		},
		Looked: func(wait time.Duration, err error) { //nolint:contextcheck // streams live as long as their lane
			found := s
			found.wait, found.err = wait, err
			h.c.post(func(l *loop) { h.sighted(l, found) })
		},
	})
}

// sighting is what a look at a host found.
type sighting struct {
	info   *agentapi.Machine
	skew   time.Duration
	listed inventory.Listed // if it was not up before
	wait   time.Duration    // until it is tried again, if it was not reached
	acl    *signature.ACL
	err    error
}

// look asks the agent how the machine is, and, if it was not up before, also which builds it
// knows.
func (h *host) look(ctx context.Context, first bool) sighting {
	limit := h.c.limits.ContactTimeout
	if first {
		limit = h.c.limits.ConnectTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var s sighting
	asked := h.c.now()
	if s.info, s.err = h.peer.Client.Machine(ctx); s.err != nil {
		return s
	}
	s.skew = s.info.Now.Sub(asked.Add(h.c.now().Sub(asked) / 2))
	if h.c.cfg.ACL != nil {
		if s.acl, s.err = h.c.cfg.ACL(); s.err != nil {
			h.log.Warn("the head's list of authorized keys cannot be read", "err", s.err)
			s.acl, s.err = nil, nil
		}
	}
	if !first || s.info.Protocol != agentapi.Protocol {
		return s
	}
	if s.err = h.c.do(ctx, func(l *loop) { h.noteNames(l, s.info) }); s.err != nil {
		return s
	}
	s.listed, s.err = h.c.inventory.List(ctx, h.peer)
	return s
}

// noteNames tells the peer all names under which the ledger may have what was placed on the host:
// those of its entries, and those of entries that led there when they were last reached.
func (h *host) noteNames(l *loop, info *agentapi.Machine) {
	agents, routes := []string{info.ID}, []string{h.route.String()}
	var names []string
	for _, m := range h.machines {
		names = append(names, m.Name)
		agents, routes = append(agents, l.learnt[m.Name].Agent), append(routes, m.Route().String())
	}
	for name, known := range l.learnt {
		if slices.Contains(routes, known.Route) || known.Agent != "" && slices.Contains(agents, known.Agent) {
			names = append(names, name)
		}
	}
	h.peer.SetNames(names)
}

func (h *host) connecting() {
	if h.state == api.MachineUnknown && !h.gone {
		h.state = api.MachineConnecting
	}
}

// sighted deals with what a look at a host found.
func (h *host) sighted(l *loop, s sighting) {
	if h.gone {
		return
	}
	if s.err != nil {
		h.unreachable(l, s)
		return
	}
	if twin := h.twin(l, s.info); twin != nil && twin.state == api.MachineUp {
		h.moveAll(l, twin, "the same agent answers as on "+twin.name()+": they are one host")
		return
	} else if twin != nil {
		twin.moveAll(l, h, "the same agent answers as on "+h.name()+": they are one host")
	}
	was := h.state
	h.state, h.err, h.info, h.skew, h.acl = api.MachineUp, "", s.info, s.skew, s.acl
	h.tellsOwnLoad = h.tellsOwnLoad || s.info.OwnLoad > 0
	h.peer.SetStoreKind(s.info.StoreKind)
	h.down, h.nextTry = time.Time{}, time.Time{}
	for _, m := range h.machines {
		m.judge(l, was != api.MachineUp)
	}
	h.back(l)
	if was != api.MachineUp {
		h.reconcile(l, &s.listed)
	}
	l.endGrace(h)
	h.saveLearnt(l)
	l.placing = true
}

// twin returns another host at which the same agent was seen, or nil.
func (h *host) twin(l *loop, info *agentapi.Machine) *host {
	for _, other := range l.hosts {
		if other != h && info.ID != "" && other.info != nil && other.info.ID == info.ID {
			return other
		}
	}
	return nil
}

func (h *host) unreachable(l *loop, s sighting) {
	now := l.now()
	text := agentapi.Printable(s.err.Error(), api.MaxProblem)
	told := h.state != api.MachineDown
	if told {
		h.down = now
		h.has.Clear()
		h.log.Warn("the machine cannot be reached", "err", text)
	}
	for _, m := range h.machines {
		if told {
			m.tell(l, "down: "+text)
		} else {
			m.tellHeld(l)
		}
	}
	h.state, h.err, h.nextTry = api.MachineDown, text, now.Add(s.wait)
	if now.Sub(h.down) >= l.limits.MachineLostAfter {
		h.loseAll(l, "its machine "+h.name()+" cannot be reached")
		h.lost(l)
	}
	l.endGrace(h)
	l.splitOff(h)
	l.placing = true
}

// ---- machines and their hosts --------------------------------------------------------------

// sibling returns a machine of the same host that stays, or nil.
func (m *machine) sibling() *machine {
	for _, other := range m.host.machines {
		if other != m && !other.leaving() {
			return other
		}
	}
	return nil
}

// handTo has another machine of the same host go on with all that is there through this one.
func (m *machine) handTo(l *loop, to *machine) {
	why := "goes on through " + to.Name + ", which is the same host as " + m.Name
	for _, t := range l.tasks {
		t.handOver(l, m, to, why)
	}
	for a := range m.host.attempts {
		if a.machine == m { // a comparison, or one that is not its task's any more
			a.task.handOver(l, m, to, why)
			a.machine = to
		}
	}
	for _, s := range l.spare {
		if s.machine == m {
			s.machine = to
		}
	}
}

// handOver is handTo for one task. The ledger is told, so that what the agent says of it is still
// believed after a restart.
func (t *task) handOver(l *loop, from, to *machine, why string) {
	if t.replace(from, to) {
		t.tellPlace(l, to, why)
	}
}

// tellPlace records through which machine an attempt goes on.
func (t *task) tellPlace(l *loop, m *machine, why string) {
	if len(t.builds) > 0 {
		t.setState(l, t.state, why)
		return
	}
	l.change(ledger.Change{Event: &api.Event{
		Kind: api.KindNote, Build: t.id, State: t.state, Attempt: t.attempt, Machine: m.Name, Reason: why,
	}})
}

// moveAll has all that leads to a host lead to another one: it is the same, or is reached another
// way. What is under way goes on there.
func (h *host) moveAll(l *loop, to *host, why string) {
	moved := slices.Clone(h.machines)
	for _, m := range moved {
		m.host = to
	}
	l.inventory.Move(h.peer, to.peer)
	to.standing = to.standing.And(h.standing)
	to.peer.Bandwidth.Set(h.peer.Bandwidth.Value())
	to.peer.FetchBandwidth.Set(h.peer.FetchBandwidth.Value())
	l.regroup()
	for a := range h.attempts {
		switch a {
		case a.task.underWay:
			a.moveTo(l, a.machine)
		case a.task.elder:
			a.task.dropElder(l)
		}
	}
	for _, m := range moved {
		m.log.Info("the machine is reached another way now", "why", why)
		l.event(m.Name, why)
		if to.info != nil {
			m.judge(l, false)
		}
	}
	l.endGrace(h)
	if to.state == api.MachineUp {
		to.saveLearnt(l)
	}
}

// moveTo goes on with an attempt on its machine, which is now reached another way.
func (a *attempt) moveTo(l *loop, m *machine) {
	const why = "its machine is reached another way now"
	t := a.task
	a.detach(l, why)
	if a.FetchOnly {
		t.bring(l)
		return
	}
	t.takeUpOn = m
	t.takeUp(l, why, a.over)
}

// splitOff lets machines that were found to lead to a host which cannot be reached try the ways of
// their own entries.
func (l *loop) splitOff(h *host) {
	var stays *machine
	for _, m := range h.machines {
		if m.Route() == h.route {
			stays = m
			break
		}
	}
	for _, m := range h.machines {
		if stays == nil || m.Route() == h.route || m.leaving() {
			continue
		}
		to, fresh, err := l.hostFor(&m.Machine)
		if err != nil {
			m.log.Error("the machine cannot be reached as its entry says", "err", err)
			continue
		}
		m.handTo(l, stays)
		m.host = to
		if fresh {
			to.standing = h.standing
			to.start(l.ctx)
		}
	}
	l.regroup()
}

// rewire reaches a host by the entry of another machine if no entry names its way any more.
func (l *loop) rewire(h *host) {
	var by *machine
	for _, m := range h.machines {
		switch {
		case m.leaving():
		case m.Route() == h.route:
			return
		case by == nil:
			by = m
		}
	}
	if by == nil {
		return
	}
	to, fresh, err := l.hostFor(&by.Machine)
	if err != nil {
		by.log.Error("the machine cannot be reached as its entry says", "err", err)
		return
	}
	if fresh {
		to.start(l.ctx)
	}
	h.moveAll(l, to, "reached by the entry of "+by.Name)
}
