package publish

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/store/narinfo"
)

func handlerOf(t *testing.T, folder string) http.Handler {
	t.Helper()
	root, err := os.OpenRoot(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return Handler(root, slog.New(slog.DiscardHandler))
}

// get returns the answer to one request.
func get(h http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://host/", nil)
	r.URL.Path = path
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestServe(t *testing.T) {
	b := newBench(t)
	out, drv, bad := b.text("thing", "output"), b.text("thing.drv", "Derive()"), b.text("bad.drv", "x")
	w := b.writer(nil)
	b.publish(w, true, out)
	if name, err := w.PutLog(t.Context(), drv, strings.NewReader("the log")); err != nil || name != "log/"+drv.Base() {
		t.Errorf("got %q, %v", name, err)
	}
	if err := w.PutFailure(t.Context(), bad, []byte("{}\n")); err != nil {
		t.Fatal(err)
	}
	nar := "/nar/zstd/" + out.Base()
	file, err := os.ReadFile(filepath.Join(b.folder, nar))
	if err != nil {
		t.Fatal(err)
	}
	h := handlerOf(t, b.folder)
	etag := get(h, "GET", nar).Header().Get("ETag")
	for _, test := range []struct {
		name, method, path string
		headers            []string
		status             int
		kind, body         string // body "*" is any
	}{
		{"cache info", "GET", "/nix-cache-info", nil, 200, "text/plain", "StoreDir: /gnu/store\nWantMassQuery: 1\nPriority: 100\n"},
		{"key", "GET", "/signing-key.pub", nil, 200, "text/plain", b.key.Public().String()},
		{"narinfo", "GET", "/" + narinfo.Name(out), nil, 200, "application/x-nix-narinfo", "*"},
		{"NAR", "GET", nar, nil, 200, "application/x-nix-archive", string(file)},
		{"head", "HEAD", nar, nil, 200, "application/x-nix-archive", ""},
		{"part", "GET", nar, []string{"Range", "bytes=2-5"}, 206, "application/x-nix-archive", string(file[2:6])},
		{"no part", "GET", nar, []string{"Range", "bytes=100000-"}, 416, "", "*"},
		{"known", "GET", nar, []string{"If-None-Match", etag}, 304, "", ""},
		{"not that one", "GET", nar, []string{"If-None-Match", `"x"`}, 200, "application/x-nix-archive", string(file)},
		{"failure", "GET", "/failures/" + bad.HashPart(), nil, 200, "application/json", "{}\n"},
		{"log", "GET", "/log/" + drv.Base(), nil, 200, "text/plain", "the log"},
		{"head of a log", "HEAD", "/log/" + drv.Base(), nil, 200, "text/plain", ""},
		{"file of a log", "GET", "/log/" + drv.Base() + ".gz", nil, 404, "", "*"},
		{"unknown", "GET", "/00000000000000000000000000000000.narinfo", nil, 404, "", "*"},
		{"top", "GET", "/", nil, 404, "", "*"},
		{"folder", "GET", "/nar/zstd", nil, 404, "", "*"},
		{"folder with a slash", "GET", "/nar/zstd/", nil, 404, "", "*"},
		{"out of the folder", "GET", "/nar/../../secret.narinfo", nil, 404, "", "*"},
		{"hidden", "GET", "/.tmp-x", nil, 404, "", "*"},
		{"secret", "GET", "/secret", nil, 404, "", "*"},
		{"link", "GET", "/link.narinfo", nil, 404, "", "*"},
		{"post", "POST", nar, nil, 405, "", "*"},
		{"delete", "DELETE", nar, nil, 405, "", "*"},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp := get(h, test.method, test.path, test.headers...)
			body := resp.Body.String()
			if resp.Code != test.status {
				t.Errorf("got %d, want %d", resp.Code, test.status)
			}
			if test.body != "*" && body != test.body {
				t.Errorf("got %q, want %q", body, test.body)
			}
			if got := resp.Header().Get("Content-Type"); test.kind != "" && !strings.HasPrefix(got, test.kind) {
				t.Errorf("got type %q, want %q", got, test.kind)
			}
			if test.name == "head" && resp.Header().Get("Content-Length") != fmt.Sprint(len(file)) {
				t.Errorf("got length %q", resp.Header().Get("Content-Length"))
			}
		})
	}
	resp := get(h, "GET", "/log/"+drv.Base(), "Accept-Encoding", "gzip")
	z, err := gzip.NewReader(resp.Body)
	if err != nil || resp.Header().Get("Content-Encoding") != "gzip" {
		t.Fatalf("%v, %v", resp.Header(), err)
	}
	if text, err := io.ReadAll(z); err != nil || string(text) != "the log" {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestServeNoLinks(t *testing.T) {
	folder := t.TempDir()
	if err := os.Symlink("/etc/hostname", filepath.Join(folder, "link.narinfo")); err != nil {
		t.Fatal(err)
	}
	if resp := get(handlerOf(t, folder), "GET", "/link.narinfo"); resp.Code != http.StatusNotFound {
		t.Errorf("got %d", resp.Code)
	}
}

func TestServeListener(t *testing.T) {
	b := newBench(t)
	big := b.text("big", strings.Repeat("0123456789", 1<<20))
	b.publish(b.writer(func(o *Options) { o.Compression = narinfo.None }), true, big)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, b.folder, slog.New(slog.DiscardHandler)) }()
	b.fetches("http://"+l.Addr().String(), big)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it still listens")
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), closed, filepath.Join(b.folder, "nothing"), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder that is not there is served")
	}
}
