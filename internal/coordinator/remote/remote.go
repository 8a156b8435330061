// Package remote carries out one attempt at a build on its machine: it gives the agent the build and
// the inputs that it lacks, reads the log, and vets what the agent says it made. An attempt that
// only fetches brings outputs that the machine keeps to the head, or to a build hook. Whenever the
// way to the machine fails it waits, and goes on where it was.
//
// The coordinator's loop, to which an attempt reports, decides what follows from its end.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	"lighter/scheduler/estimate"
	"lighter/store"
)

// Limits bound how long an attempt waits for its machine. None has a default here.
type Limits struct {
	AnswerTimeout    time.Duration // beyond a build's limits, until the agent is to blame for not ending it
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
	// Reserve keeps room on the head for items that are about to be fetched.
	Reserve func(infos []*store.Info) (release func(), err error)
}

// Job says what an attempt is to do.
type Job struct {
	ID       string // of the build on the machine
	Number   int    // of the attempt, from 1
	Machine  *peer.Peer
	Node     *headstore.Node
	Inputs   []store.Path          // outputs of inputs, and sources
	Recorded <-chan struct{}       // closed when the ledger has the id; nil if it already had
	Options  agentapi.BuildRequest // timeouts and the like
	// NeedsDerivations says that the machine's store needs the derivation as an item.
	NeedsDerivations bool
	// Protected says that somebody else makes the head's store keep what is needed.
	Protected bool
	// TakenUp is the state of an attempt that is taken up; empty if it begins now. Phase is the
	// phase in which it is.
	TakenUp, Phase api.State
	// FetchOnly says that the machine keeps the outputs, and those named in Outputs, nil for
	// all, are only fetched: to the head, or to a build hook if To is not nil.
	FetchOnly bool
	Outputs   []string
	// Later says that nobody waits for the outputs: whatever else is fetched goes first.
	Later bool
	To    *delivery.Delivery

	// Report tells that the attempt is in a phase, and when the build began, if that is news.
	// LogOpened tells that its log begins.
	Report    func(phase api.State, started time.Time, reason string)
	LogOpened func()
}

// Attempt is described in the package comment. Its maker may change its Job until Run.
type Attempt struct {
	Job
	// NAR bytes sent to the machine and fetched, and bytes of the log, so far.
	Sent, Fetched, Logged atomic.Int64

	config  *Config
	ctx     context.Context
	cancel  context.CancelCauseFunc
	there   int // the number of the attempt that the agent has; 0 if not known
	times   buildTimes
	log     *buildlog.Log
	lease   store.Lease
	closure *inventory.Closure
}

// Outcome is what an attempt that succeeded reports. With the error of a build that ran and failed comes
// one with Used alone.
type Outcome struct {
	Outputs   map[string]*store.Info
	Made      []*inventory.Item // the same
	BuildTime time.Duration
	Measured  bool // BuildTime says something about such builds
	Cached    bool // nothing was built
	// Used is what the build used of its machine, as that says; nil if nothing was built, or it says nothing.
	Used *store.Measured
}

// Size returns the NAR bytes of the outputs.
func (out *Outcome) Size() (n int64) {
	for _, info := range out.Outputs {
		n += info.NARSize
	}
	return n
}

// maxSampledCPU bounds the processor time of a sample: no duration has room for what an agent may say.
const maxSampledCPU = float64(100 * 365 * 24 * time.Hour)

// Sample returns what was measured of the build, with its outputs; ok is false if that says nothing of
// such builds.
func (out *Outcome) Sample() (s estimate.Sample, ok bool) {
	if out.Cached || !out.Measured || out.BuildTime <= 0 {
		return s, false
	}
	s = estimate.Sample{Duration: out.BuildTime, Output: out.Size()}
	if used := out.Used; used != nil {
		s.CPU = time.Duration(min(used.CPU*1e9, maxSampledCPU))
		s.Memory, s.Disk = used.PeakMemory, used.Disk
	}
	return s, true
}

// New returns an attempt that ends with ctx, or when it is canceled.
func New(ctx context.Context, config *Config, job Job) *Attempt {
	a := &Attempt{Job: job, config: config}
	if job.Protected {
		a.lease = headstore.NoLease{}
	}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	return a
}

// Cancel ends the attempt for a reason, with which Run calls done; nil if the attempt is over.
func (a *Attempt) Cancel(why error) { a.cancel(why) }

// Run carries out the attempt, and calls done with its outcome. Readers of its log see the log's
// end after done.
func (a *Attempt) Run(done func(*Outcome, error)) {
	var out *Outcome
	err := a.Machine.Contain("an attempt at a build", func() (err error) {
		out, err = a.perform()
		return err
	})
	if a.lease != nil {
		if err := a.lease.Release(); err != nil {
			a.config.Logger.Warn("a lease was not released", "build", a.ID, "err", err)
		}
	}
	if ended := context.Cause(a.ctx); err != nil && ended != nil {
		err = ended
	}
	done(out, err)
	if a.log != nil {
		a.log.Finish()
	}
}

