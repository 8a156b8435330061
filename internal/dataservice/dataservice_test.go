package dataservice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/testkit"
)

const (
	commit1 = "1111111111111111111111111111111111111111"
	commit2 = "2222222222222222222222222222222222222222"
	commit3 = "3333333333333333333333333333333333333333"
	hello   = "/gnu/store/0cr3xlhxgm9g2cbyhmkgzc4gmcljh5mr-hello-2.12.drv"
	sed     = "/gnu/store/3sywvk8bdphbdpyxnyx9ry8axq0v5nzp-sed-4.8.drv"
)

func testdata(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// service is a data service that answers by a function; it notes what it is asked.
func service(t *testing.T, o Options, answer http.HandlerFunc) (*Client, *[]string) {
	t.Helper()
	testkit.CheckLeaks(t)
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RequestURI())
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	o.URL, o.Delay = server.URL, time.Nanosecond
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, &asked
}

func sendJSON(w http.ResponseWriter, status int, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

func TestRevisions(t *testing.T) {
	text := testdata(t, "branch.json")
	c, asked := service(t, Options{UserAgent: "lighter/test"}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != "application/json" || r.Header.Get("User-Agent") != "lighter/test" {
			t.Errorf("headers %v", r.Header)
		}
		sendJSON(w, http.StatusOK, text)
	})
	got, err := c.Revisions(t.Context(), 1, "wip/a b", 50)
	want := []Revision{
		{commit3, "2022-01-31 20:27:11", false},
		{commit2, "2022-01-31 11:02:45", true},
		{commit1, "2022-01-30 09:15:00", true},
	}
	if diff := cmp.Diff(got, want); err != nil || diff != "" {
		t.Errorf("%v (-got +want):\n%s", err, diff)
	}
	if diff := cmp.Diff(*asked, []string{"/repository/1/branch/wip%2Fa%20b.json?limit_results=50"}); diff != "" {
		t.Errorf("asked (-got +want):\n%s", diff)
	}
	if got, err := c.Revisions(t.Context(), 1, "master", 2); err != nil || len(got) != 2 || got[0].Commit != commit3 {
		t.Errorf("three revisions where two are wanted: %v, %v", got, err)
	}
}

func TestNoRevisions(t *testing.T) {
	text := testdata(t, "branch-unknown.json")
	c, _ := service(t, Options{}, func(w http.ResponseWriter, _ *http.Request) { sendJSON(w, http.StatusOK, text) })
	got, err := c.Revisions(t.Context(), 1, "no-such", 50)
	if len(got) != 0 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}

func TestDerivations(t *testing.T) {
	pages := [][]byte{testdata(t, "package-derivations.json"), []byte(`{"derivations":[]}`)}
	c, asked := service(t, Options{Page: 3}, func(w http.ResponseWriter, r *http.Request) {
		page := 0
		if r.URL.Query().Get("after_name") != "" {
			page = 1
		}
		sendJSON(w, http.StatusOK, pages[page])
	})
	var got []Derivation
	for page, err := range c.Derivations(t.Context(), commit1, "x86_64-linux", "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, page...)
	}
	want := []Derivation{{hello, "x86_64-linux", ""}, {hello, "x86_64-linux", ""}, {sed, "x86_64-linux", ""}}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	base := "/revision/" + commit1 + "/package-derivations.json?"
	rest := "field=system&field=target&limit_results=3&system=x86_64-linux&target=none"
	if diff := cmp.Diff(*asked, []string{base + rest, base + "after_name=" + url.QueryEscape(sed) + "&" + rest}); diff != "" {
		t.Errorf("asked (-got +want):\n%s", diff)
	}
}

