// Package peer is one host as any goroutine of a coordinator uses it: the way to its agent, which
// only its supervisor tries while others wait, and what all users share: the streams of items in
// both directions, and the builds that its agent is to forget. All machines that lead to the host
// share its peer.
//
// What a coordinator thinks of the host, and decides about it, is not here.
package peer

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/backoff"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/machinetest"
	"lighter/machines"
)

// Link is a way to the agent on one machine. The peer decides for how long a machine that cannot be
// reached is left alone.
type Link interface {
	// DialAgent opens a stream to the agent, and brings up the link and the agent first if need
	// be; callers meanwhile wait for that.
	DialAgent(ctx context.Context) (net.Conn, error)
	// Close ends the link and all its streams. The agent goes on.
	Close() error
}

// Limits bound what is done with one machine. None has a default here.
type Limits struct {
	Streams    int   // of items at a time, in each direction, if the machine's entry does not say
	BatchBytes int64 // NAR bytes of one stream, unless one item has more
	BatchItems int   // items of one stream

	PollInterval   time.Duration // between looks at a machine that is up
	ContactTimeout time.Duration // of a request to forget a build
	RetryMin       time.Duration // before a machine that is down is first tried again
	RetryMax       time.Duration // the same, at most
	AnswerTimeout  time.Duration // for which an agent may be silent
}

// Config is what all peers of a coordinator share.
type Config struct {
	Head      *headstore.Store
	Hint      string // machinetest.Head's, for advice to people
	Transfers *Transfers
	Limits    Limits
	Logger    *slog.Logger
	Group     *sync.WaitGroup // counts the goroutines that Start and the lanes start
	// Room waits until there is room for what is fetched.
	Room func(context.Context) error
	// NeedsPerson reports whether it looks as if a person must change something before an
	// error of a link goes away; such machines are tried less often. nil means never.
	NeedsPerson func(error) bool
	// NewAgent returns what talks to a machine's agent; nil means agentapi's client.
	NewAgent func(machines.Machine) Agent
}

// Peer is described in the package comment.
type Peer struct {
	Client    Agent
	Sending   *Lane // of items to it
	Fetching  *Lane // of items from it
	Forgetter *Forgetter
	// Bandwidth is that towards the machine, FetchBandwidth that from it.
	Bandwidth, FetchBandwidth Bandwidth
	// Local says that its store is the head's.
	Local bool

	contacts
	config *Config
	log    *slog.Logger
	link   Link
	kind   atomic.Value // of its store, a string
	name   atomic.Value // of the first machine that leads there, a string
	names  atomic.Value // what SetNames was given
}

// New returns the peer of the host to which a machine's link leads. Nothing is started.
func New(config *Config, m machines.Machine, link Link) *Peer {
	p := &Peer{Local: m.Local, config: config, log: config.Logger.With("machine", m.Name), link: link}
	p.SetName(m.Name)
	p.contacts.init()
	if config.NewAgent != nil {
		p.Client = config.NewAgent(m)
	} else {
		client := agentapi.NewClient(p.dial)
		client.SetLimits(agentapi.Limits{Answer: config.Limits.AnswerTimeout})
		p.Client = client
	}
	p.Sending = p.newLane(m.ParallelTransfers, "sending items", p.send)
	p.Fetching = p.newLane(m.ParallelTransfers, "fetching items", p.fetch)
	p.Forgetter = newForgetter(p)
	return p
}

// SetStreams changes how many streams there are at most in each direction; 0 means as Limits say.
func (p *Peer) SetStreams(n int) {
	for _, lane := range []*Lane{p.Sending, p.Fetching} {
		lane.setStreams(cmp.Or(n, p.config.Limits.Streams))
	}
}

// Start starts the supervisor and the other goroutines of the machine, which run until ctx ends.
func (p *Peer) Start(ctx context.Context, watch Watch) {
	p.Sending.open(ctx)
	p.Fetching.open(ctx)
	p.config.Group.Go(func() { p.supervise(ctx, watch) })
	p.config.Group.Go(func() { p.Forgetter.run(ctx) })
}

// Close closes the way to the machine. What its agent does goes on.
func (p *Peer) Close() {
	p.Client.Close()
	if err := p.link.Close(); err != nil {
		p.log.Debug("the link was not closed cleanly", "err", err)
	}
}

// dial opens a stream to the machine's agent. While a machine that could not be reached is left
// alone it fails at once: only the supervisor decides when to connect.
func (p *Peer) dial(ctx context.Context) (net.Conn, error) {
	if why := p.isShut(); why != nil {
		return nil, why
	}
	return p.link.DialAgent(ctx)
}

