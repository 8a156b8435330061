package storetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/nar/signature"
	"lighter/store"
)

func testImport(t *testing.T, s *suite) {
	leaf := s.make(t, "leaf", itself)
	top := s.make(t, "top", leaf.path, itself)
	infos, err := s.importer(t).Import(t.Context(), s.archive(t, leaf, top), store.ImportOptions{})
	if err != nil {
		t.Fatalf("Import: %v", err)
	}
	if diff := cmp.Diff(pathsOf([]made{leaf, top}), pathsIn(infos)); diff != "" {
		t.Errorf("what Import found (-want +got)\n%s", diff)
	}
	for i, it := range []made{leaf, top} {
		it.wantInfo(t, infos[i])
		wantContents(t, s.store, it)
	}
}

func testImportNothing(t *testing.T, s *suite) {
	infos, err := s.importer(t).Import(t.Context(), s.archive(t), store.ImportOptions{})
	if err != nil || len(infos) != 0 {
		t.Errorf("Import of an empty archive: %v, %v", infos, err)
	}
	if _, err := s.importer(t).Import(t.Context(), bytes.NewReader(nil), store.ImportOptions{}); err == nil {
		t.Error("Import took no archive at all for an empty one")
	}
	if _, err := s.importer(t).Import(t.Context(), bytes.NewReader(bytes.Repeat([]byte{7}, 64)), store.ImportOptions{}); err == nil {
		t.Error("Import took something that is not an archive")
	}
}

// testImportLeavesRest shows that what follows the end marker is still there.
func testImportLeavesRest(t *testing.T, s *suite) {
	a, b := s.make(t, "a"), s.make(t, "b")
	r := bytes.NewReader(append(archiveOf(t, s.Key, a), archiveOf(t, s.Key, b)...))
	fill(t, s.store, r)
	wantValid(t, s.store, true, a)
	wantValid(t, s.store, false, b)
	fill(t, s.store, r)
	wantValid(t, s.store, true, b)
	if r.Len() != 0 {
		t.Errorf("%d bytes of the second archive were left", r.Len())
	}
}

// testImportAgain shows that items that are there are skipped, but still checked.
func testImportAgain(t *testing.T, s *suite) {
	a, b := s.make(t, "a"), s.make(t, "b")
	s.fill(t, a)
	infos, err := s.importer(t).Import(t.Context(), s.archive(t, a, b), store.ImportOptions{})
	if err != nil {
		t.Fatalf("Import of an item that is there: %v", err)
	}
	if diff := cmp.Diff(pathsOf([]made{a, b}), pathsIn(infos)); diff != "" {
		t.Errorf("what Import found (-want +got)\n%s", diff)
	}
	wantContents(t, s.store, a)
	wantContents(t, s.store, b)

	tampered := flip(archiveOf(t, s.Key, a), bytes.Index(archiveOf(t, s.Key, a), []byte(s.nonce)))
	if _, err := s.importer(t).Import(t.Context(), bytes.NewReader(tampered), store.ImportOptions{}); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Import of a tampered item that is there: %v, want ErrCorrupt", err)
	}
	wantContents(t, s.store, a)
}

// flip returns a copy of an archive in which the lowest bit of one byte is other.
func flip(archive []byte, at int) []byte {
	archive = bytes.Clone(archive)
	archive[at] ^= 1
	return archive
}

// testImportTampered changes single bits of an archive.
func testImportTampered(t *testing.T, s *suite) {
	leaf := s.make(t, "leaf")
	other := s.make(t, "other")
	s.fill(t, leaf, other)
	it := s.make(t, "item", leaf.path)
	archive := archiveOf(t, s.Key, it)
	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"contents", flip(archive, bytes.Index(archive, []byte(s.nonce)))},
		{"name of a file", flip(archive, bytes.Index(archive, []byte("text"))+1)},
		{"its own name", bytes.Replace(archive, []byte(it.path), []byte(s.make(t, "mate").path), 1)},
		{"a reference", replaceLast(archive, leaf.path, s.make(t, "loaf").path)},
		{"signed hash", flip(archive, bytes.LastIndex(archive, []byte("(hash sha256 #"))+14)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if bytes.Equal(tt.data, archive) {
				t.Fatal("the archive is as it was")
			}
			_, err := s.importer(t).Import(t.Context(), bytes.NewReader(tt.data), store.ImportOptions{})
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("Import: %v, want ErrCorrupt", err)
			}
			wantValid(t, s.store, false, it, s.make(t, "mate"))
		})
	}
}

func replaceLast(archive []byte, old, replacement store.Path) []byte {
	at := bytes.LastIndex(archive, []byte(old))
	return append(append(bytes.Clone(archive[:at]), replacement...), archive[at+len(old):]...)
}

func testImportUntrusted(t *testing.T, s *suite) {
	stranger, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	it := s.make(t, "item")
	_, err = s.importer(t).Import(t.Context(), bytes.NewReader(archiveOf(t, stranger, it)), store.ImportOptions{})
	if !errors.Is(err, store.ErrUnauthorized) {
		t.Errorf("Import of what a stranger signed: %v, want ErrUnauthorized", err)
	}
	if !mentions(err, it.path) {
		t.Errorf("the error does not name the item: %v", err)
	}
	if _, err = s.importer(t).Import(t.Context(), bytes.NewReader(archiveOf(t, nil, it)), store.ImportOptions{}); err == nil {
		t.Error("Import took an item without a signature")
	}
	wantValid(t, s.store, false, it)
}

