// Package remote carries out one attempt at a build on its machine: the agent is given the build
// and what it lacks for it, its log is read, what it says that it made is checked, and outputs are
// brought to the head or to a build hook. Whenever the way to the machine fails it waits, and goes
// on where it was.
//
// What follows from how an attempt ends is decided by the coordinator's loop, to which it reports.
package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/inventory"
	"lighter/internal/coordinator/peer"
	"lighter/internal/human"
	"lighter/store"
)

// Limits bound how long an attempt waits for its machine. None has a default here.
type Limits struct {
	AnswerTimeout    time.Duration // for what the agent is to end by itself
	MachineLostAfter time.Duration // until a machine that cannot be reached is given up
	SendPatience     time.Duration // the same, before the build has begun
}

// Config is what all attempts of a coordinator share.
type Config struct {
	Head      *headstore.Store
	Logs      *buildlog.Folder
	Inventory *inventory.Inventory
	Limits    Limits
	Logger    *slog.Logger
	// Reserve keeps room at home for items that are about to be fetched.
	Reserve func(infos []*store.Info) (release func(), err error)
}

// Job says what an attempt is to do.
type Job struct {
	ID      string // of the build on the machine
	Number  int    // of the attempt, from 1
	Machine *peer.Peer
	Node    *headstore.Node
	Inputs  []store.Path          // outputs of inputs, and sources
	Known   <-chan struct{}       // closed when the ledger has the id; nil if it had it before
	Options agentapi.BuildRequest // timeouts and the like
	// NeedsDerivations says that the machine's store needs derivations as items.
	NeedsDerivations bool
	// Protected says that others see to it that the head's store keeps what is needed.
	Protected bool
	// Resumed is the state in which an earlier coordinator left the attempt; empty if
	// it starts here. Phase is where it is.
	Resumed, Phase api.State
	// FetchOnly says that the outputs are kept on the machine, and those that are named in
	// Outputs, nil for all, just fetched: to the head, or to a build hook if To is not nil.
	FetchOnly bool
	Outputs   []string
	To        *delivery.Delivery

	// Report tells that the attempt is in a phase. Started is when the build began, if that
	// is news; LogOpened, that its log begins.
	Report    func(phase api.State, started time.Time, reason string)
	LogOpened func()
}

// Attempt is described in the package comment. Whoever makes one may change its Job until Run.
type Attempt struct {
	Job
	// NAR bytes that were sent to the machine and fetched, and bytes of the log, up to now.
	Sent, Fetched, Logged atomic.Int64

	config  *Config
	ctx     context.Context
	cancel  context.CancelCauseFunc
	there   int // the attempt that the agent has of it; 0 is not known
	times   buildTimes
	log     *buildlog.Log
	lease   store.Lease
	closure *inventory.Closure
}

// Outcome is what an attempt that succeeded reports.
type Outcome struct {
	Outputs   map[string]*store.Info
	Made      []*inventory.Item // the same
	BuildTime time.Duration
	Measured  bool // BuildTime says something about such builds
	Cached    bool // nothing was built
}

// Size returns the NAR bytes of the outputs.
func (out *Outcome) Size() (n int64) {
	for _, info := range out.Outputs {
		n += info.NARSize
	}
	return n
}

// New returns an attempt that ends with ctx, or when it is canceled.
func New(ctx context.Context, config *Config, job Job) *Attempt {
	r := &Attempt{Job: job, config: config}
	if job.Protected {
		r.lease = headstore.NoLease{}
	}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	return r
}

// Cancel ends the attempt, for a reason that is what Run returns; nil where it is over.
func (r *Attempt) Cancel(why error) { r.cancel(why) }

// Run carries the attempt out, and calls done with what it came to. Who reads its log sees the
// end of that after done.
func (r *Attempt) Run(done func(*Outcome, error)) {
	var out *Outcome
	err := r.Machine.Contain("an attempt at a build", func() (err error) {
		out, err = r.perform()
		return err
	})
	if r.lease != nil {
		if err := r.lease.Release(); err != nil {
			r.config.Logger.Warn("a lease was not released", "build", r.ID, "err", err)
		}
	}
	if ended := context.Cause(r.ctx); err != nil && ended != nil {
		err = ended
	}
	done(out, err)
	if r.log != nil {
		r.log.Finish()
	}
}

