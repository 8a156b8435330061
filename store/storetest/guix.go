package storetest

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"strings"
	"testing"

	"lighter/internal/testkit"
	"lighter/nar/signature"
	"lighter/store"
)

//go:embed testdata/guix
var guixFiles embed.FS

// Key returns a key that a real Guix made and that the whole world knows. A
// fixture whose Key it is has its store tested with archives of a real Guix too.
func Key(t *testing.T) *signature.PrivateKey {
	t.Helper()
	key, err := signature.ParsePrivateKey(guixFile(t, "vec-signing-key.sec"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func guixFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := guixFiles.ReadFile("testdata/guix/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Items of the archives.
const (
	guixScript   store.Path = "/gnu/store/wz5jnqcbfxazw5clg3c830am5a8w0kva-vec-script.sh"
	guixWithRefs store.Path = "/gnu/store/4rhap45gm8x4xb2iwcsc0caqc6hj8g0m-vec-with-refs"
	guixHostile  store.Path = "/gnu/store/00000000000000000000000000000001-" // and the archive's name after "x-"
)

// guixArchives says what becomes of each archive in a store where guixScript is
// valid. Those that are refused have one item or none.
var guixArchives = []struct {
	name string
	want error // nil if it is taken, errAny for any error
}{
	{"three-items", nil},
	{"one-item", nil},
	{"good-resigned-compact", nil}, // the signature is on one line
	{"ok-deriver-not-valid", nil},
	{"bad-content-flipped", store.ErrCorrupt},
	{"bad-hash-replaced-in-signature", store.ErrCorrupt},
	{"bad-magic", store.ErrCorrupt},
	{"bad-nonzero-padding", store.ErrCorrupt},
	{"bad-not-a-sexp", store.ErrCorrupt},
	{"bad-path-changed", store.ErrCorrupt},
	{"bad-path-dotdot", errAny},
	{"bad-path-outside-store", errAny},
	{"bad-reference-dropped", store.ErrCorrupt},
	{"bad-reference-not-valid", errAny},
	{"bad-sexp-without-data", store.ErrCorrupt},
	{"bad-sigval-s-plus-1", store.ErrCorrupt},
	{"bad-truncated-in-nar", errAny},
	{"bad-unauthorized-key", store.ErrUnauthorized},
	{"bad-unsigned", errAny},
	{"x-nar-duplicate", store.ErrCorrupt},
	{"x-nar-entry-dotdot", store.ErrCorrupt},
	{"x-nar-entry-empty", store.ErrCorrupt},
	{"x-nar-entry-slash", store.ErrCorrupt},
	{"x-nar-nul-in-name", store.ErrCorrupt},
	{"x-nar-unsorted", store.ErrCorrupt}, // guix-daemon takes it
}

// errAny stands for an error of whatever kind.
var errAny = errors.New("an error")

// trustsGuix skips a test unless the store takes what the real Guix exported.
func (s *suite) trustsGuix(t *testing.T) {
	t.Helper()
	if !s.Key.Public().Equal(Key(t).Public()) || s.store.Dir() != store.DefaultDir {
		t.Skipf("the store is not %s or does not trust Key", store.DefaultDir)
	}
}

// forget deletes the items of the archives that an earlier test has left in a shared store.
func (s *suite) forget(t *testing.T) {
	t.Helper()
	if !s.Shared {
		return
	}
	collector := need[store.Collector](t, s.store)
	valid, err := store.ValidPaths(t.Context(), s.store, []store.Path{guixWithRefs, guixScript})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range valid {
		if _, err := collector.CollectGarbage(t.Context(), store.GCOptions{Paths: []store.Path{p}}); err != nil {
			testkit.Missing(t, fmt.Errorf("a store without what an earlier test imported: %w", err))
		}
	}
}

// testImportFromGuix imports what a real Guix exported, whole and damaged.
func testImportFromGuix(t *testing.T, s *suite) {
	s.trustsGuix(t)
	for _, tt := range guixArchives {
		t.Run(tt.name, func(t *testing.T) {
			s := &suite{Fixture: s.Fixture, store: s.Open(t)}
			s.forget(t)
			script := made{path: guixScript, nar: fileNAR([]byte("#!/bin/sh\n"))}
			s.fill(t, script)
			_, err := s.importer(t).Import(t.Context(), bytes.NewReader(guixFile(t, tt.name+".nar-bundle")), store.ImportOptions{})
			if !isWanted(err, tt.want) {
				t.Errorf("Import: %v, want %v", err, tt.want)
			}
			wantValid(t, s.store, tt.want == nil, made{path: guixWithRefs})
			if name, ok := strings.CutPrefix(tt.name, "x-"); ok {
				wantValid(t, s.store, false, made{path: guixHostile + store.Path(name)})
			}
		})
	}
}

func isWanted(err, want error) bool {
	if errors.Is(want, errAny) {
		return err != nil
	}
	return errors.Is(err, want)
}

// testImportFromGuixEnd has archives whose one item is whole, but whose end is not.
func testImportFromGuixEnd(t *testing.T, s *suite) {
	s.trustsGuix(t)
	s.forget(t)
	s.fill(t, made{path: guixScript, nar: fileNAR([]byte("#!/bin/sh\n"))})
	for _, name := range []string{"bad-second-marker-2", "bad-truncated-before-end-marker"} {
		infos, err := s.importer(t).Import(t.Context(), bytes.NewReader(guixFile(t, name+".nar-bundle")), store.ImportOptions{})
		if err == nil || len(infos) != 1 {
			t.Errorf("%s: Import found %d items, %v", name, len(infos), err)
		}
		wantValid(t, s.store, true, made{path: guixWithRefs})
	}
}
