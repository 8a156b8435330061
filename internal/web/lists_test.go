package web

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/store"
)

// ledgerOf answers as a coordinator with these builds does, the newest last.
type ledgerOf struct {
	builds []api.Build
}

func (l *ledgerOf) coordinator() coordinator {
	return coordinator{
		"GET /v1/status":        testStatus,
		"GET /v1/builds":        l.list,
		"GET /v1/builds/counts": l.counts,
		"GET /v1/builds/{id}":   l.story,
		"GET /v1/blocking":      testBlocking,
		"POST /v1/outlook": func(*http.Request) (any, error) {
			return &api.Outlook{ExpectedEnd: &api.Expected{Low: testNow.Add(time.Hour), Middle: testNow.Add(2 * time.Hour), High: testNow.Add(3 * time.Hour)}, Builds: 1}, nil
		},
	}
}

func (l *ledgerOf) list(r *http.Request) (any, error) {
	q := r.URL.Query()
	f, err := api.ParseFilter(q, "limit", "after")
	if err != nil {
		return nil, api.BadRequest("%s", err)
	}
	limit := 100
	fmt.Sscan(q.Get("limit"), &limit)
	page := api.BuildList{Builds: []api.Build{}}
	after := q.Get("after")
	for _, b := range slices.Backward(l.builds) {
		if after != "" {
			if b.ID == after {
				after = ""
			}
			continue
		}
		if !f.Matches(&b) {
			continue
		}
		if len(page.Builds) == limit {
			page.Next = page.Builds[limit-1].ID
			break
		}
		page.Builds = append(page.Builds, b)
	}
	return page, nil
}

func (l *ledgerOf) counts(r *http.Request) (any, error) {
	f, err := api.ParseFilter(r.URL.Query())
	if err != nil {
		return nil, api.BadRequest("%s", err)
	}
	counts := &api.BuildCounts{Systems: make(map[string]map[api.State]int), Exact: true}
	for i := range l.builds {
		if f.Matches(&l.builds[i]) {
			counts.Add(l.builds[i].System, l.builds[i].State, 1)
		}
	}
	return counts, nil
}

// story has what builds waited for in their reason.
func (l *ledgerOf) story(r *http.Request) (any, error) {
	for _, b := range l.builds {
		if b.ID == r.PathValue("id") {
			return api.BuildStory{Build: b, Events: []api.Event{{Kind: api.KindMissingInputs, Reason: b.Reason}}}, nil
		}
	}
	return nil, &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: "no such build"}
}

// add adds a build of a package, made at a minute of the day, with tags as in "a=1 b=2".
func (l *ledgerOf) add(name, system string, state api.State, minute int, tags string) *api.Build {
	n := len(l.builds)
	started := testNow.Add(time.Duration(minute-600) * time.Minute)
	stopped := started.Add(time.Minute)
	b := api.Build{
		Request: api.Request{ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n), Derivation: store.Path(fmt.Sprintf("/gnu/store/%032d-%s.drv", n, name)), Tags: make(map[string]string)},
		System:  system, State: state, Submitted: started.Add(-time.Minute), Started: &started,
	}
	if state.Final() {
		b.Stopped = &stopped
	}
	if state == api.DependencyFailed {
		b.Started = nil
	}
	for _, tag := range strings.Fields(tags) {
		k, v, _ := strings.Cut(tag, "=")
		b.Tags[k] = v
	}
	l.builds = append(l.builds, b)
	return &l.builds[n]
}

const x86, arm = "x86_64-linux", "aarch64-linux"

// twoRevisions has two submissions: what fails in the second one has worked in the first, and the other way round.
func twoRevisions() *ledgerOf {
	l := &ledgerOf{}
	for _, b := range []struct {
		name, system   string
		state1, state2 api.State
	}{
		{"lib-1.%d", x86, api.Succeeded, api.Failed},
		{"lib-1.%d", arm, api.Succeeded, api.Succeeded},
		{"tool-2.%d", x86, api.Failed, api.Succeeded},
		{"app-3.%d", x86, api.TimedOut, api.Failed},
		{"old-1.%d", x86, api.Failed, ""},
		{"new-1.%d", x86, "", api.Failed},
		{"slow-1.%d", x86, api.Failed, api.Building},
		{"need-1.%d", x86, api.Succeeded, api.DependencyFailed},
	} {
		for i, state := range []api.State{b.state1, b.state2} {
			if state != "" {
				l.add(fmt.Sprintf(b.name, i), b.system, state, len(l.builds), "submission="+[]string{"spring", "summer"}[i])
			}
		}
	}
	return l
}

