package web

import (
	"context"
	"maps"
	"net/http"
	"slices"

	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// Blocking has the builds that hold up most others, by system.
type Blocking struct {
	Systems []BlockingOf `json:"systems"`
	// Left has the systems that are not on this page, which are too many.
	Left []string `json:"left,omitempty"`
	// Only is the system that was asked for; empty if all were.
	Only string `json:"only,omitempty"`
}

// BlockingOf has those of one system.
type BlockingOf struct {
	System string `json:"system"`
	api.Blocking
	More bool `json:"more,omitempty"` // there are more than are shown
}

const (
	// maxSystems bounds the systems on a page.
	maxSystems = 8
	// someBlocking and mostBlocking bound the builds of each list, where there are several systems and where
	// one is asked for.
	someBlocking, mostBlocking = 10, 100
	// atATime is how many requests are made for one page at a time.
	atATime = 4
)

func (s *Server) loadBlocking(r *http.Request) (any, error) {
	q := r.URL.Query()
	for name := range q {
		if name != "system" {
			return nil, api.BadRequest("%q is not a parameter of this page: there is system", name)
		}
	}
	m := &Blocking{Only: q.Get("system"), Systems: []BlockingOf{}}
	systems, limit := []string{m.Only}, mostBlocking
	if m.Only == "" {
		status, err := s.farm.get(r.Context())
		if err != nil {
			return nil, err
		}
		all, err := s.blocking(r.Context(), "", mostBlocking)
		if err != nil {
			return nil, err
		}
		limit = someBlocking
		systems = systemsOf(status, all)
		if len(systems) > maxSystems {
			systems, m.Left = systems[:maxSystems], systems[maxSystems:]
		}
	}
	found := make([]*api.Blocking, len(systems))
	group, ctx := errgroup.WithContext(r.Context())
	group.SetLimit(atATime)
	for i, system := range systems {
		group.Go(func() (err error) {
			found[i], err = s.blocking(ctx, system, limit)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, b := range found {
		if m.Only != "" || b.BuildsCount+b.FailuresCount > 0 || b.Unknown != "" {
			m.Systems = append(m.Systems, BlockingOf{systems[i], *b, b.BuildsCount > len(b.Builds) || b.FailuresCount > len(b.Failures)})
		}
	}
	return m, nil
}

// systemsOf returns the systems that there are machines for, or builds to do, or that something blocks; those first for
// which most is to do.
func systemsOf(s *api.Status, b *api.Blocking) []string {
	toDo := make(map[string]int)
	for _, list := range [][]api.Blocker{b.Builds, b.Failures} {
		for i := range list {
			toDo[list[i].Build.System] += 0
		}
	}
	for i := range s.Machines {
		for _, system := range s.Machines[i].Systems {
			toDo[system] += 0
		}
	}
	for _, q := range s.Queues {
		toDo[q.System] += q.Queued + q.Waiting + q.Running
	}
	systems := slices.Sorted(maps.Keys(toDo))
	slices.SortStableFunc(systems, func(a, b string) int { return toDo[b] - toDo[a] })
	return systems
}

func (s *Server) blocking(ctx context.Context, system string, limit int) (found *api.Blocking, err error) {
	err = s.ask(ctx, func(ctx context.Context, c *apiclient.Client) error {
		found, err = c.Blocking(ctx, system, limit)
		return err
	})
	return found, err
}
