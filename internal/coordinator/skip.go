package coordinator

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/ledger"
	"lighter/store"
)

// nodeOf returns the derivation of a request. One that is not at home is fetched from the
// substitute servers that the request, or the configuration, names.
func (c *Coordinator) nodeOf(ctx context.Context, r *api.Request) (*headstore.Node, error) {
	n, err := c.head.Node(ctx, r.Derivation)
	if !errors.Is(err, store.ErrNotValid) {
		return n, err
	}
	urls := r.DerivationSubstituteURLs
	if len(urls) == 0 {
		urls = c.cfg.SubstituteURLs
	}
	if len(urls) == 0 || c.cfg.Fetch == nil {
		return nil, err
	}
	if err := c.cfg.Fetch(ctx, urls, []store.Path{r.Derivation}); err != nil {
		return nil, fmt.Errorf("derivation %s is not in the store, and was not fetched: %w", r.Derivation, err)
	}
	return c.head.Node(ctx, r.Derivation)
}

// built says where all of some outputs are; empty if they are not.
func (c *Coordinator) built(ctx context.Context, outputs []store.Path) (string, error) {
	absent, err := store.Missing(ctx, c.head.Backend, outputs)
	if err != nil {
		return "", err
	}
	if len(absent) == 0 {
		return "its outputs are in the store", nil
	}
	if c.cfg.Published == nil {
		return "", nil
	}
	for _, p := range absent {
		if !c.cfg.Published(ctx, p) {
			return "", nil
		}
	}
	return "its outputs are published", nil
}

// skipSubmitted takes out of answers the builds that need not be made because there are
// some of the same derivation, or with the same outputs, that may still succeed or did.
func (c *Coordinator) skipSubmitted(ctx context.Context, answers []api.Submitted) error {
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
			if there, err = c.submittedBefore(ctx, b); err != nil {
				return err
			}
		}
		if there != nil && there.ID != b.ID {
			answers[i] = api.Submitted{Build: there, Skipped: fmt.Sprintf("build %s of it is %s", there.ID, there.State)}
		}
	}
	return nil
}

// submittedBefore returns a build of the ledger that makes another one superfluous, or nil.
func (c *Coordinator) submittedBefore(ctx context.Context, b *api.Build) (*api.Build, error) {
	for old, err := range c.ledger.Builds(ctx, ledger.Filter{Filter: api.Filter{Derivation: b.Derivation}}) {
		if err != nil {
			return nil, err
		}
		if hopeful(old) {
			return old, nil
		}
	}
	for _, output := range b.OutputPaths {
		ids, err := c.ledger.ByOutput(ctx, output)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			old, err := c.ledger.Build(ctx, id)
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

// maxInputs bounds the derivations that a request for all inputs makes builds of.
const maxInputs = 1_000_000

// submitInputs makes builds of all that the builds with AllInputs need.
func (c *Coordinator) submitInputs(ctx context.Context, answers []api.Submitted) error {
	seen := make(map[store.Path]bool)
	for i := range answers {
		if b := answers[i].Build; b != nil {
			seen[b.Derivation] = true
		}
	}
	for i := range answers {
		if b := answers[i].Build; b != nil && b.AllInputs {
			if err := c.submitInputsOf(ctx, b, seen); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Coordinator) submitInputsOf(ctx context.Context, parent *api.Build, seen map[store.Path]bool) error {
	namespace, err := uuid.Parse(parent.ID)
	if err != nil {
		return api.BadRequest("id %.60q is not a UUID", parent.ID)
	}
	var batch []api.Submitted
	flush := func() error {
		c.skipping.Lock()
		defer c.skipping.Unlock()
		if err := c.skipSubmitted(ctx, batch); err != nil {
			return err
		}
		fresh, err := c.store(ctx, batch)
		if err != nil {
			return err
		}
		c.post(func(l *loop) { l.takeUp(fresh) })
		batch = nil
		return nil
	}
	work := []store.Path{parent.Derivation}
	for len(work) > 0 {
		n, err := c.head.Node(ctx, work[len(work)-1])
		if err != nil {
			return err
		}
		work = work[:len(work)-1]
		for _, in := range n.Inputs {
			if seen[in] {
				continue
			}
			seen[in] = true
			if len(seen) > maxInputs {
				return api.BadRequest("%s needs more than %d derivations", parent.Derivation, maxInputs)
			}
			work = append(work, in)
			input, err := c.head.Node(ctx, in)
			if err != nil {
				return err
			}
			r := parent.Request
			// The same whenever this submission is repeated.
			r.ID = uuid.NewSHA1(namespace, []byte(in)).String()
			r.Derivation, r.Outputs, r.AllInputs, r.SkipIfSubmitted, r.Check, r.On = in, nil, false, true, 0, nil
			r.Attached = false // nobody knows its id
			b := c.newBuild(&r, input)
			b.Submitter = parent.Submitter
			batch = append(batch, api.Submitted{Build: b})
			if len(batch) == api.MaxSubmit {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}
