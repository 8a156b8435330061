package serve_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/catalogue"
	"lighter/internal/catalogue/cataloguetest"
	"lighter/internal/dataservice"
	"lighter/internal/dataservice/serve"
	"lighter/internal/evaluate"
	"lighter/internal/testkit"
)

const revisions = 10

// catalogued returns a catalogue of ten revisions of a branch.
func catalogued(t testing.TB) *catalogue.Catalogue {
	t.Helper()
	c, err := catalogue.Open(t.TempDir(), catalogue.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	g := cataloguetest.Generator{Packages: 60, Systems: []string{"x86_64-linux", "aarch64-linux"}, Changes: 10}
	for range revisions {
		if _, err := c.Record(t.Context(), g.Source(), g.Next()); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func ask(t testing.TB, h http.Handler, uri string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, uri, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func decoded[T any](t testing.TB, w *httptest.ResponseRecorder) (value T) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &value); err != nil {
		t.Fatalf("%v: %.300s", err, w.Body)
	}
	return value
}

// differs says where two values have other members or types.
func differs(where string, got, want any) error {
	if want == nil || got == nil {
		return nil
	}
	if g, w := fmt.Sprintf("%T", got), fmt.Sprintf("%T", want); g != w {
		return fmt.Errorf("%s: %s, want %s", where, g, w)
	}
	switch want := want.(type) {
	case map[string]any:
		got := got.(map[string]any)
		for name := range want {
			if _, ok := got[name]; !ok {
				return fmt.Errorf("%s has no %q", where, name)
			}
		}
		for name := range got {
			if _, ok := want[name]; !ok {
				return fmt.Errorf("%s has %q", where, name)
			}
			if err := differs(where+"."+name, got[name], want[name]); err != nil {
				return err
			}
		}
	case []any:
		got := got.([]any)
		if len(want) > 0 && len(got) == 0 && !strings.Contains(where, "[") { // of elements, some have none
			return fmt.Errorf("%s is empty", where)
		}
		for i := range got {
			if len(want) == 0 {
				return fmt.Errorf("%s is not empty", where)
			}
			if err := differs(fmt.Sprintf("%s[%d]", where, i), got[i], want[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Each route answers with the members that the Guix Data Service has, and their types, whichever way it is asked.
func TestShapes(t *testing.T) {
	text, err := os.ReadFile("testdata/routes.json")
	if err != nil {
		t.Fatal(err)
	}
	var routes map[string]any
	if err := json.Unmarshal(text, &routes); err != nil {
		t.Fatal(err)
	}
	h := serve.New(catalogued(t), nil)
	for route, want := range routes {
		uri := strings.NewReplacer(
			"COMMIT0", cataloguetest.Commit(0), "COMMIT9", cataloguetest.Commit(9), "UNKNOWN", strings.Repeat("0", 40)).Replace(route)
		status := http.StatusOK
		switch {
		case strings.HasPrefix(route, "/revision/UNKNOWN"), route == "/repository/9", strings.Contains(route, "no-such/latest"):
			status = http.StatusNotFound
		}
		path, query, _ := strings.Cut(uri, "?")
		for _, uri := range []string{uri, path + ".json?" + query} {
			w := ask(t, h, uri)
			if w.Code != status || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%s: status %d, %v", uri, w.Code, w.Header())
			}
			if err := differs(route, decoded[any](t, w), want); err != nil {
				t.Error(err)
			}
		}
	}
}

// The client of "lighter queue" finds all that was recorded, page by page.
func TestClient(t *testing.T) {
	testkit.CheckLeaks(t)
	c := catalogued(t)
	server := httptest.NewServer(http.StripPrefix("/v1/data-service", serve.New(c, nil)))
	defer server.Close()
	client, err := dataservice.New(dataservice.Options{URL: server.URL + "/v1/data-service", Page: 7})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	got, err := client.Revisions(t.Context(), 1, "master", 3)
	if err != nil || len(got) != 3 || got[0].Commit != cataloguetest.Commit(revisions-1) || !got[0].Available {
		t.Errorf("revisions %+v, %v", got, err)
	}
	if got, err := client.Revisions(t.Context(), 1, "no/such", 3); len(got) != 0 || err != nil {
		t.Errorf("revisions of a branch that is not there: %+v, %v", got, err)
	}
	g := cataloguetest.Generator{Packages: 60, Systems: []string{"x86_64-linux", "aarch64-linux"}, Changes: 10}
	for n := range revisions {
		var want, got []string
		for p := range g.Next() {
			if p.System == "aarch64-linux" && p.Derivation != "" {
				want = append(want, string(p.Derivation))
			}
		}
		for page, err := range client.Derivations(t.Context(), cataloguetest.Commit(n), "aarch64-linux", "") {
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page {
				got = append(got, string(d.Path))
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(got, want); diff != "" {
			t.Fatalf("revision %d (-got +want):\n%s", n, diff)
		}
	}
	for _, err := range client.Derivations(t.Context(), strings.Repeat("0", 40), "aarch64-linux", "") {
		if !errors.Is(err, dataservice.ErrNotFound) {
			t.Errorf("a revision that is not there: %v", err)
		}
	}
}

// A query that the service does not understand has status 200 and an error.
func TestInvalidQuery(t *testing.T) {
	h := serve.New(catalogued(t), nil)
	revision := "/revision/" + cataloguetest.Commit(0)
	for _, uri := range []string{
		revision + "/package-derivations?limit_results=5&all_results=on",
		revision + "/package-derivations?limit_results=-1",
		revision + "/package-derivations?after_name=hello",
		revision + "/package-derivations?build_status=odd",
		revision + "/package-derivations?minimum_builds=x",
		revision + "/packages?after_name=a&search_query=b",
		revision + "/packages?limit_results=5&all_results=on",
		"/repository/1/branch/master?after_date=yesterday",
		"/compare", "/compare?base_commit=x&target_commit=y", "/compare-by-datetime",
		"/compare-by-datetime?base_branch=master&base_datetime=2000-01-01+00:00:00&target_branch=master&target_datetime=2026-01-02+00:00:00",
		"/jobs?%zz",
	} {
		w := ask(t, h, uri)
		if got := decoded[map[string]any](t, w)["error"]; w.Code != http.StatusOK || got != "invalid query" || w.Header().Get("ETag") != "" {
			t.Errorf("%s: status %d, %s", uri, w.Code, w.Body)
		}
	}
}

func TestRefused(t *testing.T) {
	h := serve.New(catalogued(t), nil)
	for uri, status := range map[string]int{
		"/no/such/page": http.StatusNotFound,
		"/revision/" + strings.Repeat("x", 20000): http.StatusRequestURITooLong,
		"/revision/master":                        http.StatusNotFound,
		"/repository/x":                           http.StatusNotFound,
	} {
		if w := ask(t, h, uri); w.Code != status || len(decoded[map[string]any](t, w)) != 1 {
			t.Errorf("%.40s: status %d, want %d: %.100s", uri, w.Code, status, w.Body)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/jobs", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", w.Code)
	}
}

// Filters choose, and pages follow each other.
func TestFilters(t *testing.T) {
	h := serve.New(catalogued(t), nil)
	type row struct{ Derivation, System, Target string }
	list := func(query string) []row {
		w := ask(t, h, "/revision/"+cataloguetest.Commit(0)+"/package-derivations?"+query)
		return decoded[map[string][]row](t, w)["derivations"]
	}
	for query, want := range map[string]int{
		"": 10, "limit_results=0": 0, "limit_results=1000": 120, "all_results=on": 120,
		"all_results=on&system=x86_64-linux": 60, "all_results=on&system=x86_64-linux&system=aarch64-linux": 120,
		"all_results=on&system=riscv64-linux": 0, "all_results=on&target=none": 120, "all_results=on&target=x": 0,
		"all_results=on&search_query=PACKAGE-00001": 2, "all_results=on&maximum_builds=0": 120, "all_results=on&minimum_builds=1": 0,
		"all_results=on&build_status=unknown": 120, "all_results=on&build_status=failing": 0,
	} {
		if got := list(query); len(got) != want {
			t.Errorf("%q: %d derivations, want %d", query, len(got), want)
		}
	}
	first := list("limit_results=5")
	second := list("limit_results=5&after_name=" + url.QueryEscape(first[4].Derivation))
	if diff := cmp.Diff(append(first, second...), list("")); diff != "" {
		t.Errorf("two pages and one (-got +want):\n%s", diff)
	}
}

func TestBranchDates(t *testing.T) {
	h := serve.New(catalogued(t), nil)
	for query, want := range map[string]int{
		"": revisions, "limit_results=2": 2,
		"after_date=2026-01-01+08:00:00":                                 2,
		"before_date=2026-01-01+00:30:00":                                1,
		"after_date=2026-01-01+02:00:00&before_date=2026-01-01+04:00:00": 3,
	} {
		w := ask(t, h, "/repository/1/branch/master?"+query)
		if got := decoded[map[string][]any](t, w)["revisions"]; len(got) != want {
			t.Errorf("%q: %d revisions, want %d", query, len(got), want)
		}
	}
}

// What changed between two revisions, in all forms.
func TestCompare(t *testing.T) {
	c, err := catalogue.Open(t.TempDir(), catalogue.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	one := func(name, version, seed string) evaluate.Package {
		return evaluate.Package{Name: name, Version: version, System: "x86_64-linux", Derivation: cataloguetest.Path(name+".drv", seed)}
	}
	for n, list := range [][]evaluate.Package{
		{one("same", "1", "a"), one("rebuilt", "1", "b"), one("gone", "1", "c"), one("newer", "1", "d"), one("newer", "3", "e")},
		{one("same", "1", "a"), one("rebuilt", "1", "f"), one("added", "1", "g"), one("newer", "2", "h"), one("newer", "3", "e")},
	} {
		s := catalogue.Source{Repository: "guix", Branch: "master", Commit: cataloguetest.Commit(n)}
		s.Date = s.Date.AddDate(2000, n, 0)
		_, err := c.Record(t.Context(), s, func(yield func(*evaluate.Package, error) bool) {
			for _, p := range list {
				if !yield(&p, nil) {
					return
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	h := serve.New(c, nil)
	query := "?base_commit=" + cataloguetest.Commit(0) + "&target_commit=" + cataloguetest.Commit(1)
	got := decoded[map[string]any](t, ask(t, h, "/compare"+query))
	delete(got, "base-commit")
	delete(got, "target-commit")
	named := func(name, version string) map[string]any { return map[string]any{"name": name, "version": version} }
	want := map[string]any{
		"channel-news": []any{}, "new-packages": []any{named("added", "1")}, "removed-packages": []any{named("gone", "1")},
		"version-changes": []any{map[string]any{"name": "newer", "base": []any{"1", "3"}, "target": []any{"2", "3"}}},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	var names []string
	for _, change := range decoded[struct {
		Changes []struct{ Name, Version string } `json:"derivation_changes"`
	}](t, ask(t, h, "/compare/package-derivations"+query)).Changes {
		names = append(names, change.Name+" "+change.Version)
	}
	if diff := cmp.Diff(names, []string{"added 1", "gone 1", "newer 1", "newer 2", "rebuilt 1"}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	history := decoded[map[string][]struct {
		Version string
		Last    struct{ Commit string } `json:"last_revision"`
	}](t, ask(t, h, "/repository/1/branch/master/package/newer"))["versions"]
	if len(history) != 3 || history[2].Version != "1" || history[2].Last.Commit != cataloguetest.Commit(0) {
		t.Errorf("history %+v", history)
	}
}

// An answer that has not changed is not sent again; one that may have is.
func TestETag(t *testing.T) {
	c := catalogued(t)
	h := serve.New(c, nil)
	uri := "/repository/1/branch/master/latest-processed-revision"
	w := ask(t, h, uri)
	tag := w.Header().Get("ETag")
	if again := ask(t, h, uri, "If-None-Match", `"x", `+tag); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("status %d, %s", again.Code, again.Body)
	}
	if other := ask(t, h, uri+"/packages", "If-None-Match", tag); other.Code != http.StatusOK {
		t.Errorf("another page: status %d", other.Code)
	}
	if _, err := c.Drop(t.Context(), 1, 3); err != nil {
		t.Fatal(err)
	}
	if again := ask(t, h, uri, "If-None-Match", tag); again.Code != http.StatusOK || again.Header().Get("ETag") == tag {
		t.Errorf("after a change: status %d", again.Code)
	}
	if w := ask(t, h, "/revision/"+cataloguetest.Commit(0)); w.Code != http.StatusNotFound {
		t.Errorf("a dropped revision: status %d", w.Code)
	}
}

// What packages say of themselves stays text.
func TestHostileText(t *testing.T) {
	c, err := catalogue.Open(t.TempDir(), catalogue.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := evaluate.Package{
		Name: `a"/../<b>`, Version: "1%2F\\", System: "x86_64-linux", Derivation: cataloguetest.Path("a.drv", "a"),
		Synopsis: "<script>alert(1)</script>\x00\xff", Description: strings.Repeat("x", 100_000),
	}
	s := catalogue.Source{Repository: "guix", Branch: "master", Commit: cataloguetest.Commit(0)}
	s.Date = s.Date.AddDate(2000, 0, 0)
	if _, err := c.Record(t.Context(), s, func(yield func(*evaluate.Package, error) bool) { yield(&p, nil) }); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(serve.New(c, nil))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		server.URL+"/revision/"+s.Commit+"/package/"+url.PathEscape(p.Name)+"/"+url.PathEscape(p.Version)+".json", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Name, Version         string
		Synopsis, Description struct{ HTML, Plain string }
		Derivations           []any
	}
	if err := json.Unmarshal(text, &got); err != nil || len(got.Derivations) != 1 || got.Name != p.Name || got.Version != p.Version {
		t.Fatalf("%v: %.300s", err, text)
	}
	if strings.Contains(got.Synopsis.HTML, "<script>") || len(got.Description.Plain) > 64<<10 {
		t.Errorf("synopsis %q, description of %d bytes", got.Synopsis.HTML, len(got.Description.Plain))
	}
}
