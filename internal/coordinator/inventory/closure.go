package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/peer"
	"lighter/store"
)

// Closure is a set of items with all that they refer to, wherever they are.
type Closure struct {
	infos map[store.Path]*store.Info
	// source has the machines of items that may not be at home; made has what the machines that
	// made them said of them.
	source map[store.Path]*peer.Peer
	made   map[store.Path]*Item
}

// Paths returns the items, sorted.
func (c *Closure) Paths() []store.Path {
	paths := make([]store.Path, 0, len(c.infos))
	for p := range c.infos {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// Info returns the info of an item, or nil if the closure does not have it.
func (c *Closure) Info(p store.Path) *store.Info { return c.infos[p] }

// Source returns a machine that has an item, or nil if the item is known from the head's store.
func (c *Closure) Source(p store.Path) *peer.Peer { return c.source[p] }

// Of returns some of the items with all that they refer to.
func (c *Closure) Of(paths []store.Path) []store.Path {
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

// visit is an item that is to be added to a closure.
type visit struct {
	path store.Path
	by   *Item      // the item on a machine that refers to it, or nil
	on   *peer.Peer // the machine of by
}

// visits returns the items that one on a machine refers to.
func (x *Item) visits(on *peer.Peer) []visit {
	visits := make([]visit, len(x.Info.References))
	for i, ref := range x.Info.References {
		visits[i] = visit{ref, x, on}
	}
	return visits
}

// ClosureOf returns the closure of items that are at home or kept by machines. If one is nowhere
// the error is a *headstore.LostError.
func (k *Inventory) ClosureOf(ctx context.Context, roots []store.Path) (*Closure, error) {
	queue := make([]visit, len(roots))
	for i, p := range roots {
		queue[i] = visit{path: p}
	}
	return k.walk(ctx, queue)
}

// ClosureOfMade returns the closure of all that items that a machine made refer to, without the
// items.
func (k *Inventory) ClosureOfMade(ctx context.Context, m *peer.Peer, made []*Item) (*Closure, error) {
	var queue []visit
	for _, item := range made {
		queue = append(queue, item.visits(m)...)
	}
	queue = slices.DeleteFunc(queue, func(v visit) bool {
		return slices.ContainsFunc(made, func(item *Item) bool { return item.Info.Path == v.path })
	})
	return k.walk(ctx, queue)
}

func (k *Inventory) walk(ctx context.Context, queue []visit) (*Closure, error) {
	all := &Closure{
		infos: make(map[store.Path]*store.Info), source: make(map[store.Path]*peer.Peer), made: make(map[store.Path]*Item),
	}
	told := make(map[*peer.Peer]map[store.Path]*store.Info)
	var lost []store.Path
	for len(queue) > 0 {
		v := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if all.infos[v.path] != nil {
			continue
		}
		made, on := k.madeItem(v)
		var info *store.Info
		if made == nil {
			var err error
			info, err = k.head.Recall(ctx, v.path)
			if errors.Is(err, store.ErrNotValid) && v.by != nil {
				made, err = k.askMachine(ctx, v, told)
				on = v.on
			}
			switch {
			case errors.Is(err, store.ErrNotValid) && headstore.Lost(err) == nil:
				lost = append(lost, v.path)
				continue
			case err != nil && (ctx.Err() != nil || headstore.Lost(err) != nil):
				return nil, err
			case err != nil:
				return nil, &headstore.Error{Err: fmt.Errorf("closure of inputs: %w", err)}
			}
		}
		if made != nil {
			info = made.Info
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
		return nil, &headstore.LostError{Paths: lost, Why: "neither in the head's store nor known to be kept by a machine"}
	}
	return all, nil
}

// madeItem returns an item as the machine that made it described it, and a machine that has it; or
// nil.
func (k *Inventory) madeItem(v visit) (*Item, *peer.Peer) {
	if made, on := k.Get(v.path); made != nil {
		return made, on
	}
	if v.by != nil {
		if made := v.by.ref(v.path); made != nil {
			return made, v.on
		}
	}
	return nil, nil
}

// askMachine asks a machine about an item that is not at home, if the ledger says that the item was
// made there, as an earlier coordinator knew. told has what machines have said already. If the
// item was not made there the error matches store.ErrNotValid.
func (k *Inventory) askMachine(ctx context.Context, v visit, told map[*peer.Peer]map[store.Path]*store.Info) (*Item, error) {
	n, err := k.madeThere(ctx, v.on.Names(), v.path)
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, store.NotValid(v.path)
	}
	if told[v.on][v.path] == nil {
		if err := k.tellClosure(ctx, v, told); err != nil {
			return nil, err
		}
	}
	info := told[v.on][v.path]
	if info == nil {
		return nil, store.NotValid(v.path)
	}
	if err := k.VetReferences(ctx, n, map[string]*store.Info{"": info}, nil); err != nil {
		var own *headstore.Error
		if errors.As(err, &own) {
			return nil, err
		}
		return nil, &headstore.LostError{Paths: []store.Path{v.by.Info.Path}, Why: v.on.Name() + ": " + err.Error()}
	}
	return &Item{Info: info}, nil
}

// tellClosure adds to told what a machine says of the closure of the item that led to v.
func (k *Inventory) tellClosure(ctx context.Context, v visit, told map[*peer.Peer]map[store.Path]*store.Info) error {
	var infos []*store.Info
	err := v.on.With(ctx, func(ctx context.Context) (err error) {
		infos, err = v.on.Client.Closure(ctx, []store.Path{v.by.Info.Path})
		return err
	})
	if err != nil {
		if ended := context.Cause(ctx); ended != nil {
			return ended
		}
		return &headstore.LostError{Paths: []store.Path{v.by.Info.Path}, Why: "unknown to " + v.on.Name() + ": " + err.Error()}
	}
	if told[v.on] == nil {
		told[v.on] = make(map[store.Path]*store.Info, len(infos))
	}
	for _, info := range infos {
		told[v.on][info.Path] = info
	}
	return nil
}

// Size returns an item's NAR size in bytes if it is known, else 0.
func (k *Inventory) Size(p store.Path) int64 {
	if item, _ := k.Get(p); item != nil {
		return item.Info.NARSize
	}
	return k.head.Size(p)
}
