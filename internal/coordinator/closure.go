package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lighter/internal/coordinator/headstore"
	"lighter/store"
)

// closure is everything that a build may see, wherever it is.
type closure struct {
	infos map[store.Path]*store.Info
	// source has the machine that has an item which may not be at home, and made what is
	// known of it from the machine that made it.
	source map[store.Path]*machine
	made   map[store.Path]*madeItem
}

func (c *closure) paths() []store.Path {
	paths := make([]store.Path, 0, len(c.infos))
	for p := range c.infos {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// of returns the closure of some of the items.
func (c *closure) of(paths []store.Path) []store.Path {
	all := slices.Clone(paths)
	seen := make(map[store.Path]bool, len(paths))
	for _, p := range paths {
		seen[p] = true
	}
	for i := 0; i < len(all); i++ {
		info := c.infos[all[i]]
		if info == nil {
			continue
		}
		for _, ref := range info.References {
			if !seen[ref] {
				seen[ref] = true
				all = append(all, ref)
			}
		}
	}
	return all
}

// visit is an item that a closure is to have.
type visit struct {
	path store.Path
	by   *madeItem // what refers to it, if that is on a machine
	on   *machine  // that one
}

// visits returns the items that one on a machine refers to.
func (x *madeItem) visits(on *machine) []visit {
	visits := make([]visit, len(x.info.References))
	for i, ref := range x.info.References {
		visits[i] = visit{ref, x, on}
	}
	return visits
}

// closureOf returns the closure of items that are at home or kept by machines. If one
// is nowhere the error is an *inputsError.
func (c *Coordinator) closureOf(ctx context.Context, roots []store.Path) (*closure, error) {
	queue := make([]visit, len(roots))
	for i, p := range roots {
		queue[i] = visit{path: p}
	}
	return c.closureOfVisits(ctx, queue)
}

// closureOfMade returns the closure of all that refers to items which a machine made.
func (c *Coordinator) closureOfMade(ctx context.Context, m *machine, made []*madeItem) (*closure, error) {
	var queue []visit
	for _, item := range made {
		queue = append(queue, item.visits(m)...)
	}
	queue = slices.DeleteFunc(queue, func(v visit) bool {
		return slices.ContainsFunc(made, func(item *madeItem) bool { return item.info.Path == v.path })
	})
	return c.closureOfVisits(ctx, queue)
}

func (c *Coordinator) closureOfVisits(ctx context.Context, queue []visit) (*closure, error) {
	all := &closure{
		infos: make(map[store.Path]*store.Info), source: make(map[store.Path]*machine), made: make(map[store.Path]*madeItem),
	}
	told := make(map[*machine]map[store.Path]*store.Info)
	var lost []store.Path
	for len(queue) > 0 {
		v := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if all.infos[v.path] != nil {
			continue
		}
		made, on := c.madeItem(v)
		var info *store.Info
		if made == nil {
			var err error
			info, err = c.head.Known(ctx, v.path)
			if errors.Is(err, store.ErrNotValid) && v.by != nil {
				made, err = c.askMachine(ctx, v, told)
				on = v.on
			}
			switch {
			case errors.Is(err, store.ErrNotValid) && lostInputs(err) == nil:
				lost = append(lost, v.path)
				continue
			case err != nil && (ctx.Err() != nil || lostInputs(err) != nil):
				return nil, err
			case err != nil:
				return nil, &headstore.Error{Err: fmt.Errorf("closure of inputs: %w", err)}
			}
		}
		if made != nil {
			info = made.info
			all.made[v.path], all.source[v.path] = made, on
			queue = append(queue, made.visits(on)...)
		} else {
			for _, ref := range info.References {
				queue = append(queue, visit{path: ref})
			}
		}
		all.infos[v.path] = info
	}
	if lost != nil {
		return nil, &inputsError{lost, "neither at home nor known to be kept by a machine"}
	}
	return all, nil
}

// madeItem returns what a machine that made an item said of it, and a machine that has it; or
// nil.
func (c *Coordinator) madeItem(v visit) (*madeItem, *machine) {
	if item, kept := c.kept.get(v.path); kept {
		return item.made, item.machine
	}
	if v.by != nil {
		if made := v.by.ref(v.path); made != nil {
			return made, v.on
		}
	}
	return nil, nil
}

// askMachine has a machine say what it knows of an item that is not at home, if the ledger says
// that the item was made there: an earlier coordinator knew it. Told has what machines said
// already. If it was not made there the error matches store.ErrNotValid.
func (c *Coordinator) askMachine(ctx context.Context, v visit, told map[*machine]map[store.Path]*store.Info) (*madeItem, error) {
	n, err := c.madeThere(ctx, v.on.Name, v.path)
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, store.NotValid(v.path)
	}
	if told[v.on][v.path] == nil {
		if err := c.tellClosure(ctx, v, told); err != nil {
			return nil, err
		}
	}
	info := told[v.on][v.path]
	if info == nil {
		return nil, store.NotValid(v.path)
	}
	if err := c.checkReferences(ctx, n, map[string]*store.Info{"": info}, nil); err != nil {
		var own *headstore.Error
		if errors.As(err, &own) {
			return nil, err
		}
		return nil, &inputsError{[]store.Path{v.by.info.Path}, v.on.Name + ": " + err.Error()}
	}
	return &madeItem{info: info}, nil
}

// tellClosure adds what a machine knows of the closure of an item there.
func (c *Coordinator) tellClosure(ctx context.Context, v visit, told map[*machine]map[store.Path]*store.Info) error {
	var infos []*store.Info
	err := v.on.contacts.with(ctx, func(ctx context.Context) (err error) {
		infos, err = v.on.client.Closure(ctx, []store.Path{v.by.info.Path})
		return err
	})
	if err != nil {
		if ended := context.Cause(ctx); ended != nil {
			return ended
		}
		return &inputsError{[]store.Path{v.by.info.Path}, "unknown to " + v.on.Name + ": " + err.Error()}
	}
	if told[v.on] == nil {
		told[v.on] = make(map[store.Path]*store.Info, len(infos))
	}
	for _, info := range infos {
		told[v.on][info.Path] = info
	}
	return nil
}

// sizeOf returns an item's NAR size in bytes if it is known, else 0.
func (c *Coordinator) sizeOf(p store.Path) int64 {
	if item, ok := c.kept.get(p); ok {
		return item.made.info.NARSize
	}
	return c.head.Size(p)
}
