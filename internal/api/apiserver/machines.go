package apiserver

import (
	"context"
	"encoding/json"
	"net/http"

	"lighter/internal/api"
	"lighter/store"
)

// machineCalls are the operations on machines, and on the coordinator as one that places builds there.
type machineCalls struct{ *Server }

// readNote returns who wants something changed, and why.
func (s machineCalls) readNote(r *http.Request) (by, reason string, err error) {
	who, err := s.caller(r.Context())
	if err != nil {
		return "", "", err
	}
	var note api.OperatorNote
	if err := readJSON(r, &note); err != nil {
		return "", "", err
	}
	return who.by(), note.Reason, checkReason(note.Reason)
}

func checkReason(reason string) error {
	if err := api.CheckText("the reason", reason, api.MaxNote); err != nil {
		return api.BadRequest("%s", err)
	}
	return nil
}

// changed reads why a machine is changed, has that done, and answers with its state then.
func (s machineCalls) changed(w http.ResponseWriter, r *http.Request, change func(ctx context.Context, name, by, reason string) (*api.MachineStatus, error)) error {
	by, reason, err := s.readNote(r)
	if err != nil {
		return err
	}
	status, err := change(r.Context(), r.PathValue("name"), by, reason)
	if err != nil {
		return err
	}
	return answer(w, status)
}

func (s machineCalls) postDrain(w http.ResponseWriter, r *http.Request) error {
	return s.changed(w, r, s.c.Drain)
}

func (s machineCalls) postResumeMachine(w http.ResponseWriter, r *http.Request) error {
	return s.changed(w, r, s.c.ResumeMachine)
}

func (s machineCalls) postTags(w http.ResponseWriter, r *http.Request) error {
	who, err := s.caller(r.Context())
	if err != nil {
		return err
	}
	var change api.TagChange
	if err := readJSON(r, &change); err != nil {
		return err
	}
	if err := checkTags(&change); err != nil {
		return err
	}
	status, err := s.c.TagMachine(r.Context(), r.PathValue("name"), who.by(), &change)
	if err != nil {
		return err
	}
	return answer(w, status)
}

func checkTags(change *api.TagChange) error {
	if len(change.Set) == 0 && len(change.Remove) == 0 {
		return api.BadRequest("neither set nor remove names a tag")
	}
	if len(change.Remove) > api.MaxTags {
		return api.BadRequest("at most %d tags are changed at once", api.MaxTags)
	}
	if err := api.CheckTags(change.Set); err != nil {
		return api.BadRequest("%s", err)
	}
	for _, k := range change.Remove {
		if err := api.CheckText("the name of a tag", k, api.MaxTag); err != nil {
			return api.BadRequest("%s", err)
		}
		if _, set := change.Set[k]; set {
			return api.BadRequest("tag %.40q is to be both set and removed", k)
		}
	}
	return nil
}

func (s machineCalls) postGC(w http.ResponseWriter, r *http.Request) error {
	var opts api.MachineGC
	if err := readJSON(r, &opts); err != nil {
		return err
	}
	result, err := s.c.CollectGarbage(r.Context(), r.PathValue("name"), opts)
	if err != nil {
		return err
	}
	return answer(w, result)
}

func (s machineCalls) getMachines(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Query().Get("fresh") == "true" {
		if err := s.c.Refresh(r.Context()); err != nil {
			return err
		}
	}
	list, err := s.c.Machines(r.Context())
	if err != nil {
		return err
	}
	return answer(w, list)
}

func (s machineCalls) postTrial(w http.ResponseWriter, r *http.Request) error {
	trial, err := s.c.TestMachine(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	return answer(w, trial)
}

func (s machineCalls) postReload(w http.ResponseWriter, r *http.Request) error {
	if err := readJSON(r, &struct{}{}); err != nil {
		return err
	}
	became, err := s.c.ReloadAll(r.Context())
	if err != nil {
		return err
	}
	return answer(w, became)
}

func (s machineCalls) postPause(w http.ResponseWriter, r *http.Request) error {
	return s.changePaused(w, r, s.c.Pause)
}

func (s machineCalls) postResume(w http.ResponseWriter, r *http.Request) error {
	return s.changePaused(w, r, s.c.Resume)
}

func (s machineCalls) changePaused(w http.ResponseWriter, r *http.Request, change func(ctx context.Context, by, reason string) error) error {
	by, reason, err := s.readNote(r)
	if err != nil {
		return err
	}
	if err := change(r.Context(), by, reason); err != nil {
		return err
	}
	return answer(w, json.RawMessage("{}"))
}

func (s machineCalls) postPrune(w http.ResponseWriter, r *http.Request) error {
	var p api.Prune
	if err := readJSON(r, &p); err != nil {
		return err
	}
	result, err := s.c.Prune(r.Context(), &p)
	if err != nil {
		return err
	}
	return answer(w, result)
}

func (s machineCalls) postNeeded(w http.ResponseWriter, r *http.Request) error {
	var n api.Needed
	if err := readJSON(r, &n); err != nil {
		return err
	}
	if len(n.Paths) > store.GCBatch {
		return api.BadRequest("%d paths: want at most %d", len(n.Paths), store.GCBatch)
	}
	for _, p := range n.Paths {
		if _, err := store.ParsePath(string(p)); err != nil {
			return api.BadRequest("%v", err)
		}
	}
	needed, err := s.ledger.Needed(r.Context(), n.Paths)
	if err != nil {
		return err
	}
	return answer(w, api.Needed{Paths: needed})
}
