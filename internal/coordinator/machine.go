package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/backoff"
	"lighter/internal/coordinator/mailbox"
	"lighter/internal/ledger"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/scheduler"
	"lighter/store"
)

// machine is what the coordinator has of one machine. The way to it (see sameWay) is that
// of the file when it was made; with another way it is another machine.
type machine struct {
	machines.Machine // the rest of it belongs to the loop, but for the name
	c                *Coordinator
	log              *slog.Logger
	link             Link
	client           agent
	sending          *lane // of items to it
	fetching         *lane // of items from it
	forgetter        *forgetter
	contacts         contacts
	bandwidth        bandwidth
	kind             atomic.Value            // of its store, a string
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
	has       *itemSet // items that it is believed to have
	speed     scheduler.SpeedEstimate
	removed   bool              // from the file; it goes when its builds are done
	next      *machines.Machine // what the file has now, with another way there
	nextError string            // why that cannot be tried
	setting   machineSetting
	refuses   string    // why it gets no builds for now, as refusal says
	refusedAt time.Time // when that was so last
	gcError   string    // why its garbage was not collected in time
	gcAfter   time.Time // not before that
	learnt    bool      // something that is not in the ledger yet
	conduct   conduct   // what is held against it lately
	news      news

	saved time.Time
}

func (l *loop) newMachine(m machines.Machine) *machine {
	c := l.Coordinator
	x := &machine{
		Machine: m, c: c, log: c.log.With("machine", m.Name), state: api.MachineUnknown,
		attempts: make(map[*attempt]struct{}), has: l.items.newSet(),
	}
	x.contacts.init()
	if c.cfg.newAgent != nil {
		x.client = c.cfg.newAgent(x)
	} else {
		client := agentapi.NewClient(x.dial)
		client.SetLimits(agentapi.Limits{Answer: c.limits.AnswerTimeout})
		x.client = client
	}
	x.sending = c.newLane(m.ParallelTransfers, x.contained("sending items", x.send))
	x.fetching = c.newLane(m.ParallelTransfers, x.contained("fetching items", x.fetch))
	x.forgetter = newForgetter(x)
	return x
}

// errRemoved is the cause of the end of what was about a machine that is gone.
var errRemoved = errors.New("the machine is not in the machines file any more")

// openMachine makes a machine and its link.
func (l *loop) openMachine(m machines.Machine) (x *machine, err error) {
	x = l.newMachine(m)
	if x.link, err = l.cfg.NewLink(m); err != nil {
		return nil, fmt.Errorf("machine %s: %w", m.Name, err)
	}
	return x, nil
}

// start starts what looks after the machine until ctx ends, or stop is called.
func (m *machine) start(ctx context.Context) {
	ctx, m.cancel = context.WithCancelCause(ctx)
	m.sending.open(ctx)
	m.fetching.open(ctx)
	m.c.group.Go(func() { m.supervise(ctx) })
	m.c.group.Go(func() { m.forgetter.run(ctx) })
}

// stop ends all about the machine, but for what its agent does.
func (m *machine) stop() {
	m.cancel(errRemoved)
	m.c.group.Go(m.close)
}

// close closes the way to it.
func (m *machine) close() {
	m.client.Close()
	if err := m.link.Close(); err != nil {
		m.log.Debug("the link was not closed cleanly", "err", err)
	}
}

func (m *machine) contained(what string, move func(context.Context, []*store.Info) error) func(context.Context, []*store.Info) error {
	return func(ctx context.Context, batch []*store.Info) error {
		return m.contain(what, func() error { return move(ctx, batch) })
	}
}

func (c *Coordinator) newLane(streams int, move func(context.Context, []*store.Info) error) *lane {
	return &lane{
		group: &c.group, streams: cmp.Or(streams, c.limits.Streams), maxBytes: c.limits.BatchBytes, maxItems: c.limits.BatchItems,
		move: move, cargo: make(map[store.Path]*cargo), arrived: make(map[store.Path]time.Time),
	}
}

// contacts is what calls to a machine share: they are ended when it does not answer the
// supervisor, and those who lost touch hear when somebody reached it again.
type contacts struct {
	mu      sync.Mutex
	count   uint64        // of times that it was reached
	changed chan struct{} // closed, and replaced, each time
	calls   map[*context.CancelCauseFunc]struct{}
	shut    error         // why nobody connects to the machine until it is looked at again, or nil
	poked   chan struct{} // has room for one: look at the machine, if it was up
	woken   chan struct{} // has room for one: look at the machine in any case
}

