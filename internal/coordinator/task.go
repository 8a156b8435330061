package coordinator

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/coordinator/ahead"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/expand"
	"lighter/internal/coordinator/failing"
	"lighter/internal/coordinator/graph"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/limits"
	"lighter/internal/coordinator/reserve"
	"lighter/internal/coordinator/stage"
	"lighter/internal/coordinator/tally"
	"lighter/internal/coordinator/turns"
	"lighter/internal/ledger"
	"lighter/scheduler"
	"lighter/scheduler/estimate"
	"lighter/store"
)

// task is the work on one derivation, for all builds that want it and all tasks that need it.
// It belongs to the loop.
type task struct {
	drv store.Path
	// id is that under which machines know its attempts: the id of its first build.
	id       string
	recorded <-chan struct{} // closed when the ledger has id; nil if it already had
	seq      uint64
	builds   liveBuilds // that are not final

	stage  stage.Stage
	state  api.State // that its builds have
	reason string

	node       *headstore.Node
	inputPaths []store.Path // outputs of inputs, and sources
	inputs     graph.Set[*task]
	dependants graph.Set[*task]
	waiting    int // inputs that are not available

	shares    []string // for whom it counts: those whose builds want it, or need it
	share     string   // the one of them for which it was last in the queue
	priority  int
	rank      time.Duration // longest remaining path, this one included
	ahead     ahead.Need    // what waits for it at guix-daemon
	estimate  estimate.Estimate
	queuedAt  time.Time
	notBefore time.Time // of the next attempt

	logID      string // of the log of logAttempt
	logAttempt int    // the last attempt whose log began; 0 if none did
	attempt    int
	whereabouts
	failed     failing.Record // how it has failed so far
	skip       map[string]bool
	failedOn   map[string]bool // machines on which the derivation itself failed
	retried    int             // of the retries that its builds grant
	mishapOn   map[string]bool // machines on which it failed for their own reasons
	need       int64           // bytes of memory: more than it had when it was killed for want of them
	aloneOn    *machine        // where it was killed or filled the disk, if it is tried again there once nothing else is built there
	aloneUntil time.Time       // but not later than that

	// check, if not nil, is the check for which this is a comparison. Such a task has no builds
	// of its own, and is not in loop.tasks. checksLeft is how many more comparisons are to be
	// queued once it is placed.
	check      *liveCheck
	checksLeft int

	inOutlook int32 // its place in the last snapshot, if it is there
}

// liveBuild is a build that is not final.
type liveBuild struct {
	api.Build
	task *task
	// delivery is the conversation with the build hook that wants an offloaded build;
	// nil if there is none now.
	delivery *delivery.Delivery
	check    *liveCheck // carries it out if it is a check; its task is not in the graph then
	counted  tally.As
}

// newID returns an id for a build. It is random, so that its first digits tell builds apart.
func newID() string { return uuid.NewString() }

func (t *task) question() question {
	return question{task: t, Question: expand.Question{Path: t.drv, Outputs: t.wantedOutputs(), Started: t.takeUpOn != nil}}
}

// expected is how long a build of it takes at speed 1; 0 if that was not looked up yet.
func (t *task) expected() time.Duration { return t.estimate.Duration.Middle() }

// overdue reports whether the task builds for longer than nine in ten of its kind do on its machine.
func (t *task) overdue(now time.Time) bool {
	if t.state != api.Building || t.machine == nil || !t.estimate.Measured() || t.builds[0].Started == nil {
		return false
	}
	long := t.estimate.Duration.High().Seconds() / max(t.machine.speed.Speed(t.machine.Speed), 0.01)
	return now.Sub(*t.builds[0].Started).Seconds() > long
}

// joinState is the state of a build that joins the task. The state of a task that a start found
// may not be known yet.
func (t *task) joinState() api.State {
	if t.state == "" {
		return api.Queued
	}
	return t.state
}

// wantedOutputs returns the outputs that builds ask for, or nil for all, as where other tasks need some.
func (t *task) wantedOutputs() []string {
	if t.dependants.Size() > 0 {
		return nil
	}
	return limits.Outputs(t.builds.requests())
}

// newTask makes a task for a derivation that has none.
func (l *loop) newTask(drv store.Path, id string) *task {
	l.seq++
	t := &task{
		drv: drv, id: id, seq: l.seq, state: api.Queued,
	}
	l.tasks[drv] = t
	l.byID[id] = t
	return t
}

// mark adds a name to a set, which may be nil: most tasks never fail.
func mark(set *map[string]bool, name string) {
	if *set == nil {
		*set = make(map[string]bool)
	}
	(*set)[name] = true
}

