package web

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/internal/api"
)

// steered is a coordinator with sessions of root and alice, and what was asked of it by them.
type steered struct {
	mu      sync.Mutex
	logins  map[string]api.Caller
	members map[string]api.Caller // of sessions
	asked   []string              // "alice POST /v1/cancel {…}"
}

var (
	asRoot   = api.Caller{UID: 0, User: "root", Operates: true}
	asAlice  = api.Caller{UID: 5, User: "alice", Operators: "root"}
	rootsID  = "00000000-0000-4000-8000-000000000001"
	alicesID = "00000000-0000-4000-8000-000000000002"
)

// token is one that looks right.
func token(name string) string { return name + strings.Repeat("A", 43-len(name)) }

func noSession() error {
	return &api.Error{Status: http.StatusUnauthorized, Code: api.CodeNoSession, Message: "there is no such session"}
}

// who says whose session a request is of.
func (c *steered) who(r *http.Request) (api.Caller, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	caller, ok := c.members[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if !ok {
		return caller, noSession()
	}
	return caller, nil
}

// act notes what somebody wants done, and answers.
func (c *steered) act(answer any) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		who, err := c.who(r)
		if err != nil {
			return nil, err
		}
		var body any
		_ = json.NewDecoder(r.Body).Decode(&body)
		text, _ := json.Marshal(body)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked = append(c.asked, fmt.Sprintf("%s %s %s %s", who.User, r.Method, r.URL.Path, text))
		if e, ok := answer.(*api.Error); ok {
			return nil, e
		}
		return answer, nil
	}
}

func (c *steered) took() (asked []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked, c.asked = c.asked, nil
	return asked
}

func (c *steered) login(r *http.Request, use bool) (api.Caller, error) {
	var body api.LoginToken
	_ = json.NewDecoder(r.Body).Decode(&body)
	c.mu.Lock()
	defer c.mu.Unlock()
	caller, ok := c.logins[body.Token]
	if !ok {
		return caller, noSession()
	}
	if use {
		delete(c.logins, body.Token)
		c.members[token("of-"+caller.User)] = caller
	}
	return caller, nil
}

// newSteered returns a page that can be acted from.
func newSteered(t *testing.T, more coordinator) (*steered, http.Handler) {
	c := &steered{logins: map[string]api.Caller{token("root"): asRoot, token("alice"): asAlice}, members: make(map[string]api.Caller)}
	story := func(r *http.Request) (any, error) {
		if _, err := c.who(r); err != nil {
			return nil, err
		}
		b := api.Build{Request: api.Request{ID: r.PathValue("id"), Derivation: "/gnu/store/00000000000000000000000000000000-hello-2.12.drv"}, State: api.Building, Machine: "alpha", Submitter: &api.Submitter{}}
		if b.ID == alicesID {
			b.Submitter = &api.Submitter{UID: 5, User: "alice"}
		}
		return api.BuildStory{Build: b, WantedByCount: 3}, nil
	}
	counts := func(r *http.Request) (any, error) {
		n := map[api.State]int{api.Queued: 300, api.Building: 12}
		if r.URL.Query().Get("user") == "5" {
			n = map[api.State]int{api.Queued: 2}
		}
		return api.BuildCounts{Systems: map[string]map[api.State]int{"x86_64-linux": n}, Exact: true}, nil
	}
	all := coordinator{
		"GET /v1/status":       testStatus,
		"GET /v1/installation": func(*http.Request) (any, error) { return api.Installation{Web: "https://farm.example.org"}, nil },
		"POST /v1/logins/whose": func(r *http.Request) (any, error) {
			who, err := c.login(r, false)
			return api.Login{Caller: who, Expires: testNow.Add(time.Minute)}, err
		},
		"POST /v1/sessions": func(r *http.Request) (any, error) {
			who, err := c.login(r, true)
			return api.Session{Token: token("of-" + who.User), Caller: who, Expires: testNow.Add(12 * time.Hour)}, err
		},
		"GET /v1/sessions": func(r *http.Request) (any, error) {
			who, err := c.who(r)
			return api.Session{Caller: who}, err
		},
		"DELETE /v1/sessions": func(r *http.Request) (any, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.members, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
			return api.EndedSessions{Sessions: 1}, nil
		},
		"GET /v1/builds/{id}":             story,
		"GET /v1/builds/counts":           counts,
		"POST /v1/cancel":                 c.act(api.Selected{IDs: []string{alicesID}, Count: 1, StandIns: 2, Others: 4}),
		"POST /v1/retry":                  c.act(&api.Error{Status: http.StatusForbidden, Code: api.CodeForbidden, Message: "only root may operate; see lighter.toml"}),
		"POST /v1/priority":               c.act(api.Selected{Count: 312}),
		"POST /v1/pause":                  c.act(struct{}{}),
		"POST /v1/machines/{name}/drain":  c.act(api.MachineStatus{Name: "alpha", Running: 1}),
		"POST /v1/machines/{name}/resume": c.act(api.MachineStatus{Name: "alpha"}),
		"POST /v1/builds":                 c.act(api.Submissions{Builds: []api.Submitted{{Build: &api.Build{Request: api.Request{ID: alicesID}}}}}),
	}
	maps.Copy(all, more)
	s := newServer(t, all)
	s.steering = newSteering(s, &Steering{Listen: "head.lan"})
	return c, s.Handler()
}

