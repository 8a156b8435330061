package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/store"
	"lighter/store/narinfo"
)

func TestPublish(t *testing.T) {
	for _, test := range []struct {
		compression string
		level       int
		folder      string
	}{
		{"", 0, "nar/zstd/"},
		{narinfo.Zstd, 19, "nar/zstd/"},
		{narinfo.Gzip, 0, "nar/gzip/"},
		{narinfo.Gzip, 1, "nar/gzip/"},
		{narinfo.None, 0, "nar/"},
	} {
		t.Run(fmt.Sprint(test.compression, test.level), func(t *testing.T) {
			b := newBench(t)
			source := b.text("source", strings.Repeat("text ", 10_000))
			other := b.text("other", "not published")
			top := b.text("odd?name=+", "top", source)
			w := b.writer(func(o *Options) { o.Compression, o.Level = test.compression, test.level })
			if written := b.publish(w, true, top); !slices.Equal(written, []store.Path{source, top}) {
				t.Errorf("written: %s", written)
			}
			b.wantFiles(narinfo.Name(source), narinfo.Name(top), test.folder+source.Base(), test.folder+top.Base())
			b.fetches("file://"+b.folder, source, top)
			for p, want := range map[store.Path]bool{source: true, top: true, other: false} {
				for _, w := range []*Writer{w, b.writer(nil)} {
					if got, err := w.Published(t.Context(), p); err != nil || got != want {
						t.Errorf("published %s: %t, %v", p, got, err)
					}
				}
			}
			if written := b.publish(w, true, top); len(written) != 0 || b.nars[top] != 1 {
				t.Errorf("again: %s", written)
			}
		})
	}
}

func TestPublishOnlyThese(t *testing.T) {
	b := newBench(t)
	top := b.text("top", "top", b.text("source", "x"))
	b.publish(b.writer(nil), false, top)
	b.wantFiles(narinfo.Name(top), "nar/zstd/"+top.Base())
}

