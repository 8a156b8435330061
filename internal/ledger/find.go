package ledger

import (
	"context"
	"fmt"

	"lighter/internal/api"
)

const (
	uuidLength = 36
	minPrefix  = 4 // digits of an id that name a build
)

// Find returns a build by its id, or by the start of its id.
func (l *Ledger) Find(ctx context.Context, id string) (*api.Build, error) {
	if len(id) >= uuidLength {
		return l.Build(ctx, id)
	}
	if len(id) < minPrefix {
		return nil, api.BadRequest("id %q is too short: give at least its first %d characters", id, minPrefix)
	}
	ids, err := l.ByPrefix(ctx, id, 2)
	switch {
	case err != nil:
		return nil, err
	case len(ids) == 0:
		return nil, fmt.Errorf("build %s: %w", id, ErrNotFound)
	case len(ids) > 1:
		return nil, api.BadRequest("id %s is the start of %s and of %s", id, ids[0], ids[1])
	}
	return l.Build(ctx, ids[0])
}

// dependentsLooked bounds how many builds of the ledger are looked at for those that one held up.
const dependentsLooked = 20_000

// HeldUp returns builds that failed because one did, at most max.
func (l *Ledger) HeldUp(ctx context.Context, b *api.Build, max int) ([]api.Build, error) {
	var list []api.Build
	filter := Filter{Filter: api.Filter{States: []api.State{api.DependencyFailed}}, Limit: dependentsLooked}
	for d, err := range l.Builds(ctx, filter) {
		if err != nil || len(list) == min(b.Dependents, max) {
			return list, err
		}
		if d.Failure != nil && d.Failure.Input == b.Derivation {
			list = append(list, *d)
		}
	}
	return list, nil
}

// causesLooked bounds how many builds of a derivation are looked at for the one that failed.
const causesLooked = 100

// Cause returns the build because of which a build failed that was not made: of its derivation, the last one that had
// failed by then, or else the newest one, which may have been tried again since. It returns nil if there is none.
func (l *Ledger) Cause(ctx context.Context, b *api.Build) (*api.Build, error) {
	if b.State != api.DependencyFailed || b.Failure == nil || b.Failure.Input == "" {
		return nil, nil //nolint:nilnil // documented
	}
	var newest *api.Build
	for c, err := range l.Builds(ctx, Filter{Filter: api.Filter{Derivation: b.Failure.Input}, Limit: causesLooked}) {
		if err != nil {
			return nil, err
		}
		if newest == nil {
			newest = c
		}
		if c.State.FailedItself() && (b.Stopped == nil || c.Stopped == nil || !c.Stopped.After(*b.Stopped)) {
			return c, nil
		}
	}
	return newest, nil
}