// browser is one, as far as a page of one host is concerned.
type browser struct {
	t       *testing.T
	h       http.Handler
	host    string
	cookies map[string]string
	headers []string // sent with all requests: name, value, …
}

func newBrowser(t *testing.T, h http.Handler) *browser {
	return &browser{t: t, h: h, host: "127.0.0.1:8767", cookies: make(map[string]string)}
}

func (b *browser) do(method, target string, form url.Values, headers ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), method, target, strings.NewReader(form.Encode()))
	r.Host = b.host
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for pair := range slices.Chunk(append(slices.Clone(b.headers), headers...), 2) {
		r.Header.Set(pair[0], pair[1])
	}
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		if b.cookies[c.Name] = c.Value; c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		}
	}
	return w
}

// follow goes where an action leads.
func (b *browser) follow(w *httptest.ResponseRecorder) string {
	b.t.Helper()
	if w.Code != http.StatusSeeOther {
		b.t.Fatalf("got %d, want 303: %s", w.Code, w.Body)
	}
	return b.do(http.MethodGet, w.Header().Get("Location"), nil).Body.String()
}

func (b *browser) logIn(name string) {
	b.t.Helper()
	page := b.follow(b.do(http.MethodPost, "/login", url.Values{"token": {token(name)}}))
	if !strings.Contains(page, "You are logged in as "+name) {
		b.t.Fatalf("got %s", page)
	}
}

// TestLogin logs in, and out.
func TestLogin(t *testing.T) {
	c, h := newSteered(t, nil)
	b := newBrowser(t, h)
	link := "/login?token=" + token("alice")
	for range 2 { // links are fetched by others than who follows them
		w := b.do(http.MethodGet, link, nil)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Log in as alice?") || w.Header().Get("Cache-Control") != "no-store" || len(b.cookies) != 0 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	w := b.do(http.MethodPost, "/login", url.Values{"token": {token("alice")}})
	cookie := w.Result().Cookies()[0]
	if !cookie.HttpOnly || cookie.Secure || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || cookie.MaxAge != 12*3600 || cookie.Name != "lighter-8767" {
		t.Errorf("the cookie is %+v", cookie)
	}
	if page := b.follow(w); !strings.Contains(page, "You are logged in as alice") || !strings.Contains(page, "Log out") {
		t.Errorf("got %s", page)
	}
	for name, w := range map[string]*httptest.ResponseRecorder{
		"again": newBrowser(t, h).do(http.MethodPost, "/login", url.Values{"token": {token("alice")}}),
		"look":  newBrowser(t, h).do(http.MethodGet, link, nil),
	} {
		if w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), "lighter web login") || len(w.Result().Cookies()) != 0 {
			t.Errorf("%s: got %d %s", name, w.Code, w.Body)
		}
	}
	// Whose page it is is not to be kept for others, and others don't see it.
	if w := b.do(http.MethodGet, "/", nil); !strings.Contains(w.Body.String(), "alice") || !strings.Contains(w.Header().Get("Cache-Control"), "private") {
		t.Errorf("got %v %s", w.Header(), w.Body)
	}
	if w := newBrowser(t, h).do(http.MethodGet, "/", nil); strings.Contains(w.Body.String(), "alice") || !strings.Contains(w.Body.String(), `href="/login"`) {
		t.Errorf("others see %s", w.Body)
	}
	if w := b.do(http.MethodPost, "/logout", nil); w.Code != http.StatusSeeOther || len(b.cookies) != 0 || len(c.members) != 0 {
		t.Errorf("logout: %d, cookies %v, sessions %v", w.Code, b.cookies, c.members)
	}
	// Over TLS the cookie is for TLS.
	b = newBrowser(t, h)
	b.host, b.headers = "farm.example.org", []string{"X-Forwarded-Proto", "https", "Origin", "https://farm.example.org"}
	b.logIn("root")
	if b.cookies["__Host-lighter"] == "" {
		t.Errorf("got %v", b.cookies)
	}
}