// HomeRate returns how many bytes a second come home from the machine: as measured, or else as many as
// go there; 0 if neither is known.
func (p *Peer) HomeRate() float64 {
	return cmp.Or(p.FetchBandwidth.Value(), p.Bandwidth.Value())
}

// Name returns the name of the first machine that leads to the host.
func (p *Peer) Name() string {
	name, _ := p.name.Load().(string)
	return name
}

// SetName changes the name.
func (p *Peer) SetName(name string) { p.name.Store(name) }

// Names returns all names under which the ledger may have what was placed on the host.
func (p *Peer) Names() []string {
	names, _ := p.names.Load().([]string)
	return append([]string{p.Name()}, names...)
}

// SetNames changes those names.
func (p *Peer) SetNames(names []string) { p.names.Store(slices.Clone(names)) }

// SetStoreKind notes which kind of store the machine has.
func (p *Peer) SetStoreKind(kind string) { p.kind.Store(kind) }

// StoreKind returns the kind of the machine's store; empty if it is not known yet.
func (p *Peer) StoreKind() string {
	if kind, ok := p.kind.Load().(string); ok {
		return kind
	}
	return ""
}

// Hint says what a person can do about the error of the machine's agent.
func (p *Peer) Hint(e *agentapi.Error) string {
	if e.Code == agentapi.CodeUnauthorized {
		return " (the machine does not accept the head's key; " + machinetest.AuthorizeHead(p.Name(), p.StoreKind()) + ")"
	}
	return ""
}

// Contain calls f, which handles what the machine says, and turns a panic into a fault of the
// machine, which also ends all calls to it that are under way. It is for goroutines that share
// nothing with others but what they hand over in the end, so that nothing is left half done. The
// coordinator's loop is not contained: nobody could mend what it has half changed. There,
// agentapi's validation must leave nothing to panic about.
func (p *Peer) Contain(what string, f func() error) (err error) {
	defer func() {
		panicked := recover()
		if panicked == nil {
			return
		}
		p.log.Error("what a machine said made lighter panic, which is a bug in lighter; the machine is left alone for now",
			"while", what, "panic", panicked, "stack", string(debug.Stack()))
		err = &agentapi.Fault{Request: what, Problem: "what it said made lighter panic: " + agentapi.Printable(fmt.Sprint(panicked), api.MaxProblem)}
		p.lost(err)
	}()
	return f()
}

// Watch is what a coordinator does when a machine is looked at. One goroutine calls all of it.
type Watch struct {
	// Connecting is called before a look at a machine that was not up.
	Connecting func()
	// Look asks the agent how the machine is, and more than that if it was not up.
	Look func(ctx context.Context, up bool) error
	// Looked is told the result of a look, and, if there is an error, after what time the machine
	// is tried again.
	Looked func(wait time.Duration, err error)
}

// supervise looks at the machine until ctx ends: often while it is up, less and less often while it
// is down.
func (p *Peer) supervise(ctx context.Context, watch Watch) {
	limits := &p.config.Limits
	up, failures := false, 0
	for {
		p.Unshut()
		if !up {
			watch.Connecting()
		}
		err := p.Contain("a look at it", func() error { return watch.Look(ctx, up) })
		if ctx.Err() != nil {
			return
		}
		wait := limits.PollInterval
		if up = err == nil; up {
			failures = 0
		} else {
			first := limits.RetryMin
			if p.config.NeedsPerson != nil && p.config.NeedsPerson(err) {
				first = limits.RetryMax // time alone mends nothing
			}
			failures++
			wait = backoff.After(failures, first, limits.RetryMax, rand.Float64())
			if LinkFailed(err) {
				p.setShut(err)
			}
			p.lost(err)
		}
		watch.Looked(wait, err)
		if up {
			p.reached()
		}
		if !p.rest(ctx, wait, up) {
			return
		}
	}
}

// minLookInterval bounds how often pokes can make the supervisor look.
const minLookInterval = 20 * time.Millisecond

// rest waits until the next look, and reports whether there is to be one. A poke cuts it short.
func (p *Peer) rest(ctx context.Context, wait time.Duration, up bool) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	poked := p.poked
	if !up {
		poked = nil // that it cannot be reached is known; growing delays are the rule
	}
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-p.woken:
	case <-poked:
		select {
		case <-ctx.Done():
			return false
		case <-time.After(minLookInterval):
		}
	}
	return true
}
