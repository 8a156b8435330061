package buildevents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/hooks"
	"lighter/internal/api"
	"lighter/store"
)

// service is as much of a Guix Data Service as takes build events: it checks what it
// gets as that does (guix-data-service/web/build-server/controller.scm).
type service struct {
	t *testing.T
	*httptest.Server

	mu       sync.Mutex
	requests [][]map[string]any
	answer   func(n int) int // status of the n-th request, 0 is what is right
	hold     chan struct{}   // each request takes one, if it is not nil
	arrived  chan struct{}
}

func startService(t *testing.T) *service {
	s := &service{t: t, arrived: make(chan struct{}, 1000)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.arrived <- struct{}{}
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-r.Context().Done():
			return
		}
	}
	status, text := s.judge(r)
	w.WriteHeader(status)
	if status != http.StatusNoContent {
		_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
	}
}

func (s *service) judge(r *http.Request) (int, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method != http.MethodPost || r.URL.Path != "/base/build-server/2/build-events" {
		return http.StatusNotFound, "no such page"
	}
	if r.URL.RawQuery == "" {
		return http.StatusBadRequest, "no token provided"
	}
	if r.URL.RawQuery != "token=se%2Bcret" {
		return http.StatusForbidden, "error"
	}
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return http.StatusBadRequest, err.Error()
	}
	var body map[string][]map[string]any
	if json.Unmarshal(text, &body) != nil {
		return http.StatusBadRequest, "could not parse body as JSON"
	}
	if len(body["items"]) == 0 || len(body) != 1 {
		return http.StatusBadRequest, "no items to process"
	}
	s.requests = append(s.requests, body["items"])
	if s.answer != nil {
		if status := s.answer(len(s.requests)); status != 0 {
			return status, "could not process events"
		}
	}
	return http.StatusNoContent, ""
}

// taken returns the requests as text.
func (s *service) taken() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all [][]string
	for _, items := range s.requests {
		var list []string
		for _, item := range items {
			if len(item) != 5 || item["type"] != "build" {
				s.t.Errorf("item: %v", item)
			}
			list = append(list, fmt.Sprintf("%s %s %s %.0f", item["derivation"], item["build_id"], item["event"], item["timestamp"]))
		}
		all = append(all, list)
	}
	return all
}

