package serve

import (
	"cmp"
	"errors"
	"iter"
	"slices"

	"lighter/internal/catalogue"
	"lighter/store"
)

// pair is two revisions that are compared.
type pair struct {
	base, target catalogue.Revision
	byDatetime   bool
}

// byCommit answers about two commits. One that is not there makes the query invalid.
func byCommit(answer func(*request, pair) error) func(*request) error {
	return func(r *request) error {
		var p pair
		for name, to := range map[string]*catalogue.Revision{"base_commit": &p.base, "target_commit": &p.target} {
			one, err := r.v.Revision(r.query.Get(name))
			if errors.Is(err, catalogue.ErrNotFound) {
				return invalid()
			}
			if err != nil {
				return err
			}
			*to = one
		}
		return answer(r, p)
	}
}

// byDatetime answers about the revisions that two branches had at given times.
func byDatetime(answer func(*request, pair) error) func(*request) error {
	return func(r *request) error {
		p := pair{byDatetime: true}
		for name, to := range map[string]*catalogue.Revision{"base": &p.base, "target": &p.target} {
			one, err := r.revisionAt(name)
			if err != nil {
				return err
			}
			*to = one
		}
		return answer(r, p)
	}
}

// revisionAt returns the newest revision that is not after a time, of the first branch with a name.
func (r *request) revisionAt(name string) (catalogue.Revision, error) {
	when, err := r.time(name + "_datetime")
	if err != nil || when.IsZero() {
		return catalogue.Revision{}, cmp.Or(err, invalid())
	}
	repositories, err := r.v.Repositories()
	if err != nil {
		return catalogue.Revision{}, err
	}
	for _, repository := range repositories {
		b, err := r.v.Branch(repository.ID, r.query.Get(name+"_branch"))
		if errors.Is(err, catalogue.ErrNotFound) {
			continue
		}
		if err != nil {
			return catalogue.Revision{}, err
		}
		for one, err := range r.v.Revisions(b) {
			if err != nil || !one.Date.After(when) {
				return one, err
			}
		}
	}
	return catalogue.Revision{}, invalid()
}

// both is a name and version of two revisions; one of the packages may be nil.
type both struct{ base, target *catalogue.Package }

func (b both) id() (name, version string) {
	p := b.base
	if p == nil {
		p = b.target
	}
	return p.Name, p.Version
}

// merge returns the packages of two revisions by name and version.
func (r *request) merge(p pair, after string) iter.Seq2[both, error] {
	return func(yield func(both, error) bool) {
		nextBase, stopBase := iter.Pull2(r.v.Packages(p.base, after))
		defer stopBase()
		nextTarget, stopTarget := iter.Pull2(r.v.Packages(p.target, after))
		defer stopTarget()
		base, target := pull(nextBase), pull(nextTarget)
		for base.ok || target.ok {
			if err := errors.Join(base.err, target.err, r.Context().Err()); err != nil {
				yield(both{}, err)
				return
			}
			var next both
			order := comparePulled(&base, &target)
			if order <= 0 {
				next.base = new(base.p)
				base = pull(nextBase)
			}
			if order >= 0 {
				next.target = new(target.p)
				target = pull(nextTarget)
			}
			if !yield(next, nil) {
				return
			}
		}
	}
}

type pulled struct {
	p   catalogue.Package
	err error
	ok  bool
}

func pull(next func() (catalogue.Package, error, bool)) (one pulled) {
	one.p, one.err, one.ok = next()
	return one
}

func comparePulled(a, b *pulled) int {
	switch {
	case !a.ok:
		return 1
	case !b.ok:
		return -1
	}
	return cmp.Or(cmp.Compare(a.p.Name, b.p.Name), cmp.Compare(a.p.Version, b.p.Version))
}

type nameAndVersion struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

type versionChange struct {
	Name   string   `json:"name"`
	Base   []string `json:"base"`
	Target []string `json:"target"`
}

type momentPair struct {
	Base   any `json:"base"`
	Target any `json:"target"`
}

