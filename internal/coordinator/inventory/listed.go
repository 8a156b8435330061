package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/peer"
	"lighter/internal/ledger"
	"lighter/store"
)

// errNotGiven says that a machine lists a build that it was not given.
var errNotGiven = errors.New("it was not given that")

// Listed is what a machine's agent says of builds.
type Listed struct {
	Builds []agentapi.BuildStatus
	Ours   map[string]*api.Build           // those of them that the ledger has, by id
	Wrong  map[*agentapi.BuildStatus]error // why some of ours cannot be what it was given
}

// List asks a machine which builds it has.
func (k *Inventory) List(ctx context.Context, m *peer.Peer) (l Listed, err error) {
	l.Ours = make(map[string]*api.Build)
	l.Builds, err = m.Client.Builds(ctx, func(id string) (*agentapi.Asked, error) {
		if !isID(id) {
			return nil, nil
		}
		b, err := k.ledger.Build(ctx, id)
		if errors.Is(err, ledger.ErrNotFound) {
			return nil, nil // it is another coordinator's
		}
		if err != nil {
			return nil, err
		}
		l.Ours[id] = b
		return &agentapi.Asked{ID: b.ID, Derivation: b.Derivation, Outputs: b.OutputPaths}, nil
	})
	if err == nil {
		l.Wrong, err = k.vet(ctx, m, l.Builds, l.Ours)
	}
	return l, err
}

func isID(id string) bool { return uuid.Validate(id) == nil }

// vet says what is wrong with those of our builds in a machine's list that cannot be what the machine
// was given, under any of its names. The others were true at some time; only the loop knows whether
// they are still wanted.
func (k *Inventory) vet(ctx context.Context, m *peer.Peer, list []agentapi.BuildStatus, ours map[string]*api.Build) (wrong map[*agentapi.BuildStatus]error, err error) {
	wrong = make(map[*agentapi.BuildStatus]error)
	names := m.Names()
	for i := range list {
		s := &list[i]
		b := ours[s.ID]
		if b == nil {
			continue
		}
		placed, err := k.placedThere(ctx, b, names, s.Attempt)
		switch {
		case err != nil:
			return nil, err
		case !placed || s.Derivation != b.Derivation:
			wrong[s] = fmt.Errorf("attempt %d at build %s of %s: %w", s.Attempt, s.ID, s.Derivation, errNotGiven)
		case s.State == agentapi.Succeeded && !k.Has(m, s.Outputs):
			if err := k.vetResult(ctx, s); err != nil {
				wrong[s] = fmt.Errorf("attempt %d at build %s of %s: %w", s.Attempt, s.ID, s.Derivation, err)
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return wrong, nil
}

// vetResult returns an error if a machine cannot have made what it lists as made.
func (k *Inventory) vetResult(ctx context.Context, s *agentapi.BuildStatus) error {
	if s.Check {
		return errors.New("what was made for a check is not in the store")
	}
	n, err := k.head.Node(ctx, s.Derivation)
	if err != nil {
		return &headstore.Error{Err: err}
	}
	if err := n.VetOutputs(s.Outputs, false); err != nil {
		return err
	}
	return k.VetReferences(ctx, n, s.Outputs, nil)
}

// placedThere reports whether the ledger says that an attempt was placed on a machine with one of the
// names.
func (k *Inventory) placedThere(ctx context.Context, b *api.Build, names []string, attempt int) (bool, error) {
	if attempt < 1 || attempt > b.Attempt {
		return false, nil
	}
	if attempt == b.Attempt && slices.Contains(names, b.Machine) {
		return true, nil
	}
	events, err := k.ledger.BuildEvents(ctx, b.ID)
	if errors.Is(err, ledger.ErrNotFound) {
		return false, nil // it has left the ledger just now
	}
	return slices.ContainsFunc(events, func(e api.Event) bool { return e.Attempt == attempt && slices.Contains(names, e.Machine) }), err
}

// madeThere returns a derivation that has the output and was built by a machine with one of the names,
// as the ledger says, or nil.
func (k *Inventory) madeThere(ctx context.Context, names []string, output store.Path) (*headstore.Node, error) {
	ids, err := k.ledger.ByOutput(ctx, output)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		b, err := k.ledger.Build(ctx, id)
		if errors.Is(err, ledger.ErrNotFound) {
			continue // it has left the ledger just now
		}
		if err != nil {
			return nil, err
		}
		if b.State != api.Succeeded || !slices.Contains(names, b.Machine) || b.Attempt < 1 {
			continue
		}
		if n, err := k.head.Node(ctx, b.Derivation); err == nil && n.Makes(output) {
			return n, nil
		}
	}
	return nil, nil
}