func (a *Attempt) perform() (*Outcome, error) {
	switch {
	case a.To != nil:
		return a.handOver()
	case a.FetchOnly:
		return a.fetchKept()
	}
	status, err := a.takeUp()
	if err == nil && status == nil {
		status, err = a.begin()
	}
	if err != nil {
		return nil, err
	}
	if status, err = a.follow(a.ctx, status); err != nil {
		return nil, err
	}
	if err := a.vet(status); err != nil {
		return &Outcome{Used: status.Measured}, err
	}
	out := &Outcome{Outputs: status.Outputs, Made: inventory.Made(status.Outputs, a.closure), Cached: status.AlreadyValid, Used: status.Measured}
	out.BuildTime, out.Measured = a.times.duration(status)
	return out, nil
}

// enter reports that the attempt is in another phase.
func (a *Attempt) enter(phase api.State, started time.Time, reason string) {
	if a.Phase == phase && a.TakenUp == "" {
		return
	}
	a.Phase, a.TakenUp = phase, ""
	a.Report(phase, started, reason)
}

// takeUp asks how far an attempt is that is under way already. It returns nil if the attempt begins
// here.
func (a *Attempt) takeUp() (*agentapi.BuildStatus, error) {
	if a.TakenUp == "" {
		return nil, nil
	}
	var status *agentapi.BuildStatus
	err := a.persist(a.ctx, a.Machine, func(ctx context.Context) (err error) {
		status, err = a.Machine.Client.Build(ctx, a.asked(""))
		return err
	})
	switch {
	case err == nil && status.Attempt == a.Number && status.State != agentapi.Rooted, err == nil && a.mayTakeUp(status):
		a.there = status.Attempt
		return status, nil
	case err == nil && status.Attempt <= a.Number && a.TakenUp == api.Placed, peer.UnknownBuild(err) && a.TakenUp == api.Placed:
		return nil, nil
	case err == nil || peer.UnknownBuild(err):
		return nil, a.blame(api.CulpritMachine, errAgentLostBuild)
	}
	return nil, err
}

// asked says what the agent's answers about the build must agree with. state is that in which the
// build was when it was last heard of; empty if it was not.
func (a *Attempt) asked(state string) *agentapi.Asked {
	return &agentapi.Asked{
		ID: a.ID, Attempt: a.there, Derivation: a.Node.Path, Outputs: a.Node.OutputMap(), Check: a.Options.Check, State: state,
	}
}

// maxSendRounds bounds how often an agent may say that inputs are missing after they were sent.
const maxSendRounds = 4

// begin has the agent start the build, and sends what it lacks for that.
func (a *Attempt) begin() (*agentapi.BuildStatus, error) {
	if err := a.Machine.Forgetter.Withdraw(a.ctx, a.ID); err != nil {
		return nil, err
	}
	req, err := a.request()
	if err != nil {
		return nil, err
	}
	// The agent does not know the attempt: if there is a log, it is of one that was lost with an
	// older agent.
	a.config.Logs.Remove(a.ID, a.Number)
	var status *agentapi.BuildStatus
	// After a crash, a build that only the agent knew would be nobody's.
	if a.Recorded != nil {
		select {
		case <-a.Recorded:
		case <-a.ctx.Done():
			return nil, context.Cause(a.ctx)
		}
	}
	err = a.persist(a.ctx, a.Machine, func(ctx context.Context) (err error) {
		for range maxSendRounds {
			a.times.put = time.Now()
			if status, err = a.Machine.Client.PutBuild(ctx, a.asked(""), req); err != nil || status.State != agentapi.Rooted {
				a.times.began, a.there = time.Now(), a.Number
				return err
			}
			if len(status.Missing) == 0 {
				return a.blame(api.CulpritMachine, errors.New("its agent neither starts the build nor says what is missing"))
			}
			a.enter(api.Sending, time.Time{}, human.Count(len(status.Missing), "item"))
			if err := a.send(ctx, status.Missing, a.times.put); err != nil {
				return err
			}
		}
		return a.blame(api.CulpritMachine, fmt.Errorf("it still lacks %s after it was sent %d times", status.Missing[0], maxSendRounds))
	})
	return status, err
}

