package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/mailbox"
	"lighter/scheduler"
	"lighter/store"
)

// expander finds out what has to be built before something else can be. It looks at
// many derivations at a time: one walk for all that were asked about meanwhile, level
// by level, so that the store is asked about many items at once.
type expander struct {
	c    *Coordinator
	mail *mailbox.Mailbox[question]
}

// question asks what must be built for a derivation.
type question struct {
	task    *task
	path    store.Path
	outputs []string // that are wanted; empty means all
	// started says that its inputs are to be looked at even if the outputs are there.
	started bool
	// whenDone, if not nil, is called in the loop after the walk that takes this
	// question up; nothing else is asked then.
	whenDone func()
}

// walked is what a walk found out about one derivation.
type walked struct {
	node *headstore.Node
	// inputPaths are the items that the build needs: outputs of inputs, and sources.
	inputPaths []store.Path
	// missing says that wanted outputs are not at home.
	missing   bool
	descended bool // its inputs were visited
	expected  time.Duration
	size      int64 // of the wanted outputs that were asked about, if none is missing
	live      bool  // it has a task already; nothing else is known here
	parent    store.Path
	err       error // why it could not be looked at
}

// walk is one walk.
type walk struct {
	questions []question
	found     map[store.Path]*walked
	order     []store.Path        // in which they were found, level by level
	there     map[store.Path]bool // the items asked about, and whether they are at home
}

func newExpander(c *Coordinator) *expander { return &expander{c: c, mail: mailbox.New[question]()} }

func (e *expander) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.mail.Ready():
		}
		questions := e.mail.Take()
		if len(questions) == 0 {
			continue
		}
		w := &walk{questions: questions, found: make(map[store.Path]*walked), there: make(map[store.Path]bool)}
		e.walk(ctx, w)
		if ctx.Err() != nil {
			return
		}
		// The next walk waits, so that it sees the tasks that this one leads to.
		if e.c.do(ctx, func(l *loop) { l.merge(w) }) != nil {
			return
		}
	}
}

// wantedOf are the outputs of one derivation that a level of a walk asks about.
type wantedOf struct {
	path    store.Path
	outputs []store.Path
	must    bool // go on to its inputs even if the outputs are there
}

func (e *expander) walk(ctx context.Context, w *walk) {
	var level []wantedOf
	for _, q := range w.questions {
		if q.whenDone != nil {
			continue
		}
		f := w.visit(q.path, "")
		if f == nil {
			continue
		}
		e.read(ctx, f, q.path)
		if f.err != nil {
			continue
		}
		paths, err := f.node.OutputPaths(q.outputs)
		if err != nil {
			f.err = err
			continue
		}
		level = append(level, wantedOf{q.path, paths, q.started})
	}
	for len(level) > 0 && ctx.Err() == nil {
		level = e.descend(ctx, w, level)
	}
}

// visit returns the entry of a derivation that the walk did not see yet, else nil.
func (w *walk) visit(p, parent store.Path) *walked {
	if w.found[p] != nil {
		return nil
	}
	f := &walked{parent: parent}
	w.found[p] = f
	w.order = append(w.order, p)
	return f
}

func (e *expander) read(ctx context.Context, f *walked, p store.Path) {
	if f.node, f.err = e.c.head.Node(ctx, p); f.err == nil {
		f.expected = e.expected(ctx, f.node)
	}
}

func (e *expander) expected(ctx context.Context, n *headstore.Node) time.Duration {
	measured, err := e.c.ledger.Durations(ctx, n.PackageName(), n.System)
	if err != nil {
		e.c.log.Warn("expected durations are not known", "err", err)
	}
	samples := make([]scheduler.Sample, len(measured))
	for i, s := range measured {
		samples[i] = scheduler.Sample{Duration: time.Duration(s.Seconds * float64(time.Second)), Speed: s.Speed}
	}
	return scheduler.ExpectedDuration(samples)
}

// descend asks which outputs of a level are missing, and returns the level below
// those that are.
func (e *expander) descend(ctx context.Context, w *walk, level []wantedOf) []wantedOf {
	err := e.ask(ctx, w, level)
	var below []wantedOf
	for _, want := range level {
		f := w.found[want.path]
		if err != nil {
			f.err = fmt.Errorf("ask which outputs are there: %w", err)
			continue
		}
		f.size = 0
		for _, p := range want.outputs {
			if !w.there[p] {
				f.missing = true
			} else if info, err := e.c.head.Known(ctx, p); err == nil {
				f.size += info.NARSize
			}
		}
		if (f.missing || want.must) && !f.descended {
			f.descended = true
			below = append(below, e.inputs(ctx, w, f)...)
		}
	}
	return below
}

// ask finds out which of a level's outputs are at home.
func (e *expander) ask(ctx context.Context, w *walk, level []wantedOf) error {
	var asked []store.Path
	for _, want := range level {
		for _, p := range want.outputs {
			if _, known := w.there[p]; !known {
				w.there[p] = false
				asked = append(asked, p)
			}
		}
	}
	valid, err := store.ValidPaths(ctx, e.c.head.Backend, asked)
	for _, p := range valid {
		w.there[p] = true
	}
	return err
}