// avoidHost adds to a set the names of all machines that lead to the same host as this one.
func (m *machine) avoidHost(set *map[string]bool) {
	for _, same := range m.host.machines {
		mark(set, same.Name)
	}
}

// join adds a build to a task.
func (t *task) join(l *loop, b api.Build) *liveBuild {
	lb := &liveBuild{Build: b, task: t, delivery: l.deliveries[b.ID]}
	if b.ID != t.id {
		lb.Shares = t.id
	}
	t.builds = append(t.builds, lb)
	l.builds[b.ID] = lb
	l.counts.Count(&lb.Build, &lb.counted)
	t.priority = max(t.priority, b.Priority)
	if b.Parent == "" {
		own := l.account.Of(&b)
		lb.Share, t.shares = own[0], turns.Union(t.shares, own)
	}
	return lb
}

// newInternal makes a task, and its build, for another task that needs it.
func (l *loop) newInternal(n *headstore.Node, parent *task) *task {
	first := parent.builds[0]
	t := l.newTask(n.Path, newID())
	t.node, t.shares = n, parent.shares
	b := api.Build{
		Request: api.Request{
			ID: t.id, Derivation: n.Path, Priority: parent.priority, Tags: first.Tags,
			Timeout: first.Timeout, MaxSilentTime: first.MaxSilentTime, KeepFailed: first.KeepFailed,
			Retries: first.Retries, Skip: first.Skip,
		},
		System: n.System, Features: n.Features, Parent: first.ID, OutputPaths: n.OutputMap(),
		State: api.Queued, Submitted: l.now(), Share: first.Share,
	}
	lb := t.join(l, b)
	record := lb.Build
	l.change(ledger.Change{Build: &record, Create: true})
	known := make(chan struct{})
	t.recorded = known
	l.durably(func() { close(known) })
	return t
}

// setState moves a task, and with it its builds, to another state.
func (t *task) setState(l *loop, s api.State, reason string) {
	t.state, t.reason = s, reason
	for _, lb := range t.builds {
		same, machine := lb.State == s && lb.Attempt == t.attempt, lb.Machine
		if t.identify(lb); same && lb.Reason == reason && lb.Machine == machine {
			continue
		}
		lb.State, lb.Reason = s, reason
		lb.save(l, same && reason != "") // that a reason has gone is not news
	}
}

// identify notes in a build which attempt is its last, on which machine, and under which id.
func (t *task) identify(lb *liveBuild) {
	lb.Attempt, lb.Machine = t.attempt, ""
	if t.machine != nil {
		lb.Machine = t.machine.Name
	}
	if t.id != lb.ID {
		lb.Shares = t.id
	}
}

// save records a build; with force there is an event even if its state has not changed.
func (lb *liveBuild) save(l *loop, force bool) {
	l.counts.Changed(&lb.Build, &lb.counted, l.now())
	b := lb.Build // nothing that it points to is changed any more
	if lb.delivery != nil {
		lb.delivery.Tell(&b)
	}
	if b.State.Final() {
		for _, final := range l.finals[b.ID] {
			close(final)
		}
		delete(l.finals, b.ID)
	}
	ch := ledger.Change{Build: &b}
	if force {
		ch.Event = &api.Event{
			Kind: api.KindNote, Build: b.ID, State: b.State, Attempt: b.Attempt, Machine: b.Machine, Reason: b.Reason,
		}
		if !b.State.Running() { // it would be that of an earlier attempt
			ch.Event.Failure = b.Failure
		}
	}
	l.change(ch)
}

// expand asks the expander about a task.
func (t *task) expand(l *loop) {
	if t.stage == stage.Looking {
		return
	}
	t.enter(l, stage.Looking)
	if l.grace == nil {
		l.questions.Put(t.question())
	}
}

// setInputs replaces a task's edges to what it needs.
func (t *task) setInputs(l *loop, inputs []*task) {
	old := t.inputs
	t.inputs, t.waiting = graph.WithRoom[*task](len(inputs)), 0
	for _, in := range inputs {
		if in == t || t.inputs.Has(in) {
			continue
		}
		t.inputs.Add(in)
		in.dependants.Add(t)
		in.moveInQueue(l)
		if !in.stage.Available() {
			t.waiting++
		}
	}
	l.live.Store(t.drv, t.node)
	for in := range old.All() {
		if !t.inputs.Has(in) {
			in.dependants.Remove(t)
			in.dropUnneeded(l)
		}
	}
}

