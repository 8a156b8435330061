package intake

import (
	"context"
	"errors"
	"fmt"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
)

// built says where all the outputs are; empty if some are nowhere.
func (in *Intake) built(ctx context.Context, outputs []store.Path) (string, error) {
	absent, err := store.Missing(ctx, in.Head.Backend, outputs)
	if err != nil {
		return "", err
	}
	if len(absent) == 0 {
		return "its outputs are in the store", nil
	}
	if in.Published == nil {
		return "", nil
	}
	for _, p := range absent {
		if !in.Published(ctx, p) {
			return "", nil
		}
	}
	return "its outputs are published", nil
}

// storeUnlessSubmitted is store after skipSubmitted. If two calls come at the same time, one sees
// the builds of the other.
func (in *Intake) storeUnlessSubmitted(ctx context.Context, answers []api.Submitted) error {
	in.skipping.Lock()
	defer in.skipping.Unlock()
	if err := in.skipSubmitted(ctx, answers); err != nil {
		return err
	}
	return in.store(ctx, answers)
}

// skipSubmitted replaces builds in answers that ask for it by earlier builds, of the same derivation
// or with the same outputs, that succeeded or still may.
func (in *Intake) skipSubmitted(ctx context.Context, answers []api.Submitted) error {
	first := make(map[store.Path]*api.Build) // of this submission, by derivation
	for i := range answers {
		b := answers[i].Build
		if b == nil {
			continue
		}
		there := first[b.Derivation]
		if there == nil {
			first[b.Derivation] = b
		}
		if !b.SkipIfSubmitted {
			continue
		}
		if there == nil {
			var err error
			if there, err = in.submittedBefore(ctx, b); err != nil {
				return err
			}
		}
		if there != nil && there.ID != b.ID {
			answers[i] = api.Submitted{Build: there, Skipped: fmt.Sprintf("build %s of it is %s", there.ID, there.State)}
		}
	}
	return nil
}

// submittedBefore returns a build in the ledger that makes b superfluous, or nil.
func (in *Intake) submittedBefore(ctx context.Context, b *api.Build) (*api.Build, error) {
	for old, err := range in.Ledger.Builds(ctx, ledger.Filter{Filter: api.Filter{Derivation: b.Derivation}}) {
		if err != nil {
			return nil, err
		}
		if hopeful(old) {
			return old, nil
		}
	}
	for _, output := range b.OutputPaths {
		ids, err := in.Ledger.ByOutput(ctx, output)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			old, err := in.Ledger.Build(ctx, id)
			if errors.Is(err, ledger.ErrNotFound) {
				continue // it has left the ledger just now
			}
			if err != nil {
				return nil, err
			}
			if hopeful(old) && old.System == b.System {
				return old, nil
			}
		}
		break // those with one output have all
	}
	return nil, nil
}

// hopeful reports whether a build succeeded, or may.
func hopeful(b *api.Build) bool {
	return b.Check == 0 && (!b.State.Final() || b.State == api.Succeeded)
}
