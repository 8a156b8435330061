package apiserver

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/catalogue"
	"lighter/internal/dataservice/serve"
)

const (
	helloLine  = `{"name":"hello","version":"2.12","system":"x86_64-linux","derivation":"/gnu/store/0cr3xlhxgm9g2cbyhmkgzc4gmcljh5mr-hello-2.12.drv"}` + "\n"
	brokenLine = `{"name":"broken","version":"1","system":"x86_64-linux","error":"unbound variable: x"}` + "\n"
)

func revisionsOf(t *testing.T) *revisionCalls {
	t.Helper()
	c, err := catalogue.Open(t.TempDir(), catalogue.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &revisionCalls{
		running: context.WithCancel, log: slog.New(slog.DiscardHandler), catalogue: c, recording: make(chan struct{}, 1),
		dataService: http.StripPrefix("/v1/data-service", serve.New(c, nil)),
	}
}

func query(commit string, more ...string) url.Values {
	q := url.Values{"repository": {"guix"}, "branch": {"master"}, "commit": {strings.Repeat(commit, 40)}, "date": {"2026-11-20T22:53:00Z"}}
	for i := 0; i < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return q
}

func post(t *testing.T, s *revisionCalls, q url.Values, body string) (done api.RecordedRevision, status int, message string) {
	t.Helper()
	w := httptest.NewRecorder()
	if err := s.post(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/revisions?"+q.Encode(), strings.NewReader(body))); err != nil {
		writeError(w, err)
		return done, w.Code, w.Body.String()
	}
	if err := json.Unmarshal(w.Body.Bytes(), &done); err != nil {
		t.Fatal(err)
	}
	return done, w.Code, ""
}

func TestPostRevisions(t *testing.T) {
	s := revisionsOf(t)
	got, _, message := post(t, s, query("a"), helloLine+brokenLine)
	want := api.RecordedRevision{Commit: strings.Repeat("a", 40), Packages: 2, Derivations: 1, Errors: 1, NewPackages: 2, NewDerivations: 1}
	if diff := cmp.Diff(got, want); diff != "" || message != "" {
		t.Errorf("%s (-got +want):\n%s", message, diff)
	}
	got, _, message = post(t, s, query("b", "keep", "1"), helloLine)
	want = api.RecordedRevision{Commit: strings.Repeat("b", 40), Packages: 1, Derivations: 1, GonePackages: 1, Dropped: 1}
	if diff := cmp.Diff(got, want); diff != "" || message != "" {
		t.Errorf("%s (-got +want):\n%s", message, diff)
	}
	w := httptest.NewRecorder()
	err := s.get(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/data-service/repository/1/branch/master.json", nil))
	if err != nil || strings.Count(w.Body.String(), "commit-hash") != 1 || !strings.Contains(w.Body.String(), want.Commit) {
		t.Errorf("%v: %s", err, w.Body)
	}
}

func TestPostRevisionsRefuses(t *testing.T) {
	s := revisionsOf(t)
	for name, test := range map[string]struct {
		q          url.Values
		body, want string
	}{
		"date":   {query("a", "date", "yesterday"), helloLine, "want one such as"},
		"keep":   {query("a", "keep", "0"), helloLine, "from 1 on"},
		"commit": {query("xyz"), helloLine, "40 hexadecimal digits"},
		"branch": {query("a", "branch", ""), helloLine, "a repository and a branch"},
		"line":   {query("a"), helloLine + "{}\n", "line 2: "},
		"cut":    {query("a"), helloLine + brokenLine[:20], "line 2: the JSON ends too early"},
		"empty":  {query("a"), "", "no packages"},
	} {
		_, status, message := post(t, s, test.q, test.body)
		if status != http.StatusBadRequest || !strings.Contains(message, test.want) {
			t.Errorf("%s: status %d, %s", name, status, message)
		}
	}
	v, err := s.catalogue.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if got, err := v.Repositories(); len(got) != 0 || err != nil {
		t.Errorf("something was recorded: %v, %v", got, err)
	}
	_, status, message := post(t, &revisionCalls{}, query("a"), helloLine)
	if status != http.StatusServiceUnavailable || !strings.Contains(message, "could not be opened") {
		t.Errorf("without a catalogue: status %d, %s", status, message)
	}
}