// makeReady puts a task into the queue if its inputs are available.
func (t *task) makeReady(l *loop) {
	if t.waiting > 0 {
		t.await(l)
		return
	}
	if l.now().Before(t.notBefore) {
		t.enter(l, stage.Delayed)
		t.setState(l, api.Queued, t.reason)
		return
	}
	t.enter(l, stage.Queued)
	t.setState(l, api.Queued, t.neverReason(l))
}

// await has a task wait for its inputs. The event says which.
func (t *task) await(l *loop) {
	t.enter(l, stage.Waiting)
	if t.state == api.Waiting {
		t.setState(l, api.Waiting, countWaiting(t.waiting))
		return
	}
	t.setState(l, api.Waiting, countWaiting(t.waiting))
	var missing []string
	for in := range t.inputs.All() {
		if !in.stage.Available() {
			missing = append(missing, in.drv.String())
		}
	}
	slices.Sort(missing)
	t.tellMissing(l, missing)
}

// tellMissing makes events of the derivations that the builds of a task wait for.
func (t *task) tellMissing(l *loop, missing []string) {
	reason := api.ListUpTo(missing, " ", api.MaxReason)
	for _, lb := range t.builds {
		l.change(ledger.Change{Event: &api.Event{
			Kind: api.KindMissingInputs, Build: lb.ID, State: lb.State, Attempt: lb.Attempt, Reason: reason,
		}})
	}
}

func countWaiting(n int) string {
	if n == 1 {
		return "waits for 1 input"
	}
	return fmt.Sprintf("waits for %d inputs", n)
}

// wake goes on with tasks whose delay before the next attempt is over.
func (l *loop) wake(now time.Time) {
	for t := range l.delayed {
		if now.Before(t.notBefore) {
			l.placeBy(t.notBefore)
			continue
		}
		if t.stage == stage.Delayed {
			if m := t.aloneOn; m != nil && m.host.building() && now.Before(t.aloneUntil) {
				t.notBefore = now.Add(alonePoll)
				l.placeBy(t.notBefore)
				continue
			}
			t.aloneOn = nil
			t.makeReady(l)
			continue
		}
		if t.enter(l, stage.Made); len(t.builds) > 0 {
			t.bring(l)
		}
	}
}

// spread raises the rank and priority of all that a task needs. It stops at tasks in later:
// their turn will come.
func (t *task) spread(l *loop, later map[*task]bool) {
	t.rank = max(t.rank, t.expected()+t.ahead.After)
	for d := range t.dependants.All() {
		t.rank = max(t.rank, t.expected()+d.rank)
		t.priority = max(t.priority, d.priority)
		t.shares = turns.Union(t.shares, d.shares)
	}
	work := []*task{t}
	for len(work) > 0 {
		x := work[len(work)-1]
		work = work[:len(work)-1]
		for in := range x.inputs.All() {
			rank, priority, shares := max(in.rank, in.expected()+x.rank), max(in.priority, x.priority), turns.Union(in.shares, x.shares)
			if rank == in.rank && priority == in.priority && len(shares) == len(in.shares) {
				continue
			}
			in.rank, in.priority, in.shares = rank, priority, shares
			in.moveInQueue(l)
			if !later[in] {
				work = append(work, in)
			}
		}
	}
}

func (t *task) schedulerBuild(l *loop) scheduler.Build {
	b := t.unreserved(l)
	l.stock().Reserve(&b, t.needs())
	return b
}

// unreserved is schedulerBuild without what is reserved for it on machines.
func (t *task) unreserved(l *loop) scheduler.Build {
	b := scheduler.Build{
		ID: t.id, System: t.node.System, Features: t.node.Features,
		Priority: t.priority, Rank: t.rank, Dependants: t.needers(), Seq: t.seq,
		Expected: t.expected(), Output: t.estimate.Output.Middle(),
		Share: l.account.Served(t.shares, l.now()),
	}
	if t.unrestricted() {
		return b
	}
	for _, m := range l.machines {
		if t.skip[m.Name] || t.failed.Unable.Has(m.Name) || !t.allows(m.Name) {
			b.Skip = append(b.Skip, m.Name)
		}
	}
	return b
}

// needs is what is known of what it needs of a machine.
func (t *task) needs() reserve.Needs { return reserve.Of(t.requests(), t.estimate.Memory, t.need) }

// requests yields those that say what the task needs.
func (t *task) requests() iter.Seq[*api.Request] {
	if t.check != nil {
		return slices.Values([]*api.Request{&t.check.build.Request})
	}
	return t.builds.requests()
}

// allows reports whether any of the task's builds may be done on a machine.
func (t *task) allows(machine string) bool { return limits.Allow(t.requests(), machine) }
