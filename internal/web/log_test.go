package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
)

const testID = "33333333-3333-4333-8333-333333333333"

// logOf is a coordinator with one build, and its log, which grows unless the build is final. What it is asked about the log is
// counted.
type logOf struct {
	build *api.Build
	log   string
	asked int
}

func (l *logOf) coordinator() coordinator {
	return coordinator{
		"GET /v1/builds/{id}": func(r *http.Request) (any, error) {
			if !strings.HasPrefix(l.build.ID, r.PathValue("id")) {
				return nil, notFound("build %s: no such build", r.PathValue("id"))
			}
			return l.build, nil
		},
		"GET /v1/builds/{id}/log": func(r *http.Request) (any, error) {
			if l.log == "none" {
				return nil, notFound("there is no log")
			}
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				l.asked++
				w.Header().Set(api.LogHeader, testID+".2")
				w.Header().Set("Content-Type", "text/plain")
				if l.build.State.Final() {
					w.Header().Set("ETag", `"`+testID+`.2"`)
				}
				http.ServeContent(w, r, "", time.Time{}, strings.NewReader(l.log))
			}), nil
		},
	}
}

func failedBuild() *api.Build {
	return &api.Build{
		Request: api.Request{ID: testID, Derivation: "/gnu/store/00000000000000000000000000000000-hello-2.12.drv"},
		State:   api.Failed, Attempt: 2, Machine: "alpha", LogSize: 1, Failure: &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: hostile},
	}
}

// TestLogPage shows the end of a failed build's log, and finds what went wrong before.
func TestLogPage(t *testing.T) {
	var log strings.Builder
	for n := 1; n <= 3000; n++ {
		fmt.Fprintf(&log, "line %d\n", n)
		if n == 1000 {
			log.WriteString("x.c:1:2: \x1b[31merror: \x1b[0m" + hostile + strings.Repeat("x", 1000) + "\n")
		}
	}
	c := &logOf{build: failedBuild(), log: log.String()}
	h := newServer(t, c.coordinator()).Handler()
	page := get(t, h, "/build/"+testID+"/log.html")
	text := page.Body.String()
	for _, want := range []string{
		`<a href="?attempt=2&amp;line=1001#L1001">Jump to the error, line 1001</a>`, `id="L3001"`, `id="L2502"`, "attempt 2 of 2", `attempt=1">1</a>`, "before=", "complete",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for _, unwanted := range []string{"<script>alert", "<img src=x", `id="L2501"`, "\x1b", "\u202e", "data-more"} {
		if strings.Contains(text, unwanted) {
			t.Errorf("the page has %q", unwanted)
		}
	}
	if page.Code != http.StatusOK || page.Body.Len() > 100<<10 {
		t.Errorf("status %d, %d bytes", page.Code, page.Body.Len())
	}
	asked := c.asked
	text = get(t, h, "/build/"+testID+"/log.html?attempt=2&line=1001").Body.String()
	if !strings.Contains(text, `id="L981"`) || strings.Contains(text, `id="L980"`) || !strings.Contains(text, `<span class="f1">error: </span>&lt;script&gt;alert(1)`) || !strings.Contains(text, `<a href="#L1001">Jump`) {
		t.Errorf("the part with the error: %s", text)
	}
	if n := c.asked - asked; n != 2 { // how long it is, and the part
		t.Errorf("it asks %d times for a log that it knows", n)
	}
	var twin Log
	if err := json.Unmarshal(get(t, h, "/build/"+testID+"/log.html.json?from=0").Body.Bytes(), &twin); err != nil {
		t.Fatal(err)
	}
	if n := len(twin.Lines); n != 500 || twin.Lines[499].Text != "line 500" || twin.Next != int64(strings.Index(c.log, "line 501\n")) || twin.Last || twin.Error == nil || twin.Error.Number != 1001 || len(twin.Error.Text) > 300 {
		t.Errorf("as JSON: %d lines, next %d, error %v", n, twin.Next, twin.Error)
	}
}

// TestLogGrows asks for what is new, as the script does.
func TestLogGrows(t *testing.T) {
	b := failedBuild()
	b.State = api.Building
	c := &logOf{build: b, log: "one\ntw"}
	s := newServer(t, c.coordinator())
	now := testNow
	s.now = func() time.Time { return now }
	h := s.Handler()
	text := get(t, h, "/build/"+testID+"/log.html").Body.String()
	for _, want := range []string{"still being written", `<span id="L2" class="open">`, `data-more="?attempt=2&amp;from=4" data-tail`, "Newer lines"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q: %s", want, text)
		}
	}
	c.log += "o\nthree\n"
	now = now.Add(2 * time.Second)
	text = get(t, h, "/build/"+testID+"/log.html?attempt=2&from=4").Body.String()
	if !strings.Contains(text, `<span id="L2"><a href="#L2" tabindex="-1">2</a>two`) || !strings.Contains(text, `id="L3"`) || strings.Contains(text, `id="L1"`) {
		t.Errorf("what is new: %s", text)
	}
	b.State = api.Succeeded
	now = now.Add(2 * time.Second)
	text = get(t, h, "/build/"+testID+"/log.html?attempt=2&from=14").Body.String()
	if !strings.Contains(text, "complete") || strings.Contains(text, "data-more") || !strings.Contains(text, "nothing after this") {
		t.Errorf("at the end: %s", text)
	}
}

