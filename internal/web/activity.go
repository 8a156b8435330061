package web

import (
	"net/http"

	"lighter/internal/api"
	"lighter/internal/view"
)

// Activity is what happened lately, and what machines do now.
type Activity struct {
	Events []api.Event `json:"events"` // the newest first
	Last   uint64      `json:"last"`   // number of the newest event: what Last-Event-ID begins after
	Groups []GroupWork `json:"groups"` // machines by system
	Away   bool        `json:"away,omitempty"`
}

// GroupWork has the machines that build for the same systems, with what they do.
type GroupWork struct {
	view.Group
	Builds map[string][]api.Build `json:"builds"` // that run, by machine, the oldest first
}

const (
	// maxShown bounds the events on a page.
	maxShown = 100
	// maxBuildsOfMachine bounds the builds that are shown of one machine.
	maxBuildsOfMachine = 8
)

func (s *Server) loadActivity(r *http.Request) (any, error) {
	status, err := s.farm.get(r.Context())
	if err != nil {
		return nil, err
	}
	state := s.feed.State()
	m := &Activity{Events: s.feed.Recent(maxShown), Last: state.Last, Away: state.Away}
	running := make(map[string][]api.Build)
	for _, b := range view.OldestFirst(status.Running) {
		running[b.Machine] = append(running[b.Machine], b)
	}
	for _, g := range view.BySystem(status, s.now()) {
		work := GroupWork{Group: g, Builds: make(map[string][]api.Build)}
		for i := range g.Machines {
			name := g.Machines[i].Name
			if list := running[name]; len(list) > 0 {
				work.Builds[name] = list[:min(len(list), maxBuildsOfMachine)]
			}
		}
		m.Groups = append(m.Groups, work)
	}
	return m, nil
}