func (r *Attempt) perform() (*Outcome, error) {
	switch {
	case r.To != nil:
		return r.handOver()
	case r.FetchOnly:
		return r.fetchKept()
	}
	status, err := r.attach()
	if err == nil && status == nil {
		status, err = r.begin()
	}
	if err != nil {
		return nil, err
	}
	if status, err = r.follow(r.ctx, status); err != nil {
		return nil, err
	}
	if err := r.verdict(status); err != nil {
		return nil, err
	}
	out := &Outcome{Outputs: status.Outputs, Made: inventory.Made(status.Outputs, r.closure), Cached: status.AlreadyValid}
	out.BuildTime, out.Measured = r.times.duration(status)
	return out, nil
}

// enter reports that the attempt is in another phase.
func (r *Attempt) enter(phase api.State, started time.Time, reason string) {
	if r.Phase == phase && r.Resumed == "" {
		return
	}
	r.Phase, r.Resumed = phase, ""
	r.Report(phase, started, reason)
}

// attach finds out how an attempt stands that an earlier coordinator started. It
// returns nil if the attempt is to begin here.
func (r *Attempt) attach() (*agentapi.BuildStatus, error) {
	if r.Resumed == "" {
		return nil, nil
	}
	var status *agentapi.BuildStatus
	err := r.persist(r.ctx, r.Machine, func(ctx context.Context) (err error) {
		status, err = r.Machine.Client.Build(ctx, r.asked(""))
		return err
	})
	switch {
	case err == nil && status.Attempt == r.Number && status.State != agentapi.Rooted, err == nil && r.mayAdopt(status):
		r.there = status.Attempt
		return status, nil
	case err == nil && status.Attempt <= r.Number && r.Resumed == api.Placed, peer.UnknownBuild(err) && r.Resumed == api.Placed:
		return nil, nil
	case err == nil || peer.UnknownBuild(err):
		return nil, r.blame(api.CulpritMachine, errAgentLostBuild)
	}
	return nil, err
}

// asked says what the agent's answers about the build must agree with, which was in a state
// when it was last heard of.
func (r *Attempt) asked(state string) *agentapi.Asked {
	return &agentapi.Asked{
		ID: r.ID, Attempt: r.there, Derivation: r.Node.Path, Outputs: r.Node.OutputMap(), Check: r.Options.Check, State: state,
	}
}

// maxSendRounds bounds how often an agent may say that inputs are missing which were
// sent to it.
const maxSendRounds = 4

// begin has the agent start the build, and sends what it lacks for that.
func (r *Attempt) begin() (*agentapi.BuildStatus, error) {
	if err := r.Machine.Forgetter.Withdraw(r.ctx, r.ID); err != nil {
		return nil, err
	}
	req, err := r.request()
	if err != nil {
		return nil, err
	}
	// The agent does not know the attempt: what there may be of a log is of one that
	// was lost with an older agent.
	r.config.Logs.Remove(r.ID, r.Number)
	var status *agentapi.BuildStatus
	// A build that only the agent knew would be nobody's after a crash.
	if r.Known != nil {
		select {
		case <-r.Known:
		case <-r.ctx.Done():
			return nil, context.Cause(r.ctx)
		}
	}
	err = r.persist(r.ctx, r.Machine, func(ctx context.Context) (err error) {
		for range maxSendRounds {
			r.times.put = time.Now()
			if status, err = r.Machine.Client.PutBuild(ctx, r.asked(""), req); err != nil || status.State != agentapi.Rooted {
				r.times.began, r.there = time.Now(), r.Number
				return err
			}
			if len(status.Missing) == 0 {
				return r.blame(api.CulpritMachine, errors.New("its agent neither starts the build nor says what is missing"))
			}
			r.enter(api.Sending, time.Time{}, human.Count(len(status.Missing), "item"))
			if err := r.send(ctx, status.Missing, r.times.put); err != nil {
				return err
			}
		}
		return r.blame(api.CulpritMachine, fmt.Errorf("it still lacks %s after it was sent %d times", status.Missing[0], maxSendRounds))
	})
	return status, err
}