// TestLogText serves parts of a log as a file.
func TestLogText(t *testing.T) {
	c := &logOf{build: failedBuild(), log: "<b>0123456789\n"}
	h := newServer(t, c.coordinator()).Handler()
	for _, q := range []struct {
		method string
		header []string
		want   string
	}{
		{"GET", nil, `200 14 "<b>0123456789\n" "ID.2"`},
		{"HEAD", nil, `200 14 "" "ID.2"`},
		{"GET", []string{"Range", "bytes=3-5"}, `206 3 bytes 3-5/14 "012" "ID.2"`},
		{"GET", []string{"Range", "bytes=-3"}, `206 3 bytes 11-13/14 "89\n" "ID.2"`},
		{"GET", []string{"Range", "bytes=14-"}, `416 33 bytes */14 "invalid range: failed to overlap\n"`},
		{"GET", []string{"Range", "bytes=3-5", "If-Range", `"other"`}, `200 14 "<b>0123456789\n" "ID.2"`},
		{"GET", []string{"If-None-Match", `"` + testID + `.2"`}, `304 "" "ID.2"`},
	} {
		r := httptest.NewRequest(q.method, "/build/"+testID+"/log", http.NoBody)
		for i := 0; i < len(q.header); i += 2 {
			r.Header.Set(q.header[i], q.header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		got := []string{fmt.Sprint(w.Code)}
		for _, v := range []string{w.Header().Get("Content-Length"), w.Header().Get("Content-Range"), fmt.Sprintf("%q", w.Body), w.Header().Get("Etag")} {
			if v != "" {
				got = append(got, strings.ReplaceAll(v, testID, "ID"))
			}
		}
		if got := strings.Join(got, " "); got != q.want {
			t.Errorf("%s %v: got %s, want %s", q.method, q.header, got, q.want)
		}
		if kind := w.Header().Get("Content-Type"); w.Code < 300 && (kind != "text/plain; charset=utf-8" || w.Header().Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("it is %s", kind)
		}
	}
	w := get(t, h, "/build/3333/log?attempt=1")
	if to := w.Header().Get("Location"); w.Code != http.StatusFound || to != "/build/"+testID+"/log?attempt=1" {
		t.Errorf("an abbreviated id: %d %s", w.Code, to)
	}
	w = get(t, h, "/build/3333/log.html.json?line=2")
	if to := w.Header().Get("Location"); w.Code != http.StatusFound || to != "/build/"+testID+"/log.html.json?line=2" {
		t.Errorf("an abbreviated id: %d %s", w.Code, to)
	}
	w = get(t, h, "/build/44444444-4444-4444-8444-444444444444/log.html")
	if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "archive") {
		t.Errorf("a build that is not there: %d %s", w.Code, w.Body)
	}
	for _, bad := range []string{"?attempt=x", "?from=-1", "?line=" + strings.Repeat("9", 30)} {
		if w := get(t, h, "/build/"+testID+"/log.html"+bad); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "want a number") {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}
}

// TestNoLog says why there is none.
func TestNoLog(t *testing.T) {
	for want, change := range map[string]func(*api.Build){
		"that one&#39;s log says why":              func(b *api.Build) { b.State, b.Attempt = api.DependencyFailed, 0 },
		"there already, so nothing was built":      func(b *api.Build) { b.State, b.Attempt = api.Succeeded, 0 },
		"It was never tried":                       func(b *api.Build) { b.State, b.Attempt = api.Canceled, 0 },
		"not been tried on a machine yet":          func(b *api.Build) { b.State, b.Attempt = api.Queued, 0 },
		"sent to alpha":                            func(b *api.Build) { b.State = api.Sending },
		"has written nothing yet":                  func(b *api.Build) { b.State = api.Building },
		"ended while sending, before the builder":  func(b *api.Build) { b.Failure.Phase = api.Sending },
		"The builder wrote nothing.":               func(b *api.Build) { b.LogSize = 0 },
		"It is not kept any more":                  func(*api.Build) {},
		"No machine has written anything for this": func(b *api.Build) { b.Check, b.State = 2, api.Building },
	} {
		c := &logOf{build: failedBuild(), log: "none"}
		change(c.build)
		h := newServer(t, c.coordinator()).Handler()
		page := get(t, h, "/build/"+testID+"/log.html")
		if page.Code != http.StatusOK || !strings.Contains(page.Body.String(), "There is no log. ") || !strings.Contains(page.Body.String(), want) {
			t.Errorf("want %q: %d %s", want, page.Code, page.Body)
		}
		if text := get(t, h, "/build/"+testID+"/log"); text.Code != http.StatusNotFound || !strings.Contains(text.Body.String(), "has no log: ") {
			t.Errorf("as text: %d %s", text.Code, text.Body)
		}
	}
}

// TestLogIndexes forgets those that were not used for longest, and has one page at a time use one.
func TestLogIndexes(t *testing.T) {
	var l logIndexes
	for n := range maxLogIndexes + 10 {
		for _, name := range []string{"kept", fmt.Sprint(n)} {
			x, err := l.get(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			x.index.Write([]byte("\n"))
			x.release()
		}
	}
	if n := len(l.known); n > maxLogIndexes || l.known["kept"] == nil || l.known["kept"].index.Lines() != maxLogIndexes+10 {
		t.Errorf("%d are known", n)
	}
	x, _ := l.get(t.Context(), "kept")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.get(ctx, "kept"); err == nil {
		t.Error("two have the same one")
	}
	x.release()
}

// TestLogIsCut: what a coordinator promised and did not send is no whole log.
func TestLogIsCut(t *testing.T) {
	c := (&logOf{build: failedBuild()}).coordinator()
	c["GET /v1/builds/{id}/log"] = func(*http.Request) (any, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(api.LogHeader, testID+".2")
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write(bytes.Repeat([]byte("x"), 10))
		}), nil
	}
	h := newServer(t, c).Handler()
	defer func() {
		if p := recover(); p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
			t.Errorf("the answer ends with %v", p)
		}
	}()
	get(t, h, "/build/"+testID+"/log")
}
