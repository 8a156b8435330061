package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lighter/store"
)

// closure is everything that a build may see, wherever it is.
type closure struct {
	infos map[store.Path]*store.Info
	// source has the machine that has an item which may not be at home.
	source map[store.Path]*machine
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

// closureOf returns the closure of items that are at home or kept by machines. If one
// is nowhere the error is an *inputsError.
func (c *Coordinator) closureOf(ctx context.Context, roots []store.Path) (*closure, error) {
	all := &closure{infos: make(map[store.Path]*store.Info), source: make(map[store.Path]*machine)}
	type visit struct {
		path store.Path
		by   keptItem // what referred to it, if that is kept on a machine
	}
	queue := make([]visit, 0, len(roots))
	for _, p := range roots {
		queue = append(queue, visit{path: p})
	}
	var lost []store.Path
	for len(queue) > 0 {
		v := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if all.infos[v.path] != nil {
			continue
		}
		item, kept := c.kept.get(v.path)
		info := item.info
		if kept {
			all.source[v.path] = item.machine
		} else {
			var err error
			info, err = c.head.known(ctx, v.path)
			switch {
			case errors.Is(err, store.ErrNotValid) && v.by.machine != nil:
				if err := all.askMachine(ctx, v.by); err != nil {
					return nil, err
				}
				if all.infos[v.path] == nil {
					lost = append(lost, v.path)
				}
				continue
			case errors.Is(err, store.ErrNotValid):
				lost = append(lost, v.path)
				continue
			case err != nil:
				return nil, &headError{fmt.Errorf("closure of inputs: %w", err)}
			}
		}
		all.infos[v.path] = info
		for _, ref := range info.References {
			if all.infos[ref] == nil {
				queue = append(queue, visit{ref, item})
			}
		}
	}
	if lost != nil {
		return nil, &inputsError{lost, "neither at home nor known to be kept by a machine"}
	}
	return all, nil
}

// askMachine takes in the closure of an item as the machine that keeps it knows it.
func (c *closure) askMachine(ctx context.Context, item keptItem) error {
	var infos []*store.Info
	err := item.machine.contacts.with(ctx, func(ctx context.Context) (err error) {
		infos, err = item.machine.client.Closure(ctx, []store.Path{item.info.Path}, nil)
		return err
	})
	if err != nil {
		if ended := context.Cause(ctx); ended != nil {
			return ended
		}
		return &inputsError{[]store.Path{item.info.Path}, "unknown to " + item.machine.Name + ": " + err.Error()}
	}
	for _, info := range infos {
		if c.infos[info.Path] == nil {
			c.infos[info.Path] = info
		}
		if c.source[info.Path] == nil {
			c.source[info.Path] = item.machine
		}
	}
	return nil
}

// sizeOf returns an item's NAR size in bytes if it is known, else 0.
func (c *Coordinator) sizeOf(p store.Path) int64 {
	if item, ok := c.kept.get(p); ok {
		return item.info.NARSize
	}
	return c.head.size(p)
}
