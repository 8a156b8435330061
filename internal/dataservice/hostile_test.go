package dataservice

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/testkit"
)

// TestHostileAnswers has a service say what it must not, in each place: it is refused at
// once, with the place, in words that can be printed, and without much memory.
func TestHostileAnswers(t *testing.T) {
	revision := func(members string) string {
		return `{"revisions":[{"commit-hash":"` + commit1 + `",` + members + `}]}`
	}
	long := strings.Repeat("x", 2<<20)
	for name, c := range map[string]struct{ text, want string }{
		"date":               {revision(`"date":"\u001b[2J"`), "date"},
		"long date":          {revision(`"date":"` + strings.Repeat("2", 256) + `"`), "date"},
		"commit":             {`{"revisions":[{"commit-hash":"` + commit1 + `\n"}]}`, "not a commit"},
		"no commit":          {`{"revisions":[null]}`, "not a commit"},
		"huge element":       {revision(`"date":"` + long + `"`), "more than 1048576 bytes"},
		"huge member":        {`{"new":"` + long + `","revisions":[]}`, "more than 1048576 bytes"},
		"huge name":          {`{"` + long + `":1,"revisions":[]}`, "more than 1048576 bytes"},
		"huge error":         {`{"error":"` + long + `"}`, "more than 1048576 bytes"},
		"error":              {`{"error":"a\u001b[2J\u202e` + strings.Repeat("b", 1000) + `"}`, "refuses: a?[2J?bbb"},
		"many revisions":     {`{"revisions":[` + strings.Repeat(`{"commit-hash":"`+commit1+`"},`, maxRevisions+1) + `{}]}`, "more than 100000 revisions"},
		"deep":               {`{"revisions":` + strings.Repeat("[", 100_000), "depth"},
		"deep member":        {`{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, "depth"},
		"blanks forever":     {`{"revisions":[` + strings.Repeat(" ", 3<<20) + `]}`, "more than 1048576 bytes"},
		"what is not a list": {`{"revisions":"` + strings.Repeat("x", 1000) + `"}`, "want ["},
		"a list of a list":   {`{"revisions":[[]]}`, "element 0"},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := service(t, Options{Tries: 1}, func(w http.ResponseWriter, _ *http.Request) { sendJSON(w, 200, []byte(c.text)) })
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := client.Revisions(t.Context(), 1, "master", 100)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), client.base.String()) {
				t.Fatalf("got %.300v, want %q and the URL", err, c.want)
			}
			if text := err.Error(); strings.ContainsAny(text, "\x1b\n\u202e") || len(text) > 1000 {
				t.Errorf("the error is %.300q", text)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > testkit.AllocFactor*150<<20 {
				t.Errorf("it took %d MiB", took>>20)
			}
		})
	}
}

func TestHostileDerivations(t *testing.T) {
	for name, element := range map[string]string{
		"path":        `{"derivation":"/gnu/store/../x.drv","system":"x"}`,
		"line":        `{"derivation":"` + hello[:len(hello)-4] + `\n.drv"}`,
		"system":      `{"derivation":"` + hello + `","system":"\u001b[2J"}`,
		"long system": `{"derivation":"` + hello + `","system":"` + strings.Repeat("x", 256) + `"}`,
		"target":      `{"derivation":"` + hello + `","target":"\u0000"}`,
		"null":        `null`,
	} {
		client, _ := service(t, Options{Tries: 1}, func(w http.ResponseWriter, _ *http.Request) {
			sendJSON(w, 200, []byte(`{"derivations":[`+element+`]}`))
		})
		for page, err := range client.Derivations(t.Context(), commit1, "x86_64-linux", "") {
			if err == nil || !strings.Contains(err.Error(), "element 0") || strings.ContainsAny(err.Error(), "\x1b\x00\n") {
				t.Errorf("%s: got %v, %v", name, page, err)
			}
		}
	}
}

// TestPagesInACircle has the service answer with pages that follow each other in a circle.
func TestPagesInACircle(t *testing.T) {
	n := 0
	client, asked := service(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		n++
		sendJSON(w, 200, fmt.Appendf(nil, `{"derivations":[{"derivation":"/gnu/store/%032d-x.drv"}]}`, n%3))
	})
	var err error
	for _, err = range client.Derivations(t.Context(), commit1, "x86_64-linux", "") {
	}
	if err == nil || !strings.Contains(err.Error(), "repeats the page") || len(*asked) != 4 {
		t.Errorf("%v after %d pages", err, len(*asked))
	}
}

// TestServiceLeadsElsewhere: another host is not asked, whatever the service says.
func TestServiceLeadsElsewhere(t *testing.T) {
	other, asked := service(t, Options{}, func(w http.ResponseWriter, _ *http.Request) { sendJSON(w, 200, testdata(t, "branch.json")) })
	elsewhere := strings.Replace(other.base.String(), "127.0.0.1", "localhost", 1)
	for to, want := range map[string]string{
		elsewhere + "/x":         "if that is the service, name it",
		"file:///etc/passwd":     "if that is the service, name it",
		"//user:word@localhost/": "if that is the service, name it",
		"/again":                 "more than 5 redirects",
	} {
		client, tries := service(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		})
		_, err := client.Revisions(t.Context(), 1, "master", 1)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "word@") {
			t.Errorf("%s: got %v", to, err)
		}
		if most := maxRedirects + 1; len(*tries) > most {
			t.Errorf("%s: asked %d times", to, len(*tries))
		}
	}
	if len(*asked) != 0 {
		t.Errorf("the other host was asked for %v", *asked)
	}
	here, _ := service(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/moved") {
			http.Redirect(w, r, "/moved"+r.URL.Path, http.StatusFound)
			return
		}
		sendJSON(w, 200, testdata(t, "branch.json"))
	})
	if got, err := here.Revisions(t.Context(), 1, "master", 100); err != nil || len(got) != 3 {
		t.Errorf("on the same host: %v, %v", got, err)
	}
}

// drip is an answer that comes a byte a second, forever.
type drip struct{ sent int }

func (d *drip) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	d.sent++
	if d.sent == 1 {
		return copy(p, "{"), nil
	}
	return copy(p, " "), nil
}
func (*drip) Close() error { return nil }

type dripping struct{}

func (dripping) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(&contextReader{r, &drip{}}), Request: r}, nil
}

// contextReader ends with its request, as a transport's body does.
type contextReader struct {
	r    *http.Request
	body io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.r.Context().Err(); err != nil {
		return 0, err
	}
	return c.body.Read(p)
}

func TestSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Options{URL: "http://x", Transport: dripping{}, Tries: 1})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = c.Revisions(t.Context(), 1, "master", 1)
		if took := time.Since(start); !errors.Is(err, errSlow) || took > maxAnswer+time.Minute {
			t.Errorf("after %s: %v", took, err)
		}
	})
}
