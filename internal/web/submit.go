package web

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/store"
)

// Submit is the form that asks for a build, as it was filled in.
type Submit struct {
	Derivation, Priority, Tags string
	Error                      string
}

func (t *steering) getSubmit(w http.ResponseWriter, r *http.Request) error {
	if _, err := person(r); err != nil {
		return err
	}
	q := r.URL.Query()
	return t.s.show(w, r, "submit", &Submit{Derivation: q.Get("derivation"), Priority: q.Get("priority"), Tags: q.Get("tags")}, http.StatusOK)
}

func (t *steering) postSubmit(w http.ResponseWriter, r *http.Request) error {
	v, err := person(r)
	if err != nil {
		return err
	}
	m := &Submit{Derivation: r.PostForm.Get("derivation"), Priority: r.PostForm.Get("priority"), Tags: r.PostForm.Get("tags")}
	request, err := m.request()
	var b *api.Build
	if err == nil {
		err = t.s.ask(r.Context(), func(ctx context.Context, _ *apiclient.Client) (err error) {
			b, err = v.client.Submit(ctx, *request)
			return err
		})
	}
	var refused *api.Error
	switch {
	case errors.As(err, &refused) && (refused.Status < http.StatusInternalServerError && refused.Code != api.CodeNoSession):
		m.Error = refused.Message
		status := refused.Status
		if status < http.StatusBadRequest {
			status = http.StatusUnprocessableEntity // one of a list, which has no status of its own
		}
		return t.s.show(w, r, "submit", m, status)
	case err != nil:
		return err
	}
	t.done(w, r, "/build/"+url.PathEscape(b.ID), v.token, "The build was submitted.")
	return nil
}

// request is what the form asks for.
func (m *Submit) request() (*api.Request, error) {
	r := &api.Request{Derivation: store.Path(strings.TrimSpace(m.Derivation))}
	if r.Derivation == "" {
		return nil, api.BadRequest("which derivation? Want the whole name of a file that ends in .drv")
	}
	if text := strings.TrimSpace(m.Priority); text != "" {
		var err error
		if r.Priority, err = strconv.Atoi(text); err != nil {
			return nil, api.BadRequest("priority %.40q: want a whole number", text)
		}
	}
	for _, tag := range strings.Fields(m.Tags) {
		name, value, ok := strings.Cut(tag, "=")
		if !ok || name == "" {
			return nil, api.BadRequest("tag %.100q: want NAME=VALUE", tag)
		}
		if r.Tags == nil {
			r.Tags = make(map[string]string)
		}
		r.Tags[name] = value
	}
	return r, nil
}
