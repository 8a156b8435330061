package api

import "time"

// Login is the answer to POST /v1/logins and /v1/logins/whose: a token with which somebody else, such
// as a web page's server, may begin one session for the person who asked.
type Login struct {
	Token   string    `json:"token,omitempty"` // a secret; only in the answer to POST /v1/logins
	Caller  Caller    `json:"caller"`          // for whom
	Expires time.Time `json:"expires"`         // until when it can be used, once
}

// LoginToken is the body of POST /v1/sessions and /v1/logins/whose.
type LoginToken struct {
	Token string `json:"token"`
}

// Session is the answer to POST and GET /v1/sessions. Requests with its token, as "Authorization: Bearer
// TOKEN", are answered as the person's own.
type Session struct {
	Token   string    `json:"token,omitempty"` // a secret; only in the answer to POST
	Caller  Caller    `json:"caller"`          // whose it is, and what that person may do now
	Expires time.Time `json:"expires"`         // when it ends at the latest
	Idle    Seconds   `json:"idle"`            // without a request for so long it ends too
}

// EndedSessions is the answer to DELETE /v1/sessions.
type EndedSessions struct {
	Sessions int `json:"sessions"`
	Logins   int `json:"logins"` // that nobody had used
}