// testImportHostileNAR has right signatures of contents that nobody should unpack.
func testImportHostileNAR(t *testing.T, s *suite) {
	for name, damage := range map[string]func([]byte) []byte{
		"climbing": climbing,
		"slash":    func(b []byte) []byte { return bytes.Replace(b, []byte("empty-folder"), []byte("empty/folder"), 1) },
		"padding":  func(b []byte) []byte { return bytes.Replace(b, []byte("bin\x00"), []byte("bin\x01"), 1) },
	} {
		it := s.make(t, name)
		it.nar = damage(it.nar)
		if _, err := s.importer(t).Import(t.Context(), s.archive(t, it), store.ImportOptions{}); err == nil {
			t.Errorf("%s: Import took it", name)
		}
		wantValid(t, s.store, false, it)
	}
}

// testImportWrongStore has an item of another store directory.
func testImportWrongStore(t *testing.T, s *suite) {
	path, err := store.Dir("/other/store").MakePath("output:out", sha256.Sum256([]byte(s.nonce)), "item")
	if err != nil {
		t.Fatal(err)
	}
	it := made{path: path, nar: treeNAR(t, s.nonce, nil)}
	if _, err := s.importer(t).Import(t.Context(), s.archive(t, it), store.ImportOptions{}); err == nil {
		t.Error("Import took an item of another store directory")
	}
}

// testImportTruncated cuts an archive of two items in the second one.
func testImportTruncated(t *testing.T, s *suite) {
	first, second := s.make(t, "first"), s.make(t, "second")
	archive := archiveOf(t, s.Key, first, second)
	start := len(archiveOf(t, s.Key, first)) - 8 // of the second item
	for _, tt := range []struct {
		name string
		at   int
	}{
		{"before its mark", start},
		{"in its mark", start + 4},
		{"in its contents", start + len(second.nar)/2},
		{"in its last byte", len(archive) - 8 - 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			infos, err := s.importer(t).Import(t.Context(), bytes.NewReader(archive[:tt.at]), store.ImportOptions{})
			if err == nil {
				t.Error("Import took an archive that was cut off")
			}
			if diff := cmp.Diff(pathsOf([]made{first}), pathsIn(infos)); diff != "" {
				t.Errorf("what Import found (-want +got)\n%s", diff)
			}
			wantContents(t, s.store, first)
			wantValid(t, s.store, false, second)
		})
	}
	if _, err := s.importer(t).Import(t.Context(), bytes.NewReader(archive[:len(archive)-8]), store.ImportOptions{}); err == nil {
		t.Error("Import took an archive without its end marker")
	}
	wantContents(t, s.store, second)
}

var errBroken = errors.New("the cable was cut")

func testImportBrokenReader(t *testing.T, s *suite) {
	it := s.make(t, "item")
	archive := archiveOf(t, s.Key, it)
	r := io.MultiReader(bytes.NewReader(archive[:len(archive)/2]), brokenReader{})
	if _, err := s.importer(t).Import(t.Context(), r, store.ImportOptions{}); !errors.Is(err, errBroken) {
		t.Errorf("Import: %v, want the reader's error", err)
	}
	wantValid(t, s.store, false, it)
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func testImportMissingReference(t *testing.T, s *suite) {
	gone := s.make(t, "gone")
	it := s.make(t, "item", gone.path)
	_, err := s.importer(t).Import(t.Context(), s.archive(t, it), store.ImportOptions{})
	if !mentions(err, gone.path) {
		t.Errorf("Import: %v, want an error that names the missing reference", err)
	}
	wantValid(t, s.store, false, it, gone)

	// The same archive is fine once the reference is there.
	s.fill(t, gone)
	s.fill(t, it)
	wantContents(t, s.store, it)
}

func testImportAccept(t *testing.T, s *suite) {
	no := errors.New("not asked for")
	a, b, c := s.make(t, "a"), s.make(t, "b", itself), s.make(t, "c")
	var asked []store.Path
	infos, err := s.importer(t).Import(t.Context(), s.archive(t, a, b, c), store.ImportOptions{Accept: func(info *store.Info) error {
		asked = append(asked, info.Path)
		if info.Path != b.path {
			return nil
		}
		b.wantInfo(t, info)
		wantValid(t, s.store, false, b)
		return no
	}})
	if !errors.Is(err, no) {
		t.Errorf("Import: %v, want the error of Accept", err)
	}
	if diff := cmp.Diff(pathsOf([]made{a, b}), asked); diff != "" {
		t.Errorf("Accept was asked about (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(pathsOf([]made{a}), pathsIn(infos)); diff != "" {
		t.Errorf("what Import found (-want +got)\n%s", diff)
	}
	wantContents(t, s.store, a)
	wantValid(t, s.store, false, b, c)
}

// testImportConcurrently imports the same items from several archives at once.
func testImportConcurrently(t *testing.T, s *suite) {
	leaf := s.make(t, "leaf", itself)
	left, right := s.make(t, "left", leaf.path), s.make(t, "right", leaf.path)
	archives := [][]byte{archiveOf(t, s.Key, leaf, left, right), archiveOf(t, s.Key, leaf, right, left)}
	importer := s.importer(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			infos, err := importer.Import(t.Context(), bytes.NewReader(archives[i%2]), store.ImportOptions{})
			if err != nil || len(infos) != 3 {
				t.Errorf("Import found %d items, %v", len(infos), err)
			}
		})
	}
	wg.Wait()
	for _, it := range []made{leaf, left, right} {
		wantContents(t, s.store, it)
	}
}
