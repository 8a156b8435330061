package storetest

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/nar"
	"lighter/store"
)

// testExport sends items of several shapes to a second store, in whatever order
// they are asked for.
func testExport(t *testing.T, s *suite) {
	exporter := need[store.Exporter](t, s.store)
	for _, tt := range []struct {
		name  string
		items []made // references first
	}{
		{"nothing", nil},
		{"one", []made{s.make(t, "one")}},
		{"one that refers to itself", []made{s.make(t, "narcissus", itself)}},
		{"chain", s.chain(t, "a", "b", "c")},
		{"fork", s.fork(t)},
		{"join", s.join(t)},
		{"diamond", s.diamond(t)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.fill(t, tt.items...)
			for paths := range permutations(pathsOf(tt.items)) {
				var b bytes.Buffer
				if err := exporter.Export(t.Context(), &b, paths); err != nil {
					t.Fatalf("Export: %v", err)
				}
				wantArchive(t, s.store.Dir(), b.Bytes(), tt.items)
				if s.Shared {
					continue
				}
				second := s.Open(t)
				fill(t, second, &b)
				for _, it := range tt.items {
					wantContents(t, second, it)
				}
			}
		})
	}
}

// wantArchive checks that an archive has exactly the items, references first.
func wantArchive(t *testing.T, dir store.Dir, archive []byte, items []made) {
	t.Helper()
	r := nar.NewArchiveReader(bytes.NewReader(archive), dir)
	var found []store.Path
	for {
		contents, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("what was exported is not an archive: %v", err)
		}
		b, err := io.ReadAll(contents)
		if err != nil {
			t.Fatal(err)
		}
		in, err := r.Item()
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(items, func(it made) bool { return it.path == in.Path }); i >= 0 && !bytes.Equal(b, items[i].nar) {
			t.Errorf("%s has other contents", in.Path)
		}
		for _, ref := range in.References {
			if ref != in.Path && !slices.Contains(found, ref) {
				t.Errorf("%s comes before %s, to which it refers", in.Path, ref)
			}
		}
		found = append(found, in.Path)
	}
	if diff := cmp.Diff(sortedCopy(pathsOf(items)), sortedCopy(found), emptyIsNil); diff != "" || len(found) != len(items) {
		t.Errorf("items in the archive (-want +got)\n%s", diff)
	}
}

// permutations yields paths in all orders.
func permutations(paths []store.Path) func(yield func([]store.Path) bool) {
	return func(yield func([]store.Path) bool) { permute(slices.Clone(paths), 0, yield) }
}

func permute(paths []store.Path, fixed int, yield func([]store.Path) bool) bool {
	if fixed >= len(paths)-1 {
		return yield(slices.Clone(paths))
	}
	for i := fixed; i < len(paths); i++ {
		paths[fixed], paths[i] = paths[i], paths[fixed]
		if !permute(paths, fixed+1, yield) {
			return false
		}
		paths[fixed], paths[i] = paths[i], paths[fixed]
	}
	return true
}

// chain makes items of which each refers to the one before.
func (s *suite) chain(t *testing.T, names ...string) []made {
	t.Helper()
	items := []made{s.make(t, names[0])}
	for i, name := range names[1:] {
		items = append(items, s.make(t, name, items[i].path))
	}
	return items
}

// fork makes two items that refer to a third.
func (s *suite) fork(t *testing.T) []made {
	t.Helper()
	leaf := s.make(t, "zz-leaf")
	return []made{leaf, s.make(t, "left", leaf.path), s.make(t, "right", leaf.path, itself)}
}

// join makes an item that refers to two others.
func (s *suite) join(t *testing.T) []made {
	t.Helper()
	one, two := s.make(t, "one-of-two", itself), s.make(t, "two-of-two")
	return []made{one, two, s.make(t, "aa-top", one.path, two.path)}
}

func (s *suite) diamond(t *testing.T) []made {
	t.Helper()
	leaf := s.make(t, "bottom", itself)
	left, right := s.make(t, "west", leaf.path), s.make(t, "east", leaf.path)
	return []made{leaf, left, right, s.make(t, "top", left.path, right.path, itself)}
}

func testExportNotValid(t *testing.T, s *suite) {
	exporter := need[store.Exporter](t, s.store)
	a, gone := s.make(t, "a"), s.make(t, "gone")
	s.fill(t, a)
	if err := exporter.Export(t.Context(), io.Discard, []store.Path{a.path, gone.path}); !errors.Is(err, store.ErrNotValid) || !mentions(err, gone.path) {
		t.Errorf("Export of an item that is not valid: %v, want ErrNotValid that names it", err)
	}
	// The closure of what is asked for is not added.
	b := s.make(t, "b", a.path)
	s.fill(t, b)
	var archive bytes.Buffer
	if err := exporter.Export(t.Context(), &archive, []store.Path{b.path}); err != nil {
		t.Fatalf("Export: %v", err)
	}
	r := nar.NewArchiveReader(&archive, s.store.Dir())
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if in, err := r.Item(); err != nil || in.Path != b.path {
		t.Errorf("the archive has %v, %v, want %s", in, err, b.path)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the only item: %v, want io.EOF", err)
	}
}

func testExportBrokenWriter(t *testing.T, s *suite) {
	it := s.make(t, "item")
	s.fill(t, it)
	if exporter, ok := s.store.(store.Exporter); ok {
		if err := exporter.Export(t.Context(), brokenWriter{}, []store.Path{it.path}); !errors.Is(err, errBroken) {
			t.Errorf("Export: %v, want the writer's error", err)
		}
	}
	if w, ok := s.store.(store.NARWriter); ok {
		if err := w.WriteNAR(t.Context(), brokenWriter{}, it.path); !errors.Is(err, errBroken) {
			t.Errorf("WriteNAR: %v, want the writer's error", err)
		}
	}
	wantContents(t, s.store, it)
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func testClosure(t *testing.T, s *suite) {
	items := s.diamond(t)
	s.fill(t, items...)
	infos, err := store.Closure(t.Context(), s.store, []store.Path{items[3].path})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sortedCopy(pathsOf(items)), sortedCopy(pathsIn(infos))); diff != "" {
		t.Errorf("closure (-want +got)\n%s", diff)
	}
	if infos[0].Path != items[0].path || infos[3].Path != items[3].path {
		t.Errorf("references do not come first: %q", pathsIn(infos))
	}
}
