package local

import (
	"context"
	"slices"

	"lighter/store"
	"lighter/store/derivation"
)

// checkReferences checks the derivation's rules on what its outputs may refer to
// (DerivationGoal::registerOutputs in libstore). infos has the outputs that have just
// been built.
func (b *build) checkReferences(ctx context.Context, infos map[store.Path]*store.Info) error {
	for _, rule := range []derivation.ReferenceRule{
		derivation.AllowedReferences, derivation.AllowedRequisites,
		derivation.DisallowedReferences, derivation.DisallowedRequisites,
	} {
		words, ok := b.drv.ReferenceRule(rule)
		if !ok {
			continue
		}
		listed, err := b.specified(rule, words)
		if err != nil {
			return err
		}
		for _, o := range b.outputs {
			if infos[o] == nil {
				continue
			}
			if err := b.checkRule(ctx, rule, listed, infos, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// specified returns the items that the words of a rule name: store paths and outputs.
func (b *build) specified(rule derivation.ReferenceRule, words []string) (map[store.Path]bool, error) {
	listed := make(map[store.Path]bool, len(words))
	for _, word := range words {
		if o, ok := b.drv.Output(word); ok {
			listed[o.Path] = true
			continue
		}
		p, err := b.store.layout.dir.ParsePath(word)
		if err != nil {
			return nil, b.failure(store.FailedReferences, "the derivation's %s has %q, which is neither a store path nor an output", rule, word)
		}
		listed[p] = true
	}
	return listed, nil
}

func (b *build) checkRule(ctx context.Context, rule derivation.ReferenceRule, listed map[store.Path]bool, infos map[store.Path]*store.Info, output store.Path) error {
	used := infos[output].References
	if rule == derivation.AllowedRequisites || rule == derivation.DisallowedRequisites {
		var err error
		if used, err = b.requisites(ctx, infos, output); err != nil {
			return err
		}
	}
	allow := rule == derivation.AllowedReferences || rule == derivation.AllowedRequisites
	for _, p := range used {
		if listed[p] != allow {
			return b.failure(store.FailedReferences, "output %s is not allowed to refer to %s (%s)", output, p, rule)
		}
	}
	return nil
}

// requisites returns the closure of an output, without the output itself unless it
// refers to itself, sorted.
func (b *build) requisites(ctx context.Context, infos map[store.Path]*store.Info, output store.Path) ([]store.Path, error) {
	reached := make(map[store.Path]bool)
	queue := slices.Clone(infos[output].References)
	var all []store.Path
	for len(queue) > 0 {
		p := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if reached[p] {
			continue
		}
		reached[p] = true
		all = append(all, p)
		info := infos[p]
		if info == nil {
			var err error
			if info, err = b.store.Info(ctx, p); err != nil {
				return nil, err
			}
		}
		queue = append(queue, info.References...)
	}
	slices.Sort(all)
	return all, nil
}