// TestManyPages has a service with its own idea of the order, and of a page's size.
func TestManyPages(t *testing.T) {
	const count, most = 12_345, 1000
	var all []string
	for i := range count {
		all = append(all, fmt.Sprintf("/gnu/store/%032d-p%d.drv", count-i, i))
	}
	c, asked := service(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit_results"))
		rest := all[slices.Index(all, r.URL.Query().Get("after_name"))+1:]
		var b bytes.Buffer
		b.WriteString(`{"derivations":[`)
		for i, d := range rest[:min(len(rest), limit, most)] {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"derivation":%q}`, d)
		}
		b.WriteString(`]}`)
		sendJSON(w, http.StatusOK, b.Bytes())
	})
	n := 0
	for page, err := range c.Derivations(t.Context(), commit1, "x86_64-linux", "aarch64-linux-gnu") {
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page {
			if string(d.Path) != all[n] {
				t.Fatalf("derivation %d is %s, want %s", n, d.Path, all[n])
			}
			n++
		}
	}
	if n != count || len(*asked) != 14 || !strings.Contains((*asked)[0], "target=aarch64-linux-gnu") {
		t.Errorf("%d derivations in %d answers to %s", n, len(*asked), (*asked)[0])
	}
}

func TestSamePageAgainAndAgain(t *testing.T) {
	text := testdata(t, "package-derivations.json")
	c, asked := service(t, Options{}, func(w http.ResponseWriter, _ *http.Request) { sendJSON(w, http.StatusOK, text) })
	var err error
	for _, err = range c.Derivations(t.Context(), commit1, "x86_64-linux", "") {
	}
	if err == nil || !strings.Contains(err.Error(), "repeats the page after "+sed) || len(*asked) != 2 {
		t.Errorf("%v after %d pages", err, len(*asked))
	}
}

func TestUnknownMembersAreIgnored(t *testing.T) {
	text := testdata(t, "package-derivations-builds.json")
	c, _ := service(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		sendJSON(w, http.StatusOK, bytes.Replace(text, []byte(`{"derivations"`), []byte(`{"new":{"a":[1]},"derivations"`), 1))
	})
	for page, err := range c.Derivations(t.Context(), commit1, "x86_64-linux", "aarch64-linux-gnu") {
		if diff := cmp.Diff(page, []Derivation{{hello, "x86_64-linux", "aarch64-linux-gnu"}}); err != nil || diff != "" {
			t.Errorf("%v (-got +want):\n%s", err, diff)
		}
		break
	}
}

// cut announces more than it sends.
func cut(w http.ResponseWriter, text []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text[:len(text)-5])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// TestBadAnswers has the service answer badly once, or always.
func TestBadAnswers(t *testing.T) {
	good := testdata(t, "branch.json")
	html := func(w http.ResponseWriter, status int) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = w.Write(testdata(t, "error.html"))
	}
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   string
		tries  int
	}{
		"error page":         {func(w http.ResponseWriter) { html(w, 500) }, "status 500: internal server error (tried 6 times)", 6},
		"proxy is at a loss": {func(w http.ResponseWriter) { html(w, 502) }, "status 502: bad gateway (tried", 6},
		"too often":          {func(w http.ResponseWriter) { sendJSON(w, 429, nil) }, "status 429: too many requests (tried", 6},
		"html":               {func(w http.ResponseWriter) { html(w, 200) }, "answered text/html instead of JSON: \"<!DOCTYPE html>", 6},
		"text":               {func(w http.ResponseWriter) { sendJSON(w, 200, []byte("see \x1b[2J")) }, `instead of JSON: "see \x1b[2J"`, 6},
		"empty":              {func(w http.ResponseWriter) { sendJSON(w, 200, nil) }, "the answer is empty", 6},
		"cut":                {func(w http.ResponseWriter) { cut(w, good) }, "unexpected EOF", 6},
		"cut JSON":           {func(w http.ResponseWriter) { sendJSON(w, 200, good[:150]) }, "revisions: element 1: unexpected EOF", 6},
		"malformed":          {func(w http.ResponseWriter) { sendJSON(w, 200, []byte(`{"revisions":[}`)) }, "invalid character", 6},
		"unprocessed":        {func(w http.ResponseWriter) { sendJSON(w, 404, testdata(t, "unprocessed.json")) }, "status 404: ", 1},
		"forbidden":          {func(w http.ResponseWriter) { sendJSON(w, 403, []byte(`{"error":"go away"}`)) }, `status 403: "{\"error\":\"go away\"}"`, 1},
		"invalid query":      {func(w http.ResponseWriter) { sendJSON(w, 200, testdata(t, "invalid-query.json")) }, "the service refuses: invalid query", 1},
		"something else":     {func(w http.ResponseWriter) { sendJSON(w, 200, []byte(`{"status":"ok"}`)) }, `no "revisions" in it; is it a Guix`, 1},
		"no commit":          {func(w http.ResponseWriter) { sendJSON(w, 200, []byte(`{"revisions":[{"commit-hash":"../etc"}]}`)) }, `revisions: element 0: commit-hash "../etc" is not a commit`, 1},
		"no list":            {func(w http.ResponseWriter) { sendJSON(w, 200, []byte(`{"revisions":{}}`)) }, "want [, got", 6},
	} {
		t.Run(name, func(t *testing.T) {
			sound := false
			c, asked := service(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
				if sound {
					sendJSON(w, http.StatusOK, good)
					return
				}
				test.answer(w)
			})
			_, err := c.Revisions(t.Context(), 1, "master", 100)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), c.base.String()+"/repository/1/branch/master.json") {
				t.Errorf("error %v, want %q and the URL", err, test.want)
			}
			if len(*asked) != test.tries {
				t.Errorf("asked %d times, want %d", len(*asked), test.tries)
			}
			if got := errors.Is(err, ErrNotFound); got != (name == "unprocessed") {
				t.Errorf("not found: %v", got)
			}
			sound = true
			if got, err := c.Revisions(t.Context(), 1, "master", 100); err != nil || len(got) != 3 {
				t.Errorf("then %v, %v", got, err)
			}
		})
	}
}

func TestBadAnswerOnce(t *testing.T) {
	good := testdata(t, "branch.json")
	c, asked := service(t, Options{}, nil)
	c.http.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		*asked = append(*asked, r.URL.Path)
		if len(*asked) == 1 {
			return answer(r, 200, io.NopCloser(bytes.NewReader(good[:len(good)/2]))), nil
		}
		return answer(r, 200, io.NopCloser(bytes.NewReader(good))), nil
	})
	got, err := c.Revisions(t.Context(), 1, "master", 3)
	if err != nil || len(got) != 3 || len(*asked) != 2 {
		t.Errorf("%v, %v after %d tries: what the first try gave must not count", got, err, len(*asked))
	}
}

func TestDerivationsAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		`{"derivation":"/etc/passwd"}`:                               "element 0: ",
		`{"derivation":"` + strings.TrimSuffix(hello, ".drv") + `"}`: "is not a derivation",
		`{"derivation":7}`:                                           "element 0: ",
		`{}`:                                                         "element 0: ",
	} {
		c, asked := service(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
			sendJSON(w, http.StatusOK, []byte(`{"derivations":[`+text+`]}`))
		})
		for page, err := range c.Derivations(t.Context(), commit1, "x86_64-linux", "") {
			if err == nil || !strings.Contains(err.Error(), want) || page != nil || len(*asked) != 1 {
				t.Errorf("%s: %v, %v after %d tries", text, page, err, len(*asked))
			}
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(r *http.Request, status int, body io.ReadCloser) *http.Response {
	return &http.Response{
		StatusCode: status, Body: body, Request: r, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}},
	}
}

// timed returns a client whose service is a function, for tests with a clock of their own.
func timed(t *testing.T, o Options, f roundTripper) *Client {
	t.Helper()
	o.URL, o.Transport = "https://data.example/below/", f
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPausesGrowAndTheServiceMayAskForLongerOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		var log bytes.Buffer
		c := timed(t, Options{MaxDelay: 10 * time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(r *http.Request) (*http.Response, error) {
			at = append(at, time.Since(start))
			if r.URL.Path != "/below/repository/1/branch/master.json" {
				t.Errorf("asked for %s", r.URL)
			}
			resp := answer(r, 503, http.NoBody)
			if len(at) == 2 {
				resp.Header.Set("Retry-After", "7")
			}
			return resp, nil
		})
		_, err := c.Revisions(t.Context(), 1, "master", 1)
		want := []time.Duration{0, 1 * time.Second, 8 * time.Second, 12 * time.Second, 20 * time.Second, 30 * time.Second}
		if diff := cmp.Diff(at, want); diff != "" || err == nil {
			t.Errorf("%v; tries (-got +want):\n%s", err, diff)
		}
		if n := strings.Count(log.String(), "nextIn="); n != 5 {
			t.Errorf("%d lines in the log:\n%s", n, log.String())
		}
	})
}

// resting is a body that sends something now and then, and at last nothing.
type resting struct {
	ctx   context.Context
	parts []string
	every time.Duration
}

func (r *resting) Read(p []byte) (int, error) {
	if len(r.parts) == 0 {
		<-r.ctx.Done()
		return 0, r.ctx.Err()
	}
	time.Sleep(r.every)
	n := copy(p, r.parts[0])
	r.parts = r.parts[1:]
	return n, nil
}

func (r *resting) Close() error { return nil }

func TestSilence(t *testing.T) {
	head := `{"revisions":[` + strings.Repeat(" ", 512)
	one := `{"commit-hash":"` + commit1 + `","date":""},`
	for name, test := range map[string]struct {
		f    roundTripper
		want time.Duration
	}{
		"no answer": {func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, 3 * time.Minute},
		"rests in the middle": {func(r *http.Request) (*http.Response, error) {
			return answer(r, 200, &resting{r.Context(), []string{head, one, one}, 30 * time.Second}), nil
		}, 2*time.Minute + 30*time.Second}, // three parts, and a minute without any
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := timed(t, Options{Tries: 1}, test.f)
				start := time.Now()
				_, err := c.Revisions(t.Context(), 1, "master", 10)
				if !errors.Is(err, errSilent) || time.Since(start) != test.want {
					t.Errorf("%v after %v, want silence after %v", err, time.Since(start), test.want)
				}
			})
		})
	}
}

func TestSlowIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var parts []string
		for part := range slices.Chunk(testdata(t, "branch.json"), 7) {
			parts = append(parts, string(part))
		}
		c := timed(t, Options{Tries: 1}, func(r *http.Request) (*http.Response, error) {
			return answer(r, 200, io.NopCloser(io.MultiReader(&untilEOF{resting{r.Context(), parts, 50 * time.Second}}))), nil
		})
		if got, err := c.Revisions(t.Context(), 1, "master", 3); err != nil || len(got) != 3 {
			t.Errorf("%v, %v", got, err)
		}
	})
}

type untilEOF struct{ resting }

func (u *untilEOF) Read(p []byte) (int, error) {
	if len(u.parts) == 0 {
		return 0, io.EOF
	}
	return u.resting.Read(p)
}

func TestCancelEndsAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		tries := 0
		c := timed(t, Options{}, func(r *http.Request) (*http.Response, error) {
			tries++
			return nil, errors.New("connection refused")
		})
		time.AfterFunc(1500*time.Millisecond, func() { cancel(enough) })
		if _, err := c.Revisions(ctx, 1, "master", 1); err != enough || tries != 2 { //nolint:errorlint // no more than that
			t.Errorf("%v after %d tries", err, tries)
		}
	})
}

func TestBadURLs(t *testing.T) {
	for _, u := range []string{"", "data.guix.gnu.org", "ftp://data.guix.gnu.org", "https://", "https://x/?q=1", "https://x/#y", "https://x y"} {
		if _, err := New(Options{URL: u}); err == nil || !strings.Contains(err.Error(), "want a URL") {
			t.Errorf("%q: %v", u, err)
		}
	}
}

func FuzzReadList(f *testing.F) {
	for _, name := range []string{"branch.json", "package-derivations-builds.json", "invalid-query.json"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n := 0
		err := readList(bytes.NewReader(text), "revisions", func(one json.RawMessage) error {
			n++
			_, _ = parseRevision(one)
			_, _ = parseDerivation(one)
			return nil
		})
		if err == nil && n > len(text) {
			t.Errorf("%d elements in %d bytes", n, len(text))
		}
	})
}
