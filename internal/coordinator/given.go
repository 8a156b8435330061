package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/ledger"
	"lighter/scheduler"
	"lighter/store"
)

// A machine whose key the head accepts can sign whatever it likes. So it gives only what it was
// given to make: the outputs of a derivation that the ledger says was placed there, by name and
// path. What they refer to must be inputs or outputs of that derivation, and is itself known
// from where it comes from: the head's store, or the machine that was given it to make. What
// was said of an item once is what is fetched later.

// madeItem is an item as the machine described it that was given it to make. It does not change.
type madeItem struct {
	info *store.Info
	// refs has those items that it refers to which the coordinator knows from machines too.
	// They may be forgotten otherwise: what refers to an item protects it, wherever that is.
	refs []*madeItem
}

// madeOf returns the outputs of one build, whose inputs are nil if they are not known.
func madeOf(outputs map[string]*store.Info, inputs *closure) []*madeItem {
	items := make([]*madeItem, 0, len(outputs))
	for _, info := range outputs {
		items = append(items, &madeItem{info: info})
	}
	for _, item := range items {
		for _, ref := range item.info.References {
			i := slices.IndexFunc(items, func(other *madeItem) bool { return other.info.Path == ref })
			switch {
			case ref == item.info.Path:
			case i >= 0:
				item.refs = append(item.refs, items[i])
			case inputs != nil && inputs.made[ref] != nil:
				item.refs = append(item.refs, inputs.made[ref])
			}
		}
	}
	return items
}

// ref returns an item that this one refers to, or nil if no machine is known that made it.
func (x *madeItem) ref(p store.Path) *madeItem {
	for _, ref := range x.refs {
		if ref.info.Path == p {
			return ref
		}
	}
	return nil
}

