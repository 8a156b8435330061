package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/remote"
	"lighter/nar"
	"lighter/store"
)

// checking carries out a build that asks for a derivation to be built on several machines,
// so that what they make can be compared: first a plain build, whose outputs are the
// measure, then builds on other machines, at the same time as far as those have slots.
//
// It keeps nothing of its own in the ledger. All ids follow from that of the build, so that
// a coordinator that is started anew does the same again, and finds what is done.
type checking struct {
	c      *Coordinator
	req    api.Request
	whose  *api.Submitter // of it, and of what is built for it
	ctx    context.Context
	cancel context.CancelCauseFunc

	node    *headstore.Node
	inputs  []store.Path // outputs of inputs, and sources
	results []api.CheckResult
	measure map[string]string // hashes of the outputs at home, by name

	// The rest belongs to the loop.
	rec    *liveBuild
	used   map[string]bool // machines that built it, or build it now
	tasks  map[*task]bool  // builds that were not over yet
	others []string        // ids of plain builds that were made for this one
	made   int             // builds on machines that were begun
	tries  int             // of them, those that were in vain
	ended  chan checked    // has room for all
}

// checked is what one machine made.
type checked struct {
	machine *machine
	id      string // of the build there
	attempt int
	out     *remote.Outcome
	err     error
}

// KindDiffers is the Kind of the failure of a check whose machines made different things.
const KindDiffers = "differs"

// takeUpCheck starts a check.
func (l *loop) takeUpCheck(b *api.Build) {
	ctx, cancel := context.WithCancelCause(l.ctx)
	k := &checking{
		c: l.Coordinator, req: b.Request, whose: b.Submitter, ctx: ctx, cancel: cancel, used: make(map[string]bool), tasks: make(map[*task]bool),
		ended: make(chan checked, api.MaxChecks*(l.limits.MaxAttempts+1)),
	}
	k.rec = &liveBuild{Build: *b, task: &task{drv: b.Derivation, id: b.ID, state: b.State}, check: k}
	l.builds[b.ID] = k.rec
	l.group.Go(func() {
		defer cancel(nil)
		err := k.run()
		l.post(func(l *loop) { k.failed(l, err) })
	})
}

// part returns the id of something that is done for the check.
func (k *checking) part(name string) string { return partOfCheck(k.req.ID, name) }

func partOfCheck(check, name string) string {
	space, err := uuid.Parse(check)
	if err != nil { // no client can ask for such an id
		space = uuid.NewSHA1(uuid.NameSpaceOID, []byte(check))
	}
	return uuid.NewSHA1(space, []byte(name)).String()
}

// comparisonID returns the id of the nth build on a machine that is to be compared, from 0.
func comparisonID(check string, n int) string {
	return partOfCheck(check, fmt.Sprint("comparison ", n))
}

// comparisons returns all ids that builds for a check may have had on machines: so many
// count, and fewer than MaxAttempts are in vain.
func (c *Coordinator) comparisons(b *api.Build) (ids []string) {
	for n := range b.Check + c.limits.MaxAttempts {
		ids = append(ids, comparisonID(b.ID, n))
	}
	return ids
}

func (k *checking) run() error {
	n, err := k.c.head.Node(k.ctx, k.req.Derivation)
	if err != nil {
		return err
	}
	k.node = n
	want := k.req.Check
	if err := k.needs(); err != nil {
		return err
	}
	k.tell(api.Waiting, "has it built once, to compare with")
	plain := k.req
	plain.ID, plain.Check, plain.On = k.part("measure"), 0, nil
	b, err := k.have(plain)
	if ended := (*checkFailure)(nil); errors.As(err, &ended) && ended.build.Attempt > 0 {
		f := ended.failure
		k.results = append(k.results, firstResult(ended.build))
		k.results[0].Failure = &f
	}
	if err != nil {
		return err
	}
	first := firstResult(b)
	if b.Machine == "" {
		first.Machine = api.TheHead
	} else {
		want--
	}
	if first.Hashes, err = k.homeHashes(); err != nil {
		return err
	}
	k.measure = first.Hashes
	k.results = append(k.results, first)
	if want == 0 {
		return nil
	}
	return k.compare(b.Machine, want)
}