// request makes the request to the agent, and protects what it names in the head's store.
func (a *Attempt) request() (*agentapi.BuildRequest, error) {
	text, err := a.config.Head.Text(a.ctx, a.Node.Path)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	outputs, err := a.Node.OutputPaths(nil)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	if err := a.protect(outputs...); err != nil {
		return nil, err
	}
	roots := a.Inputs
	if a.NeedsDerivations {
		roots = append([]store.Path{a.Node.Path}, roots...)
	}
	if a.closure, err = a.config.Inventory.ClosureOf(a.ctx, roots); err != nil {
		return nil, err
	}
	req := a.Options
	req.Attempt, req.Derivation, req.Text, req.Outputs = a.Number, a.Node.Path, text, outputs
	req.Inputs = a.closure.Paths()
	if err := a.protect(req.Inputs...); err != nil {
		return nil, err
	}
	return &req, nil
}

// protect keeps items in the head's store until the attempt is over.
func (a *Attempt) protect(paths ...store.Path) (err error) {
	if a.lease == nil {
		a.lease, err = a.config.Head.Lease(a.ctx, "build "+a.ID, paths...)
		return err
	}
	if err := a.lease.Add(a.ctx, paths...); err != nil {
		return &headstore.Error{Err: err}
	}
	return nil
}

// send sends inputs to the machine that were missing there at the time since.
func (a *Attempt) send(ctx context.Context, missing []store.Path, since time.Time) error {
	infos := make([]*store.Info, 0, len(missing))
	for _, p := range missing {
		info := a.closure.Info(p)
		if info == nil {
			return a.blame(api.CulpritMachine, fmt.Errorf("its agent asks for %s, which is not an input", p))
		}
		infos = append(infos, info)
	}
	if err := a.gather(ctx, missing); err != nil {
		return err
	}
	n, err := a.Machine.Sending.Want(ctx, infos, since)
	a.Sent.Add(n)
	return err
}

// gather brings items home that are to be sent from there, with all that they refer to: the machine
// may have that while the head lacks it.
func (a *Attempt) gather(ctx context.Context, paths []store.Path) error {
	since := time.Now()
	absent, err := store.Missing(ctx, a.config.Head.Backend, a.closure.Of(paths))
	if err != nil {
		return &headstore.Error{Err: err}
	}
	var infos []*store.Info
	var lost []store.Path
	for _, p := range absent {
		if a.closure.Source(p) != nil {
			infos = append(infos, a.closure.Info(p))
		} else {
			lost = append(lost, p)
		}
	}
	if lost != nil {
		return &headstore.LostError{Paths: lost, Why: "neither in the head's store nor kept by a machine"}
	}
	if infos, err = store.SortInfos(infos); err != nil {
		return &headstore.Error{Err: err}
	}
	// Items come after what they refer to, whichever machine has that.
	for len(infos) > 0 {
		m := a.closure.Source(infos[0].Path)
		n := 1
		for n < len(infos) && a.closure.Source(infos[n].Path) == m {
			n++
		}
		if err := a.gatherFrom(ctx, m, infos[:n], since); err != nil {
			return err
		}
		infos = infos[n:]
	}
	return nil
}

// wantFrom returns how the attempt has items fetched from a machine.
func (a *Attempt) wantFrom(m *peer.Peer) func(context.Context, []*store.Info, time.Time) (int64, error) {
	if a.Later {
		return m.Fetching.WantLater
	}
	return m.Fetching.Want
}

func (a *Attempt) gatherFrom(ctx context.Context, m *peer.Peer, infos []*store.Info, since time.Time) error {
	release, err := a.config.Reserve(infos)
	if err != nil {
		return err
	}
	defer release()
	err = a.persist(ctx, m, func(ctx context.Context) error {
		n, err := a.wantFrom(m)(ctx, infos, since)
		a.Fetched.Add(n)
		return err
	})
	var blame *api.Failure
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.As(err, &blame), errors.Is(err, store.ErrNotValid):
		return &headstore.LostError{Paths: store.PathsOf(infos), Why: "cannot be had from " + m.Name() + ": " + err.Error()}
	}
	return err
}

// follow copies the log until the build is finished.
func (a *Attempt) follow(ctx context.Context, status *agentapi.BuildStatus) (*agentapi.BuildStatus, error) {
	if !status.Finished() {
		started := time.Now()
		if a.TakenUp == api.Building {
			started = time.Time{} // that was noted when it began
		}
		a.enter(api.Building, started, "")
	} else if status.LogSize == 0 {
		a.times.ended = time.Now()
		return status, nil
	}
	a.log = a.config.Logs.Open(a.ID, a.Number)
	a.LogOpened()
	ctx, cancel := a.limited(ctx)
	defer cancel()
	asked := a.asked(status.State)
	tries := 0
	err := a.persist(ctx, a.Machine, func(ctx context.Context) (err error) {
		tries++
		status, err = a.readLog(ctx, asked)
		a.Logged.Store(a.log.Size())
		return err
	})
	a.times.ended, a.times.broken = time.Now(), tries > 1
	if peer.UnknownBuild(err) {
		err = a.blame(api.CulpritMachine, errAgentLostBuild)
	}
	return status, err
}

