package web

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/scheduler/estimate"
)

// Comparison says what works with one tag and not with another, by package and system. It goes by what failed:
// what works with both, or is built with one alone and works there, is not looked for.
type Comparison struct {
	With string `json:"with"` // the other tag, as NAME=VALUE
	Href string `json:"href"`
	// Broken works with the other tag, Fixed failed there; Still failed with both. New failed and is not built with the
	// other tag, Gone failed there and is not built with this one. Open is not decided yet with the tag with which it has not failed.
	Broken []Difference `json:"broken"`
	Fixed  []Difference `json:"fixed"`
	Still  []Difference `json:"still"`
	New    []Difference `json:"new"`
	Gone   []Difference `json:"gone"`
	Open   []Difference `json:"open"`
	// More says that there are more failures than were looked at.
	More bool `json:"more,omitempty"`
}

// Difference is a package for a system. A build is nil if there is none.
type Difference struct {
	Name   string     `json:"name"` // of the derivation, with this tag if it is built with it
	System string     `json:"system"`
	Here   *api.Build `json:"here,omitempty"`
	There  *api.Build `json:"there,omitempty"`
}

// maxCompared bounds the failures of each side that are looked up on the other.
const maxCompared = 60

// compare compares the builds with tags to those with another.
func (s *Server) compare(ctx context.Context, here map[string]string, other string) (*Comparison, error) {
	key, value, err := parseTag(other)
	if err != nil {
		return nil, err
	}
	there := map[string]string{key: value}
	counts, err := s.counts(ctx, &api.Filter{Tags: there})
	if err != nil {
		return nil, err
	}
	if len(counts.Systems) == 0 {
		return nil, notFound("no build has the tag %s=%s, so there is nothing to compare with", key, value)
	}
	c := &Comparison{With: other, Href: tagURL(key, value)}
	var failedHere, failedThere []api.Build
	group, groupCtx := errgroup.WithContext(ctx)
	var moreHere, moreThere bool
	group.Go(func() (err error) { failedHere, moreHere, err = s.toCompare(groupCtx, here); return err })
	group.Go(func() (err error) { failedThere, moreThere, err = s.toCompare(groupCtx, there); return err })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	c.More = moreHere || moreThere
	// What failed there is looked for here, and the other way round.
	foundThere, err := s.counterparts(ctx, failedHere, there)
	if err != nil {
		return nil, err
	}
	matched := make(map[string]bool)
	for i := range failedHere {
		d := differenceOf(&failedHere[i], foundThere[i])
		if d.There != nil {
			matched[d.There.ID] = true
		}
		c.add(d)
	}
	failedThere = slices.DeleteFunc(failedThere, func(b api.Build) bool { return matched[b.ID] })
	foundHere, err := s.counterparts(ctx, failedThere, here)
	if err != nil {
		return nil, err
	}
	for i := range failedThere {
		c.add(differenceOf(foundHere[i], &failedThere[i]))
	}
	return c, nil
}

func differenceOf(here, there *api.Build) Difference {
	d := Difference{Here: here, There: there}
	some := here
	if some == nil {
		some = there
	}
	d.Name, d.System = display.Name(some), some.System
	return d
}

// add puts a difference where it belongs.
func (c *Comparison) add(d Difference) {
	failed := func(b *api.Build) bool { return b != nil && slices.Contains(failing(), b.State) }
	works := func(b *api.Build) bool { return b != nil && b.State == api.Succeeded }
	list := &c.Open
	switch {
	case d.There == nil:
		list = &c.New
	case d.Here == nil:
		list = &c.Gone
	case failed(d.Here) && failed(d.There):
		list = &c.Still
	case works(d.There):
		list = &c.Broken
	case works(d.Here):
		list = &c.Fixed
	}
	*list = append(*list, d)
}

// toCompare lists what failed with tags: first what failed itself, each package and system once.
func (s *Server) toCompare(ctx context.Context, tags map[string]string) (list []api.Build, more bool, err error) {
	own, others, err := s.failed(ctx, tags)
	if err != nil {
		return nil, false, err
	}
	seen := make(map[[2]string]bool)
	for _, b := range slices.Concat(own.Builds, others.Builds) {
		key := [2]string{display.Name(&b), b.System}
		if seen[key] {
			continue
		}
		if len(list) == maxCompared {
			return list, true, nil
		}
		seen[key] = true
		list = append(list, b)
	}
	return list, own.Next != "" || others.Next != "", nil
}

// counterparts finds for each build the one of the same package and system with other tags, nil where there is none: of
// the same version, or else the newest one of any.
func (s *Server) counterparts(ctx context.Context, builds []api.Build, tags map[string]string) ([]*api.Build, error) {
	found := make([]*api.Build, len(builds))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for i := range builds {
		b := &builds[i]
		group.Go(func() error {
			name := display.Name(b)
			base, version := estimate.SplitName(name)
			f := apiclient.BuildFilter{Filter: api.Filter{Tags: tags, System: b.System, Name: name}, Limit: buildsOfName}
			if version != "" {
				f.Name = base + "-*"
			}
			list, err := s.list(ctx, &f)
			if err != nil {
				return err
			}
			for j := range list.Builds {
				other := &list.Builds[j]
				otherName := display.Name(other)
				if otherName == name {
					found[i] = other
					break
				}
				if otherBase, _ := estimate.SplitName(otherName); otherBase == base && found[i] == nil {
					found[i] = other
				}
			}
			return nil
		})
	}
	return found, group.Wait()
}
