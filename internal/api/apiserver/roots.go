package apiserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

// rooted returns the store's roots, and who asks, by whose name theirs go.
func (s *Server) rooted(r *http.Request) (who caller, name string, err error) {
	if s.roots == nil {
		return who, "", &api.Error{Status: http.StatusNotImplemented, Code: api.CodeBadRequest, Message: "the head's store is guix-daemon's, which has the roots"}
	}
	if who, err = s.caller(r.Context()); err == nil && who.Peer != nil {
		name = who.name()
	}
	return who, name, err
}

func (s *Server) getRoots(w http.ResponseWriter, r *http.Request) error {
	if _, _, err := s.rooted(r); err != nil {
		return err
	}
	roots, err := s.roots.Roots(r.Context())
	if err != nil {
		return err
	}
	return answer(w, roots)
}

func (s *Server) postRoots(w http.ResponseWriter, r *http.Request) error {
	who, name, err := s.rooted(r)
	if err != nil {
		return err
	}
	var want api.NewRoot
	if err := readJSON(r, &want); err != nil {
		return err
	}
	if !(want.For >= 0 && want.For <= api.MaxTime) {
		return api.BadRequest("for: want a time of at most %v seconds", float64(api.MaxTime))
	}
	if _, err := store.ParsePath(string(want.Path)); err != nil {
		return api.BadRequest("%v", err)
	}
	if err := s.mayChangeRoot(r, who, name, want.Link); err != nil {
		return err
	}
	root := store.Root{Link: want.Link, Path: want.Path, Owner: name, Created: time.Now().UTC().Truncate(time.Second)}
	if want.For > 0 {
		root.Expires = root.Created.Add(want.For.Duration())
	}
	if err := s.roots.AddRoot(r.Context(), root, who.uid()); err != nil {
		return api.BadRequest("%v", err)
	}
	return answer(w, root)
}

func (s *Server) postRootsRemove(w http.ResponseWriter, r *http.Request) error {
	who, name, err := s.rooted(r)
	if err != nil {
		return err
	}
	var which api.NewRoot
	if err := readJSON(r, &which); err != nil {
		return err
	}
	if err := s.mayChangeRoot(r, who, name, which.Link); err != nil {
		return err
	}
	switch err := s.roots.RemoveRoot(r.Context(), which.Link); {
	case errors.Is(err, fs.ErrNotExist):
		return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: fmt.Sprintf("%.200q is no root", which.Link)}
	case err != nil:
		return err
	}
	return answer(w, struct{}{})
}

// mayChangeRoot refuses to let a user who does not operate touch others' roots.
func (s *Server) mayChangeRoot(r *http.Request, who caller, name, link string) error {
	if who.operates {
		return nil
	}
	roots, err := s.roots.Roots(r.Context())
	if err != nil {
		return err
	}
	for _, root := range roots {
		if root.Link == link && root.Owner != name {
			return who.refuse("change a root of " + root.Owner)
		}
	}
	return nil
}