func TestPublishTogether(t *testing.T) {
	b := newBench(t)
	source := b.text("source", "x")
	var tops []store.Path
	for i := range 20 {
		tops = append(tops, b.text("top", fmt.Sprint(i), source))
	}
	w := b.writer(nil)
	var all sync.WaitGroup
	for _, top := range append(tops, tops...) {
		all.Go(func() {
			if _, err := w.PublishPaths(t.Context(), b, true, top); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for p, n := range b.nars {
		if n != 1 {
			t.Errorf("%s was written %d times", p, n)
		}
	}
	b.fetches("file://"+b.folder, append(tops, source)...)
}

// Whatever breaks off, no narinfo tells of what is not there, and the next try completes it.
func TestPublishBreaksOff(t *testing.T) {
	for n := 1; n <= 6; n++ {
		b := newBench(t)
		top := b.text("top", "top", b.text("source", "x"))
		broken := b.writer(func(o *Options) { o.FS = &flaky{FS: b.fs, n: n} })
		if _, err := broken.PublishPaths(t.Context(), b, true, top); !errors.Is(err, errBroken) {
			t.Errorf("at %d: got %v", n, err)
		}
		for _, name := range b.files() {
			text, _ := os.ReadFile(filepath.Join(b.folder, name))
			if string(text) == "half" {
				t.Errorf("at %d: %s is half there", n, name)
			}
			if base, ok := strings.CutSuffix(name, ".narinfo"); ok {
				if nars, _ := filepath.Glob(filepath.Join(b.folder, "nar/zstd", base+"-*")); len(nars) != 1 {
					t.Errorf("at %d: a narinfo without a NAR", n)
				}
			}
		}
		b.publish(b.writer(nil), true, top)
		b.fetches("file://"+b.folder, top)
	}
}

func TestPublishDamaged(t *testing.T) {
	b := newBench(t)
	p := b.text("item", "contents")
	if err := b.Damage(p); err != nil {
		t.Fatal(err)
	}
	_, err := b.writer(nil).PublishPaths(t.Context(), b, true, p)
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), string(p)) {
		t.Errorf("got %v", err)
	}
	b.wantFiles()
}

func TestPublishNotValid(t *testing.T) {
	b := newBench(t)
	absent, err := store.DefaultDir.TextPath("absent", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, closure := range []bool{true, false} {
		if _, err := b.writer(nil).PublishPaths(t.Context(), b, closure, absent); !errors.Is(err, store.ErrNotValid) {
			t.Errorf("got %v", err)
		}
	}
}

func TestPublishCanceled(t *testing.T) {
	b := newBench(t)
	p := b.text("item", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.writer(nil).PublishPaths(ctx, b, true, p); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestOtherStore(t *testing.T) {
	b := newBench(t)
	if err := os.WriteFile(filepath.Join(b.folder, "nix-cache-info"), []byte("StoreDir: /nix/store\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := b.writer(nil).PublishPaths(t.Context(), b, true, b.text("item", "x"))
	if err == nil || !strings.Contains(err.Error(), "/nix/store") {
		t.Errorf("got %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	b := newBench(t)
	for _, opts := range []Options{
		{},
		{FS: b.fs},
		{FS: b.fs, Key: b.key, Compression: "lzip"},
		{FS: b.fs, Key: b.key, Level: 23},
		{FS: b.fs, Key: b.key, Compression: "gzip", Level: 10},
		{FS: b.fs, Key: b.key, Compression: "none", Level: 1},
	} {
		if _, err := New(opts); err == nil {
			t.Errorf("%+v is fine", opts)
		}
	}
}

func TestPrune(t *testing.T) {
	b := newBench(t)
	shared := b.text("shared", "1")
	onlyOld := b.text("only-old", "2", shared)
	old := b.text("old", "3", onlyOld)
	young := b.text("young", "4", shared)
	w := b.writer(nil)
	b.publish(w, true, old, young)
	week := 7 * 24 * time.Hour
	for _, name := range []string{"log/a.gz", "failures/a", "nar/zstd/.tmp-x", "nar/zstd/" + b.text("orphan", "x").Base(), ".tmp-y"} {
		if err := w.put(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
		b.age(8*24*time.Hour, name)
	}
	if err := w.put(t.Context(), "failures/new", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []store.Path{shared, onlyOld, old} {
		b.age(8*24*time.Hour, narinfo.Name(p), "nar/zstd/"+p.Base())
	}
	would, err := Prune(t.Context(), b.fs, store.DefaultDir, week, true)
	if err != nil {
		t.Fatal(err)
	}
	pruned, err := w.Prune(t.Context(), week)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(would, pruned) {
		t.Errorf("a dry run said %+v, what was done is %+v", would, pruned)
	}
	if want := []store.Path{old, onlyOld}; !slices.Equal(pruned.Items, want) {
		t.Errorf("removed %s, want %s", pruned.Items, want)
	}
	if pruned.Files != 9 || pruned.Freed == 0 {
		t.Errorf("got %+v", pruned)
	}
	b.wantFiles("failures/new", narinfo.Name(shared), narinfo.Name(young), "nar/zstd/"+shared.Base(), "nar/zstd/"+young.Base())
	b.fetches("file://"+b.folder, shared, young)
}

func TestPublishRenews(t *testing.T) {
	b := newBench(t)
	p := b.text("item", "x")
	b.publish(b.writer(nil), true, p)
	b.age(48*time.Hour, narinfo.Name(p), "nar/zstd/"+p.Base())
	w := b.writer(nil)
	b.publish(w, true, p)
	if pruned, err := w.Prune(t.Context(), time.Hour); err != nil || len(pruned.Items) > 0 {
		t.Errorf("removed %s, %v", pruned.Items, err)
	}
	b.fetches("file://"+b.folder, p)
}

// reviving is an FS in which something is published again between listing and removing.
type reviving struct {
	FS
	name string
}

func (r *reviving) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	if name == r.name {
		if err := r.Touch(ctx, name); err != nil {
			return nil, err
		}
	}
	return r.FS.Stat(ctx, name)
}

func TestPruneWhilePublishing(t *testing.T) {
	b := newBench(t)
	source := b.text("source", "1")
	top := b.text("top", "2", source)
	other := b.text("other", "3")
	b.publish(b.writer(nil), true, top, other)
	for _, p := range []store.Path{source, top, other} {
		b.age(48*time.Hour, narinfo.Name(p))
	}
	w := b.writer(func(o *Options) { o.FS = &reviving{FS: b.fs, name: narinfo.Name(top)} })
	pruned, err := w.Prune(t.Context(), time.Hour)
	if err != nil || !slices.Equal(pruned.Items, []store.Path{other}) {
		t.Errorf("removed %s, %v", pruned.Items, err)
	}
	b.fetches("file://"+b.folder, top, source)
}

// counting is an FS that counts how often it is asked for files.
type counting struct {
	FS
	stats int
}

func (c *counting) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	c.stats++
	return c.FS.Stat(ctx, name)
}

func TestPublishRemembers(t *testing.T) {
	b := newBench(t)
	source := b.text("source", "x")
	first, next := b.text("first", "1", source), b.text("next", "2", source)
	c := &counting{FS: b.fs}
	w := b.writer(func(o *Options) { o.FS = c })
	b.publish(w, true, first)
	b.publish(w, true, next)
	b.publish(w, true, first)
	if c.stats != 3 {
		t.Errorf("asked %d times for 3 items", c.stats)
	}
	if err := w.Remove(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	if written := b.publish(w, true, next); !slices.Equal(written, []store.Path{source}) {
		t.Errorf("after it was removed: %s", written)
	}
}

func TestPruneTooYoung(t *testing.T) {
	if _, err := newBench(t).writer(nil).Prune(t.Context(), time.Minute); err == nil || !strings.Contains(err.Error(), "1h0m0s or more") {
		t.Errorf("got %v", err)
	}
}

func TestPruneBadFolder(t *testing.T) {
	b := newBench(t)
	w := b.writer(nil)
	b.publish(w, true, b.text("item", "x"))
	if err := os.WriteFile(filepath.Join(b.folder, "bad.narinfo"), []byte("rubbish"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Prune(t.Context(), time.Hour); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "bad.narinfo") {
		t.Errorf("got %v", err)
	}
}

func TestRemove(t *testing.T) {
	b := newBench(t)
	p, absent := b.text("item", "x"), b.text("absent", "y")
	w := b.writer(nil)
	b.publish(w, true, p)
	if err := w.Remove(t.Context(), absent, p); err != nil {
		t.Fatal(err)
	}
	b.wantFiles()
}

func TestFolderNames(t *testing.T) {
	f := Folder(t.TempDir())
	for _, name := range []string{"", "../x", "/x", "a/../../x"} {
		if err := f.Put(t.Context(), name, func(io.Writer) error { return nil }); err == nil {
			t.Errorf("%q was written", name)
		}
		if _, err := f.Stat(t.Context(), name); err == nil {
			t.Errorf("%q is there", name)
		}
	}
	if _, err := f.Read(t.Context(), "x", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