// request makes the request to the agent, and protects the inputs at home.
func (r *Attempt) request() (*agentapi.BuildRequest, error) {
	text, err := r.config.Head.Text(r.ctx, r.Node.Path)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	outputs, err := r.Node.OutputPaths(nil)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	if err := r.protect(outputs...); err != nil {
		return nil, err
	}
	roots := r.Inputs
	if r.NeedsDerivations {
		roots = append([]store.Path{r.Node.Path}, roots...)
	}
	if r.closure, err = r.config.Inventory.ClosureOf(r.ctx, roots); err != nil {
		return nil, err
	}
	req := r.Options
	req.Attempt, req.Derivation, req.Text, req.Outputs = r.Number, r.Node.Path, text, outputs
	req.Inputs = r.closure.Paths()
	if err := r.protect(req.Inputs...); err != nil {
		return nil, err
	}
	return &req, nil
}

// protect keeps items of the head's store until the attempt is over.
func (r *Attempt) protect(paths ...store.Path) (err error) {
	if r.lease == nil {
		r.lease, err = r.config.Head.Lease(r.ctx, "build "+r.ID, paths...)
		return err
	}
	if err := r.lease.Add(r.ctx, paths...); err != nil {
		return &headstore.Error{Err: err}
	}
	return nil
}

// send sends inputs to the machine that were missing there at a time.
func (r *Attempt) send(ctx context.Context, missing []store.Path, since time.Time) error {
	infos := make([]*store.Info, 0, len(missing))
	for _, p := range missing {
		info := r.closure.Info(p)
		if info == nil {
			return r.blame(api.CulpritMachine, fmt.Errorf("its agent asks for %s, which is no input", p))
		}
		infos = append(infos, info)
	}
	if err := r.gather(ctx, missing); err != nil {
		return err
	}
	n, err := r.Machine.Sending.Want(ctx, infos, since)
	r.Sent.Add(n)
	return err
}

// gather brings items home that are to be sent from there, and what they refer to: the
// machine may have that, and the head not.
func (r *Attempt) gather(ctx context.Context, paths []store.Path) error {
	since := time.Now()
	absent, err := store.Missing(ctx, r.config.Head.Backend, r.closure.Of(paths))
	if err != nil {
		return &headstore.Error{Err: err}
	}
	var infos []*store.Info
	var lost []store.Path
	for _, p := range absent {
		if r.closure.Source(p) != nil {
			infos = append(infos, r.closure.Info(p))
		} else {
			lost = append(lost, p)
		}
	}
	if lost != nil {
		return &headstore.LostError{Paths: lost, Why: "neither at home nor kept by a machine"}
	}
	if infos, err = store.SortInfos(infos); err != nil {
		return &headstore.Error{Err: err}
	}
	// What is referred to comes first, whichever machine has it.
	for len(infos) > 0 {
		m := r.closure.Source(infos[0].Path)
		n := 1
		for n < len(infos) && r.closure.Source(infos[n].Path) == m {
			n++
		}
		if err := r.gatherFrom(ctx, m, infos[:n], since); err != nil {
			return err
		}
		infos = infos[n:]
	}
	return nil
}

func (r *Attempt) gatherFrom(ctx context.Context, m *peer.Peer, infos []*store.Info, since time.Time) error {
	release, err := r.config.Reserve(infos)
	if err != nil {
		return err
	}
	defer release()
	err = r.persist(ctx, m, func(ctx context.Context) error {
		n, err := m.Fetching.Want(ctx, infos, since)
		r.Fetched.Add(n)
		return err
	})
	var blame *api.Failure
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.As(err, &blame), errors.Is(err, store.ErrNotValid):
		return &headstore.LostError{Paths: store.PathsOf(infos), Why: "not to be had from " + m.Name + ": " + err.Error()}
	}
	return err
}

// follow copies the log until the build is finished.
func (r *Attempt) follow(ctx context.Context, status *agentapi.BuildStatus) (*agentapi.BuildStatus, error) {
	if !status.Finished() {
		started := time.Now()
		if r.Resumed == api.Building {
			started = time.Time{} // that was noted when it was so
		}
		r.enter(api.Building, started, "")
	} else if status.LogSize == 0 {
		r.times.ended = time.Now()
		return status, nil
	}
	r.log = r.config.Logs.Open(r.ID, r.Number)
	r.LogOpened()
	ctx, cancel := r.limited(ctx)
	defer cancel()
	asked := r.asked(status.State)
	tries := 0
	err := r.persist(ctx, r.Machine, func(ctx context.Context) (err error) {
		tries++
		status, err = r.readLog(ctx, asked)
		r.Logged.Store(r.log.Size())
		return err
	})
	r.times.ended, r.times.broken = time.Now(), tries > 1
	if peer.UnknownBuild(err) {
		err = r.blame(api.CulpritMachine, errAgentLostBuild)
	}
	return status, err
}

