// Package expand finds out what must be built before something else can be: it reads derivations,
// and asks the head's store which of their outputs it has. What a walk finds may be out of date
// when it ends; what follows from it is for the coordinator to decide.
package expand

import (
	"context"
	"fmt"
	"log/slog"

	"lighter/internal/coordinator/headstore"
	"lighter/scheduler/estimate"
	"lighter/store"
)

// Question asks what must be built for a derivation.
type Question struct {
	Path    store.Path
	Outputs []string // that are wanted; empty means all
	// Started says to go on to its inputs even if the outputs are at home.
	Started bool
}

// Found is what a walk finds out about one derivation.
type Found struct {
	Node *headstore.Node
	// InputPaths are the items that the build needs: outputs of inputs, and sources.
	InputPaths []store.Path
	Missing    bool // wanted outputs are not at home
	Estimate   estimate.Estimate
	Size       int64      // NAR bytes of the wanted outputs, if none is missing
	Live       bool       // Options.Live has it; nothing but Node and Parent is set
	Parent     store.Path // the derivation that led to it; empty if it was asked about
	Err        error      // why it could not be read

	descended bool // its inputs were visited
}

// Options are what a walk works with. All of them are required.
type Options struct {
	Head *headstore.Store
	// Estimate says what a build will probably take; with an error, it is a guess.
	Estimate func(context.Context, estimate.Key) (estimate.Estimate, error)
	Logger   *slog.Logger
	// Live returns a derivation that has been expanded before and is under way, so that a walk
	// does not go on to its inputs; or nil.
	Live func(store.Path) *headstore.Node
}

// Graph is what one walk finds out about the graph of derivations.
type Graph struct {
	Found map[store.Path]*Found
	Order []store.Path // in which they were found, level by level

	opts  Options
	there map[store.Path]bool // whether the items that were asked about are at home
}

// Walk answers questions, level by level, so that the store is asked about many items at once. It
// ends early if ctx does.
func Walk(ctx context.Context, opts Options, questions []Question) *Graph {
	g := &Graph{opts: opts, Found: make(map[store.Path]*Found), there: make(map[store.Path]bool)}
	var level []wantedOf
	for _, q := range questions {
		f := g.visit(q.Path, "")
		if f == nil {
			continue
		}
		g.read(ctx, f, q.Path)
		if f.Err != nil {
			continue
		}
		paths, err := f.Node.OutputPaths(q.Outputs)
		if err != nil {
			f.Err = err
			continue
		}
		level = append(level, wantedOf{q.Path, paths, q.Started})
	}
	for len(level) > 0 && ctx.Err() == nil {
		level = g.descend(ctx, level)
	}
	return g
}

// Unreadable returns the error that keeps a derivation from being expanded, if any, and the input
// that it is about; empty for the derivation itself.
func (g *Graph) Unreadable(f *Found) (store.Path, error) {
	if f.Err != nil || f.Node == nil {
		return "", f.Err
	}
	for _, in := range f.Node.Inputs {
		if input := g.Found[in]; input != nil && input.Err != nil {
			return in, input.Err
		}
	}
	return "", nil
}

// wantedOf are the outputs of one derivation that a level of a walk asks about.
type wantedOf struct {
	path    store.Path
	outputs []store.Path
	must    bool // go on to its inputs even if the outputs are at home
}

// visit makes the entry of a derivation. It returns nil if the walk has seen it before.
func (g *Graph) visit(p, parent store.Path) *Found {
	if g.Found[p] != nil {
		return nil
	}
	f := &Found{Parent: parent}
	g.Found[p] = f
	g.Order = append(g.Order, p)
	return f
}

func (g *Graph) read(ctx context.Context, f *Found, p store.Path) {
	if f.Node, f.Err = g.opts.Head.Node(ctx, p); f.Err == nil {
		f.Estimate = g.estimate(ctx, f.Node)
	}
}

func (g *Graph) estimate(ctx context.Context, n *headstore.Node) estimate.Estimate {
	e, err := g.opts.Estimate(ctx, n.Key())
	if err != nil {
		g.opts.Logger.Warn("what was measured of earlier builds is not known", "err", err)
	}
	return e
}

// descend asks which outputs of a level are missing, and returns the level of their inputs.
func (g *Graph) descend(ctx context.Context, level []wantedOf) []wantedOf {
	err := g.ask(ctx, level)
	var below []wantedOf
	for _, want := range level {
		f := g.Found[want.path]
		if err != nil {
			f.Err = fmt.Errorf("ask which outputs are there: %w", err)
			continue
		}
		f.Size = 0
		for _, p := range want.outputs {
			if !g.there[p] {
				f.Missing = true
			} else if info, err := g.opts.Head.Recall(ctx, p); err == nil {
				f.Size += info.NARSize
			}
		}
		if (f.Missing || want.must) && !f.descended {
			f.descended = true
			below = append(below, g.inputs(ctx, f)...)
		}
	}
	return below
}

// ask finds out which of a level's outputs are at home.
func (g *Graph) ask(ctx context.Context, level []wantedOf) error {
	var asked []store.Path
	for _, want := range level {
		for _, p := range want.outputs {
			if _, known := g.there[p]; !known {
				g.there[p] = false
				asked = append(asked, p)
			}
		}
	}
	valid, err := store.ValidPaths(ctx, g.opts.Head.Backend, asked)
	for _, p := range valid {
		g.there[p] = true
	}
	return err
}

// inputs visits the inputs of a derivation and fills in what its build needs.
func (g *Graph) inputs(ctx context.Context, f *Found) []wantedOf {
	var below []wantedOf
	f.InputPaths = append(make([]store.Path, 0, len(f.Node.Sources)+len(f.Node.Inputs)), f.Node.Sources...)
	for _, in := range f.Node.Inputs {
		input := g.Found[in]
		if input == nil {
			input = g.visit(in, f.Node.Path)
			if input.Node = g.opts.Live(in); input.Node != nil {
				input.Live = true
			} else {
				g.read(ctx, input, in)
			}
		}
		if input.Err != nil {
			f.Err = fmt.Errorf("input %w", input.Err)
			return below
		}
		paths, err := input.Node.OutputPaths(f.Node.InputOutputs(in))
		if err != nil {
			f.Err = err
			return below
		}
		f.InputPaths = append(f.InputPaths, paths...)
		if !input.Live && !input.Missing {
			// Another dependant may have asked, but about other outputs.
			below = append(below, wantedOf{path: in, outputs: paths})
		}
	}
	return below
}
