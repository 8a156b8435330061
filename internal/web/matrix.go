package web

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
)

// Matrix has what became of packages, by system.
type Matrix struct {
	Systems []string    `json:"systems"`
	Rows    []MatrixRow `json:"rows"`
	Next    string      `json:"next,omitempty"`  // URL of the next page
	First   string      `json:"first,omitempty"` // URL of the first page, unless this is it
}

// MatrixRow has the newest build of a package for each system that has one.
type MatrixRow struct {
	Name  string                `json:"name"` // of the derivation
	Cells map[string]MatrixCell `json:"cells"`
}

// MatrixCell is a build.
type MatrixCell struct {
	ID    string    `json:"id"`
	State api.State `json:"state"`
}

const (
	// maxRows is how many packages a page of a matrix has. Each is asked for.
	maxRows = 80
	// buildsOfName bounds the builds of one name that are looked at.
	buildsOfName = 16
	// maxColumns bounds the systems of a matrix.
	maxColumns = 8
)

// failing are the states of what did not work.
func failing() []api.State { return []api.State{api.Failed, api.TimedOut, api.DependencyFailed} }

// matrix makes a page of the matrix of all packages, or of those that failed for a system at least. A package is on the
// page of its newest build that was asked for.
func (s *Server) matrix(r *http.Request, tags map[string]string, m *Submission, q url.Values) (*Matrix, error) {
	x := &Matrix{Rows: []MatrixRow{}}
	for _, c := range m.Systems {
		x.Systems = append(x.Systems, c.System)
	}
	x.Systems = x.Systems[:min(len(x.Systems), maxColumns)]
	filter := apiclient.BuildFilter{Filter: api.Filter{Tags: tags, States: failing()}, Limit: maxRows, After: q.Get("after")}
	if m.Show == "all" {
		filter.States = nil
	}
	list, err := s.list(r.Context(), &filter)
	if err != nil {
		return nil, err
	}
	if filter.After != "" {
		x.First = pageURL(r, with(q, "after", ""))
	}
	if list.Next != "" {
		x.Next = pageURL(r, with(q, "after", list.Next))
	}
	here := make(map[string]bool) // builds of this page
	var names []string
	for i := range list.Builds {
		b := &list.Builds[i]
		here[b.ID] = true
		if name := display.Name(b); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	builds, err := s.named(r.Context(), tags, names)
	if err != nil {
		return nil, err
	}
	x.rows(names, builds, here, filter.States)
	return x, nil
}

// named lists the builds with tags of some names, those of each name the newest first.
func (s *Server) named(ctx context.Context, tags map[string]string, names []string) ([]api.Build, error) {
	found := make([]*api.BuildList, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for i, name := range names {
		group.Go(func() (err error) {
			found[i], err = s.list(ctx, &apiclient.BuildFilter{Filter: api.Filter{Tags: tags, Name: name}, Limit: buildsOfName})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var all []api.Build
	for _, list := range found {
		all = append(all, list.Builds...)
	}
	return all, nil
}

// rows makes rows of builds. What has a newer build in one of the states was on an earlier page, and what failed and
// does not any more is left out.
func (x *Matrix) rows(names []string, builds []api.Build, here map[string]bool, states []api.State) {
	wanted := func(s api.State) bool { return len(states) == 0 || slices.Contains(states, s) }
	cells, newest, shown := make(map[string]map[string]MatrixCell), make(map[string]string), make(map[string]bool)
	for i := range builds {
		b := &builds[i]
		name := display.Name(b)
		if newest[name] == "" && wanted(b.State) {
			newest[name] = b.ID
		}
		if cells[name] == nil {
			cells[name] = make(map[string]MatrixCell)
		}
		if _, has := cells[name][b.System]; !has {
			cells[name][b.System] = MatrixCell{b.ID, b.State}
			shown[name] = shown[name] || wanted(b.State)
		}
	}
	for _, name := range names {
		if shown[name] && here[newest[name]] {
			x.Rows = append(x.Rows, MatrixRow{name, cells[name]})
		}
	}
}