// TestSteering has alice and root do what there is to do.
func TestSteering(t *testing.T) {
	c, h := newSteered(t, nil)
	alice, root := newBrowser(t, h), newBrowser(t, h)
	alice.logIn("alice")
	root.logIn("root")
	for _, tt := range []struct {
		name     string
		b        *browser
		path     string
		question string // what the page that asks says
		form     url.Values
		asked    string // of the coordinator
		done     string // what the page says then
	}{
		{
			"cancel", alice, "cancel?build=" + alicesID, "also cancel what needs it: 3 builds",
			url.Values{"build": {alicesID}, "dependents": {"1"}, "reason": {" wrong patch "}},
			`alice POST /v1/cancel {"ids":["` + alicesID + `"],"reason":"wrong patch","withDependents":true}`, "1 build was canceled. Others need what was canceled: 2 builds made anew. 4 builds of others stay",
		},
		{
			"a tag's", root, "cancel?tag=set%3Dnightly", "Cancel 312 builds with the tag set=nightly?",
			url.Values{"tag": {"set=nightly"}},
			`root POST /v1/cancel {"filter":{"tags":{"set":"nightly"}}}`, "1 build was canceled",
		},
		{
			"one's own of a tag", alice, "cancel?tag=set%3Dnightly", "310 builds of others with this tag stay as they are",
			url.Values{"tag": {"set=nightly"}},
			`alice POST /v1/cancel {"filter":{"tags":{"set":"nightly"}}}`, "1 build was canceled",
		},
		{
			"priority", root, "priority?build=" + rootsID, "It has the priority 0.",
			url.Values{"build": {rootsID}, "priority": {" 7 "}},
			`root POST /v1/priority {"ids":["` + rootsID + `"],"priority":7}`, "312 builds were given the priority 7.",
		},
		{
			"drain", root, "drain?machine=alpha", "the build that runs there go",
			url.Values{"machine": {"alpha"}, "reason": {"new disk"}},
			`root POST /v1/machines/alpha/drain {"reason":"new disk"}`, "alpha gets no new builds; 1 build is there now.",
		},
		{
			"resume", root, "resume?machine=alpha", "Have alpha build again?",
			url.Values{"machine": {"alpha"}},
			`root POST /v1/machines/alpha/resume {}`, "alpha is resumed.",
		},
		{
			"pause", root, "pause", "Pause the whole farm?",
			url.Values{"reason": {"moving house"}},
			`root POST /v1/pause {"reason":"moving house"}`, "The coordinator is paused",
		},
	} {
		w := tt.b.do(http.MethodGet, "/steer/"+tt.path, nil)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), tt.question) {
			t.Errorf("%s: the question: %d %s", tt.name, w.Code, w.Body)
		}
		if asked := c.took(); asked != nil {
			t.Errorf("%s: the question did %q", tt.name, asked)
		}
		what, _, _ := strings.Cut(tt.path, "?")
		page := tt.b.follow(tt.b.do(http.MethodPost, "/steer/"+what, tt.form))
		if !strings.Contains(page, tt.done) {
			t.Errorf("%s: then: %s", tt.name, page)
		}
		if asked := c.took(); !slices.Equal(asked, []string{tt.asked}) {
			t.Errorf("%s: asked %q, want %q", tt.name, asked, tt.asked)
		}
	}
}