// needs has whatever the derivation needs brought home, or built.
func (k *checking) needs() error {
	k.inputs = append(k.inputs, k.node.Sources...)
	for _, in := range k.node.Inputs {
		n, err := k.c.head.Node(k.ctx, in)
		if err != nil {
			return err
		}
		paths, err := n.OutputPaths(k.node.InputOutputs(in))
		if err != nil {
			return err
		}
		k.inputs = append(k.inputs, paths...)
		absent, err := store.Missing(k.ctx, k.c.head.Backend, paths)
		if err != nil {
			return err
		}
		if len(absent) == 0 {
			continue
		}
		k.tell(api.Waiting, "waits for "+in.String())
		r := api.Request{
			ID: k.part(in.String()), Derivation: in, Outputs: k.node.InputOutputs(in), Priority: k.req.Priority, Tags: k.req.Tags,
			Timeout: k.req.Timeout, MaxSilentTime: k.req.MaxSilentTime, Retries: k.req.Retries,
		}
		if _, err := k.have(r); err != nil {
			return err
		}
	}
	return nil
}

// firstResult is what the plain build made, but for its hashes.
func firstResult(b *api.Build) api.CheckResult {
	r := api.CheckResult{Machine: b.Machine, BuildTime: b.BuildTime}
	if b.Attempt > 0 {
		r.LogID, r.LogAttempt = logID(b), b.Attempt
	}
	return r
}

