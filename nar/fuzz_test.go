package nar

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/store"
)

// seeds are small NARs, good and bad.
func seeds(f *testing.F) {
	for _, node := range []string{
		file(""), file("hello"), symlink("a"), folder(),
		encode("(", "type", "regular", "executable", "", "contents", "12345678", ")"),
		folder(entry("a", folder(entry("b", file("x")), entry("c", symlink("../..")))), entry("\xe9", file("y"))),
		folder(entry("a", symlink("..")), entry("a", folder(entry("evil", file("x"))))),
		folder(entry("..", file(""))), folder(entry("a/b", file(""))), folder(entry("b", file("")), entry("a", file(""))),
	} {
		f.Add([]byte(archive(node)))
	}
}

// FuzzReader checks that a NAR that is accepted is what the Writer makes of the
// tree in it.
func FuzzReader(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		src := bytes.NewReader(input)
		nodes, err := readAll(src)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		var b bytes.Buffer
		if err := writeAllNodes(&b, nodes); err != nil {
			t.Fatal(err)
		}
		if accepted := input[:len(input)-src.Len()]; !bytes.Equal(b.Bytes(), accepted) {
			t.Fatalf("read %q, written %q", accepted, b.Bytes())
		}
	})
}

// FuzzUnpack checks that nothing outside the target is made or changed, that a
// failure leaves nothing, and that success leaves the tree.
func FuzzUnpack(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "evil"), []byte("good"), 0o600); err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(dir, "target")
		src := bytes.NewReader(input)
		err := Unpack(src, target)
		want := []string{"evil"}
		if err == nil {
			want = append(want, "target")
			var b bytes.Buffer
			if err := Pack(&b, target); err != nil {
				t.Fatal(err)
			}
			if accepted := input[:len(input)-src.Len()]; !bytes.Equal(b.Bytes(), accepted) {
				t.Errorf("unpacked %q, packed %q", accepted, b.Bytes())
			}
		}
		entries, readErr := os.ReadDir(dir)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if readErr != nil || !slices.Equal(names, want) {
			t.Errorf("after %v there is %q (%v), want %q", err, names, readErr, want)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "evil")); err != nil || string(text) != "good" {
			t.Errorf("a file outside was changed: %q, %v", text, err)
		}
		if err := RemoveAll(target); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzArchive checks that an archive that is accepted is what the ArchiveWriter
// makes of its items.
func FuzzArchive(f *testing.F) {
	files, err := filepath.Glob("testdata/export/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range append(files, "testdata/refs.export") {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		src := bytes.NewReader(input)
		a := NewArchiveReader(src, store.DefaultDir)
		var out bytes.Buffer
		w := NewArchiveWriter(&out)
		for {
			r, err := a.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				checkKind(t, err)
				return
			}
			var contents strings.Builder
			if _, err := io.Copy(&contents, r); err != nil {
				checkKind(t, err)
				return
			}
			item, err := a.Item()
			if err != nil {
				checkKind(t, err)
				return
			}
			again := Item{Path: item.Path, References: item.References, Deriver: item.Deriver}
			var sign func(store.Hash) (string, error)
			if item.Signature != "" {
				sign = func(store.Hash) (string, error) { return item.Signature, nil }
			}
			err = w.WriteItem(&again, func(w io.Writer) error { _, err := io.WriteString(w, contents.String()); return err }, sign)
			if err != nil {
				t.Fatal(err)
			}
			if again.NARHash != item.NARHash || again.SignedHash != item.SignedHash || again.NARSize != item.NARSize {
				t.Fatalf("read %v, written %v", item, again)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if accepted := input[:len(input)-src.Len()]; !bytes.Equal(out.Bytes(), accepted) {
			t.Fatalf("read %q, written %q", accepted, out.Bytes())
		}
	})
}

func checkKind(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("an error of another kind: %v", err)
	}
}