func model[T any](t *testing.T, h http.Handler, path string) *T {
	t.Helper()
	w := get(t, h, path, "Accept", "application/json")
	m := new(T)
	if err := json.Unmarshal(w.Body.Bytes(), m); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%s: %d, %v: %s", path, w.Code, err, w.Body)
	}
	return m
}

func TestBuildsPage(t *testing.T) {
	l := &ledgerOf{}
	for i := range 2*buildsOfPage + 10 {
		l.add(fmt.Sprintf("p-1.%d", i), x86, []api.State{api.Succeeded, api.Failed}[i%2], i, "set=a b/c=d")
	}
	h := newServer(t, l.coordinator()).Handler()
	seen := make(map[string]bool)
	pages := 0
	for next := "/builds?state=failed&state=succeeded&tag=set%3Da"; next != ""; pages++ {
		m := model[Builds](t, h, next)
		for _, b := range m.Builds {
			if seen[b.ID] {
				t.Fatalf("%s is there twice", b.ID)
			}
			seen[b.ID] = true
		}
		if (m.Newest != "") != (pages > 0) || m.States[0].Count != len(l.builds) {
			t.Errorf("page %d: %+v", pages, m.States)
		}
		next = m.Next
	}
	if len(seen) != len(l.builds) || pages != 3 {
		t.Errorf("%d builds on %d pages", len(seen), pages)
	}
	text := get(t, h, "/builds?tag=b%2Fc%3Dd&since=12h").Body.String()
	for _, want := range []string{`value="b/c=d"`, `value="12h"`, "the tag b/c=d", `href="/builds?since=12h&amp;state=failed&amp;tag=b%2Fc%3Dd"`, "application/atom+xml"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	// What is left empty in the form is left out.
	if w := get(t, h, "/builds?name=&tag=&tag=set%3Da&system="); w.Code != http.StatusFound || w.Header().Get("Location") != "/builds?tag=set%3Da" {
		t.Errorf("got %d to %q", w.Code, w.Header().Get("Location"))
	}
	for path, want := range map[string]string{
		"/builds?statte=failed":    "there are state, derivation, name",
		"/builds?statte=":          "there are state, derivation, name",
		"/builds?state=done":       "there are [queued",
		"/builds?tag=x":            "NAME=VALUE",
		"/builds?since=whenever":   "is not a time",
		"/builds?derivation=/etc/": "derivation",
		"/blocking?sytem=x":        "there is system",
		"/tag/nothing":             "NAME=VALUE",
		"/submission/summer?a=1":   "there are show, with, after",
		"/submission/x?show=y":     "there are all and time",
		"/feed.atom?limit=3":       "there are state",
	} {
		if w := get(t, h, path); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d, %s; want %q", path, w.Code, w.Body, want)
		}
	}
}

