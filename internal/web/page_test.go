package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// coordinator stands in for one: it answers requests with what functions return, by method and path as
// patterns of net/http are; or with what such a function returns does. Events are answered line by line. What has no function is not
// found.
type coordinator map[string]func(*http.Request) (any, error)

// newServer returns a server of pages over a coordinator, with a clock that stands at testNow.
func newServer(t *testing.T, c coordinator) *Server {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, answer := range c {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := answer(r)
			if h, ok := v.(http.HandlerFunc); ok {
				h(w, r)
				return
			}
			var e *api.Error
			if errors.As(err, &e) {
				w.WriteHeader(e.Status)
				v = e
			}
			lines, ok := v.([]api.Event)
			if !ok {
				json.NewEncoder(w).Encode(v)
			}
			for i := range lines {
				json.NewEncoder(w).Encode(&lines[i])
			}
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(&api.Error{Code: api.CodeNotFound, Message: "no such thing: " + r.URL.Path})
	})
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	server.Start()
	client := apiclient.NewClient(socket)
	t.Cleanup(func() {
		client.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return New(Options{Client: client, Title: "a farm", Now: func() time.Time { return testNow }})
}

var testNow = time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)

// hostile is text that would do harm where it is not escaped.
const hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[31m\u202egnp.exe\xff"

func testStatus(*http.Request) (any, error) {
	started := testNow.Add(-time.Hour)
	return &api.Status{
		Version: "1", Started: started, LastEvent: 9, Counts: map[api.State]int{api.Failed: 1},
		Machines: []api.MachineStatus{
			{Name: "alpha", Systems: []string{"x86_64-linux"}, State: api.MachineUp, ParallelBuilds: 4, Running: 1, Cores: 8, Load: 0.5, FreeDisk: 1 << 40},
			{Name: "beta", Systems: []string{"x86_64-linux"}, State: api.MachineDown, Error: hostile, ParallelBuilds: 2},
		},
		Queues:       []api.SystemQueue{{System: "x86_64-linux", Queued: 3, Waiting: 2, Running: 1, Rate: 12}},
		Running:      []api.Build{{Request: api.Request{ID: "11111111-1111-4111-8111-111111111111", Derivation: "/gnu/store/00000000000000000000000000000000-hello-2.12.drv"}, State: api.Building, Machine: "alpha", Started: &started, Overdue: true}},
		Paused:       hostile,
		Installation: &api.Installation{State: "/secret/state"},
		Caller:       &api.Caller{User: "secret-user"},
	}, nil
}

func testBlocking(*http.Request) (any, error) {
	stopped := testNow.Add(-time.Hour)
	failed := api.Build{
		Request: api.Request{ID: "22222222-2222-4222-8222-222222222222", Derivation: "/gnu/store/00000000000000000000000000000000-bad-1.drv"},
		State:   api.Failed, Stopped: &stopped, Dependents: 7, Failure: &api.Failure{Culprit: api.CulpritDerivation, Message: hostile},
	}
	return &api.Blocking{Failures: []api.Blocker{{Build: failed, Holds: 2}}, FailuresCount: 20}, nil
}

// get asks for a page. Headers are names and values in turn.
func get(t *testing.T, h http.Handler, url string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, url, http.NoBody)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestIndex(t *testing.T) {
	h := newServer(t, coordinator{"GET /v1/status": testStatus, "GET /v1/blocking": testBlocking}).Handler()
	page := get(t, h, "/")
	text := page.Body.String()
	for _, want := range []string{"The farm needs a look", "paused", "hello-2.12", "overdue", "bad-1", "holds up\">9<", "All 20", "beta is down", `href="/build/22222222-2222-4222-8222-222222222222/log.html"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for _, harm := range []string{"<script>alert", "<img", "\x1b", "\u202e", "\xff", "secret"} {
		if strings.Contains(text, harm) {
			t.Errorf("the page has %q", harm)
		}
	}
	twin := get(t, h, "/index.json")
	var m Index
	if err := json.Unmarshal(twin.Body.Bytes(), &m); err != nil || m.Queued != 3 || m.Slots != 4 || len(m.Obstacles) != 2 {
		t.Errorf("the twin is %s: %v", twin.Body, err)
	}
	if strings.Contains(twin.Body.String(), "secret") {
		t.Error("the twin says where the coordinator has its things")
	}
}

func TestNegotiation(t *testing.T) {
	h := newServer(t, coordinator{"GET /v1/status": testStatus}).Handler()
	for _, tc := range []struct{ path, accept, want string }{
		{"/", "", "text/html"},
		{"/", "*/*", "text/html"},
		{"/", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"},
		{"/", "application/json", "application/json"},
		{"/", "text/html;q=0.5, application/json", "application/json"},
		{"/", "application/json;q=0.1, text/html", "text/html"},
		{"/", "application/json;q=x", "text/html"},
		{"/index.json", "text/html", "application/json"},
		{"/activity.json", "", "application/json"},
		{"/nothing", "", "text/html"},
		{"/nothing", "application/json", "application/json"},
	} {
		w := get(t, h, tc.path, "Accept", tc.accept)
		if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s by who accepts %q: %s, want %s", tc.path, tc.accept, got, tc.want)
		}
		if !strings.Contains(w.Header().Get("Vary"), "Accept") {
			t.Errorf("%s: Vary is %q", tc.path, w.Header().Get("Vary"))
		}
	}
}

func TestETag(t *testing.T) {
	h := newServer(t, coordinator{"GET /v1/status": testStatus}).Handler()
	etag := get(t, h, "/").Header().Get("ETag")
	if etag == "" || etag == get(t, h, "/index.json").Header().Get("ETag") {
		t.Fatalf("ETag %q: want one, and another than the twin's", etag)
	}
	for _, tc := range []struct {
		header string
		want   int
	}{{etag, 304}, {"W/" + etag, 304}, {`"other", ` + etag, 304}, {"*", 304}, {`"other"`, 200}, {"", 200}} {
		w := get(t, h, "/", "If-None-Match", tc.header)
		if w.Code != tc.want || tc.want == 304 && w.Body.Len() > 0 {
			t.Errorf("If-None-Match: %s: %d with %d bytes, want %d", tc.header, w.Code, w.Body.Len(), tc.want)
		}
	}
}

// TestSecured looks at what every answer tells a browser, errors and files included.
func TestSecured(t *testing.T) {
	h := newServer(t, coordinator{"GET /v1/status": testStatus}).Handler()
	for _, path := range []string{"/", "/index.json", "/nothing", "/static/style.css", "/static/page.js", "/robots.txt"} {
		w := get(t, h, path)
		policy := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", path, w.Header())
		}
	}
	for _, path := range []string{"/static/", "/static/../web.go", "/static/nothing.css"} {
		if w := get(t, h, path); w.Code == http.StatusOK {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code < 400 {
		t.Errorf("POST /: %d", w.Code)
	}
	page := get(t, h, "/").Body.String()
	for _, inline := range []string{" style=", " onclick=", "javascript:"} {
		if strings.Contains(page, inline) {
			t.Errorf("the page has %q, which its policy forbids", inline)
		}
	}
}

// TestSharedAnswers has a hundred who look at the same time cost the coordinator one question.
func TestSharedAnswers(t *testing.T) {
	var asked atomic.Int32
	begun, release := make(chan struct{}, 100), make(chan struct{})
	h := newServer(t, coordinator{"GET /v1/status": func(r *http.Request) (any, error) {
		asked.Add(1)
		begun <- struct{}{}
		<-release
		return testStatus(r)
	}}).Handler()
	var looking sync.WaitGroup
	bad := make(chan string, 100)
	for range 100 {
		looking.Go(func() {
			if w := get(t, h, "/"); w.Code != http.StatusOK {
				bad <- fmt.Sprint(w.Code, w.Body)
			}
		})
	}
	<-begun
	close(release)
	looking.Wait()
	get(t, h, "/activity") // another page, the same status
	close(bad)
	for text := range bad {
		t.Error(text)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the coordinator was asked %d times", n)
	}
}

// TestGone has a page go on where the one for whom it was begun has gone.
func TestGone(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	h := newServer(t, coordinator{"GET /v1/status": func(r *http.Request) (any, error) {
		close(begun)
		<-release
		return testStatus(r)
	}}).Handler()
	ctx, cancel := context.WithCancel(t.Context())
	var both sync.WaitGroup
	both.Go(func() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", http.NoBody).WithContext(ctx))
	})
	<-begun
	cancel()
	both.Go(func() {
		if w := get(t, h, "/"); w.Code != http.StatusOK {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
	})
	close(release)
	both.Wait()
}

// TestAway shows what was known last, and says so, where the coordinator does not answer any more.
func TestAway(t *testing.T) {
	var away atomic.Bool
	s := newServer(t, coordinator{"GET /v1/status": func(r *http.Request) (any, error) {
		if away.Load() {
			return nil, &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "it stops; see /secret/place"}
		}
		return testStatus(r)
	}})
	now := testNow
	s.now = func() time.Time { return now }
	h := s.Handler()
	get(t, h, "/")
	away.Store(true)
	now = now.Add(time.Minute)
	w := get(t, h, "/")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "has not answered since") || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	away.Store(false)
	now = now.Add(time.Minute)
	if w := get(t, h, "/"); strings.Contains(w.Body.String(), "has not answered") {
		t.Error("the coordinator is back, and the page says that it is not")
	}
}

// TestNobodyThere has a page for where no coordinator ever was.
func TestNobodyThere(t *testing.T) {
	s := New(Options{Client: apiclient.NewClient("/nowhere/secret.sock"), Now: func() time.Time { return testNow }})
	for _, path := range []string{"/", "/activity", "/metrics"} {
		w := get(t, s.Handler(), path)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d: %s", path, w.Code, w.Body)
		}
	}
}

func TestMetrics(t *testing.T) {
	h := newServer(t, coordinator{"GET /v1/metrics": func(*http.Request) (any, error) { return "figures", nil }}).Handler()
	w := get(t, h, "/metrics")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "figures") || !strings.Contains(w.Body.String(), "\nlighter_web_streams 0\n") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

// TestAnswersAreBounded asks for more different pages than are kept.
func TestAnswersAreBounded(t *testing.T) {
	s := newServer(t, coordinator{"GET /v1/status": testStatus})
	h := s.Handler()
	for i := range 3 * maxAnswers {
		get(t, h, fmt.Sprintf("/?%d", i))
	}
	s.bodies.mu.Lock()
	defer s.bodies.mu.Unlock()
	if len(s.bodies.known) > maxAnswers {
		t.Errorf("%d answers are kept, want %d at most", len(s.bodies.known), maxAnswers)
	}
}

// TestPanic has an error in a page be an error of that page alone.
func TestPanic(t *testing.T) {
	s := newServer(t, nil)
	p := &page{path: "/", template: "index", load: func(*http.Request) (any, error) { panic("no") }}
	w := httptest.NewRecorder()
	s.servePage(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody), p, pageTemplate("index"))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

// TestServe answers on a listener until its context ends, open streams included.
func TestServe(t *testing.T) {
	s := newServer(t, coordinator{"GET /v1/status": testStatus})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, s) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
}