// inputs visits the inputs of a derivation and fills in what its build needs.
func (e *expander) inputs(ctx context.Context, w *walk, f *walked) []wantedOf {
	var below []wantedOf
	f.inputPaths = append(make([]store.Path, 0, len(f.node.Sources)+len(f.node.Inputs)), f.node.Sources...)
	for _, in := range f.node.Inputs {
		input := w.found[in]
		if input == nil {
			input = w.visit(in, f.node.Path)
			if input.node = e.c.liveNode(in); input.node != nil {
				input.live = true
			} else {
				e.read(ctx, input, in)
			}
		}
		if input.err != nil {
			f.err = fmt.Errorf("input %w", input.err)
			return below
		}
		paths, err := input.node.OutputPaths(f.node.InputOutputs(in))
		if err != nil {
			f.err = err
			return below
		}
		f.inputPaths = append(f.inputPaths, paths...)
		if !input.live && !input.missing {
			// Another dependant may have asked, but about other outputs.
			below = append(below, wantedOf{path: in, outputs: paths})
		}
	}
	return below
}

// errCycle says that derivations need each other.
var errCycle = errors.New("its inputs need it in turn")

// merge takes over what a walk found: tasks for all that must be built, and the
// edges between them. It runs in the loop.
func (l *loop) merge(w *walk) {
	made := l.makeTasks(w)
	var again []question
	asked := make(map[*task]bool)
	var look []*task
	for _, q := range w.questions {
		if q.task != nil && !asked[q.task] && q.task.stage == stageLooking {
			asked[q.task] = true
			look = append(look, q.task)
		}
	}
	for _, t := range append(look, made...) {
		f := w.found[t.drv]
		input, err := w.unreadable(f)
		switch {
		case err != nil:
			t.fail(l, expansionFailure(input, err))
		case !f.missing && t.resume == nil:
			t.node = f.node
			t.alreadyThere(l, f)
		case !t.link(l, f, w):
			t.enter(l, stageLooking)
			again = append(again, t.question())
		default:
			t.enter(l, stageUndecided)
		}
	}
	for _, q := range again {
		l.expander.mail.Put(q)
	}
	l.settle(append(look, made...))
	for _, q := range w.questions {
		if q.whenDone != nil {
			q.whenDone()
		}
	}
}

// unreadable returns the error that stands in the way of a derivation, if there is
// one, and the derivation that it is about.
func (w *walk) unreadable(f *walked) (store.Path, error) {
	if f.err != nil || f.node == nil {
		return "", f.err
	}
	for _, in := range f.node.Inputs {
		if input := w.found[in]; input != nil && input.err != nil {
			return in, input.err
		}
	}
	return "", nil
}

// makeTasks makes the tasks of derivations that must be built and have none yet.
func (l *loop) makeTasks(w *walk) []*task {
	var made []*task
	for _, p := range w.order {
		f := w.found[p]
		if f.live || f.parent == "" || l.tasks[p] != nil || !f.missing || f.err != nil {
			continue // an error fails those that need it
		}
		parent := l.tasks[f.parent]
		if parent == nil || parent.available() || len(parent.builds) == 0 {
			continue // nobody needs it any more
		}
		if s := l.spare[p]; s != nil && s.machine.mayServe(f.node, parent) {
			l.addKept(f.node, s)
			continue
		}
		if l.limits.KeepMissingInputs {
			f.err = fmt.Errorf("%s: its outputs are missing, and no build of it was submitted", p)
			parent.tellMissing(l, []string{p.String()})
			continue
		}
		made = append(made, l.newInternal(f.node, parent))
	}
	return made
}

// mayServe reports whether a machine is one that may make a derivation for another task.
func (m *machine) mayServe(n *headstore.Node, parent *task) bool {
	return !slices.Contains(parent.builds[0].Skip, m.Name) && m.possible(&scheduler.Build{System: n.System, Features: n.Features})
}

// link gives a task its edges. It reports false if the task has to be looked at
// again, since an input that was being built then is not any more.
func (t *task) link(l *loop, f *walked, w *walk) bool {
	inputs := make([]*task, 0, len(f.node.Inputs))
	for _, in := range f.node.Inputs {
		input := l.tasks[in]
		switch found := w.found[in]; {
		case input != nil:
			inputs = append(inputs, input)
		case found == nil || found.live || found.missing:
			return false
		}
	}
	t.node, t.inputPaths, t.expected = f.node, f.inputPaths, f.expected
	if t.expected == 0 {
		t.expected = scheduler.DefaultDuration
	}
	t.expectedKnown = f.expected > 0
	t.setInputs(l, inputs)
	return true
}

// settle goes on with tasks whose edges are there now.
func (l *loop) settle(tasks []*task) {
	sorted, circular := sortTasks(tasks)
	for _, t := range circular {
		t.fail(l, expansionFailure("", fmt.Errorf("derivation %s: %w", t.drv, errCycle)))
	}
	later := make(map[*task]bool, len(sorted))
	for _, t := range sorted {
		later[t] = true
	}
	for _, t := range sorted {
		delete(later, t)
		if t.stage != stageUndecided {
			continue
		}
		t.spread(l, later)
		switch {
		case t.resume != nil && t.waiting > 0 && t.state != api.Building && t.state != api.Fetching:
			// An input that is kept for a build hook is not found again yet.
			t.abandon(l, "its inputs are not there yet")
			t.makeReady(l)
		case t.resume != nil:
			t.reattach(l)
		default:
			t.makeReady(l)
		}
	}
	for _, t := range sorted {
		t.dropUnneeded(l)
	}
}

// alreadyThere ends a task whose outputs were at home all the time.
func (t *task) alreadyThere(l *loop, f *walked) {
	for _, r := range t.builds {
		r.OutputPaths, r.OutputSize = f.node.OutputMap(), f.size
	}
	t.finish(l, "the outputs were there")
}

// liveNode returns the derivation of a task, for the expander's goroutine.
func (c *Coordinator) liveNode(p store.Path) *headstore.Node {
	if n, ok := c.live.Load(p); ok {
		return n.(*headstore.Node)
	}
	return nil
}
