package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/inventory"
	"lighter/internal/coordinator/peer"
	"lighter/store"
)

// attempt carries out one attempt at a build on one machine. Its goroutine reports to the
// loop, which believes it as long as it is the task's current one.
type attempt struct {
	c       *Coordinator
	task    *task // for the loop alone
	machine *machine
	id      string          // of the build on the machine
	known   <-chan struct{} // closed when the ledger has the id; nil if it had it before
	attempt int
	node    *headstore.Node
	inputs  []store.Path // outputs of inputs, and sources
	needs   bool         // the machine's store needs derivations as items
	// resumed is the state in which an earlier coordinator left the attempt; empty if
	// it starts here.
	resumed api.State
	// fetchOnly says that the outputs are kept on the machine and just fetched.
	fetchOnly bool
	// deliver is the build whose hook gets outputs that are kept on the machine; then
	// fetchOnly is set too.
	deliver *liveBuild
	to      *delivery             // the conversation with it
	options agentapi.BuildRequest // timeouts and the like

	ctx    context.Context
	cancel context.CancelCauseFunc
	over   chan struct{} // closed when main returns
	began  time.Time
	stale  string // for the loop alone: why it was given up

	// The rest belongs to the attempt's goroutine, but for the counters.
	phase   api.State
	there   int // the attempt that the agent has of it; 0 is not known
	times   buildTimes
	log     *buildlog.Log
	lease   store.Lease
	closure *inventory.Closure
	sent    atomic.Int64
	fetched atomic.Int64
	logged  atomic.Int64
}

// place starts the next attempt at a task.
func (t *task) place(l *loop, m *machine, reason string) {
	if t.check != nil {
		t.checkPlaced(l, m)
	}
	t.attempt++
	t.machine = m
	r := l.newAttempt(t, m)
	if m.info != nil && m.info.Hardware != (api.Hardware{}) {
		hardware := m.info.Hardware
		for _, rec := range t.builds {
			rec.Hardware = &hardware
		}
	}
	t.setState(l, api.Placed, reason)
	l.group.Go(r.main)
}

// hookOnly reports whether none but build hooks want a task. guix-daemon protects what it
// needs for those.
func (t *task) hookOnly() bool {
	return t.dependants.size() == 0 && len(t.builds) > 0 && !slices.ContainsFunc(t.builds, func(r *liveBuild) bool { return !r.Offload })
}

func (c *Coordinator) newAttempt(t *task, m *machine) *attempt {
	ctx, cancel := context.WithCancelCause(c.ctx)
	r := &attempt{
		c: c, task: t, machine: m, id: t.id, known: t.known, attempt: t.attempt, node: t.node, inputs: t.inputPaths,
		needs: m.info != nil && m.info.NeedsDerivations, options: m.optionsFor(t),
		ctx: ctx, cancel: cancel, began: time.Now(), phase: api.Placed, over: make(chan struct{}),
	}
	if t.hookOnly() {
		r.lease = headstore.NoLease{}
	}
	t.underWay = r
	m.attempts[r] = struct{}{}
	return r
}

func (r *attempt) main() {
	defer close(r.over)
	var out *outcome
	err := r.machine.peer.Contain("an attempt at a build", func() (err error) {
		out, err = r.perform()
		return err
	})
	if r.lease != nil {
		if err := r.lease.Release(); err != nil {
			r.c.log.Warn("a lease was not released", "build", r.id, "err", err)
		}
	}
	if ended := context.Cause(r.ctx); err != nil && ended != nil {
		err = ended
	}
	r.c.post(func(l *loop) { r.ended(l, out, err) })
	if r.log != nil {
		r.log.Finish()
	}
}