// checkReferences checks that outputs refer to nothing but inputs, which may be nil if they are
// not known yet, and outputs of the derivation.
func (c *Coordinator) checkReferences(ctx context.Context, n *headstore.Node, outputs map[string]*store.Info, inputs *closure) error {
	var visible map[store.Path]bool
	for _, info := range outputs {
		for _, ref := range info.References {
			if n.Makes(ref) || inputs != nil && inputs.infos[ref] != nil {
				continue
			}
			if inputs == nil && visible == nil {
				var err error
				if visible, err = c.visible(ctx, n); err != nil {
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

// visible returns all items that a build may see. Where it is not known what an input refers to,
// since it was made by an earlier coordinator's machines and is not at home, that is whatever
// the input's own build may see.
func (c *Coordinator) visible(ctx context.Context, n *headstore.Node) (map[store.Path]bool, error) {
	items, derivations := make(map[store.Path]bool), map[store.Path]bool{n.Path: true}
	for work := []*headstore.Node{n}; len(work) > 0; {
		n, work = work[len(work)-1], work[:len(work)-1]
		if _, err := c.seeClosure(ctx, items, n.Sources); err != nil {
			return nil, err
		}
		for _, in := range n.Inputs {
			input, err := c.head.Node(ctx, in)
			if err != nil {
				return nil, err
			}
			paths, err := input.OutputPaths(n.InputOutputs(in))
			if err != nil {
				return nil, err
			}
			known, err := c.seeClosure(ctx, items, paths)
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

// seeClosure adds items and all that they refer to, and reports whether that is all known.
func (c *Coordinator) seeClosure(ctx context.Context, seen map[store.Path]bool, paths []store.Path) (known bool, err error) {
	known = true
	for work := slices.Clone(paths); len(work) > 0; {
		p := work[len(work)-1]
		work = work[:len(work)-1]
		if seen[p] {
			continue
		}
		seen[p] = true
		if item, kept := c.kept.get(p); kept {
			work = append(work, item.made.info.References...)
			continue
		}
		info, err := c.head.Known(ctx, p)
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

// ---- what machines list ------------------------------------------------------------------

// errNotGiven says that a machine lists what it was not given.
var errNotGiven = errors.New("it was not given that")

// vetListed says of those builds in a machine's list that cannot be what it was given to do
// what is wrong with them. What is right is true of the past: only the loop knows what of it
// is still wanted.
func (c *Coordinator) vetListed(ctx context.Context, m *machine, list []agentapi.BuildStatus, known map[string]*api.Build) (wrong map[*agentapi.BuildStatus]error, err error) {
	wrong = make(map[*agentapi.BuildStatus]error)
	for i := range list {
		s := &list[i]
		b := known[s.ID]
		if b == nil {
			continue
		}
		placed, err := c.placedThere(ctx, b, m.Name, s.Attempt)
		switch {
		case err != nil:
			return nil, err
		case !placed || s.Derivation != b.Derivation:
			wrong[s] = fmt.Errorf("attempt %d at build %s of %s: %w", s.Attempt, s.ID, s.Derivation, errNotGiven)
		case s.State == agentapi.Succeeded && !c.kept.has(m, s.Outputs):
			if err := c.vetResult(ctx, s); err != nil {
				wrong[s] = fmt.Errorf("attempt %d at build %s of %s: %w", s.Attempt, s.ID, s.Derivation, err)
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return wrong, nil
}

// vetResult checks what a machine says that it made at some time.
func (c *Coordinator) vetResult(ctx context.Context, s *agentapi.BuildStatus) error {
	if s.Check {
		return errors.New("what was made for a check is not in the store")
	}
	n, err := c.head.Node(ctx, s.Derivation)
	if err != nil {
		return &headstore.Error{Err: err}
	}
	if err := n.CheckOutputs(s.Outputs, false); err != nil {
		return err
	}
	return c.checkReferences(ctx, n, s.Outputs, nil)
}

// placedThere reports whether the ledger says that an attempt was placed on a machine.
func (c *Coordinator) placedThere(ctx context.Context, b *api.Build, machine string, attempt int) (bool, error) {
	if attempt < 1 || attempt > b.Attempt {
		return false, nil
	}
	if attempt == b.Attempt && machine == b.Machine {
		return true, nil
	}
	events, err := c.ledger.BuildEvents(ctx, b.ID)
	if errors.Is(err, ledger.ErrNotFound) {
		return false, nil // it has left the ledger just now
	}
	return slices.ContainsFunc(events, func(e api.Event) bool { return e.Attempt == attempt && e.Machine == machine }), err
}

// madeThere returns a derivation with an output that a machine has built, as the ledger says,
// or nil.
func (c *Coordinator) madeThere(ctx context.Context, machine string, output store.Path) (*headstore.Node, error) {
	ids, err := c.ledger.ByOutput(ctx, output)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		b, err := c.ledger.Build(ctx, id)
		if errors.Is(err, ledger.ErrNotFound) {
			continue // it has left the ledger just now
		}
		if err != nil {
			return nil, err
		}
		if b.State != api.Succeeded || b.Machine != machine || b.Attempt < 1 {
			continue
		}
		if n, err := c.head.Node(ctx, b.Derivation); err == nil && n.Makes(output) {
			return n, nil
		}
	}
	return nil, nil
}

// mayMake reports whether a machine is one that may make a task's outputs: as its entry in the
// machines file says, and as those who want them do.
func (c *Coordinator) mayMake(t *task, m *machine) bool {
	b := scheduler.Build{}
	switch {
	case t.node != nil:
		b.System, b.Features = t.node.System, t.node.Features
	case len(t.builds) > 0: // a start found it, and it was not looked at yet
		b.System, b.Features = t.builds[0].System, t.builds[0].Features
	}
	return t.allows(m.Name) && m.possible(&b)
}

// possible reports whether the machine's entry in the machines file allows a build.
func (m *machine) possible(b *scheduler.Build) bool {
	return scheduler.Possible(b, []scheduler.Machine{m.static()})
}
