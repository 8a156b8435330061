package publish

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/narinfo"
)

// strange makes what is not a file, under names that are served.
func strange(t *testing.T, folder string) map[string]string {
	t.Helper()
	name := func(what string) string {
		return filepath.Join(folder, strings.Repeat(string(what[0]), 32)+".narinfo")
	}
	outside := filepath.Join(t.TempDir(), "outside")
	made := map[string]string{}
	for what, make := range map[string]func(string) error{
		"a FIFO":           func(f string) error { return syscall.Mkfifo(f, 0o644) },
		"b link to a FIFO": func(f string) error { return os.Symlink(filepath.Base(name("a")), f) },
		"c socket": func(f string) error {
			t.Chdir(folder) // a socket's name is short
			l, err := net.Listen("unix", filepath.Base(f))
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		},
		"d folder":      func(f string) error { return os.Mkdir(f, 0o755) },
		"f link out":    func(f string) error { return os.Symlink(outside, f) },
		"g link to it":  func(f string) error { return os.Symlink(filepath.Base(f), f) },
		"h link to dev": func(f string) error { return os.Symlink("/dev/zero", f) },
		"i device": func(f string) error {
			if err := syscall.Mknod(f, syscall.S_IFCHR|0o644, 1<<8|5); err != nil {
				return syscall.Mkfifo(f, 0o644) // only root may make a device
			}
			return nil
		},
	} {
		if err := make(name(what)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		made[what] = name(what)
	}
	if err := os.WriteFile(outside, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	return made
}

// TestServeWhatIsNoFile asks often for what is not a file: each request ends, and costs no
// thread.
func TestServeWhatIsNoFile(t *testing.T) {
	folder := t.TempDir()
	made := strange(t, folder)
	h := handlerOf(t, folder)
	threads := pprof.Lookup("threadcreate")
	before := threads.Count()
	var requests sync.WaitGroup
	for what, file := range made {
		for range 100 {
			requests.Go(func() {
				if resp := get(h, "GET", "/"+filepath.Base(file)); resp.Code != http.StatusNotFound {
					t.Errorf("%s: got %d %.20q", what, resp.Code, resp.Body)
				}
			})
		}
	}
	requests.Wait()
	if made := threads.Count() - before; made > 50 {
		t.Errorf("%d threads more", made)
	}
}

// TestReadWhatIsNoFile has a writer and a pruner find what is not a file in the folder.
func TestReadWhatIsNoFile(t *testing.T) {
	folder := t.TempDir()
	for what, file := range strange(t, folder) {
		if text, err := Folder(folder).Read(t.Context(), filepath.Base(file), 100); err == nil {
			t.Errorf("%s: got %.20q", what, text)
		}
	}
	b := newBench(t)
	if err := syscall.Mkfifo(filepath.Join(b.folder, narinfo.CacheInfoName), 0o644); err != nil {
		t.Fatal(err)
	}
	p := b.text("x", "x")
	if _, err := b.writer(nil).PublishPaths(t.Context(), b, true, p); !errors.Is(err, errNotAFile) {
		t.Errorf("got %v", err)
	}
	if _, err := Prune(t.Context(), Folder(folder), store.DefaultDir, 2*time.Hour, false); err != nil {
		t.Error(err)
	}
}

// TestServeTooMuchAtOnce: there is a limit for requests, and none that is served waits.
func TestServeTooMuchAtOnce(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, narinfo.CacheInfoName), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	h := &handler{root: root, places: make(chan struct{}, 1)}
	serve := http.HandlerFunc(h.serve)
	h.places <- struct{}{}
	if resp := get(serve, "GET", "/nix-cache-info"); resp.Code != http.StatusServiceUnavailable || resp.Header().Get("Retry-After") == "" {
		t.Errorf("got %d", resp.Code)
	}
	<-h.places
	for range 3 {
		if resp := get(serve, "GET", "/nix-cache-info"); resp.Code != http.StatusOK {
			t.Errorf("got %d", resp.Code)
		}
	}
}

// TestServeFileThatChanges cuts a file while it is read, of which no socket takes the most on
// its way: the answer ends too early, and the reader sees that.
func TestServeFileThatChanges(t *testing.T) {
	folder := t.TempDir()
	name := filepath.Join(folder, strings.Repeat("a", 32)+".narinfo")
	const size = 64 << 20
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), l, folder, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: x\r\n\r\n", filepath.Base(name))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := os.Truncate(name, 1); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after %d bytes: %v", n, err)
	}
}

// TestSignRefuses: what is written to a narinfo is what would be read.
func TestSignRefuses(t *testing.T) {
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	good := store.Info{Path: "/gnu/store/" + store.Path(strings.Repeat("a", 32)) + "-x", References: []store.Path{}}
	d := []narinfo.Download{{URL: "nar/x", Compression: narinfo.Zstd}}
	if _, err := narinfo.Sign(key, "h", &good, d); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*store.Info){
		"path":      func(i *store.Info) { i.Path += "\nDeriver: x" },
		"reference": func(i *store.Info) { i.References = []store.Path{good.Path + "\nNarSize: 1"} },
		"deriver":   func(i *store.Info) { i.Deriver = good.Path + "\n" + "Signature: 1;x;" },
		"size":      func(i *store.Info) { i.NARSize = -1 },
	} {
		bad := good
		change(&bad)
		if text, err := narinfo.Sign(key, "h", &bad, d); err == nil {
			t.Errorf("%s: got\n%s", name, text)
		}
	}
}
