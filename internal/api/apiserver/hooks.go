package apiserver

import (
	"context"
	"net/http"

	"lighter/internal/api"
)

func (s *Server) getHooks(w http.ResponseWriter, r *http.Request) error {
	list, err := s.c.EventHooks().List(r.Context())
	if err != nil {
		return err
	}
	return answer(w, list)
}

func (s *Server) getHookRun(w http.ResponseWriter, r *http.Request) error {
	run, err := s.c.EventHooks().Run(r.Context(), r.PathValue("hook")+"/"+r.PathValue("run"))
	if err != nil {
		return err
	}
	return answer(w, run)
}

func (s *Server) postHooksRetry(w http.ResponseWriter, r *http.Request) error {
	return selectHookRuns(w, r, s.c.EventHooks().Retry)
}

func (s *Server) postHooksDrop(w http.ResponseWriter, r *http.Request) error {
	return selectHookRuns(w, r, s.c.EventHooks().Drop)
}

func selectHookRuns(w http.ResponseWriter, r *http.Request, do func(context.Context, *api.HookSelection) (*api.Selected, error)) error {
	var selection api.HookSelection
	var ids []string
	if err := readLists(r, &selection, idList(maxSelected, &ids)); err != nil {
		return err
	}
	selection.IDs = ids
	selected, err := do(r.Context(), &selection)
	if err != nil {
		return err
	}
	return answer(w, selected)
}

func (s *Server) postHooksTest(w http.ResponseWriter, r *http.Request) error {
	var t api.HookTest
	if err := readJSON(r, &t); err != nil {
		return err
	}
	if t.Build != "" {
		b, err := s.c.Build(r.Context(), t.Build)
		if err != nil {
			return err
		}
		t.Build = b.ID
	}
	ctx, cancel := s.c.UntilStopped(r.Context())
	defer cancel()
	tested, err := s.c.EventHooks().Test(ctx, r.PathValue("hook"), &t)
	if err != nil {
		return err
	}
	return answer(w, tested)
}