// have submits a plain build and waits until it succeeded.
func (k *checking) have(r api.Request) (*api.Build, error) {
	r.AllInputs, r.SkipIfBuilt, r.SkipIfSubmitted, r.Attached = false, false, false, false
	if err := k.c.do(k.ctx, func(l *loop) { k.others = append(k.others, r.ID) }); err != nil {
		return nil, err
	}
	answers, err := k.c.Submit(k.ctx, []api.Request{r}, k.whose)
	if err != nil {
		return nil, err
	}
	if answers[0].Build == nil {
		return nil, fmt.Errorf("%s: %s", r.Derivation, answers[0].Error)
	}
	b, err := k.c.awaitFinal(k.ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if b.State != api.Succeeded {
		f := b.Failure
		if f == nil {
			f = &api.Failure{Culprit: api.CulpritCoordinator, Phase: api.Waiting, Message: b.Reason}
		}
		return nil, &checkFailure{state: b.State, failure: *f, build: b}
	}
	return b, nil
}

// checkFailure ends a check as a build ended that it needs.
type checkFailure struct {
	state   api.State
	failure api.Failure
	build   *api.Build
}

func (e *checkFailure) Error() string { return e.failure.Message }

// awaitFinal waits until a build is final.
func (c *Coordinator) awaitFinal(ctx context.Context, id string) (*api.Build, error) {
	final := make(chan struct{})
	err := c.do(ctx, func(l *loop) {
		if l.builds[id] == nil {
			close(final)
		} else {
			l.finals[id] = append(l.finals[id], final)
		}
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-final:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	// What the loop changed before is in the ledger after this.
	if err := c.durable(ctx, func(l *loop) error { return nil }); err != nil {
		return nil, err
	}
	return c.ledger.Build(ctx, id)
}

func (k *checking) homeHashes() (map[string]string, error) {
	hashes := make(map[string]string, len(k.node.Outputs))
	for _, o := range k.node.Outputs {
		info, err := k.c.head.Info(k.ctx, o.Path)
		if err != nil {
			return nil, err
		}
		hashes[o.Name] = store.EncodeBase32(info.NARHash[:])
	}
	return hashes, nil
}

// compare has it built on so many machines, but not on one, and compares.
func (k *checking) compare(but string, want int) error {
	var short error
	if err := k.c.do(k.ctx, func(l *loop) {
		if but != "" {
			k.used[but] = true
		}
		if n := k.possible(l); n < want {
			short = fmt.Errorf("so many machines that did not build it yet are to build it: %d; so many can: %d", want, n)
			return
		}
		k.next(l, want)
	}); err != nil || short != nil {
		return errors.Join(err, short)
	}
	for done := 0; done < want; {
		var x checked
		select {
		case x = <-k.ended:
		case <-k.ctx.Done():
			return context.Cause(k.ctx)
		}
		again := k.judge(x)
		if again == nil {
			done++
			k.tell(api.Building, fmt.Sprintf("%d of %d machines are done", done, want))
			continue
		}
		var hopeless error
		if err := k.c.do(k.ctx, func(l *loop) {
			k.tries++
			if k.tries >= k.c.limits.MaxAttempts {
				hopeless = again
				return
			}
			if k.possible(l) == 0 {
				delete(k.used, x.machine.Name) // rather than none at all
			}
			k.next(l, 1)
		}); err != nil || hopeless != nil {
			return errors.Join(err, hopeless)
		}
	}
	return nil
}

// judge takes over what a machine made. It returns an error if the machine, and not the
// derivation, is to blame that there is nothing.
func (k *checking) judge(x checked) error {
	defer k.c.post(func(l *loop) { x.machine.forget(l, x.id) })
	result := api.CheckResult{Machine: x.machine.Name, LogID: x.id, LogAttempt: x.attempt}
	if x.err != nil {
		var f *api.Failure
		if !errors.As(x.err, &f) || !f.Final() {
			return x.err
		}
		if f.Kind == string(store.FailedDifference) {
			result.Differs = []string{"files that are not known: " + f.Message}
		} else {
			result.Failure = f
		}
		k.results = append(k.results, result)
		return nil
	}
	result.BuildTime = api.Seconds(x.out.BuildTime.Seconds())
	if err := k.compareOutputs(x, &result); err != nil {
		return err
	}
	k.results = append(k.results, result)
	return nil
}

// compareOutputs fills in what a machine made, and what of it differs. A machine that stops at
// the first output that differs says nothing of others: that is an error only where all that
// it does say is as expected.
func (k *checking) compareOutputs(x checked, result *api.CheckResult) error {
	result.Hashes = make(map[string]string)
	var untold error
	for _, o := range k.node.Outputs {
		info := x.out.Outputs[o.Name]
		if info == nil {
			untold = &api.Failure{
				Culprit: api.CulpritMachine, Phase: api.Building, Machine: x.machine.Name,
				Message: fmt.Sprintf("it does not say what it made of %s", o.Path),
			}
			continue
		}
		result.Hashes[o.Name] = store.EncodeBase32(info.NARHash[:])
		if result.Hashes[o.Name] == k.measure[o.Name] {
			continue
		}
		files, err := k.differing(x, o.Name, o.Path)
		if err != nil {
			files = []string{fmt.Sprintf("%s (the files were not compared: %s)", o.Name, err)}
		}
		result.Differs = append(result.Differs, files...)
	}
	if len(result.Differs) > 0 {
		return nil
	}
	return untold
}

// maxDiffering bounds the files that a result names.
const maxDiffering = 100

// differing compares an output at home with what a machine made.
func (k *checking) differing(x checked, name string, path store.Path) ([]string, error) {
	theirs, err := x.machine.peer.Client.Output(k.ctx, x.id, name)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	ours, pipe := io.Pipe()
	defer ours.Close() // which ends the writer
	k.c.group.Go(func() { pipe.CloseWithError(k.c.head.WriteNAR(k.ctx, pipe, path)) })
	var files []string
	var total int
	err = x.machine.peer.Contain("comparing what it made", func() (err error) {
		files, total, err = nar.Compare(ours, theirs, maxDiffering)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range files {
		if file := strings.TrimPrefix(files[i], "./"); file == "." {
			files[i] = name // the output is no folder, or one is none
		} else {
			files[i] = name + "/" + file
		}
	}
	if n := total - len(files); n > 0 {
		files = append(files, fmt.Sprintf("and %d more", n))
	}
	return files, nil
}

// tell tells how far the check is.
func (k *checking) tell(s api.State, reason string) {
	results := slices.Clone(k.results)
	k.c.post(func(l *loop) {
		if r := k.rec; !r.State.Final() {
			changed := r.State != s || r.Reason != reason
			r.State, r.Reason, r.Results = s, reason, results
			if changed {
				r.save(l, true)
			}
		}
	})
}

// ---- in the loop ---------------------------------------------------------------------------

// possible counts the machines that may build it for the check and did not yet.
func (k *checking) possible(l *loop) int {
	t := k.newTask(l)
	b := t.schedulerBuild(l)
	n := 0
	for _, m := range l.staticMachines() {
		if l.possibleOn(&b, m.Name) {
			n++
		}
	}
	return n
}

// newTask makes a task that is not among those of the queue's graph.
func (k *checking) newTask(l *loop) *task {
	return &task{
		drv: k.rec.Derivation, id: comparisonID(k.req.ID, k.made), seq: l.seq, state: api.Queued,
		node: k.node, check: k, priority: k.rec.Priority,
		skip: maps.Clone(k.used), queuedAt: l.now(),
	}
}

// next queues a build on one more machine; when that is placed, the next of so many.
func (k *checking) next(l *loop, left int) {
	l.seq++
	t := k.newTask(l)
	k.made++
	t.inputPaths, t.checksLeft = k.inputs, left-1
	k.tasks[t] = true
	l.byID[t.id] = t
	l.queue.Push(t.schedulerBuild(l))
	l.placing = true
}

// checkPlaced is called when a build for a check goes to a machine.
func (t *task) checkPlaced(l *loop, m *machine) {
	t.check.used[m.Name] = true
	if t.checksLeft > 0 {
		t.check.next(l, t.checksLeft)
	}
}

// checkEnded hands what a machine made over.
func (r *attempt) checkEnded(l *loop, out *remote.Outcome, err error) {
	t := r.task
	r.detach("")
	delete(l.byID, t.id)
	delete(t.check.tasks, t)
	if err != nil {
		f := r.Failure(err)
		if f.Kind == api.KindFault {
			r.machine.faulted(l, f.Message)
		}
		err = f
	}
	rec := t.check.rec
	rec.SentBytes += r.Sent.Load()
	t.check.ended <- checked{r.machine, r.ID, r.Number, out, err}
}

// failed ends the check's build.
func (k *checking) failed(l *loop, err error) {
	k.endTasks(l, "the check is over")
	r := k.rec
	if l.builds[r.ID] != r || l.ctx.Err() != nil {
		return
	}
	r.Results, r.OutputPaths = k.results, nil
	if k.node != nil {
		r.OutputPaths = k.node.OutputMap()
	}
	state, reason, f := k.verdict(err)
	r.Failure = f
	r.end(l, state, reason)
}

func (k *checking) verdict(err error) (api.State, string, *api.Failure) {
	var ended *checkFailure
	var machine *api.Failure // the last of so many that it made no sense to go on
	switch {
	case errors.As(err, &ended):
		state := ended.state
		if state == api.Canceled {
			state = api.Failed // that one was canceled, not this
		}
		return state, ended.failure.Message, &ended.failure
	case errors.As(err, &machine):
		return api.Failed, machine.Error(), machine
	case err != nil:
		return api.Failed, err.Error(), &api.Failure{Culprit: api.CulpritCoordinator, Phase: api.Building, Message: err.Error()}
	}
	if text := k.differences(); text != "" {
		return api.Failed, text, &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Kind: KindDiffers, Message: text}
	}
	if k.results[0].Machine == api.TheHead {
		return api.Succeeded, machinesText(len(k.results)-1) + " made what the head has", nil
	}
	return api.Succeeded, machinesText(len(k.results)) + " made the same", nil
}

// differences says which machines did not do as the first one, or "".
func (k *checking) differences() string {
	var other, failed, parts []string
	for _, r := range k.results[1:] {
		switch {
		case r.Failure != nil:
			failed = append(failed, r.Machine)
		case len(r.Differs) > 0:
			other = append(other, r.Machine)
		}
	}
	if len(other) > 0 {
		parts = append(parts, enumerate(other)+" made something else")
	}
	if len(failed) > 0 {
		parts = append(parts, "it fails on "+enumerate(failed))
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("compared with %s: %s", k.results[0].Machine, strings.Join(parts, "; "))
}

// enumerate sorts names, and returns a text with all of them.
func enumerate(names []string) string {
	slices.Sort(names)
	if n := len(names) - 1; n > 0 {
		return strings.Join(names[:n], ", ") + " and " + names[n]
	}
	return names[0]
}

func machinesText(n int) string {
	if n == 1 {
		return "1 machine"
	}
	return fmt.Sprintf("%d machines", n)
}

// cancelBy ends a check that nobody wants.
func (k *checking) cancelBy(l *loop, reason string) {
	k.end(l, api.Canceled, reason, k.rec.Failure)
}

// end ends a check in its midst.
func (k *checking) end(l *loop, state api.State, reason string, f *api.Failure) {
	k.rec.Failure = f
	k.rec.end(l, state, reason)
	k.cancel(errAbandoned)
	k.endTasks(l, reason)
	for _, id := range k.others {
		if other := l.builds[id]; other != nil {
			other.cancel(l, reason)
		}
	}
}

func (k *checking) endTasks(l *loop, why string) {
	for t := range k.tasks {
		l.queue.Remove(t.id)
		t.abandon(l, why)
		delete(l.byID, t.id)
	}
	clear(k.tasks)
}
