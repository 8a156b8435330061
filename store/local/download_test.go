package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/testkit"
	"lighter/store"
)

const downloaded = "contents of a file\n"

// fileServer serves a good file, a wrong one and what else servers do.
func fileServer(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/good", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, downloaded) })
	mux.HandleFunc("/wrong", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "something else") })
	mux.HandleFunc("/short", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, downloaded)
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/good", http.StatusFound) })
	mux.HandleFunc("/local", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	return server
}

func TestDownload(t *testing.T) {
	testkit.CheckLeaks(t)
	server := fileServer(t)
	s := openTestStore(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(downloaded), 0o644); err != nil {
		t.Fatal(err)
	}
	mirrors, err := s.AddText(t.Context(), "mirrors", []byte(`((test "`+server.URL+`/missing/" "ftp://127.0.0.1/" "`+server.URL+`"))`), nil)
	if err != nil {
		t.Fatal(err)
	}
	byHash, err := s.AddText(t.Context(), "content-addressed-mirrors", []byte(`(list (lambda (file algo hash) (string-append "`+server.URL+`/" "good")))`), nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(downloaded))
	hash := "sha256 " + hex.EncodeToString(sum[:])
	for _, tt := range []struct {
		name, url string
		env       map[string]string
		log       string // a part of it
		fails     bool
	}{
		{name: "one", url: `"BASE/good"`},
		{name: "list", url: `("BASE/missing" "BASE/good")`, log: "404"},
		{name: "redirect", url: `"BASE/moved"`},
		{name: "wrong hash first", url: `("BASE/wrong" "BASE/short" "BASE/good")`, log: "the hash is"},
		{name: "mirror", url: `"mirror://test/good"`, log: `"ftp" addresses are not supported`},
		{name: "unknown mirror", url: `"mirror://other/good"`, log: "no such mirror", fails: true},
		{name: "by hash", url: `"BASE/missing"`, env: map[string]string{"content-addressed-mirrors": string(byHash)}},
		{name: "file", url: `"file://FILE"`},
		{name: "folder", url: `"file:///etc"`, log: "not a regular file", fails: true},
		{name: "redirect to a file", url: `"BASE/local"`, log: "unsupported protocol", fails: true},
		{name: "loop", url: `"BASE/loop"`, log: "stopped after 10 redirects", fails: true},
		{name: "missing", url: `"BASE/missing"`, log: "404", fails: true},
		{name: "no server", url: `"http://127.0.0.1:1/x"`, log: "refused", fails: true},
		{name: "no url", url: `()`, fails: true},
		{name: "bad url", url: `(`, fails: true},
		{name: "input not declared", url: `"mirror://test/good"`, env: map[string]string{"mirrors": string(s.Dir()) + "/" + strings.Repeat("0", 32) + "-x"}, fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{"url": strings.NewReplacer("BASE", server.URL, "FILE", file).Replace(tt.url), "mirrors": string(mirrors)}
			for name, value := range tt.env {
				env[name] = value
			}
			r := &recipe{name: "file-" + strings.ReplaceAll(tt.name, " ", "-"), builder: "builtin:download", env: env, hash: hash, sources: []store.Path{mirrors, byHash}}
			var log bytes.Buffer
			_, err := s.Build(t.Context(), &store.BuildRequest{Derivation: r.add(t, s), Log: &log})
			var failure *store.BuildError
			switch {
			case tt.fails && (!errors.As(err, &failure) || failure.Failure != store.FailedDownload):
				t.Errorf("got %v, want a failed download", err)
			case !tt.fails && err != nil:
				t.Errorf("%v\n%s", err, log.String())
			case !tt.fails && contents(t, s, r.out("out"), "") != downloaded:
				t.Error("wrong contents")
			}
			if !strings.Contains(log.String(), tt.log) {
				t.Errorf("the log lacks %q:\n%s", tt.log, log.String())
			}
			wantClean(t, s)
		})
	}
}

func TestDownloadExecutable(t *testing.T) {
	server := fileServer(t)
	s := openTestStore(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(downloaded), 0o755); err != nil {
		t.Fatal(err)
	}
	h := &fixedHash{algorithm: "sha256", recursive: true}
	sum, err := h.of(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	r := &recipe{name: "tool", builder: "builtin:download", env: map[string]string{"url": `"` + server.URL + `/good"`, "executable": "1"}, hash: "r:sha256 " + hex.EncodeToString(sum)}
	if _, err := s.Build(t.Context(), &store.BuildRequest{Derivation: r.add(t, s)}); err != nil {
		t.Error(err)
	}
}

func TestDownloadCanceled(t *testing.T) {
	testkit.CheckLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "the beginning")
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
	}))
	defer server.Close()
	s := openTestStore(t)
	r := &recipe{name: "endless", builder: "builtin:download", env: map[string]string{"url": `"` + server.URL + `"`}, hash: "sha256 " + strings.Repeat("0", 64)}
	if _, err := s.Build(ctx, &store.BuildRequest{Derivation: r.add(t, s)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	wantClean(t, s)
}
