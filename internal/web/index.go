package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/view"
)

// Index is the farm at one glance.
type Index struct {
	Version   string            `json:"version"` // of the coordinator
	Started   time.Time         `json:"started"`
	LastEvent uint64            `json:"lastEvent"`
	Counts    map[api.State]int `json:"counts"` // of all builds of the ledger
	Queued    int               `json:"queued"` // builds that wait for a machine
	Waiting   int               `json:"waiting"`
	Running   int               `json:"running"`
	Slots     int               `json:"slots"` // of machines that get builds
	// Outlook is when the last of all builds will be done; nil if there are none.
	Outlook   *api.Outlook      `json:"outlook,omitempty"`
	Paused    string            `json:"paused,omitempty"`
	Obstacles []view.Obstacle   `json:"obstacles"` // what is in the way, the worst first
	Queues    []api.SystemQueue `json:"queues"`
	Shares    []api.Share       `json:"shares,omitempty"`
	Groups    []view.Group      `json:"groups"`   // machines by system
	UnderWay  []api.Build       `json:"underWay"` // the oldest first
	Left      int               `json:"left,omitempty"`
	// Failures has builds that failed themselves in the last day, some of FailuresCount: those come first that
	// hold up most others.
	Failures      []api.Blocker  `json:"failures"`
	FailuresCount int            `json:"failuresCount"`
	Head          api.HeadStatus `json:"head"`
	// History are pictures of the last day; the twin of /history has what they show.
	History *HistoryPictures `json:"-"`
	// HooksPending and HooksParked count runs of event hooks.
	HooksPending int `json:"hooksPending,omitempty"`
	HooksParked  int `json:"hooksParked,omitempty"`
}

// Bounds of what is on the page.
const (
	maxUnderWay = 60
	maxFailures = 12
)

func (s *Server) loadIndex(r *http.Request) (any, error) {
	status, err := s.farm.get(r.Context())
	if err != nil {
		return nil, err
	}
	now := s.now()
	m := &Index{
		Version: status.Version, Started: status.Started, LastEvent: status.LastEvent, Counts: status.Counts,
		Outlook: status.Outlook, Paused: status.Paused, Obstacles: view.Obstacles(status, now), Queues: status.Queues,
		Groups: view.BySystem(status, now), UnderWay: view.OldestFirst(status.Running),
		Head: status.Head, HooksPending: status.HooksPending, HooksParked: status.HooksParked,
	}
	if m.Failures, m.FailuresCount, err = s.failures(r.Context()); err != nil {
		return nil, err
	}
	m.History = s.historyBlock(r.Context())
	if len(status.Shares) > 1 {
		m.Shares = status.Shares
	}
	for _, q := range status.Queues {
		m.Queued, m.Waiting, m.Running = m.Queued+q.Queued, m.Waiting+q.Waiting, m.Running+q.Running
	}
	for _, g := range m.Groups {
		m.Slots += g.Slots
	}
	if m.Left = len(m.UnderWay) - maxUnderWay; m.Left > 0 {
		m.UnderWay = m.UnderWay[:maxUnderWay]
	} else {
		m.Left = 0
	}
	return m, nil
}

// failures returns those of the last day, and how many there were. Where the coordinator does not answer there
// are none.
func (s *Server) failures(ctx context.Context) (list []api.Blocker, count int, err error) {
	var blocking *api.Blocking
	err = s.ask(ctx, func(ctx context.Context, c *apiclient.Client) (err error) {
		blocking, err = c.Blocking(ctx, "", maxFailures)
		return err
	})
	switch {
	case errors.Is(err, api.ErrUnavailable) || errors.Is(err, api.ErrNotFound):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	}
	return blocking.Failures, blocking.FailuresCount, nil
}