// TestSteeringIsRefused has all kinds of requests ask that may not.
func TestSteeringIsRefused(t *testing.T) {
	c, h := newSteered(t, nil)
	alice, nobody := newBrowser(t, h), newBrowser(t, h)
	alice.logIn("alice")
	cancel := url.Values{"build": {alicesID}}
	for name, tt := range map[string]struct {
		w    *httptest.ResponseRecorder
		code int
		says string
	}{
		"who has not logged in": {nobody.do(http.MethodPost, "/steer/cancel", cancel), 401, "lighter web login"},
		"nor asks":              {nobody.do(http.MethodGet, "/steer/cancel?build="+alicesID, nil), 401, "lighter web login"},
		"nor submits":           {nobody.do(http.MethodPost, "/submit", url.Values{"derivation": {"x"}}), 401, "lighter web login"},
		"another site's page":   {alice.do(http.MethodPost, "/steer/cancel", cancel, "Sec-Fetch-Site", "cross-site"), 403, "another site"},
		"another port's page":   {alice.do(http.MethodPost, "/steer/cancel", cancel, "Sec-Fetch-Site", "same-site"), 403, "another site"},
		"an old browser's":      {alice.do(http.MethodPost, "/steer/cancel", cancel, "Sec-Fetch-Site", "", "Origin", "http://evil.example"), 403, "another site"},
		"a frame's":             {alice.do(http.MethodPost, "/steer/cancel", cancel, "Sec-Fetch-Site", "", "Origin", "null"), 403, "another site"},
		"another site's login":  {nobody.do(http.MethodPost, "/login", url.Values{"token": {token("root")}}, "Sec-Fetch-Site", "cross-site"), 403, "another site"},
		"a build of another's":  {alice.do(http.MethodGet, "/steer/cancel?build="+rootsID, nil), 403, "only root may"},
		"a machine":             {alice.do(http.MethodGet, "/steer/drain?machine=alpha", nil), 403, "only root may operate"},
		"the coordinator's no":  {alice.do(http.MethodPost, "/steer/retry", cancel), 403, "only root may operate; see lighter.toml"},
		"what is not finished":  {alice.do(http.MethodGet, "/steer/retry?build="+alicesID, nil), 409, "can be tried again"},
		"what there is not":     {alice.do(http.MethodPost, "/steer/explode", cancel), 404, "no page"},
		"nothing":               {alice.do(http.MethodPost, "/steer/cancel", nil), 400, "which builds"},
		"a bad number":          {alice.do(http.MethodPost, "/steer/priority", url.Values{"build": {alicesID}, "priority": {"seven"}}), 400, "whole number"},
		"too much":              {alice.do(http.MethodPost, "/steer/cancel", url.Values{"reason": {strings.Repeat("x", maxForm)}}), 413, "at most"},
		"a bad submission":      {alice.do(http.MethodPost, "/submit", url.Values{"derivation": {"x"}, "tags": {"<b>"}}), 400, "want NAME=VALUE"},
	} {
		if tt.w.Code != tt.code || !strings.Contains(tt.w.Body.String(), tt.says) {
			t.Errorf("%s: got %d, want %d and %q: %s", name, tt.w.Code, tt.code, tt.says, tt.w.Body)
		}
		if policy := tt.w.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s: may be shown in a frame: %q", name, policy)
		}
	}
	if asked := c.took(); len(asked) != 1 || !strings.Contains(asked[0], "/v1/retry") {
		t.Errorf("of the coordinator was asked %q", asked)
	}
	// A session that has ended, or rights that were taken, hold at once.
	c.mu.Lock()
	c.members = map[string]api.Caller{}
	c.mu.Unlock()
	if w := alice.do(http.MethodPost, "/steer/cancel", cancel); w.Code != http.StatusUnauthorized || len(alice.cookies) != 0 {
		t.Errorf("after the session's end: %d, cookies %v", w.Code, alice.cookies)
	}
	if w := alice.do(http.MethodGet, "/?done=nonsense", nil); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "notice good") {
		t.Errorf("a made-up note: %d %s", w.Code, w.Body)
	}
}

// TestRebinding asks by names that are not the page's.
func TestRebinding(t *testing.T) {
	_, h := newSteered(t, nil)
	for host, want := range map[string]int{
		"127.0.0.1:8767": 200, "[::1]:8767": 200, "localhost": 200, "localhost:1": 200, "lighter.localhost:8767": 200, "192.168.1.5": 200,
		"head.lan:8767": 200, "FARM.example.org": 200, "evil.example": 421, "evil.example:8767": 421, "127.0.0.1.evil.example": 421, "localhost.evil.example": 421, "": 421,
	} {
		b := newBrowser(t, h)
		b.host = host
		if w := b.do(http.MethodGet, "/", nil); w.Code != want {
			t.Errorf("%q: got %d, want %d", host, w.Code, want)
		}
	}
}

// TestWithoutSteering has nothing to log in to.
func TestWithoutSteering(t *testing.T) {
	c := coordinator{"GET /v1/status": testStatus, "GET /v1/sessions": func(*http.Request) (any, error) { return api.Session{Caller: asRoot}, nil }}
	h := newServer(t, c).Handler()
	b := newBrowser(t, h)
	b.cookies["lighter-8767"] = token("root")
	for _, path := range []string{"/login", "/submit", "/steer/pause", "/logout"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if w := b.do(method, path, nil); w.Code != http.StatusNotFound {
				t.Errorf("%s %s: got %d", method, path, w.Code)
			}
		}
	}
	b.host = "any.example"
	if w := b.do(http.MethodGet, "/", nil); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "/login") || strings.Contains(w.Body.String(), "root") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}
