package apiclient

import (
	"context"
	"net/http"

	"lighter/internal/api"
)

// As returns a client of the same coordinator whose requests are those of a session, and so of the person
// whose it is. Where that has ended they fail with the code api.CodeNoSession. It shares its connections
// with c.
func (c *Client) As(token string) *Client {
	as := *c
	as.session = token
	return &as
}

// Login has the coordinator make a login for whom the client runs as.
func (c *Client) Login(ctx context.Context) (*api.Login, error) {
	return post[api.Login](ctx, c, "/v1/logins", struct{}{})
}

// WhoseLogin says for whom a login is, and until when. It can still be used.
func (c *Client) WhoseLogin(ctx context.Context, token string) (*api.Login, error) {
	return post[api.Login](ctx, c, "/v1/logins/whose", api.LoginToken{Token: token})
}

// BeginSession uses a login up, for a session.
func (c *Client) BeginSession(ctx context.Context, token string) (*api.Session, error) {
	return post[api.Session](ctx, c, "/v1/sessions", api.LoginToken{Token: token})
}

// Session says whose the client's session is.
func (c *Client) Session(ctx context.Context) (*api.Session, error) {
	return get[api.Session](ctx, c, "/v1/sessions", nil)
}

// EndSessions ends the client's session, or, if it has none, all sessions and logins of whom it runs as.
func (c *Client) EndSessions(ctx context.Context) (*api.EndedSessions, error) {
	return exchange[api.EndedSessions](ctx, c, http.MethodDelete, "/v1/sessions", nil, nil)
}
