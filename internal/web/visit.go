package web

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// visit.go is who looks at pages that can be acted from. A browser has the token of a session in a
// cookie; whose it is, and what that person may do, is asked of the coordinator with each request.
// Here is no list of persons, and no right of the server's own is ever used for one.

// Steering has pages acted from.
type Steering struct {
	// URL is where browsers reach the pages, if that is not where they are served; settings.CheckWebURL
	// accepts it.
	URL string
	// Listen is the host that is listened on; it may be empty.
	Listen string
}

// steering is the state of a server whose pages can be acted from.
type steering struct {
	s       *Server
	names   map[string]bool // of hosts, by which pages are asked for
	forgery *http.CrossOriginProtection

	mu    sync.Mutex // owns all below
	notes map[string]note
	asked time.Time // when the coordinator was last asked for the pages' address
}

// note is what was done, for the page that is shown then.
type note struct {
	text  string
	token string // of the session whose person did it
	until time.Time
}

const (
	noteLife = time.Minute
	maxNotes = 1000
	// noteName is the parameter of a URL that names a note: a text in it could be anybody's.
	noteName = "done"
	// askedEvery is how often an unknown name has the coordinator asked.
	askedEvery = 10 * time.Second
)

func newSteering(s *Server, o *Steering) *steering {
	t := &steering{s: s, names: map[string]bool{o.Listen: true}, forgery: http.NewCrossOriginProtection(), notes: make(map[string]note)}
	t.forgery.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &api.Error{Status: http.StatusForbidden, Code: api.CodeForbidden, Message: "the browser says that another site's page asks for that: nothing was done"})
	}))
	if u, err := url.Parse(o.URL); err == nil && u.Host != "" {
		t.names[strings.ToLower(u.Hostname())] = true
		if err := t.forgery.AddTrustedOrigin(o.URL); err != nil {
			s.log.Error("the page's address is of no use", "url", o.URL, "err", err)
		}
	}
	return t
}

// visit is who a request is from.
type visit struct {
	caller *api.Caller       // nil if nobody has logged in
	client *apiclient.Client // whose requests are that person's
	token  string            // of the session
	note   string            // to be shown first
	alone  bool              // the page is for people alone: it has no JSON twin
	err    error             // why it is not known who it is; nil if it is, or nobody
}

type visitKey struct{}

// visitOf returns who a request is from; where pages can't be acted from that is nobody.
func visitOf(r *http.Request) *visit {
	if v, ok := r.Context().Value(visitKey{}).(*visit); ok {
		return v
	}
	return &visit{}
}

// own reports whether the answer is for this visitor alone.
func (v *visit) own() bool { return v.caller != nil || v.note != "" }

// handler finds out who asks, and lets nobody ask whose browser was led here by another name or another page.
func (t *steering) handler(next http.Handler) http.Handler {
	next = t.forgery.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !t.knows(r) {
			t.s.fail(w, r, &api.Error{
				Status: http.StatusMisdirectedRequest, Code: api.CodeForbidden,
				Message: "this page does not answer by the name " + r.Host + ": lighter web --url, or url of [web] in lighter.toml, says by which it does, beside addresses and localhost",
			})
			return
		}
		if r.URL.Path != "/events" && !strings.HasPrefix(r.URL.Path, "/static/") {
			r = t.visited(w, r)
		}
		next.ServeHTTP(w, r)
	})
}

// knows reports whether a request asks for the host by a name that is the page's own. A page of somebody
// else's can have its name lead here (DNS rebinding), but no address, and not localhost.
func (t *steering) knows(r *http.Request) bool {
	name := strings.ToLower((&url.URL{Host: r.Host}).Hostname())
	if net.ParseIP(name) != nil || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	t.mu.Lock()
	known, ask := t.names[name], t.s.now().Sub(t.asked) >= askedEvery
	if ask && !known {
		t.asked = t.s.now()
	}
	t.mu.Unlock()
	if known || !ask {
		return known && name != ""
	}
	var there *api.Installation
	if err := t.s.ask(r.Context(), func(ctx context.Context, c *apiclient.Client) (err error) {
		there, err = c.Installation(ctx)
		return err
	}); err != nil {
		return false
	}
	u, err := url.Parse(there.Web)
	if err != nil || u.Hostname() == "" {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.names[strings.ToLower(u.Hostname())] = true
	return t.names[name]
}

// visited returns a request with who it is from.
func (t *steering) visited(w http.ResponseWriter, r *http.Request) *http.Request {
	v := &visit{}
	if c, err := r.Cookie(cookieName(r)); err == nil && isToken(c.Value) {
		v.token, v.client = c.Value, t.s.client.As(c.Value)
		var session *api.Session
		v.err = t.s.ask(r.Context(), func(ctx context.Context, _ *apiclient.Client) (err error) {
			session, err = v.client.Session(ctx)
			return err
		})
		switch {
		case v.err == nil:
			v.caller = &session.Caller
		case isCode(v.err, api.CodeNoSession):
			http.SetCookie(w, cookie(r, "", -time.Second))
			*v = visit{note: "Your session has ended; lighter web login begins another."}
		}
	}
	q := r.URL.Query()
	if code := q.Get(noteName); code != "" {
		q.Del(noteName)
		v.note = cmp.Or(v.note, t.noted(code, v.token))
	}
	ctx := context.WithValue(r.Context(), visitKey{}, v)
	if !r.URL.Query().Has(noteName) {
		return r.WithContext(ctx)
	}
	r = r.Clone(ctx)
	r.URL.RawQuery = q.Encode()
	return r
}

// noted returns the text of a note, for the person who did that.
func (t *steering) noted(code, token string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.notes[code]; ok && n.token == token && t.s.now().Before(n.until) {
		return n.text
	}
	return ""
}

// done leads to a page that says what was done.
func (t *steering) done(w http.ResponseWriter, r *http.Request, to, token, text string) {
	t.s.farm.outdated()
	now, code := t.s.now(), rand.Text()
	t.mu.Lock()
	for old, n := range t.notes {
		if !now.Before(n.until) {
			delete(t.notes, old)
		}
	}
	if len(t.notes) < maxNotes {
		t.notes[code] = note{text, token, now.Add(noteLife)}
	}
	t.mu.Unlock()
	http.Redirect(w, r, to+"?"+noteName+"="+code, http.StatusSeeOther)
}

// isToken reports whether a text can be one: what a browser sends goes into a header.
func isToken(text string) bool {
	secret, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return err == nil && len(secret) == 32 && !strings.ContainsAny(text, "\r\n")
}

func isCode(err error, code string) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == code
}

// isSecure reports whether a browser reaches the page over TLS.
func isSecure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// cookieName names the cookie of a session. Cookies know no ports, and pages of several farms may be on
// one host.
func cookieName(r *http.Request) string {
	name := "lighter"
	if port := (&url.URL{Host: r.Host}).Port(); port != "" {
		name += "-" + port
	}
	if isSecure(r) {
		return "__Host-" + name // which no other host can set
	}
	return name
}

// cookie is that of a session. No script reads it, and no page of another site sends it.
func cookie(r *http.Request, token string, life time.Duration) *http.Cookie {
	return &http.Cookie{
		Name: cookieName(r), Value: token, Path: "/", MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: isSecure(r), SameSite: http.SameSiteStrictMode,
	}
}
