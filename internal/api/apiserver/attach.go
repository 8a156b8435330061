package apiserver

import (
	"errors"
	"fmt"
	"net/http"

	"lighter/internal/api"
)

// getAttach holds the builds with Attached that a client names wanted, for as long as the
// client keeps the answer open.
func (s *Server) getAttach(w http.ResponseWriter, r *http.Request) error {
	who, err := s.caller(r.Context())
	if err != nil {
		return err
	}
	ids := r.URL.Query()["build"]
	if len(ids) == 0 || len(ids) > maxCancel {
		return api.BadRequest("want 1 to %d builds, got %d", maxCancel, len(ids))
	}
	for i, id := range ids {
		b, err := s.c.Build(r.Context(), id)
		if err != nil {
			return err
		}
		if !b.Attached {
			return api.BadRequest("build %s was not submitted as one that is canceled when its clients are gone", b.ID)
		}
		if b.Submitter != nil && !who.mayChange(b) {
			return who.refuse(fmt.Sprintf("hold build %s, which is %s", b.ID, whose(b)))
		}
		ids[i] = b.ID
	}
	if err := s.c.Attach(r.Context(), ids, func() error {
		w.WriteHeader(http.StatusOK)
		if err := http.NewResponseController(w).Flush(); err != nil {
			return errGone
		}
		return nil
	}); err != nil && !errors.Is(err, errGone) {
		return err
	}
	return nil
}

// errGone says that a client ended its connection.
var errGone = errors.New("the client is gone")