func (x *contacts) init() {
	x.changed, x.calls = make(chan struct{}), make(map[*context.CancelCauseFunc]struct{})
	x.poked, x.woken = make(chan struct{}, 1), make(chan struct{}, 1)
}

func (x *contacts) reached() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.count++
	close(x.changed)
	x.changed = make(chan struct{})
}

// setShut has calls that would connect to the machine fail at once, or lets them if it is nil.
func (x *contacts) setShut(why error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.shut = why
}

// dial opens a stream to the machine's agent. While the supervisor leaves the machine alone,
// as it could not be reached, it fails at once: one alone decides when to connect.
func (m *machine) dial(ctx context.Context) (net.Conn, error) {
	m.contacts.mu.Lock()
	shut := m.contacts.shut
	m.contacts.mu.Unlock()
	if shut != nil {
		return nil, shut
	}
	return m.link.DialAgent(ctx)
}

// lost ends all calls that are under way.
func (x *contacts) lost(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for cancel := range x.calls {
		(*cancel)(fmt.Errorf("the machine does not answer: %w", err))
	}
}

// with calls f with a context that ends also when the machine is lost.
func (x *contacts) with(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x.mu.Lock()
	x.calls[&cancel] = struct{}{}
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.calls, &cancel)
	}()
	err := f(ctx)
	if lost := context.Cause(ctx); err != nil && lost != nil {
		return lost
	}
	return err
}

func (x *contacts) seen() (uint64, <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.count, x.changed
}

// poke has the supervisor look at the machine now, if it believes that it is up.
func (x *contacts) poke() { mailbox.Signal(x.poked) }

// wake has the supervisor look at the machine now.
func (x *contacts) wake() { mailbox.Signal(x.woken) }

// await pokes the supervisor and returns when it reached the machine, or with an error.
func (x *contacts) await(ctx context.Context) error {
	before, changed := x.seen()
	x.poke()
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var now uint64
		if now, changed = x.seen(); now > before {
			return nil
		}
	}
}

// sighting is what a look at a machine found.
type sighting struct {
	info   *agentapi.Machine
	skew   time.Duration
	builds []agentapi.BuildStatus          // if it was not up before
	known  map[string]*api.Build           // those of them that the ledger has
	wrong  map[*agentapi.BuildStatus]error // why some of those are not what it was given
	next   time.Time                       // when it is tried again, if it was not reached
	acl    *signature.ACL
	err    error
}

// supervise looks at the machine for as long as the coordinator runs: often while it
// is up, and less and less often while it is down.
func (m *machine) supervise(ctx context.Context) {
	up, failures := false, 0
	for {
		m.contacts.setShut(nil)
		if !up {
			m.c.post(func(l *loop) { m.connecting(l) })
		}
		var s sighting
		if err := m.contain("a look at it", func() error {
			s = m.look(ctx, !up)
			return nil
		}); err != nil {
			s = sighting{err: err}
		}
		if ctx.Err() != nil {
			return
		}
		wait := m.c.limits.PollInterval
		if up = s.err == nil; up {
			failures = 0
		} else {
			first, most := m.c.limits.RetryMin, m.c.limits.RetryMax
			if m.c.cfg.NeedsPerson != nil && m.c.cfg.NeedsPerson(s.err) {
				first = most // time alone mends nothing
			}
			failures++
			wait = backoff.After(failures, first, most, rand.Float64())
			s.next = time.Now().Add(wait)
			if linkFailed(s.err) {
				m.contacts.setShut(s.err)
			}
			m.contacts.lost(s.err)
		}
		m.c.post(func(l *loop) { m.sighted(l, s) })
		if up {
			m.contacts.reached()
		}
		if !m.rest(ctx, wait, up) {
			return
		}
	}
}

// minLookInterval bounds how often pokes can make the supervisor look.
const minLookInterval = 20 * time.Millisecond

// rest waits for the time of the next look. A poke cuts it short.
func (m *machine) rest(ctx context.Context, wait time.Duration, up bool) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	poked := m.contacts.poked
	if !up {
		poked = nil // that it cannot be reached is known; growing delays are the rule
	}
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-m.contacts.woken:
	case <-poked:
		select {
		case <-ctx.Done():
			return false
		case <-time.After(minLookInterval):
		}
	}
	return true
}

