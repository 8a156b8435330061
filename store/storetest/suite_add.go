package storetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/store"
)

func testInfo(t *testing.T, s *suite) {
	if _, err := store.ParseDir(string(s.store.Dir())); err != nil {
		t.Errorf("Dir: %v", err)
	}
	a := s.make(t, "a")
	b := s.make(t, "b", a.path)
	wantValid(t, s.store, false, a, b)
	if _, err := s.store.Info(t.Context(), a.path); !mentions(err, a.path) {
		t.Errorf("Info of an item that is not valid does not name it: %v", err)
	}
	if w, ok := s.store.(store.NARWriter); ok {
		if err := w.WriteNAR(t.Context(), io.Discard, a.path); !errors.Is(err, store.ErrNotValid) {
			t.Errorf("WriteNAR of an item that is not valid: %v, want ErrNotValid", err)
		}
	}
	s.fill(t, a, b)
	wantContents(t, s.store, b)
	info, err := s.store.Info(t.Context(), b.path)
	if err != nil {
		t.Fatal(err)
	}
	info.References[0], info.NARSize = b.path, -1
	wantContents(t, s.store, b)
}

func testValidPaths(t *testing.T, s *suite) {
	a, b, c, d := s.make(t, "a"), s.make(t, "b"), s.make(t, "c"), s.make(t, "d")
	s.fill(t, a, b, c)
	for _, order := range [][]made{{a, b, c, d}, {d, c, b, a}, {b, d, a, c}} {
		want := slices.DeleteFunc(pathsOf(order), func(p store.Path) bool { return p == d.path })
		got, err := store.ValidPaths(t.Context(), s.store, pathsOf(order))
		if err != nil {
			t.Errorf("ValidPaths: %v", err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ValidPaths (-want +got)\n%s", diff)
		}
	}
	if got, err := store.ValidPaths(t.Context(), s.store, nil); err != nil || len(got) != 0 {
		t.Errorf("ValidPaths of nothing: %q, %v", got, err)
	}
	wantValid(t, s.store, true, a, b, c)
	wantValid(t, s.store, false, d)
}

func testAddText(t *testing.T, s *suite) {
	adder := need[store.Adder](t, s.store)
	for _, content := range []string{"text of " + s.nonce, s.nonce + "\n\x00\xff"} {
		want, err := s.store.Dir().TextPath("text.txt", []byte(content), nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got, err := adder.AddText(t.Context(), "text.txt", []byte(content), nil)
			if err != nil || got != want {
				t.Fatalf("AddText: %s, %v, want %s", got, err, want)
			}
			wantContents(t, s.store, made{path: want, nar: fileNAR([]byte(content))})
		}
	}
	if p, err := adder.AddText(t.Context(), "no/name", nil, nil); err == nil {
		t.Errorf("AddText took a forbidden name: %s", p)
	}
}

func testAddTextReferences(t *testing.T, s *suite) {
	adder := need[store.Adder](t, s.store)
	a, b, gone := s.make(t, "a"), s.make(t, "b"), s.make(t, "gone")
	s.fill(t, a, b)
	content := []byte("see " + a.path + " and " + b.path)
	refs := []store.Path{a.path, b.path}
	slices.Sort(refs)
	slices.Reverse(refs)
	want, err := s.store.Dir().TextPath("refs.txt", content, refs)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := adder.AddText(t.Context(), "refs.txt", content, refs); err != nil || got != want {
		t.Fatalf("AddText: %s, %v, want %s", got, err, want)
	}
	wantContents(t, s.store, made{path: want, refs: refs, nar: fileNAR(content)})

	missing, err := s.store.Dir().TextPath("missing.txt", content, []store.Path{gone.path})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := adder.AddText(t.Context(), "missing.txt", content, []store.Path{gone.path}); err == nil {
		t.Errorf("AddText took a reference that is not valid: %s", p)
	} else if !mentions(err, gone.path) {
		t.Errorf("AddText with a reference that is not valid does not name it: %v", err)
	}
	wantValid(t, s.store, false, made{path: missing})
}

func testAddNAR(t *testing.T, s *suite) {
	adder := need[store.Adder](t, s.store)
	for _, contents := range [][]byte{
		treeNAR(t, s.nonce, nil),
		fileNAR([]byte(s.nonce)),
		fileNAR(bytes.Repeat([]byte(s.nonce), 10_000)),
	} {
		want, err := s.store.Dir().SourcePath("source", sha256.Sum256(contents))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r := bytes.NewReader(append(bytes.Clone(contents), "rest"...))
			got, err := adder.AddNAR(t.Context(), "source", r)
			if err != nil || got != want {
				t.Fatalf("AddNAR: %s, %v, want %s", got, err, want)
			}
			wantContents(t, s.store, made{path: want, nar: contents})
			if r.Len() != len("rest") {
				t.Errorf("AddNAR left %d bytes after the NAR, want %d", r.Len(), len("rest"))
			}
		}
	}
}

func testAddNARRefuses(t *testing.T, s *suite) {
	adder := need[store.Adder](t, s.store)
	good := treeNAR(t, s.nonce, nil)
	for _, tt := range []struct {
		name     string
		contents []byte
	}{
		{"nothing", nil},
		{"cut off", good[:len(good)-8]},
		{"cut in a file", good[:len(good)/2]},
		{"no NAR", bytes.Repeat([]byte{1}, 64)},
		{"climbing name", climbing(good)},
	} {
		path, err := adder.AddNAR(t.Context(), "source", bytes.NewReader(tt.contents))
		if err == nil {
			t.Errorf("%s: AddNAR took it: %s", tt.name, path)
		}
	}
	path, err := s.store.Dir().SourcePath("source", sha256.Sum256(climbing(good)))
	if err != nil {
		t.Fatal(err)
	}
	wantValid(t, s.store, false, made{path: path})
}

// climbing replaces the name "bin" in a NAR by "..".
func climbing(contents []byte) []byte {
	return bytes.Replace(contents, []byte("\x03\x00\x00\x00\x00\x00\x00\x00bin\x00"), []byte("\x02\x00\x00\x00\x00\x00\x00\x00..\x00\x00"), 1)
}