func TestSubmissionPage(t *testing.T) {
	l := twoRevisions()
	l.builds[len(l.builds)-1].Failure = &api.Failure{Kind: api.KindDependency, Phase: api.Waiting, Input: l.builds[1].Derivation}
	l.builds[1].Dependents = 1 // lib
	h := newServer(t, l.coordinator()).Handler()
	m := model[Submission](t, h, "/submission/summer")
	if m.Built != 2 || m.Failed != 4 || m.Left != 1 || m.Running != 1 || m.All != 7 || m.Outlook == nil {
		t.Errorf("%+v", m)
	}
	if len(m.Causes) != 3 || m.Causes[0].ID != l.builds[1].ID || m.Causes[0].Elsewhere || m.MoreCauses {
		t.Errorf("causes: %+v", m.Causes)
	}
	rows := func(x *Matrix) (names []string) {
		for _, r := range x.Rows {
			names = append(names, r.Name)
		}
		slices.Sort(names)
		return names
	}
	if got := rows(m.Matrix); !slices.Equal(got, []string{"app-3.1", "lib-1.1", "need-1.1", "new-1.1"}) {
		t.Errorf("those that fail: %q", got)
	}
	for _, row := range m.Matrix.Rows {
		if row.Name == "lib-1.1" && (row.Cells[x86].State != api.Failed || row.Cells[arm].State != api.Succeeded) {
			t.Errorf("%+v", row)
		}
	}
	if all := rows(model[Submission](t, h, "/submission/summer?show=all").Matrix); len(all) != 6 {
		t.Errorf("all: %q", all)
	}
	names := func(list []Difference) (names []string) {
		for _, d := range list {
			names = append(names, d.Name+" "+d.System)
		}
		slices.Sort(names)
		return names
	}
	c := model[Submission](t, h, "/submission/summer?with=submission%3Dspring").Compared
	for _, tt := range []struct {
		what string
		got  []Difference
		want []string
	}{
		{"newly broken", c.Broken, []string{"lib-1.1 " + x86, "need-1.1 " + x86}},
		{"newly fixed", c.Fixed, []string{"tool-2.1 " + x86}},
		{"still broken", c.Still, []string{"app-3.1 " + x86}},
		{"new", c.New, []string{"new-1.1 " + x86}},
		{"gone", c.Gone, []string{"old-1.0 " + x86}},
		{"open", c.Open, []string{"slow-1.1 " + x86}},
	} {
		if got := names(tt.got); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
	if c.More || c.Href != "/submission/spring" {
		t.Errorf("%+v", c)
	}
	page := get(t, h, "/submission/summer?with=submission%3Dspring").Body.String()
	for _, want := range []string{"Submission summer", "Newly broken", "Newly fixed", "Still broken", `title="dependency-failed"`, "Critical path", "/badge/tag/submission=summer.svg", "data-live"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if w := get(t, h, "/submission/autumn"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "no build has the tag submission=autumn") {
		t.Errorf("got %d: %s", w.Code, w.Body)
	}
	if w := get(t, h, "/submission/summer?with=submission%3Dautumn"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "nothing to compare with") {
		t.Errorf("got %d: %s", w.Code, w.Body)
	}
	if w := get(t, h, "/submission/summer?with=spring"); w.Code != http.StatusBadRequest {
		t.Errorf("got %d: %s", w.Code, w.Body)
	}
}

// TestMatrixPages has packages whose builds for several systems are far from each other in the ledger: each is on one page.
func TestMatrixPages(t *testing.T) {
	l := &ledgerOf{}
	const packages = 3*maxRows + 5
	for _, system := range []string{x86, arm} {
		for i := range packages {
			state := api.Failed
			if i%3 == 0 && system == arm {
				state = api.Succeeded
			}
			l.add(fmt.Sprintf("p-1.%d", i), system, state, i, "a/b=c/d%e")
		}
	}
	l.add("p-1.0", x86, api.Succeeded, packages, "a/b=c/d%e") // fixed for one system, and never failed for the other
	h := newServer(t, l.coordinator()).Handler()
	for show, want := range map[string]int{"": packages - 1, "?show=all": packages} {
		seen := make(map[string]bool)
		for next := "/tag/" + url.PathEscape("a/b=c/d%e") + show; next != ""; {
			m := model[Submission](t, h, next)
			if len(m.Matrix.Rows) > maxRows {
				t.Fatalf("%d rows", len(m.Matrix.Rows))
			}
			for _, row := range m.Matrix.Rows {
				if seen[row.Name] {
					t.Fatalf("%s is there twice", row.Name)
				}
				if seen[row.Name] = true; len(row.Cells) != 2 {
					t.Errorf("%+v", row)
				}
			}
			next = m.Matrix.Next
		}
		if len(seen) != want {
			t.Errorf("show %q: %d packages, want %d", show, len(seen), want)
		}
	}
}

// TestCausesElsewhere has a submission whose builds failed because of one of another submission.
func TestCausesElsewhere(t *testing.T) {
	l := &ledgerOf{}
	cause := l.add("lib-1", x86, api.Failed, 1, "submission=other").Derivation
	for i := range 3 {
		l.add(fmt.Sprint("p-1.", i), x86, api.DependencyFailed, 2, "submission=mine").Failure = &api.Failure{Kind: api.KindDependency, Phase: api.Waiting, Input: cause}
	}
	m := model[Submission](t, newServer(t, l.coordinator()).Handler(), "/submission/mine")
	if len(m.Causes) != 1 || !m.Causes[0].Elsewhere || m.Causes[0].Derivation != cause {
		t.Errorf("%+v", m.Causes)
	}
}

// TestCriticalPath has a chain of three, and builds beside it that end earlier.
func TestCriticalPath(t *testing.T) {
	l := &ledgerOf{}
	early := l.add("early", x86, api.Succeeded, 1, "a=b").Derivation
	first := l.add("first", x86, api.Succeeded, 5, "a=b").Derivation
	second := l.add("second", x86, api.Succeeded, 10, "a=b")
	second.Reason = string(early) + " " + string(first) + " and 7 more"
	needs := string(second.Derivation) + " " + string(early)
	l.add("last", x86, api.Succeeded, 20, "a=b").Reason = needs
	l.add("circle", x86, api.Succeeded, 3, "a=b").Reason = string(first)
	m := model[Submission](t, newServer(t, l.coordinator()).Handler(), "/tag/a=b")
	var path []string
	for i := range m.TimeLine.Path {
		path = append(path, api.DerivationName(m.TimeLine.Path[i].Derivation))
	}
	if want := []string{"first", "second", "last"}; !slices.Equal(path, want) || m.TimeLine.Builds != 5 {
		t.Errorf("got %q of %d", path, m.TimeLine.Builds)
	}
}

func TestBlockingPage(t *testing.T) {
	l := &ledgerOf{}
	c := l.coordinator()
	c["GET /v1/blocking"] = func(r *http.Request) (any, error) {
		if r.URL.Query().Get("system") != x86 {
			return &api.Blocking{}, nil
		}
		return &api.Blocking{At: testNow, Builds: []api.Blocker{{Build: *l.add("lib-1", x86, api.Building, 1, ""), Holds: 1234}}, BuildsCount: 40, MoreFailures: true}, nil
	}
	h := newServer(t, c).Handler()
	page := get(t, h, "/blocking").Body.String()
	for _, want := range []string{"lib-1", "1,234", "1 of 40", "/blocking?system=x86_64-linux", "Nothing failed", "newest 2,000"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q:\n%s", want, page)
		}
	}
	if m := model[Blocking](t, h, "/blocking?system="+arm); len(m.Systems) != 1 || m.Only != arm {
		t.Errorf("%+v", m)
	}
}

func TestAtomFeed(t *testing.T) {
	l := twoRevisions()
	l.add("evil", x86, api.Failed, 599, "submission=x&y").Failure = &api.Failure{Culprit: api.CulpritDerivation, Message: hostile}
	h := newServer(t, l.coordinator()).Handler()
	w := get(t, h, "/feed.atom")
	var f atomFeed
	if err := xml.Unmarshal(w.Body.Bytes(), &f); err != nil || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/atom+xml") {
		t.Fatalf("%v: %s", err, w.Body)
	}
	ids := map[string]bool{f.ID: true}
	updated, err := time.Parse(time.RFC3339, f.Updated)
	if err != nil || len(f.Entries) != 8 || f.Author != "a farm" || f.Links[0].Rel != "self" {
		t.Errorf("%v: %+v", err, f)
	}
	for _, e := range f.Entries {
		at, err := time.Parse(time.RFC3339, e.Updated)
		if err != nil || at.After(updated) || e.Title == "" || e.Links[0].Href != "/build/"+strings.TrimPrefix(e.ID, "urn:uuid:") || !strings.Contains(e.Title, "fail") && !strings.Contains(e.Title, "timed-out") {
			t.Errorf("%v: %+v", err, e)
		}
		ids[e.ID] = true
	}
	for id := range ids {
		if text, is := strings.CutPrefix(id, "urn:uuid:"); !is || uuid.Validate(text) != nil {
			t.Errorf("id %q", id)
		}
	}
	if len(ids) != 9 {
		t.Errorf("ids are there twice: %v", ids)
	}
	for _, harm := range []string{"<script", "<img", "\x1b", "\u202e", "\xff"} {
		if strings.Contains(w.Body.String(), harm) {
			t.Errorf("the feed has %q", harm)
		}
	}
	var other atomFeed
	if err := xml.Unmarshal(get(t, h, "/feed.atom?tag=submission%3Dx%26y&state=succeeded").Body.Bytes(), &other); err != nil || len(other.Entries) != 0 || other.ID == f.ID || other.Updated == "" {
		t.Errorf("%v: %+v", err, other)
	}
	// Where the time moves on, the feed is the same.
	early, late := new(atomFeed), new(atomFeed)
	s := newServer(t, l.coordinator())
	for i, f := range []*atomFeed{early, late} {
		s.now = func() time.Time { return testNow.Add(time.Duration(i) * time.Hour) }
		if err := xml.Unmarshal(get(t, s.Handler(), "/feed.atom?since=20h").Body.Bytes(), f); err != nil || len(f.Entries) == 0 {
			t.Errorf("%v: %+v", err, f)
		}
	}
	if early.ID != late.ID || early.Title != late.Title {
		t.Errorf("%q, %q and an hour later %q, %q", early.ID, early.Title, late.ID, late.Title)
	}
	if again := get(t, h, "/feed.atom", "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified {
		t.Errorf("asked again: %d", again.Code)
	}
}