// look asks the agent what the machine is, and after a time without contact also
// which builds it knows.
func (m *machine) look(ctx context.Context, first bool) sighting {
	limit := m.c.limits.ContactTimeout
	if first {
		limit = m.c.limits.ConnectTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var s sighting
	asked := time.Now()
	if s.info, s.err = m.client.Machine(ctx); s.err != nil {
		return s
	}
	s.skew = s.info.Now.Sub(asked.Add(time.Since(asked) / 2))
	if m.c.cfg.ACL != nil {
		if s.acl, s.err = m.c.cfg.ACL(); s.err != nil {
			m.log.Warn("the head's list of authorized keys cannot be read", "err", s.err)
			s.acl, s.err = nil, nil
		}
	}
	if !first || s.info.Protocol != agentapi.Protocol {
		return s
	}
	s.known = make(map[string]*api.Build)
	s.builds, s.err = m.client.Builds(ctx, func(id string) (*agentapi.Asked, error) {
		b, err := m.c.knownBuild(ctx, id)
		if err != nil || b == nil {
			return nil, err
		}
		s.known[id] = b
		return askedOf(b), nil
	})
	if s.err == nil {
		s.wrong, s.err = m.c.vetListed(ctx, m, s.builds, s.known)
	}
	return s
}

// knownBuild returns a build of an agent's that is in the ledger. What is not is another
// coordinator's; then it is nil.
func (c *Coordinator) knownBuild(ctx context.Context, id string) (*api.Build, error) {
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

// askedOf says what an agent can know of a build.
func askedOf(b *api.Build) *agentapi.Asked {
	return &agentapi.Asked{ID: b.ID, Derivation: b.Derivation, Outputs: b.OutputPaths}
}

func (m *machine) connecting(l *loop) {
	if m.state == api.MachineUnknown && l.byName[m.Name] == m {
		m.state = api.MachineConnecting
	}
}

// sighted takes over what a look at a machine found.
func (m *machine) sighted(l *loop, s sighting) {
	if l.byName[m.Name] != m {
		return // it is gone
	}
	if s.err != nil {
		m.unreachable(l, s)
		return
	}
	was := m.state
	m.state, m.err, m.info, m.skew = api.MachineUp, "", s.info, s.skew
	m.kind.Store(s.info.StoreKind)
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
		m.has.clear()
		if m.tell(l, "down: "+text) {
			m.log.Warn("the machine cannot be reached", "err", text)
		}
	}
	m.tellHeld(l)
	m.state, m.err, m.nextTry = api.MachineDown, text, s.next
	if now.Sub(m.down) >= l.limits.MachineLostAfter {
		m.loseAll(l, "its machine "+m.Name+" cannot be reached")
		m.lost(l)
	}
	l.endGrace(m)
	l.placing = true
}

// problemOf says why a machine that is up gets no builds; empty if it does.
func (m *machine) problemOf(s *sighting) string {
	return m.c.advice().Unfit(&m.Machine, s.info, s.acl)
}

// saveInterval is the least time between two records of what was learnt of a machine.
const saveInterval = 10 * time.Second

func (m *machine) saveLearnt(l *loop) {
	if m.bandwidth.takeChanged() {
		m.learnt = true
	}
	if !m.learnt || l.now().Sub(m.saved) < saveInterval {
		return
	}
	m.learnt, m.saved = false, l.now()
	l.change(ledger.Change{Machine: &ledger.Machine{
		Name: m.Name, Bandwidth: m.bandwidth.value(), SpeedLog: m.speed.Log, SpeedSamples: m.speed.Samples,
		PublicKey: m.info.PublicKey, Updated: m.saved,
	}})
}

// bandwidth is a moving average of what was measured, in bytes/s.
type bandwidth struct {
	mu      sync.Mutex
	average float64
	changed bool
}

// What a transfer must have to say something about the bandwidth, and the weight of
// the newest one.
const (
	minBandwidthBytes = 256 << 10
	bandwidthWeight   = 0.3
)

func (b *bandwidth) observe(bytes int64, took time.Duration) {
	if bytes < minBandwidthBytes || took <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	sample := float64(bytes) / took.Seconds()
	if b.average == 0 {
		b.average = sample
	}
	b.average += bandwidthWeight * (sample - b.average)
	b.changed = true
}

func (b *bandwidth) value() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.average
}

func (b *bandwidth) set(average float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.average = average
}

func (b *bandwidth) takeChanged() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := b.changed
	b.changed = false
	return changed
}

// storeKind is what the machine said last; attempts ask, so it is not the loop's alone.
func (m *machine) storeKind() string {
	if kind, ok := m.kind.Load().(string); ok {
		return kind
	}
	return ""
}
