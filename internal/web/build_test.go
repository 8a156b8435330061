package web

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

const storyID = "33333333-3333-4333-8333-333333333333"

// testStory is the story of a build that failed on one machine, and then on another.
func testStory(state api.State) *api.BuildStory {
	at := func(minutes int) time.Time { return testNow.Add(time.Duration(minutes-30) * time.Minute) }
	started, stopped := at(6), at(10)
	failure := &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Machine: "alpha", Message: "the builder failed with exit code 1; its last lines were:\n" + hostile}
	lost := &api.Failure{Culprit: api.CulpritLink, Phase: api.Sending, Machine: "beta", Message: "broken pipe"}
	b := api.Build{
		Request: api.Request{ID: storyID, Derivation: "/gnu/store/00000000000000000000000000000000-python-foo-1.2.drv", Tags: map[string]string{"channel": hostile}},
		System:  "x86_64-linux", State: state, Submitted: at(0), Attempt: 2, Machine: "alpha", Started: &started,
		Submitter: &api.Submitter{UID: 1000, User: "alice"},
	}
	events := []api.Event{
		{Seq: 1, Kind: api.KindSubmitted, Build: storyID, State: api.Queued, Time: at(0)},
		{Seq: 2, Build: storyID, State: api.Sending, Attempt: 1, Machine: "beta", Time: at(1)},
		{Seq: 3, Build: storyID, State: api.Queued, Attempt: 1, Machine: "beta", Time: at(5), Failure: lost, Reason: "tried again"},
		{Seq: 4, Build: storyID, State: api.Building, Attempt: 2, Machine: "alpha", Time: at(6)},
	}
	story := &api.BuildStory{Build: b, Events: events}
	if state == api.Failed {
		story.Build.Stopped, story.Build.Failure, story.Build.Dependents = &stopped, failure, 3
		story.Events = append(events, api.Event{Seq: 5, Build: storyID, State: api.Failed, Attempt: 2, Machine: "alpha", Time: stopped, Failure: failure})
		story.WantedBy, story.WantedByCount = []api.Build{{Request: api.Request{ID: "44444444-4444-4444-8444-444444444444", Derivation: "/gnu/store/00000000000000000000000000000000-user-1.drv"}, State: api.DependencyFailed}}, 3
	}
	return story
}

// buildCoordinator answers what the page of a build asks.
func buildCoordinator(story *api.BuildStory, why *api.Why) coordinator {
	return coordinator{
		"GET /v1/builds/{id}": func(r *http.Request) (any, error) {
			if !strings.HasPrefix(storyID, r.PathValue("id")) {
				return nil, &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: "no such build"}
			}
			if r.URL.Query().Get("events") == "0" {
				return story.Build, nil
			}
			return story, nil
		},
		"GET /v1/builds/{id}/why": func(*http.Request) (any, error) { return why, nil },
		"GET /v1/builds": func(r *http.Request) (any, error) {
			if r.URL.Query().Get("name") != "python-foo-*" {
				return nil, api.BadRequest("asked for %s", r.URL.RawQuery)
			}
			list := &api.BuildList{}
			for i, name := range []string{"python-foo-1.1", "python-foo-bar-7", "python-foo-1.0", "python-foo-0.9"} {
				began, ended := testNow.Add(-time.Hour), testNow.Add(-time.Duration(30-10*i)*time.Minute)
				b := api.Build{
					Request: api.Request{ID: "5555555" + string(rune('0'+i)) + "-5555-4555-8555-555555555555", Derivation: store.Path("/gnu/store/00000000000000000000000000000000-" + name + ".drv")},
					State:   api.Succeeded, Started: &began, Stopped: &ended, Measured: &store.Measured{PeakMemory: 1 << 30},
				}
				list.Builds = append(list.Builds, b)
			}
			return list, nil
		},
		"GET /v1/estimates": func(*http.Request) (any, error) {
			return &api.EstimateList{Estimates: []api.Estimate{{Kind: "package", Name: "python-foo", System: "x86_64-linux", Samples: 4, Duration: api.Range{Middle: 120, Low: 60, High: 240}}}}, nil
		},
		"GET /v1/builds/{id}/log": func(*http.Request) (any, error) { return "checking\nerror: " + hostile, nil },
	}
}