func TestBadges(t *testing.T) {
	l := twoRevisions()
	l.add("git-2.50", x86, api.Succeeded, 500, "")
	l.add("git-2.51", arm, api.Failed, 501, "")
	l.add("git-2.52", arm, api.Canceled, 502, "")
	l.add("git-annex-10", x86, api.TimedOut, 503, "")
	h := newServer(t, l.coordinator()).Handler()
	for path, want := range map[string]string{
		"/badge/package/git.svg":                               "git: failed",
		"/badge/package/git.svg?system=x86_64-linux":           "git x86_64-linux: succeeded",
		"/badge/package/git-2.50.svg":                          "git-2.50: succeeded",
		"/badge/package/git-annex.svg":                         "git-annex: timed-out",
		"/badge/package/gi.svg":                                "gi: no builds",
		"/badge/package/" + url.PathEscape("<b>&\"'") + ".svg": "&lt;b&gt;&amp;&#34;&#39;: no builds",
		"/badge/tag/submission=summer.svg":                     "summer: 2 built, 4 failed, 1 to do",
		"/badge/tag/submission=autumn.svg":                     "autumn: no builds",
		"/badge/tag/" + url.PathEscape("a/b=c") + ".svg":       "a/b=c: no builds",
	} {
		w := get(t, h, path)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "<title>"+want+"</title>") || w.Header().Get("Content-Type") != "image/svg+xml; charset=utf-8" || w.Header().Get("Cache-Control") != "public, max-age=60" {
			t.Errorf("%s: %d, %v: %s; want %q", path, w.Code, w.Header(), w.Body, want)
		}
		d := xml.NewDecoder(w.Body)
		for {
			if _, err := d.Token(); err != nil {
				if err.Error() != "EOF" {
					t.Errorf("%s: %v", path, err)
				}
				break
			}
		}
	}
	if got, want := get(t, h, "/badge/package/git.svg").Body.String(), `<rect width="31" height="20" fill="#333b37"/><rect x="31" width="51" height="20" fill="#a3211b"/>`; !strings.Contains(got, want) {
		t.Errorf("got %s, want it to have %s", got, want)
	}
	for path, want := range map[string]int{
		"/badge/package/git.png": http.StatusNotFound, "/badge/package/git*.svg": http.StatusBadRequest, "/badge/package/git.svg?sytem=x": http.StatusBadRequest,
		"/badge/tag/x.svg": http.StatusBadRequest, "/badge/tag/x=y.svg?system=x": http.StatusBadRequest, "/badge/other.svg": http.StatusNotFound,
	} {
		if w := get(t, h, path); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}