// revisions names the revisions of a comparison, with their times if it is by those.
func (p pair) revisions() momentPair {
	if p.byDatetime {
		return momentPair{at(p.base), at(p.target)}
	}
	return momentPair{commit{p.base.Commit}, commit{p.target.Commit}}
}

func (r *request) compare(p pair) error {
	added, removed, changed := []nameAndVersion{}, []nameAndVersion{}, []versionChange{}
	var now versionChange
	end := func() {
		switch {
		case len(now.Base) == 0:
			for _, version := range now.Target {
				added = append(added, nameAndVersion{now.Name, version})
			}
		case len(now.Target) == 0:
			for _, version := range now.Base {
				removed = append(removed, nameAndVersion{now.Name, version})
			}
		case !slices.Equal(now.Base, now.Target):
			changed = append(changed, now)
		}
	}
	for one, err := range r.merge(p, "") {
		if err != nil {
			return err
		}
		name, version := one.id()
		if name != now.Name {
			end()
			now = versionChange{Name: name}
		}
		if one.base != nil {
			now.Base = append(now.Base, version)
		}
		if one.target != nil {
			now.Target = append(now.Target, version)
		}
	}
	end()
	body := map[string]any{
		"channel-news": []any{}, "new-packages": added, "removed-packages": removed, "version-changes": changed,
	}
	if p.byDatetime {
		body["revisions"] = p.revisions()
	} else {
		body["base-commit"], body["target-commit"] = p.base.Commit, p.target.Commit
	}
	return r.object(body)
}

// comparePackages lists the names and versions that only one of the revisions has.
func (r *request) comparePackages(p pair) error {
	base, target := []nameAndVersion{}, []nameAndVersion{}
	for one, err := range r.merge(p, "") {
		if err != nil {
			return err
		}
		name, version := one.id()
		switch {
		case one.target == nil:
			base = append(base, nameAndVersion{name, version})
		case one.base == nil:
			target = append(target, nameAndVersion{name, version})
		}
	}
	type side struct {
		Commit   string           `json:"commit"`
		Packages []nameAndVersion `json:"packages"`
	}
	return r.object(momentPair{side{p.base.Commit, base}, side{p.target.Commit, target}})
}

type changedDerivation struct {
	System     string     `json:"system"`
	Target     string     `json:"target"`
	Derivation store.Path `json:"derivation-file-name"`
	Builds     []struct{} `json:"builds"`
}

func (r *request) compareDerivations(p pair) error {
	limit, err := r.limit(40)
	if err != nil {
		return err
	}
	system, target := r.choice("system", asIs), r.choice("target", target)
	of := func(p *catalogue.Package) []changedDerivation {
		list := []changedDerivation{}
		if p == nil {
			return list
		}
		for _, v := range p.Variants {
			if v.Derivation != "" && system(v.System) && target(v.Target) {
				list = append(list, changedDerivation{v.System, v.Target, v.Derivation, []struct{}{}})
			}
		}
		return list
	}
	type change struct {
		nameAndVersion
		Base   []changedDerivation `json:"base"`
		Target []changedDerivation `json:"target"`
	}
	head := map[string]any{"revisions": p.revisions()}
	return r.list(head, "derivation_changes", func(add func(any) error) error {
		for one, err := range r.merge(p, r.query.Get("after_name")) {
			if err != nil || limit == 0 {
				return err
			}
			name, version := one.id()
			c := change{nameAndVersion{name, version}, of(one.base), of(one.target)}
			same := slices.EqualFunc(c.Base, c.Target, func(a, b changedDerivation) bool {
				return a.System == b.System && a.Target == b.Target && a.Derivation == b.Derivation
			})
			if same {
				continue
			}
			limit--
			if err := add(c); err != nil {
				return err
			}
		}
		return nil
	})
}

// There are no jobs: what is recorded was evaluated elsewhere.

func (r *request) jobs() error {
	return r.object(map[string]any{"recent-events": []any{}, "jobs": []any{}})
}

func (r *request) jobEvents() error { return r.object(map[string]any{"recent-events": []any{}}) }

func (r *request) jobQueue() error { return r.object(map[string]any{"jobs": []any{}}) }
