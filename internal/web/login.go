package web

import (
	"context"
	"net/http"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// Login is who wants to log in; without a token, how to.
type Login struct {
	Token   string // of the login; empty if there is none
	Caller  api.Caller
	Expires time.Time
	// Instead is who the browser is logged in as now; nil if nobody.
	Instead *api.Caller
}

// getLogin shows who wants to log in. It uses nothing up: links are fetched by others than those who
// follow them.
func (t *steering) getLogin(w http.ResponseWriter, r *http.Request) error {
	m := &Login{Token: r.URL.Query().Get("token"), Instead: visitOf(r).caller}
	if m.Token != "" {
		login, err := t.login(r, m.Token)
		if err != nil {
			return err
		}
		m.Caller, m.Expires = login.Caller, login.Expires
	}
	return t.s.show(w, r, "login", m, http.StatusOK)
}

// login asks whose a login is.
func (t *steering) login(r *http.Request, token string) (login *api.Login, err error) {
	err = t.s.ask(r.Context(), func(ctx context.Context, c *apiclient.Client) error {
		login, err = c.WhoseLogin(ctx, token)
		return err
	})
	return login, err
}

func (t *steering) postLogin(w http.ResponseWriter, r *http.Request) error {
	var session *api.Session
	if err := t.s.ask(r.Context(), func(ctx context.Context, c *apiclient.Client) (err error) {
		session, err = c.BeginSession(ctx, r.PostForm.Get("token"))
		return err
	}); err != nil {
		return err
	}
	if v := visitOf(r); v.client != nil {
		_, _ = v.client.EndSessions(r.Context()) // what the browser forgets; else time ends it
	}
	http.SetCookie(w, cookie(r, session.Token, session.Expires.Sub(t.s.now())))
	t.done(w, r, "/", session.Token, "You are logged in as "+personName(&session.Caller)+".")
	return nil
}

func (t *steering) postLogout(w http.ResponseWriter, r *http.Request) error {
	if v := visitOf(r); v.client != nil {
		if _, err := v.client.EndSessions(r.Context()); err != nil && !isCode(err, api.CodeNoSession) {
			return err // the session goes on, and so does the cookie
		}
	}
	http.SetCookie(w, cookie(r, "", -time.Second))
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

// personName is what a person is called.
func personName(c *api.Caller) string {
	return (&api.Submitter{UID: c.UID, User: c.User}).String()
}
