package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"lighter/internal/api"
)

// login.go lets a person's rights be used by others whom the person lets: the kernel says who asks for a
// login, its token goes, by that person's hand, to somebody who begins a session with it, and requests of
// that session are the person's. So the server of a web page needs no rights of its own, and has those
// of nobody who did not ask.

// How long logins and sessions last, and how many there are.
const (
	loginLife    = 5 * time.Minute
	sessionLife  = 12 * time.Hour
	sessionIdle  = 2 * time.Hour
	userLogins   = 8
	userSessions = 32
	maxLogins    = 1024
	maxSessions  = 4096
)

// session is how a request came that is a person's by a session.
type session struct {
	grant
	token string
}

type sessionKey struct{}

func sessionOf(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{}).(*session)
	return s
}

// loginCalls are the operations on logins and sessions.
type loginCalls struct{ *Server }

// acting returns a request as that of the person whose session it names, if it names one.
func (s loginCalls) acting(r *http.Request) (*http.Request, error) {
	said, given := r.Header["Authorization"]
	if !given {
		return r, nil
	}
	scheme, token, _ := strings.Cut(said[0], " ")
	if len(said) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return nil, noSession("want one header Authorization: Bearer TOKEN")
	}
	g, ok := s.sessions.find(token, s.c.Now(), toUse)
	if holder := (caller{Peer: peerOf(r.Context())}).uid(); !ok || holder != g.holder {
		return nil, noSession("there is no such session, or it has ended; lighter web login begins another")
	}
	ctx := context.WithValue(WithPeer(r.Context(), g.peer), sessionKey{}, &session{g, token})
	return r.WithContext(ctx), nil
}

func noSession(text string) *api.Error {
	return &api.Error{Status: http.StatusUnauthorized, Code: api.CodeNoSession, Message: text}
}

// person is who is behind a connection itself, of whom the kernel must have said so.
func (s loginCalls) person(ctx context.Context) (caller, error) {
	who, err := s.caller(ctx)
	switch {
	case err != nil:
		return who, err
	case who.Peer == nil:
		return who, forbidden("the kernel does not say who is behind this connection")
	case sessionOf(ctx) != nil:
		return who, forbidden("a session can't be used to begin others; %s can, with lighter web login", who.name())
	}
	return who, nil
}

func tooMany(what string) error {
	return &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "there are too many " + what + "; those that nobody uses end by themselves"}
}

func (s loginCalls) postLogins(w http.ResponseWriter, r *http.Request) error {
	who, err := s.person(r.Context())
	if err == nil {
		err = readJSON(r, &struct{}{})
	}
	if err != nil {
		return err
	}
	token, g, ok := s.logins.add(who.Peer, who.UID, who.operates, s.c.Now())
	if !ok {
		return tooMany("logins")
	}
	return answer(w, api.Login{Token: token, Caller: *who.status(), Expires: g.began.Add(loginLife)})
}

// login reads the token of a login from a body, and returns whose it is.
func (s loginCalls) login(r *http.Request, how findHow) (caller, grant, error) {
	var body api.LoginToken
	if err := readJSON(r, &body); err != nil {
		return caller{}, grant{}, err
	}
	if _, err := s.caller(r.Context()); err != nil { // who tells the token must be somebody
		return caller{}, grant{}, err
	}
	g, ok := s.logins.find(body.Token, s.c.Now(), how)
	if !ok {
		return caller{}, g, noSession(fmt.Sprintf("there is no such login: it was used, or is older than %s; lighter web login makes another", loginLife))
	}
	who, err := s.caller(WithPeer(r.Context(), g.peer))
	return who, g, err
}

func (s loginCalls) postLoginsWhose(w http.ResponseWriter, r *http.Request) error {
	who, g, err := s.login(r, toLook)
	if err != nil {
		return err
	}
	return answer(w, api.Login{Caller: *who.status(), Expires: g.began.Add(loginLife)})
}

func (s loginCalls) postSessions(w http.ResponseWriter, r *http.Request) error {
	who, _, err := s.login(r, toUseUp)
	if err != nil {
		return err
	}
	holder := caller{Peer: peerOf(r.Context())}
	token, g, ok := s.sessions.add(who.Peer, holder.uid(), who.operates, s.c.Now())
	if !ok {
		return tooMany("sessions")
	}
	s.log.Info("a session begins", "of", who.name(), "held by", holder.name())
	return answer(w, sessionAnswer(who, g, token))
}

func sessionAnswer(who caller, g grant, token string) api.Session {
	return api.Session{Token: token, Caller: *who.status(), Expires: g.began.Add(sessionLife), Idle: api.Seconds(sessionIdle.Seconds())}
}

func (s loginCalls) getSessions(w http.ResponseWriter, r *http.Request) error {
	session := sessionOf(r.Context())
	if session == nil {
		return noSession("the request is not of a session: it has no Authorization: Bearer TOKEN")
	}
	who, err := s.caller(r.Context())
	if err != nil {
		return err
	}
	return answer(w, sessionAnswer(who, session.grant, ""))
}

// deleteSessions ends the session that asks, or all of the person who does.
func (s loginCalls) deleteSessions(w http.ResponseWriter, r *http.Request) error {
	now := s.c.Now()
	if session := sessionOf(r.Context()); session != nil {
		s.sessions.find(session.token, now, toUseUp)
		return answer(w, api.EndedSessions{Sessions: 1})
	}
	who, err := s.person(r.Context())
	if err != nil {
		return err
	}
	return answer(w, api.EndedSessions{Sessions: s.sessions.endOf(who.UID, now), Logins: s.logins.endOf(who.UID, now)})
}
