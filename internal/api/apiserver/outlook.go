package apiserver

import (
	"context"
	"net/http"
	"slices"

	"lighter/internal/api"
	"lighter/internal/ledger"
)

// markEnds notes in builds that are not final when they will be done.
func (s *Server) markEnds(ctx context.Context, builds []api.Build) {
	if !slices.ContainsFunc(builds, func(b api.Build) bool { return !b.State.Final() }) {
		return
	}
	view := s.c.Outlook(ctx)
	for i := range builds {
		view.Mark(&builds[i], s.c.Now())
	}
}

// postOutlook says when the last build of a selection will be done. What is named by a whole id need not be known.
func (s *Server) postOutlook(w http.ResponseWriter, r *http.Request) error {
	selection, err := readSelection(r)
	if err != nil {
		return err
	}
	if selection.WithDependents || selection.Priority != 0 || selection.Reason != "" {
		return api.BadRequest("nothing is changed here: want ids or a filter alone")
	}
	view := s.c.Outlook(r.Context())
	ids := selection.IDs
	for i, id := range ids {
		if api.IsUUID(id) {
			continue // many are asked for at a time, and whoever has whole ids knows the builds
		}
		b, err := s.c.Build(r.Context(), id)
		if err != nil {
			return err
		}
		ids[i] = b.ID
	}
	if selection.Filter != nil && view.Told() {
		if ids, err = s.open(r.Context(), selection.Filter); err != nil {
			return err
		}
	}
	return answer(w, view.Of(slices.Values(ids), s.c.Now()))
}

// open returns the ids of the builds that a filter selects and that are not final.
func (s *Server) open(ctx context.Context, f *api.Filter) (ids []string, err error) {
	filter := *f
	if states := ledger.NonFinal(); len(filter.States) > 0 {
		filter.States = slices.DeleteFunc(states, func(s api.State) bool { return !slices.Contains(f.States, s) })
	} else {
		filter.States = states
	}
	if len(filter.States) == 0 {
		return nil, nil
	}
	for b, err := range s.ledger.Builds(ctx, ledger.Filter{Filter: filter}) {
		if err != nil {
			return nil, err
		}
		if ids = append(ids, b.ID); len(ids) == maxCancel {
			break
		}
	}
	return ids, nil
}