// TestHostileLists has names, tags and reasons that would do harm where they are not escaped.
func TestHostileLists(t *testing.T) {
	l := &ledgerOf{}
	for range 3 {
		b := l.add("evil", hostile, api.Failed, 1, "")
		b.Tags["a"], b.Machine, b.Derivation = hostile, hostile, store.Path("/gnu/store/00000000000000000000000000000000-"+hostile+".drv")
		b.Failure = &api.Failure{Culprit: api.CulpritDerivation, Message: hostile}
	}
	h := newServer(t, l.coordinator()).Handler()
	f := apiclient.BuildFilter{Filter: api.Filter{States: []api.State{api.Failed}}}
	tag := url.PathEscape("a=" + strings.ToValidUTF8(hostile, ""))
	for _, path := range []string{"/builds?" + f.Values().Encode(), "/blocking", "/tag/a=", "/tag/a=?show=all", "/tag/a=?with=a%3D", "/builds?name=" + url.QueryEscape("<script>alert(1)</script>"), "/builds?" + url.QueryEscape("<script>alert(1)</script>") + "=x", "/badge/tag/" + tag + ".svg"} {
		text := get(t, h, path).Body.String()
		for _, harm := range []string{"<script>alert", "<img src=x", "\x1b", "\u202e", "\xff"} {
			if strings.Contains(text, harm) {
				t.Errorf("%s has %q", path, harm)
			}
		}
	}
}