func (r *attempt) perform() (*outcome, error) {
	switch {
	case r.deliver != nil:
		return r.handOver()
	case r.fetchOnly:
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
	out := &outcome{outputs: status.Outputs, made: inventory.Made(status.Outputs, r.closure), cached: status.AlreadyValid}
	out.buildTime, out.measured = r.times.duration(status)
	return out, nil
}

// enter reports that the attempt is in another phase.
func (r *attempt) enter(phase api.State, started time.Time, reason string) {
	if r.phase == phase && r.resumed == "" {
		return
	}
	r.phase, r.resumed = phase, ""
	r.report(phase, started, reason)
}

func (r *attempt) report(phase api.State, started time.Time, reason string) {
	r.c.post(func(l *loop) {
		t := r.task
		if t.underWay != r {
			return
		}
		if !started.IsZero() {
			for _, rec := range t.builds {
				rec.Started = &started
			}
		}
		t.setState(l, phase, reason)
	})
}

// attach finds out how an attempt stands that an earlier coordinator started. It
// returns nil if the attempt is to begin here.
func (r *attempt) attach() (*agentapi.BuildStatus, error) {
	if r.resumed == "" {
		return nil, nil
	}
	var status *agentapi.BuildStatus
	err := r.persist(r.ctx, r.machine.peer, func(ctx context.Context) (err error) {
		status, err = r.machine.peer.Client.Build(ctx, r.asked(""))
		return err
	})
	switch {
	case err == nil && status.Attempt == r.attempt && status.State != agentapi.Rooted, err == nil && r.mayAdopt(status):
		r.there = status.Attempt
		return status, nil
	case err == nil && status.Attempt <= r.attempt && r.resumed == api.Placed, peer.UnknownBuild(err) && r.resumed == api.Placed:
		return nil, nil
	case err == nil || peer.UnknownBuild(err):
		return nil, r.blame(api.CulpritMachine, errAgentLostBuild)
	}
	return nil, err
}

// asked says what the agent's answers about the build must agree with, which was in a state
// when it was last heard of.
func (r *attempt) asked(state string) *agentapi.Asked {
	return &agentapi.Asked{
		ID: r.id, Attempt: r.there, Derivation: r.node.Path, Outputs: r.node.OutputMap(), Check: r.options.Check, State: state,
	}
}

// maxSendRounds bounds how often an agent may say that inputs are missing which were
// sent to it.
const maxSendRounds = 4

// begin has the agent start the build, and sends what it lacks for that.
func (r *attempt) begin() (*agentapi.BuildStatus, error) {
	if err := r.machine.peer.Forgetter.Withdraw(r.ctx, r.id); err != nil {
		return nil, err
	}
	req, err := r.request()
	if err != nil {
		return nil, err
	}
	// The agent does not know the attempt: what there may be of a log is of one that
	// was lost with an older agent.
	r.c.logs.Remove(r.id, r.attempt)
	var status *agentapi.BuildStatus
	// A build that only the agent knew would be nobody's after a crash.
	if r.known != nil {
		select {
		case <-r.known:
		case <-r.ctx.Done():
			return nil, context.Cause(r.ctx)
		}
	}
	err = r.persist(r.ctx, r.machine.peer, func(ctx context.Context) (err error) {
		for range maxSendRounds {
			r.times.put = time.Now()
			if status, err = r.machine.peer.Client.PutBuild(ctx, r.asked(""), req); err != nil || status.State != agentapi.Rooted {
				r.times.began, r.there = time.Now(), r.attempt
				return err
			}
			if len(status.Missing) == 0 {
				return r.blame(api.CulpritMachine, errors.New("its agent neither starts the build nor says what is missing"))
			}
			r.enter(api.Sending, time.Time{}, countItems(len(status.Missing)))
			if err := r.send(ctx, status.Missing, r.times.put); err != nil {
				return err
			}
		}
		return r.blame(api.CulpritMachine, fmt.Errorf("it still lacks %s after it was sent %d times", status.Missing[0], maxSendRounds))
	})
	return status, err
}

// request makes the request to the agent, and protects the inputs at home.
func (r *attempt) request() (*agentapi.BuildRequest, error) {
	text, err := r.c.head.Text(r.ctx, r.node.Path)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	outputs, err := r.node.OutputPaths(nil)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	if err := r.protect(outputs...); err != nil {
		return nil, err
	}
	roots := r.inputs
	if r.needs {
		roots = append([]store.Path{r.node.Path}, roots...)
	}
	if r.closure, err = r.c.kept.ClosureOf(r.ctx, roots); err != nil {
		return nil, err
	}
	req := r.options
	req.Attempt, req.Derivation, req.Text, req.Outputs = r.attempt, r.node.Path, text, outputs
	req.Inputs = r.closure.Paths()
	if err := r.protect(req.Inputs...); err != nil {
		return nil, err
	}
	return &req, nil
}

// protect keeps items of the head's store until the attempt is over.
func (r *attempt) protect(paths ...store.Path) (err error) {
	if r.lease == nil {
		r.lease, err = r.c.head.Lease(r.ctx, "build "+r.id, paths...)
		return err
	}
	if err := r.lease.Add(r.ctx, paths...); err != nil {
		return &headstore.Error{Err: err}
	}
	return nil
}

// send sends inputs to the machine that were missing there at a time.
func (r *attempt) send(ctx context.Context, missing []store.Path, since time.Time) error {
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
	n, err := r.machine.peer.Sending.Want(ctx, infos, since)
	r.sent.Add(n)
	return err
}

// gather brings items home that are to be sent from there, and what they refer to: the
// machine may have that, and the head not.
func (r *attempt) gather(ctx context.Context, paths []store.Path) error {
	since := time.Now()
	absent, err := store.Missing(ctx, r.c.head.Backend, r.closure.Of(paths))
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

func (r *attempt) gatherFrom(ctx context.Context, m *peer.Peer, infos []*store.Info, since time.Time) error {
	release, err := r.c.reserve(infos)
	if err != nil {
		return err
	}
	defer release()
	err = r.persist(ctx, m, func(ctx context.Context) error {
		n, err := m.Fetching.Want(ctx, infos, since)
		r.fetched.Add(n)
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
func (r *attempt) follow(ctx context.Context, status *agentapi.BuildStatus) (*agentapi.BuildStatus, error) {
	if !status.Finished() {
		started := time.Now()
		if r.resumed == api.Building {
			started = time.Time{} // that was noted when it was so
		}
		r.enter(api.Building, started, "")
	} else if status.LogSize == 0 {
		r.times.ended = time.Now()
		return status, nil
	}
	r.log = r.c.logs.Open(r.id, r.attempt)
	r.c.post(func(l *loop) { r.logOpened() })
	ctx, cancel := r.limited(ctx)
	defer cancel()
	asked := r.asked(status.State)
	tries := 0
	err := r.persist(ctx, r.machine.peer, func(ctx context.Context) (err error) {
		tries++
		status, err = r.readLog(ctx, asked)
		r.logged.Store(r.log.Size())
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
func (r *attempt) readLog(ctx context.Context, asked *agentapi.Asked) (*agentapi.BuildStatus, error) {
	ctx, log, done := r.listen(ctx)
	defer done()
	status, err := r.machine.peer.Client.Log(ctx, asked, r.log.Size(), log)
	if !peer.LinkFailed(err) {
		return status, err
	}
	if status, e := r.machine.peer.Client.Build(ctx, asked); e == nil && status.Finished() && status.LogSize <= r.log.Size() {
		return status, nil
	}
	return nil, err
}

// verdict returns the failure of a finished build, or nil if it is what it should be.
func (r *attempt) verdict(s *agentapi.BuildStatus) error {
	switch s.State {
	case agentapi.Succeeded:
	case agentapi.Failed:
		f := api.Failure{Culprit: api.CulpritMachine, Message: "the agent does not say why"}
		if s.Failure != nil {
			f = *s.Failure
		}
		f.Phase, f.Machine = api.Building, r.machine.Name
		return &f
	case agentapi.Canceled:
		return r.blame(api.CulpritMachine, errors.New("the build was canceled there by somebody else"))
	default:
		return r.blame(api.CulpritMachine, fmt.Errorf("its agent ends the log of a build that is %q", s.State))
	}
	err := r.node.CheckOutputs(s.Outputs, r.options.Check)
	if err == nil && !r.options.Check { // of which nothing is taken
		err = r.c.kept.CheckReferences(r.ctx, r.node, s.Outputs, r.closure)
	}
	var own *headstore.Error
	if err != nil && !errors.As(err, &own) {
		err = r.fault(err)
	}
	return err
}

// fetchKept fetches outputs that the machine keeps for a task.
func (r *attempt) fetchKept() (*outcome, error) {
	r.phase = api.Fetching
	out := &outcome{outputs: make(map[string]*store.Info), cached: true}
	for _, o := range r.node.Outputs {
		if item := r.c.kept.On(r.machine.peer, o.Path); item != nil {
			out.outputs[o.Name] = item.Info
			out.made = append(out.made, item)
		}
	}
	if err := r.c.do(r.ctx, func(l *loop) { out.names = r.task.wantedOutputs() }); err != nil {
		return nil, err
	}
	if err := r.fetch(out.made, out.names); err != nil {
		return nil, err
	}
	return out, nil
}

// fetch brings outputs home, and what they refer to as far as it is not there.
func (r *attempt) fetch(made []*inventory.Item, names []string) error {
	wanted, err := r.node.OutputPaths(names)
	if err != nil {
		return &headstore.Error{Err: err}
	}
	if err := r.protect(wanted...); err != nil {
		return err
	}
	since := time.Now()
	outputs, inputs, err := r.absent(made, wanted)
	if err != nil || len(outputs)+len(inputs) == 0 {
		return err
	}
	release, err := r.c.reserve(outputs)
	if err != nil {
		return err
	}
	defer release()
	r.enter(api.Fetching, time.Time{}, countItems(len(outputs)+len(inputs)))
	if err := r.fetchInputs(made, inputs); err != nil {
		return err
	}
	err = r.persist(r.ctx, r.machine.peer, func(ctx context.Context) error {
		n, err := r.machine.peer.Fetching.Want(ctx, outputs, since)
		r.fetched.Add(n)
		return err
	})
	if err != nil {
		return err
	}
	absent, err := store.Missing(r.ctx, r.c.head.Backend, wanted)
	if err == nil && len(absent) > 0 {
		err = fmt.Errorf("%s is not valid after it was fetched", absent[0])
	}
	if err != nil {
		return &headstore.Error{Err: err}
	}
	return nil
}

// countItems says for people how many items there are.
func countItems(n int) string {
	if n == 1 {
		return "1 item"
	}
	return fmt.Sprintf("%d items", n)
}

// absent returns those of the wanted outputs, and of what they refer to, that are not at home:
// outputs of this build, and its inputs.
func (r *attempt) absent(made []*inventory.Item, wanted []store.Path) (outputs []*store.Info, inputs []store.Path, err error) {
	left := make(map[store.Path]*store.Info, len(made))
	for _, item := range made {
		left[item.Info.Path] = item.Info
	}
	queue, err := r.absentOf(wanted)
	for err == nil && len(queue) > 0 {
		var refs []store.Path
		for _, p := range queue {
			info, own := left[p]
			switch {
			case !own:
				inputs = append(inputs, p)
			case info != nil:
				outputs = append(outputs, info)
				refs = append(refs, info.References...)
				left[p] = nil // it is seen once
			}
		}
		queue, err = r.absentOf(refs)
	}
	return outputs, inputs, err
}

// fetchInputs brings inputs home that outputs refer to. They come from where they were made, or
// from where something refers to them.
func (r *attempt) fetchInputs(made []*inventory.Item, inputs []store.Path) error {
	if len(inputs) == 0 {
		return nil
	}
	if r.closure == nil {
		var err error
		if r.closure, err = r.c.kept.ClosureOfMade(r.ctx, r.machine.peer, made); err != nil {
			return err
		}
	}
	if err := r.protect(r.closure.Of(inputs)...); err != nil {
		return err
	}
	return r.gather(r.ctx, inputs)
}

func (r *attempt) absentOf(paths []store.Path) ([]store.Path, error) {
	absent, err := store.Missing(r.ctx, r.c.head.Backend, paths)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	return absent, nil
}

func values[K comparable, V any](m map[K]V) []V {
	list := make([]V, 0, len(m))
	for _, v := range m {
		list = append(list, v)
	}
	return list
}

// How persist tries again.
const (
	maxLinkFailures = 10               // in a row, with the machine reached between them
	maxAllFailures  = 100              // of one call, whatever went well between them
	linkProgress    = 10 * time.Second // what goes well for that long ends the row
	maxLinkPause    = 5 * time.Second
	minLinkPause    = 20 * time.Millisecond
)

// persist calls f, and again whenever the way to the machine failed and the machine
// was reached after that. It gives up when the machine is lost. The context of f ends
// when the machine turns out not to answer.
func (r *attempt) persist(ctx context.Context, m *peer.Peer, f func(ctx context.Context) error) error {
	pause := minLinkPause
	for failures, all := 0, 0; ; {
		began := time.Now()
		err := m.With(ctx, f)
		if ended := context.Cause(ctx); err != nil && ended != nil {
			return ended
		}
		if !peer.LinkFailed(err) {
			return err
		}
		if time.Since(began) > linkProgress {
			failures, pause = 0, minLinkPause
		}
		all++
		if failures++; failures > maxLinkFailures || all > maxAllFailures {
			return r.blameMachine(m, api.CulpritLink, err)
		}
		r.report(r.phase, time.Time{}, "link to "+m.Name+" lost, reconnecting: "+err.Error())
		if err := r.regain(ctx, m, pause, err); err != nil {
			return err
		}
		r.report(r.phase, time.Time{}, "")
		pause = min(2*pause, maxLinkPause)
	}
}

// regain waits until the machine was reached again.
func (r *attempt) regain(ctx context.Context, m *peer.Peer, pause time.Duration, lost error) error {
	patience := r.c.limits.MachineLostAfter
	if r.phase == api.Placed || r.phase == api.Sending {
		patience = min(patience, r.c.limits.SendPatience) // nothing is lost by going elsewhere
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-time.After(pause):
	case <-limited.Done():
	}
	if m.Await(limited) == nil {
		return nil
	}
	if ended := context.Cause(ctx); ended != nil {
		return ended
	}
	return r.blameMachine(m, api.CulpritLink, fmt.Errorf("not reached again for %s after: %w", patience, lost))
}

// blame makes a failure of the attempt.
func (r *attempt) blame(culprit api.Culprit, err error) *api.Failure {
	return r.blameMachine(r.machine.peer, culprit, err)
}

// fault makes a failure of what the machine may not do, whatever it builds.
func (r *attempt) fault(err error) *api.Failure {
	f := r.blame(api.CulpritMachine, err)
	f.Kind = api.KindFault
	return f
}

func (r *attempt) blameMachine(m *peer.Peer, culprit api.Culprit, err error) *api.Failure {
	return &api.Failure{Culprit: culprit, Phase: r.phase, Machine: m.Name, Message: agentapi.Printable(err.Error(), api.MaxMessage)}
}

// failure says who is to blame for the error that an attempt ended with.
func (r *attempt) failure(err error) *api.Failure {
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
		return r.blame(api.CulpritMachine, fmt.Errorf("%s%s", strings.TrimSpace(answer.Message), r.machine.peer.Hint(answer)))
	}
	return r.blame(api.CulpritLink, err)
}

// errAbandoned is the cause of the end of an attempt whose result nobody wants.
const errAbandoned = peer.Ended("the attempt was abandoned")

// errAgentLostBuild says that an agent does not know a build that it had.
var errAgentLostBuild = errors.New("its agent does not know the build any more: it was started anew")
