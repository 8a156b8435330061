package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/storetest"
	"lighter/store/substitute"
)

// bench is a store, and a folder to publish in.
type bench struct {
	*storetest.Memory
	t      *testing.T
	key    *signature.PrivateKey
	folder string
	fs     FS

	mu   sync.Mutex
	nars map[store.Path]int // how often each NAR was written
}

func newBench(t *testing.T) *bench {
	t.Helper()
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Memory: storetest.NewMemory(store.DefaultDir, key, nil), t: t, key: key, folder: t.TempDir(), nars: make(map[store.Path]int)}
	b.fs = Folder(b.folder)
	return b
}

// WriteNAR counts.
func (b *bench) WriteNAR(ctx context.Context, w io.Writer, path store.Path) error {
	b.mu.Lock()
	b.nars[path]++
	b.mu.Unlock()
	return b.Memory.WriteNAR(ctx, w, path)
}

func (b *bench) text(name, content string, refs ...store.Path) store.Path {
	b.t.Helper()
	p, err := b.AddText(b.t.Context(), name, []byte(content), refs)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *bench) writer(change func(*Options)) *Writer {
	b.t.Helper()
	opts := Options{FS: b.fs, Key: b.key, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&opts)
	}
	w, err := New(opts)
	if err != nil {
		b.t.Fatal(err)
	}
	return w
}

func (b *bench) publish(w *Writer, closure bool, paths ...store.Path) []store.Path {
	b.t.Helper()
	written, err := w.PublishPaths(b.t.Context(), b, closure, paths...)
	if err != nil {
		b.t.Fatal(err)
	}
	return written
}

// files returns the names of all files in the folder.
func (b *bench) files() []string {
	b.t.Helper()
	var names []string
	err := filepath.WalkDir(b.folder, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, err = filepath.Rel(b.folder, name)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return names
}

func (b *bench) wantFiles(want ...string) {
	b.t.Helper()
	want = append(want, "nix-cache-info", "signing-key.pub")
	slices.Sort(want)
	if got := b.files(); !slices.Equal(got, want) {
		b.t.Errorf("got files\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// age makes files look as if they were written that long ago.
func (b *bench) age(d time.Duration, names ...string) {
	b.t.Helper()
	for _, name := range names {
		then := time.Now().Add(-d)
		if err := os.Chtimes(filepath.Join(b.folder, name), then, then); err != nil {
			b.t.Fatal(err)
		}
	}
}

// fetches checks that a client gets the items from the server.
func (b *bench) fetches(url string, paths ...store.Path) {
	b.t.Helper()
	acl := new(signature.ACL)
	acl.Add(b.key.Public())
	c, err := substitute.New(substitute.Options{URLs: []string{url}, ACL: func() (*signature.ACL, error) { return acl, nil }})
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	for _, p := range paths {
		var got, want bytes.Buffer
		if err := b.Memory.WriteNAR(b.t.Context(), &want, p); err != nil {
			b.t.Fatal(err)
		}
		if _, err := c.Fetch(b.t.Context(), p, &got); err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
			b.t.Errorf("%s: got %d bytes of %d, %v", p, got.Len(), want.Len(), err)
		}
	}
}

// flaky is an FS whose n-th writing breaks off in the midst of a file.
type flaky struct {
	FS
	n int
}

var errBroken = errors.New("the disk is full")

func (f *flaky) Put(ctx context.Context, name string, fill func(io.Writer) error) error {
	f.n--
	if f.n != 0 {
		return f.FS.Put(ctx, name, fill)
	}
	return f.FS.Put(ctx, name, func(w io.Writer) error {
		if err := fill(io.Discard); err != nil {
			return err
		}
		fmt.Fprint(w, "half")
		return errBroken
	})
}
