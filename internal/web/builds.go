package web

import (
	"maps"
	"net/http"
	"slices"

	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// Builds is a page of the builds that a filter selects, the newest first.
type Builds struct {
	Filter api.Filter   `json:"filter"`
	States []StateCount `json:"states"` // what the filter selects without its states
	Exact  bool         `json:"exact"`  // those counts are; see api.BuildCounts
	Builds []api.Build  `json:"builds"`
	Next   string       `json:"next,omitempty"`   // URL of the next page
	Newest string       `json:"newest,omitempty"` // URL of the first page, unless this is it
	Feed   string       `json:"feed"`             // URL of an Atom feed of the same builds

	Said     string             `json:"-"` // the filter in words, but for its states
	Systems  []string           `json:"-"` // that may be chosen
	Machines []string           `json:"-"`
	Since    string             `json:"-"` // as it was written
	Until    string             `json:"-"`
	Every    []api.State        `json:"-"`
	Chosen   map[api.State]bool `json:"-"`
}

// buildsOfPage is how many builds a page has.
const buildsOfPage = 50

func (s *Server) loadBuilds(r *http.Request) (any, error) {
	filter, err := readFilter(r, s.now(), "after")
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	after := q.Get("after")
	q.Del("after")
	m := &Builds{
		Filter: *filter, Builds: []api.Build{}, Since: q.Get("since"), Until: q.Get("until"), Every: api.States(),
		Said: describe(filter, q), Feed: "/feed.atom?" + q.Encode(), Chosen: make(map[api.State]bool),
	}
	for _, state := range filter.States {
		m.Chosen[state] = true
	}
	var counts *api.BuildCounts
	var list *api.BuildList
	group, ctx := errgroup.WithContext(r.Context())
	group.Go(func() (err error) {
		all := *filter
		all.States = nil
		counts, err = s.counts(ctx, &all)
		return err
	})
	group.Go(func() (err error) {
		list, err = s.list(ctx, &apiclient.BuildFilter{Filter: *filter, Limit: buildsOfPage, After: after})
		return err
	})
	status, err := s.farm.get(r.Context())
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	if m.Builds = list.Builds; list.Next != "" {
		m.Next = pageURL(r, with(q, "after", list.Next))
	}
	if after != "" {
		m.Newest = pageURL(r, q)
	}
	m.Exact = counts.Exact
	states, sum := counts.States(), 0
	for _, n := range states {
		sum += n
	}
	m.States = append(m.States, StateCount{Count: sum, Href: pageURL(r, with(q, "state", "")), Chosen: len(filter.States) == 0})
	for _, state := range api.States() {
		if n := states[state]; n > 0 || m.Chosen[state] {
			m.States = append(m.States, StateCount{State: state, Count: n, Href: pageURL(r, with(q, "state", string(state))), Chosen: m.Chosen[state]})
		}
	}
	systems := maps.Clone(counts.Systems)
	for i := range status.Machines {
		m.Machines = append(m.Machines, status.Machines[i].Name)
		for _, system := range status.Machines[i].Systems {
			systems[system] = nil
		}
	}
	m.Systems = slices.Sorted(maps.Keys(systems))
	slices.Sort(m.Machines)
	return m, nil
}
