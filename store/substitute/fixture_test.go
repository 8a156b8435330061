package substitute

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/local"
	"lighter/store/narinfo"
	"lighter/store/storetest"
)

// origin is a substitute server in memory, with a store behind it.
type origin struct {
	*storetest.Memory
	t   testing.TB
	key *signature.PrivateKey

	mu    sync.Mutex
	files map[string][]byte // by name
	asked map[string]int    // how often for each
	wrap  func(name string, w http.ResponseWriter) bool
}

func newOrigin(t testing.TB) *origin {
	t.Helper()
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return &origin{
		Memory: storetest.NewMemory(store.DefaultDir, key, new(signature.ACL)),
		t:      t, key: key, files: make(map[string][]byte), asked: make(map[string]int),
	}
}

// acl authorizes the origins.
func acl(origins ...*origin) func() (*signature.ACL, error) {
	return func() (*signature.ACL, error) {
		a := new(signature.ACL)
		for _, o := range origins {
			a.Add(o.key.Public())
		}
		return a, nil
	}
}

// text adds a text item and serves it.
func (o *origin) text(name, content string, refs ...store.Path) store.Path {
	o.t.Helper()
	path, err := o.AddText(o.t.Context(), name, []byte(content), refs)
	if err != nil {
		o.t.Fatal(err)
	}
	o.serve(path, narinfo.Zstd)
	return path
}

// nar returns an item's NAR.
func (o *origin) nar(path store.Path) []byte {
	o.t.Helper()
	var b bytes.Buffer
	if err := o.WriteNAR(o.t.Context(), &b, path); err != nil {
		o.t.Fatal(err)
	}
	return b.Bytes()
}

// serve makes narinfo and NARs of an item.
func (o *origin) serve(path store.Path, compressions ...string) {
	o.t.Helper()
	info, err := o.Info(o.t.Context(), path)
	if err != nil {
		o.t.Fatal(err)
	}
	var downloads []narinfo.Download
	for _, c := range compressions {
		url := "nar/" + c + "/" + path.Base()
		downloads = append(downloads, narinfo.Download{URL: url, Compression: c})
		o.put(url, compress(o.t, c, o.nar(path)))
	}
	text, err := narinfo.Sign(o.key, "test", info, downloads)
	if err != nil {
		o.t.Fatal(err)
	}
	o.put(narinfo.Name(path), text)
}

func (o *origin) put(name string, contents []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files[name] = contents
}

// edit replaces something in a file.
func (o *origin) edit(name, old, replacement string) {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !strings.Contains(string(o.files[name]), old) {
		o.t.Fatalf("%s has no %q", name, old)
	}
	o.files[name] = []byte(strings.Replace(string(o.files[name]), old, replacement, 1))
}

func compress(t testing.TB, how string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch how {
	case narinfo.Gzip:
		w = gzip.NewWriter(&b)
	case narinfo.Zstd:
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	default:
		return data
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	o.mu.Lock()
	contents, ok := o.files[name]
	o.asked[name]++
	wrap := o.wrap
	o.mu.Unlock()
	if wrap != nil && wrap(name, w) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(contents)))
	_, _ = w.Write(contents)
}

// requests returns how many requests there were for names with the prefix.
func (o *origin) requests(prefix string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for name, asked := range o.asked {
		if strings.HasPrefix(name, prefix) {
			n += asked
		}
	}
	return n
}

// listen serves the origin on a port of this machine and returns its URL.
func (o *origin) listen() string {
	s := httptest.NewServer(o)
	o.t.Cleanup(s.Close)
	return s.URL
}

// RoundTrip serves the origin without a network.
func (o *origin) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	o.ServeHTTP(w, r)
	return w.Result(), nil
}

// newClient makes a client that the test closes.
func newClient(t testing.TB, opts Options) *Client {
	t.Helper()
	opts.Logger = slog.New(slog.DiscardHandler)
	c, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// newStore opens a store that is empty.
func newStore(t testing.TB) *local.Store {
	t.Helper()
	s, err := local.Open(local.Options{Root: t.TempDir(), Dir: store.DefaultDir, NoSync: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want one with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want it to have %q", err, part)
		}
	}
}

func fetch(ctx context.Context, c *Client, path store.Path) ([]byte, error) {
	var b bytes.Buffer
	_, err := c.Fetch(ctx, path, &b)
	return b.Bytes(), err
}
