package storetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
)

// made is an item that the suite makes by hand. It looks like the output of a
// build: its name does not come from its contents.
type made struct {
	path store.Path
	refs []store.Path
	nar  []byte
}

// make returns a new item that refers to others. The name "self" among them stands
// for the item itself.
func (s *suite) make(t *testing.T, name string, refs ...store.Path) made {
	t.Helper()
	digest := sha256.Sum256([]byte(s.nonce + name))
	path, err := s.store.Dir().MakePath("output:out", digest, name)
	if err != nil {
		t.Fatal(err)
	}
	it := made{path: path, refs: slices.Clone(refs)}
	for i, r := range it.refs {
		if r == itself {
			it.refs[i] = path
		}
	}
	it.nar = treeNAR(t, name+" "+s.nonce, it.refs)
	return it
}

// itself stands for the item that is being made.
const itself store.Path = "self"

// treeNAR returns the NAR of a folder with all kinds of things in it, among them
// a name that is not UTF-8 and a file that mentions the references.
func treeNAR(t *testing.T, text string, refs []store.Path) []byte {
	t.Helper()
	for _, r := range refs {
		text += "\n" + string(r)
	}
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	script := "#!/bin/sh\n"
	for _, node := range []struct {
		nar.Header
		contents string
	}{
		{Header: nar.Header{Kind: nar.Directory}},
		{Header: nar.Header{Path: "bin", Kind: nar.Directory}},
		{Header: nar.Header{Path: "bin/run", Kind: nar.Regular, Executable: true, Size: int64(len(script))}, contents: script},
		{Header: nar.Header{Path: "caf\xe9", Kind: nar.Symlink, Target: "bin/run"}},
		{Header: nar.Header{Path: "empty", Kind: nar.Regular}},
		{Header: nar.Header{Path: "empty-folder", Kind: nar.Directory}},
		{Header: nar.Header{Path: "text", Kind: nar.Regular, Size: int64(len(text))}, contents: text},
	} {
		if err := w.WriteHeader(&node.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(node.contents)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// archive returns an archive of the items as they are given, signed with the
// fixture's key.
func (s *suite) archive(t *testing.T, items ...made) *bytes.Reader {
	t.Helper()
	return bytes.NewReader(archiveOf(t, s.Key, items...))
}

// archiveOf returns an archive signed with a key, or with none if that is nil.
func archiveOf(t *testing.T, key *signature.PrivateKey, items ...made) []byte {
	t.Helper()
	var b bytes.Buffer
	var sign func(store.Hash) (string, error)
	if key != nil {
		sign = key.Sign
	}
	w := nar.NewArchiveWriter(&b)
	for _, it := range items {
		if err := w.WriteItem(&nar.Item{Path: it.path, References: it.refs}, it.writeTo, sign); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pathsOf returns the items' paths, in order.
func pathsOf(items []made) []store.Path {
	paths := make([]store.Path, 0, len(items))
	for _, it := range items {
		paths = append(paths, it.path)
	}
	return paths
}

// pathsIn returns the paths of what an import found, in order.
func pathsIn(infos []*store.Info) []store.Path {
	paths := make([]store.Path, 0, len(infos))
	for _, info := range infos {
		paths = append(paths, info.Path)
	}
	return paths
}

// writeTo writes the NAR.
func (it made) writeTo(w io.Writer) error {
	_, err := w.Write(it.nar)
	return err
}

func (it made) wantInfo(t *testing.T, got *store.Info) {
	t.Helper()
	want := store.Info{
		Path:       it.path,
		NARHash:    sha256.Sum256(it.nar),
		NARSize:    int64(len(it.nar)),
		References: sortedCopy(it.refs),
		Registered: got.Registered,
		Deriver:    got.Deriver,
	}
	if diff := cmp.Diff(want, *got, emptyIsNil); diff != "" {
		t.Errorf("info of %s (-want +got)\n%s", it.path, diff)
	}
}

func (it made) wantNAR(t *testing.T, w store.NARWriter) {
	t.Helper()
	var b bytes.Buffer
	if err := w.WriteNAR(t.Context(), &b, it.path); err != nil {
		t.Errorf("WriteNAR: %v", err)
	} else if !bytes.Equal(b.Bytes(), it.nar) {
		t.Errorf("WriteNAR of %s wrote %s, want %s", it.path, summary(b.Bytes()), summary(it.nar))
	}
}

func summary(b []byte) string {
	return fmt.Sprintf("%d bytes with SHA-256 %.8x…", len(b), sha256.Sum256(b))
}

// emptyIsNil takes slices without items for equal.
var emptyIsNil = cmp.FilterValues(
	func(a, b []store.Path) bool { return len(a) == 0 && len(b) == 0 },
	cmp.Comparer(func(_, _ []store.Path) bool { return true }),
)

// mentions reports whether an error names the item, in full or by its base name.
func mentions(err error, path store.Path) bool {
	return err != nil && strings.Contains(err.Error(), path.Base())
}
