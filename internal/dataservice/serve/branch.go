package serve

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"lighter/internal/catalogue"
	"lighter/store"
)

type repository struct {
	ID    uint32 `json:"id"`
	Label string `json:"label"`
	URL   string `json:"url"`
}

func (r *request) repositories() error {
	all, err := r.v.Repositories()
	if err != nil {
		return err
	}
	list := []repository{}
	for _, one := range all {
		list = append(list, repository{one.ID, one.Label, one.URL})
	}
	return r.object(map[string]any{"repositories": list})
}

// number returns the number of the repository that is asked about; 0, which none has, for what is no number.
func (r *request) number() uint32 {
	n, err := strconv.ParseUint(r.PathValue("id"), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

func (r *request) repository() error {
	one, err := r.v.Repository(r.number())
	if errors.Is(err, catalogue.ErrNotFound) {
		return refuse(http.StatusNotFound, "Repository not found")
	}
	if err != nil {
		return err
	}
	branches, err := r.v.Branches(one.ID)
	if err != nil {
		return err
	}
	type branch struct {
		Name   string `json:"name"`
		Commit string `json:"commit"`
	}
	list := []branch{}
	for _, b := range branches {
		newest, err := r.v.Newest(b)
		if err != nil {
			return err
		}
		list = append(list, branch{b.Name, newest.Commit})
	}
	return r.object(struct {
		ID       string   `json:"id"` // as it was asked for
		Label    string   `json:"label"`
		URL      string   `json:"url"`
		Branches []branch `json:"branches"`
	}{r.PathValue("id"), one.Label, one.URL, list})
}

// find returns the branch that is asked about, and whether there is one.
func (r *request) find() (catalogue.Branch, bool, error) {
	b, err := r.v.Branch(r.number(), r.PathValue("branch"))
	if errors.Is(err, catalogue.ErrNotFound) {
		return b, false, nil
	}
	return b, err == nil, err
}

func (r *request) branch() error {
	limit, err := r.limit(100)
	if err != nil {
		return err
	}
	since, err := r.time("after_date")
	if err != nil {
		return err
	}
	until, err := r.time("before_date")
	if err != nil {
		return err
	}
	b, found, err := r.find()
	if err != nil {
		return err
	}
	return r.list(nil, "revisions", func(add func(any) error) error {
		if !found {
			return nil
		}
		for one, err := range r.v.Revisions(b) {
			if err != nil || limit == 0 {
				return err
			}
			if !since.IsZero() && one.Date.Before(since) || !until.IsZero() && one.Date.After(until) {
				continue
			}
			limit--
			err := add(struct {
				Date      string `json:"date"`
				Commit    string `json:"commit-hash"`
				Available bool   `json:"data_available"`
			}{one.Date.Format(datetime), one.Commit, true})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

type moment struct {
	Commit   string `json:"commit"`
	Datetime string `json:"datetime"`
}

func at(r catalogue.Revision) moment { return moment{r.Commit, r.Date.Format(datetime)} }

// stay is when something was on a branch, from its first revision to its last.
type stay struct {
	First moment `json:"first_revision"`
	Last  moment `json:"last_revision"`

	first, last uint64
}

// extend adds a period. What was away in between stays one.
func (s *stay) extend(p *catalogue.Period) {
	if s.first == 0 || p.First.Number < s.first {
		s.First, s.first = at(p.First), p.First.Number
	}
	if p.Last.Number > s.last {
		s.Last, s.last = at(p.Last), p.Last.Number
	}
}

// The newest come first.
func (s *stay) compare(o *stay) int {
	return cmp.Or(cmp.Compare(o.last, s.last), cmp.Compare(o.first, s.first))
}

func (r *request) branchPackage() error {
	type row struct {
		Version string `json:"version"`
		stay
	}
	list := []*row{} // the history is by version
	b, found, err := r.find()
	if err != nil {
		return err
	}
	if found {
		for p, err := range r.v.History(b, r.PathValue("name")) {
			if err != nil {
				return err
			}
			if len(list) == 0 || list[len(list)-1].Version != p.Version {
				list = append(list, &row{Version: p.Version})
			}
			list[len(list)-1].extend(&p)
		}
	}
	slices.SortStableFunc(list, func(a, b *row) int { return a.compare(&b.stay) })
	return r.object(map[string]any{"versions": list})
}

func (r *request) derivationHistory() error {
	system := cmp.Or(r.query.Get("system"), "x86_64-linux")
	target := target(r.query.Get("target"))
	type row struct {
		Version    string     `json:"version"`
		Derivation store.Path `json:"derivation"`
		stay
		Builds []struct{} `json:"builds"`
	}
	list := []*row{}
	known := make(map[store.Path]*row)
	b, found, err := r.find()
	if err != nil {
		return err
	}
	if found {
		for p, err := range r.v.History(b, r.PathValue("name")) {
			if err != nil {
				return err
			}
			for _, one := range p.Variants {
				if one.System != system || one.Target != target || one.Derivation == "" {
					continue
				}
				if known[one.Derivation] == nil {
					known[one.Derivation] = &row{Version: p.Version, Derivation: one.Derivation, Builds: []struct{}{}}
					list = append(list, known[one.Derivation])
				}
				known[one.Derivation].extend(&p)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b *row) int { return a.compare(&b.stay) })
	return r.object(map[string]any{"derivations": list})
}