// wantPage looks for texts on a page, and for harm.
func wantPage(t *testing.T, page string, want ...string) {
	t.Helper()
	for _, text := range want {
		if !strings.Contains(page, text) {
			t.Errorf("the page has no %q", text)
		}
	}
	for _, harm := range []string{"<script>alert", "<img", "\x1b", "\u202e", "\xff"} {
		if strings.Contains(page, harm) {
			t.Errorf("the page has %q", harm)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
}

func TestFailedBuild(t *testing.T) {
	h := newServer(t, buildCoordinator(testStory(api.Failed), nil)).Handler()
	w := get(t, h, "/build/"+storyID)
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	wantPage(t, w.Body.String(), "It failed on alpha: the builder failed with exit code 1.", "The end of its log", "error: ",
		"attempt 1 on beta", "attempt 2 on alpha", "broken pipe", "Not built because of it", "user-1", "These are 1 of 3",
		"python-foo on x86_64-linux", "It usually takes 2m00s", "python-foo-0.9", "half of those that succeeded took", "1.00 GiB",
		"lighter builds retry "+storyID, "guix build --no-offload --keep-failed /gnu/store/", "by alice")
	if strings.Contains(w.Body.String(), "python-foo-bar") {
		t.Error("another package's builds are among its past")
	}
	if strings.Contains(w.Body.String(), "data-live") {
		t.Error("the page of a build that is over looks for news")
	}
	var m BuildPage
	if err := json.Unmarshal(get(t, h, "/build/"+storyID+".json").Body.Bytes(), &m); err != nil || len(m.Attempts) != 2 || len(m.Past) != 3 || m.Median != 3000 {
		t.Errorf("the twin: %v, %+v", err, m)
	}
}

func TestWaitingBuild(t *testing.T) {
	story := testStory(api.Queued)
	story.Build.Attempt, story.Build.Machine, story.Build.Started, story.Events = 0, "", nil, story.Events[:1]
	why := &api.Why{
		Summary: "no machine can take it now", Place: 12, ExpectedStart: &api.Expected{Low: testNow.Add(time.Minute), Middle: testNow.Add(2 * time.Minute), High: testNow.Add(5 * time.Minute)},
		Machines: []api.MachineVerdict{{Machine: "alpha", Rule: "slots", Actual: "2 of 2 in use"}, {Machine: "beta", OK: true, Finish: 60}},
		Ahead:    []api.Build{{Request: api.Request{ID: "66666666-6666-4666-8666-666666666666", Derivation: "/gnu/store/00000000000000000000000000000000-first-1.drv"}}},
	}
	w := get(t, newServer(t, buildCoordinator(story, why)).Handler(), "/build/"+storyID)
	page := w.Body.String()
	wantPage(t, page, "it is number 12 of those that do", "no free slot: 2 of 2 in use", "first-1", "It will begin", `data-live="`+storyID+`"`, "lighter builds why "+storyID)
	if strings.Contains(page, "log.html") {
		t.Error("a build that was not tried has a link to a log")
	}
	if strings.Index(page, ">beta<") > strings.Index(page, ">alpha<") {
		t.Error("the machine that can take it does not come first")
	}
}

func TestBuildElsewhere(t *testing.T) {
	h := newServer(t, buildCoordinator(testStory(api.Failed), nil)).Handler()
	for path, want := range map[string]string{"/build/3333": "/build/" + storyID, "/build/3333.json?x=1": "/build/" + storyID + ".json?x=1"} {
		if w := get(t, h, path); w.Code != http.StatusFound || w.Header().Get("Location") != want {
			t.Errorf("%s: %d, to %s: want %s", path, w.Code, w.Header().Get("Location"), want)
		}
	}
	if w := get(t, h, "/build/77777777-7777-4777-8777-777777777777"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "archive") {
		t.Errorf("a build that has left: %d: %s", w.Code, w.Body)
	}
}

// TestSummaries has something to say for each state.
func TestSummaries(t *testing.T) {
	for _, state := range api.States() {
		m := &BuildPage{Build: &testStory(state).Build}
		if text := summary(m); !strings.HasSuffix(text, ".") || !strings.HasPrefix(text, "It ") && !strings.HasPrefix(text, "What ") || strings.Contains(text, "..") {
			t.Errorf("%s: %q", state, text)
		}
	}
}