// readLog reads the log from where it is. That the build is finished and the log complete
// may also show where the end of the stream was lost.
func (r *Attempt) readLog(ctx context.Context, asked *agentapi.Asked) (*agentapi.BuildStatus, error) {
	ctx, log, done := r.listen(ctx)
	defer done()
	status, err := r.Machine.Client.Log(ctx, asked, r.log.Size(), log)
	if !peer.LinkFailed(err) {
		return status, err
	}
	if status, e := r.Machine.Client.Build(ctx, asked); e == nil && status.Finished() && status.LogSize <= r.log.Size() {
		return status, nil
	}
	return nil, err
}

// verdict returns the failure of a finished build, or nil if it is what it should be.
func (r *Attempt) verdict(s *agentapi.BuildStatus) error {
	switch s.State {
	case agentapi.Succeeded:
	case agentapi.Failed:
		f := api.Failure{Culprit: api.CulpritMachine, Message: "the agent does not say why"}
		if s.Failure != nil {
			f = *s.Failure
		}
		f.Phase, f.Machine = api.Building, r.Machine.Name
		return &f
	case agentapi.Canceled:
		return r.blame(api.CulpritMachine, errors.New("the build was canceled there by somebody else"))
	default:
		return r.blame(api.CulpritMachine, fmt.Errorf("its agent ends the log of a build that is %q", s.State))
	}
	err := r.Node.CheckOutputs(s.Outputs, r.Options.Check)
	if err == nil && !r.Options.Check { // of which nothing is taken
		err = r.config.Inventory.CheckReferences(r.ctx, r.Node, s.Outputs, r.closure)
	}
	var own *headstore.Error
	if err != nil && !errors.As(err, &own) {
		err = r.fault(err)
	}
	return err
}

// mayAdopt reports whether what the agent has is the finished result of an older attempt, for
// whose sake this one was made.
func (r *Attempt) mayAdopt(s *agentapi.BuildStatus) bool {
	return (r.Resumed == api.Building || r.Resumed == api.Fetching) && s.Attempt <= r.Number && !r.Options.Check && Complete(r.Node, s)
}

// Complete reports whether a build that an agent finished made all outputs of its derivation.
func Complete(n *headstore.Node, s *agentapi.BuildStatus) bool {
	return s.State == agentapi.Succeeded && s.Derivation == n.Path && n.CheckOutputs(s.Outputs, false) == nil
}

// blame makes a failure of the attempt.
func (r *Attempt) blame(culprit api.Culprit, err error) *api.Failure {
	return r.blameMachine(r.Machine, culprit, err)
}

// fault makes a failure of what the machine may not do, whatever it builds.
func (r *Attempt) fault(err error) *api.Failure {
	f := r.blame(api.CulpritMachine, err)
	f.Kind = api.KindFault
	return f
}

func (r *Attempt) blameMachine(m *peer.Peer, culprit api.Culprit, err error) *api.Failure {
	return &api.Failure{Culprit: culprit, Phase: r.Phase, Machine: m.Name, Message: agentapi.Printable(err.Error(), api.MaxMessage)}
}

// Failure says who is to blame for the error that an attempt ended with.
func (r *Attempt) Failure(err error) *api.Failure {
	var blame *api.Failure
	var head *headstore.Error
	var answer *agentapi.Error
	var fault *agentapi.Fault
	switch {
	case errors.As(err, &blame):
		f := *blame
		return &f
	case errors.As(err, &head):
		f := r.blame(api.CulpritCoordinator, err)
		f.Machine = ""
		return f
	case errors.As(err, &fault):
		return r.fault(err)
	case errors.As(err, &answer):
		return r.blame(api.CulpritMachine, fmt.Errorf("%s%s", strings.TrimSpace(answer.Message), r.Machine.Hint(answer)))
	}
	return r.blame(api.CulpritLink, err)
}

// errAgentLostBuild says that an agent does not know a build that it had.
var errAgentLostBuild = errors.New("its agent does not know the build any more: it was started anew")
