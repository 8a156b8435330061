package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lighter/internal/coordinator/headstore"
	"lighter/store"
)

// A machine whose key the head accepts can sign whatever it likes. So only what it was given to make
// is taken from it: the outputs of a derivation that the ledger says was placed there, by name and
// path. What they refer to must be inputs or outputs of that derivation, each of which is known
// from where it comes from: the head's store, or the machine that was given it to make. An item
// that is fetched later must be as it was described then.

// Item is an item as the machine that was given it to make described it. It does not change.
type Item struct {
	Info *store.Info
	// refs has those of the items that it refers to that also come from machines. The inventory
	// may forget them: they are still there, since what refers to an item protects it.
	refs []*Item
}

// Made returns the outputs of one build as items; inputs is nil if they are not known.
func Made(outputs map[string]*store.Info, inputs *Closure) []*Item {
	items := make([]*Item, 0, len(outputs))
	for _, info := range outputs {
		items = append(items, &Item{Info: info})
	}
	for _, item := range items {
		for _, ref := range item.Info.References {
			i := slices.IndexFunc(items, func(other *Item) bool { return other.Info.Path == ref })
			switch {
			case ref == item.Info.Path:
			case i >= 0:
				item.refs = append(item.refs, items[i])
			case inputs != nil && inputs.made[ref] != nil:
				item.refs = append(item.refs, inputs.made[ref])
			}
		}
	}
	return items
}

// ref returns an item that this one refers to, or nil if it is not known from a machine.
func (x *Item) ref(p store.Path) *Item {
	for _, ref := range x.refs {
		if ref.Info.Path == p {
			return ref
		}
	}
	return nil
}

// VetReferences returns an error unless outputs refer to nothing but inputs, which may be nil if
// they are not known yet, and outputs of the derivation.
func (k *Inventory) VetReferences(ctx context.Context, n *headstore.Node, outputs map[string]*store.Info, inputs *Closure) error {
	var visible map[store.Path]bool
	for _, info := range outputs {
		for _, ref := range info.References {
			if n.Makes(ref) || inputs != nil && inputs.infos[ref] != nil {
				continue
			}
			if inputs == nil && visible == nil {
				var err error
				if visible, err = k.visible(ctx, n); err != nil {
					return &headstore.Error{Err: err}
				}
			}
			if !visible[ref] {
				return fmt.Errorf("its agent says that %s refers to %s, which is neither an input nor an output of the build", info.Path, ref)
			}
		}
	}
	return nil
}

// visible returns all items that a build may see. If it is not known what an input refers to, since
// it is not at home and an earlier coordinator had it made, that includes whatever the input's own
// build may see.
func (k *Inventory) visible(ctx context.Context, n *headstore.Node) (map[store.Path]bool, error) {
	items, derivations := make(map[store.Path]bool), map[store.Path]bool{n.Path: true}
	for work := []*headstore.Node{n}; len(work) > 0; {
		n, work = work[len(work)-1], work[:len(work)-1]
		if _, err := k.seeClosure(ctx, items, n.Sources); err != nil {
			return nil, err
		}
		for _, in := range n.Inputs {
			input, err := k.head.Node(ctx, in)
			if err != nil {
				return nil, err
			}
			paths, err := input.OutputPaths(n.InputOutputs(in))
			if err != nil {
				return nil, err
			}
			known, err := k.seeClosure(ctx, items, paths)
			if err != nil {
				return nil, err
			}
			if !known && !derivations[in] {
				derivations[in] = true
				work = append(work, input)
			}
		}
	}
	return items, nil
}

// seeClosure adds items and all that they refer to to seen, and reports whether all are known.
func (k *Inventory) seeClosure(ctx context.Context, seen map[store.Path]bool, paths []store.Path) (known bool, err error) {
	known = true
	for work := slices.Clone(paths); len(work) > 0; {
		p := work[len(work)-1]
		work = work[:len(work)-1]
		if seen[p] {
			continue
		}
		seen[p] = true
		if item, _ := k.Get(p); item != nil {
			work = append(work, item.Info.References...)
			continue
		}
		info, err := k.head.Recall(ctx, p)
		switch {
		case errors.Is(err, store.ErrNotValid):
			known = false
		case err != nil:
			return false, err
		default:
			work = append(work, info.References...)
		}
	}
	return known, nil
}