// readLog reads the rest of the log. If the end of the stream was lost, the agent's status may still
// show that the build is finished and the log complete. A stream that ended by itself after a while, with an
// agent that answers, was silent for longer than the machine's sshd allows: it is opened again.
func (a *Attempt) readLog(ctx context.Context, asked *agentapi.Asked) (*agentapi.BuildStatus, error) {
	ctx, log, done := a.listen(ctx, asked)
	defer done()
	for quiet := false; ; quiet = true {
		began := time.Now()
		status, err := a.Machine.Client.Log(ctx, asked, a.log.Size(), log)
		if !peer.LinkFailed(err) {
			return status, err
		}
		status, e := a.Machine.Client.Build(ctx, asked)
		switch {
		case e != nil:
			return nil, err
		case status.Finished() && status.LogSize <= a.log.Size():
			return status, nil
		case !errors.Is(err, io.ErrUnexpectedEOF) || time.Since(began) < leastSilence:
			return nil, err
		}
		if !quiet {
			a.Report(a.Phase, time.Time{}, a.Machine.Name()+" closes what is silent (ChannelTimeout in sshd_config?); its log is asked for again each time")
			a.Report(a.Phase, time.Time{}, "")
		}
	}
}

// leastSilence is the shortest silence that an sshd can be told to end.
const leastSilence = time.Second

// vet returns the failure of a finished build, or nil if it made what it should.
func (a *Attempt) vet(s *agentapi.BuildStatus) error {
	switch s.State {
	case agentapi.Succeeded:
	case agentapi.Failed:
		f := api.Failure{Culprit: api.CulpritMachine, Message: "the agent does not say why"}
		if s.Failure != nil {
			f = *s.Failure
		}
		f.Phase, f.Machine = api.Building, a.Machine.Name()
		return &f
	case agentapi.Canceled:
		return a.blame(api.CulpritMachine, errors.New("the build was canceled there by somebody else"))
	default:
		return a.blame(api.CulpritMachine, fmt.Errorf("its agent ends the log of a build that is %q", s.State))
	}
	err := a.Node.VetOutputs(s.Outputs, a.Options.Check)
	if err == nil && !a.Options.Check { // nothing is taken of a check
		err = a.config.Inventory.VetReferences(a.ctx, a.Node, s.Outputs, a.closure)
	}
	var own *headstore.Error
	if err != nil && !errors.As(err, &own) {
		err = a.fault(err)
	}
	return err
}

// mayTakeUp reports whether the agent has the finished result of an older attempt, which this one
// takes up.
func (a *Attempt) mayTakeUp(s *agentapi.BuildStatus) bool {
	return (a.TakenUp == api.Building || a.TakenUp == api.Fetching) && s.Attempt <= a.Number && !a.Options.Check && Complete(a.Node, s)
}

// Complete reports whether a build that an agent finished made all outputs of its derivation.
func Complete(n *headstore.Node, s *agentapi.BuildStatus) bool {
	return s.State == agentapi.Succeeded && s.Derivation == n.Path && n.VetOutputs(s.Outputs, false) == nil
}

// blame makes a failure of the attempt.
func (a *Attempt) blame(culprit api.Culprit, err error) *api.Failure {
	return a.blameMachine(a.Machine, culprit, err)
}

// fault makes a failure of something that no machine may do, whatever it builds.
func (a *Attempt) fault(err error) *api.Failure {
	f := a.blame(api.CulpritMachine, err)
	f.Kind = api.KindFault
	return f
}

func (a *Attempt) blameMachine(m *peer.Peer, culprit api.Culprit, err error) *api.Failure {
	return &api.Failure{Culprit: culprit, Phase: a.Phase, Machine: m.Name(), Message: agentapi.Printable(err.Error(), api.MaxMessage)}
}

// Failure says who is to blame for the error with which the attempt ended.
func (a *Attempt) Failure(err error) *api.Failure {
	var blame *api.Failure
	var head *headstore.Error
	var answer *agentapi.Error
	var fault *agentapi.Fault
	switch {
	case errors.As(err, &blame):
		f := *blame
		return &f
	case errors.As(err, &head):
		f := a.blame(api.CulpritCoordinator, err)
		f.Machine = ""
		return f
	case errors.As(err, &fault):
		return a.fault(err)
	case errors.As(err, &answer):
		return a.blame(api.CulpritMachine, fmt.Errorf("%s%s", strings.TrimSpace(answer.Message), a.Machine.Hint(answer)))
	}
	return a.blame(api.CulpritLink, err)
}

// errAgentLostBuild says that an agent does not know a build that it had.
var errAgentLostBuild = errors.New("its agent no longer knows the build: it was restarted")
