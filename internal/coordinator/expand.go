package coordinator

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"lighter/internal/api"
	"lighter/internal/coordinator/expand"
	"lighter/internal/coordinator/failing"
	"lighter/internal/coordinator/graph"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/stage"
	"lighter/scheduler"
	"lighter/store"
)

// question asks what must be built for a task's derivation.
type question struct {
	expand.Question
	task *task // nil if nothing is asked
	// whenDone, if not nil, is called in the loop after the walk that answers this question.
	whenDone func()
}

// expand answers questions, with one walk for all that have been asked meanwhile.
func (c *Coordinator) expand(ctx context.Context) {
	opts := expand.Options{Head: c.head, Estimate: c.ledger.Estimate, Logger: c.log, Live: c.liveNode}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.questions.Ready():
		}
		questions := c.questions.Take()
		if len(questions) == 0 {
			continue
		}
		var asked []expand.Question
		for i := range questions {
			if questions[i].task != nil {
				asked = append(asked, questions[i].Question)
			}
		}
		g := expand.Walk(ctx, opts, asked)
		if ctx.Err() != nil {
			return
		}
		// The next walk waits, so that it sees the tasks that this one leads to.
		if c.do(ctx, func(l *loop) { l.merge(questions, g) }) != nil {
			return
		}
	}
}

// errCycle says that derivations need each other.
var errCycle = errors.New("its inputs need it in turn")

// merge makes tasks of what a walk found must be built, with the edges between them.
func (l *loop) merge(questions []question, g *expand.Graph) {
	made := l.makeTasks(g)
	var again []question
	asked := make(map[*task]bool)
	var look []*task
	for _, q := range questions {
		if q.task != nil && !asked[q.task] && q.task.stage == stage.Looking {
			asked[q.task] = true
			look = append(look, q.task)
		}
	}
	for _, t := range append(look, made...) {
		f := g.Found[t.drv]
		input, err := g.Unreadable(f)
		switch {
		case err != nil:
			t.fail(l, failing.Unreadable(input, err))
		case !f.Missing && t.takeUpOn == nil:
			t.node = f.Node
			t.alreadyThere(l, f)
		case !t.link(l, f, g):
			t.enter(l, stage.Looking)
			again = append(again, t.question())
		default:
			t.enter(l, stage.Undecided)
		}
	}
	for _, q := range again {
		l.questions.Put(q)
	}
	l.decide(append(look, made...))
	for _, q := range questions {
		if q.whenDone != nil {
			q.whenDone()
		}
	}
}

// makeTasks makes tasks for derivations that must be built and have none yet.
func (l *loop) makeTasks(g *expand.Graph) []*task {
	var made []*task
	for _, p := range g.Order {
		f := g.Found[p]
		if f.Live || f.Parent == "" || l.tasks[p] != nil || !f.Missing || f.Err != nil {
			continue // an error fails those that need it
		}
		parent := l.tasks[f.Parent]
		if parent == nil || parent.stage.Available() || len(parent.builds) == 0 {
			continue // nobody needs it any more
		}
		if s := l.spare[p]; s != nil && s.machine.mayServe(f.Node, parent) {
			l.addKept(f.Node, s)
			continue
		}
		if l.limits.KeepMissingInputs {
			f.Err = fmt.Errorf("%s: its outputs are missing, and no build of it was submitted", p)
			parent.tellMissing(l, []string{p.String()})
			continue
		}
		made = append(made, l.newInternal(f.Node, parent))
	}
	return made
}

// mayServe reports whether a machine may make a derivation for another task.
func (m *machine) mayServe(n *headstore.Node, parent *task) bool {
	return !slices.Contains(parent.builds[0].Skip, m.Name) && m.possible(&scheduler.Build{System: n.System, Features: n.Features})
}

// link gives a task its edges. It reports false if the task must be expanded again, because an
// input that was being built during the walk no longer is.
func (t *task) link(l *loop, f *expand.Found, g *expand.Graph) bool {
	inputs := make([]*task, 0, len(f.Node.Inputs))
	for _, in := range f.Node.Inputs {
		input := l.tasks[in]
		switch found := g.Found[in]; {
		case input != nil:
			inputs = append(inputs, input)
		case found == nil || found.Live || found.Missing:
			return false
		}
	}
	t.node, t.inputPaths, t.estimate = f.Node, f.InputPaths, f.Estimate
	t.setInputs(l, inputs)
	return true
}

// decide says what is next for tasks whose edges are known now.
func (l *loop) decide(tasks []*task) {
	sorted, circular := graph.Sort(tasks, func(t *task) iter.Seq[*task] { return t.inputs.All() })
	for _, t := range circular {
		t.fail(l, failing.Unreadable("", fmt.Errorf("derivation %s: %w", t.drv, errCycle)))
	}
	later := make(map[*task]bool, len(sorted))
	for _, t := range sorted {
		later[t] = true
	}
	for _, t := range sorted {
		delete(later, t)
		if t.stage != stage.Undecided {
			continue
		}
		t.spread(l, later)
		switch {
		case t.takeUpOn != nil && t.waiting > 0 && t.state != api.Building && t.state != api.Fetching:
			// An input that is kept for a build hook has not been found again yet.
			t.abandon(l, "its inputs are not there yet")
			t.makeReady(l)
		case t.takeUpOn != nil:
			t.takeUp(l, "the coordinator was restarted and takes it up again", nil)
		default:
			t.makeReady(l)
		}
	}
	for _, t := range sorted {
		t.dropUnneeded(l)
	}
}

// alreadyThere ends a task whose outputs are at home already.
func (t *task) alreadyThere(l *loop, f *expand.Found) {
	for _, lb := range t.builds {
		lb.OutputPaths, lb.OutputSize = f.Node.OutputMap(), f.Size
	}
	t.finish(l, "the outputs were already there")
}

// liveNode returns the derivation of a task, for the expander's goroutine.
func (c *Coordinator) liveNode(p store.Path) *headstore.Node {
	if n, ok := c.live.Load(p); ok {
		return n.(*headstore.Node)
	}
	return nil
}