func (s *service) sender(t *testing.T) *Sender {
	sender, err := New(Options{URL: s.URL + "/base/", BuildServer: "2", Token: "se+cret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sender.client.CloseIdleConnections)
	return sender
}

const drv = "/gnu/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x.drv"

func event(id, name string, failure *api.Failure) *hooks.Event {
	return &hooks.Event{
		Name: name, Hook: "h", Try: 1, Seq: 1, Time: time.Unix(1700000000, 500000000),
		Event: api.Event{Build: id, Failure: failure},
		Build: &api.Build{Request: api.Request{ID: id, Derivation: store.Path(drv)}},
	}
}

func TestEvents(t *testing.T) {
	s := startService(t)
	sender := s.sender(t)
	var want [][]string
	for _, test := range []struct {
		name    string
		failure *api.Failure
		want    string
	}{
		{hooks.BuildSubmitted, nil, "scheduled"},
		{hooks.BuildStarted, nil, "started"},
		{hooks.BuildSucceeded, nil, "succeeded"},
		{hooks.BuildFailed, &api.Failure{Culprit: api.CulpritDerivation, Kind: "exit"}, "failed"},
		{hooks.BuildFailed, nil, "failed"},
		{hooks.BuildFailed, &api.Failure{Culprit: api.CulpritDerivation, Kind: api.KindDependency}, "failed-dependency"},
		{hooks.BuildDependencyFailed, nil, "failed-dependency"},
		{hooks.BuildFailed, &api.Failure{Culprit: api.CulpritMachine}, "failed-other"},
		{hooks.BuildTimedOut, &api.Failure{Culprit: api.CulpritDerivation}, "failed-other"},
		{hooks.BuildCanceled, nil, "canceled"},
		{hooks.BuildMissingInputs, nil, ""},
	} {
		if _, err := sender.Run(t.Context(), event("b1", test.name, test.failure)); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if test.want != "" {
			want = append(want, []string{drv + " b1 " + test.want + " 1700000000"})
		}
	}
	if _, err := sender.Run(t.Context(), &hooks.Event{Name: hooks.MachineLost, Machine: "m"}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, s.taken()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestBatch: what comes while a request is under way goes in one; what failed before
// goes alone.
func TestBatch(t *testing.T) {
	s := startService(t)
	s.hold = make(chan struct{})
	sender := s.sender(t)
	const more = 20
	results := make(chan error, more+2)
	run := func(e *hooks.Event) {
		go func() {
			_, err := sender.Run(t.Context(), e)
			results <- err
		}()
	}
	run(event("first", hooks.BuildStarted, nil))
	<-s.arrived
	again := event("again", hooks.BuildStarted, nil)
	again.Try = 2
	run(again)
	awaitQueue(t, sender, 1)
	for i := range more {
		run(event(fmt.Sprint("b", i), hooks.BuildStarted, nil))
	}
	awaitQueue(t, sender, more+1)
	close(s.hold)
	for range more + 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	var sizes []int
	for _, request := range s.taken() {
		sizes = append(sizes, len(request))
	}
	if diff := cmp.Diff([]int{1, 1, more}, sizes); diff != "" {
		t.Errorf("items (-want +got)\n%s", diff)
	}
}

func awaitQueue(t *testing.T, s *Sender, n int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		s.mu.Lock()
		waiting := len(s.queue)
		s.mu.Unlock()
		if waiting == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d wait, want %d", waiting, n)
		}
	}
}

// TestCanceledSender: whose run is stopped while it sends for others leaves the others
// as they were.
func TestCanceledSender(t *testing.T) {
	s := startService(t)
	s.hold = make(chan struct{})
	sender := s.sender(t)
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 2)
	go func() {
		_, err := sender.Run(ctx, event("stopped", hooks.BuildStarted, nil))
		results <- err
	}()
	<-s.arrived
	go func() {
		_, err := sender.Run(t.Context(), event("other", hooks.BuildStarted, nil))
		results <- err
	}()
	awaitQueue(t, sender, 1)
	cancel()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	<-s.arrived
	close(s.hold)
	if err := <-results; err != nil {
		t.Errorf("other: %v", err)
	}
	// The service may have taken the first request too, before or after the other one.
	if got := s.taken(); !slices.ContainsFunc(got, func(items []string) bool { return len(items) == 1 && strings.Contains(items[0], "other") }) {
		t.Errorf("taken: %v", got)
	}
}

// TestAnswers: hooks.Permanent is for what no second try makes better, and the token
// stands in no error.
func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		token  string
		want   string
		parked bool
	}{
		{"bad request", 400, "se+cret", "400 Bad Request: could not process events", true},
		{"bad token", 0, "other+token", "403 Forbidden: error; is the token that of this build server?", true},
		{"moved", 301, "se+cret", "301 Moved Permanently", true},
		{"server error", 500, "se+cret", "500 Internal Server Error: could not process events", false},
		{"bad gateway", 502, "se+cret", "502 Bad Gateway", false},
		{"too many", 429, "se+cret", "429 Too Many Requests", false},
		{"gone", -1, "se+cret", "connection refused", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startService(t)
			if test.status > 0 {
				s.answer = func(int) int { return test.status }
			}
			if test.status < 0 {
				s.Close()
			}
			sender, err := New(Options{URL: s.URL + "/base", BuildServer: "2", Token: test.token})
			if err != nil {
				t.Fatal(err)
			}
			_, err = sender.Run(t.Context(), event("b1", hooks.BuildStarted, nil))
			sender.client.CloseIdleConnections()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if strings.Contains(fmt.Sprint(err), "cret") || strings.Contains(fmt.Sprint(err), "other%2B") {
				t.Errorf("the token is in %q", err)
			}
			if got := hooks.IsPermanent(err); got != test.parked {
				t.Errorf("permanent: %t, want %t", got, test.parked)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	good := Options{URL: "https://data.example.org", BuildServer: "2", Token: "x"}
	for want, change := range map[string]func(*Options){
		`url "ftp://x"`:     func(o *Options) { o.URL = "ftp://x" },
		`url ""`:            func(o *Options) { o.URL = "" },
		`build-server "x/"`: func(o *Options) { o.BuildServer = "x/" },
		`build-server ""`:   func(o *Options) { o.BuildServer = "" },
		`no token`:          func(o *Options) { o.Token = "" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
