package storetest

import (
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"lighter/internal/testkit"
	"lighter/nar/signature"
	"lighter/store"
)

// Fixture is a backend under test.
type Fixture struct {
	// Open returns a store, and has it closed at the end of the test. Several calls
	// in one test return stores that take each other's archives. Unless Shared is
	// set each is empty.
	Open func(t *testing.T) store.Store
	// Key signs the archives that the suite makes by hand. It is in the ACL of all
	// stores that Open returns. Unless the backend has a key of its own it is what
	// the function Key returns.
	Key *signature.PrivateKey
	// Damage changes the contents of a valid item behind the store's back. If nil,
	// it is not tested that Verify finds that.
	Damage func(t *testing.T, s store.Store, path store.Path)
	// Shared says that all stores that Open returns are one, with items of others in
	// it, such as that of a guix-daemon. Then nothing is tested that needs a second
	// store, deletes garbage, or reads the whole store. The suite's items have new
	// names in each run and are not deleted; those in archives that Guix made are, if the
	// store is a Collector, before they are imported again.
	Shared bool
}

// TestStore tests that a backend does what package store says, with each of the
// interfaces that it implements. The store must be an Importer; what else it is not
// is not tested. Each test also fails if goroutines are left when what Open opened is
// closed; so nothing else may run in parallel.
func TestStore(t *testing.T, f Fixture) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"Info", testInfo},
		{"ValidPaths", testValidPaths},
		{"AddText", testAddText},
		{"AddTextReferences", testAddTextReferences},
		{"AddNAR", testAddNAR},
		{"AddNARRefuses", testAddNARRefuses},
		{"Import", testImport},
		{"ImportNothing", testImportNothing},
		{"ImportLeavesRest", testImportLeavesRest},
		{"ImportAgain", testImportAgain},
		{"ImportTampered", testImportTampered},
		{"ImportUntrusted", testImportUntrusted},
		{"ImportHostileNAR", testImportHostileNAR},
		{"ImportWrongStore", testImportWrongStore},
		{"ImportTruncated", testImportTruncated},
		{"ImportBrokenReader", testImportBrokenReader},
		{"ImportMissingReference", testImportMissingReference},
		{"ImportAccept", testImportAccept},
		{"ImportConcurrently", testImportConcurrently},
		{"ImportFromGuix", testImportFromGuix},
		{"ImportFromGuixEnd", testImportFromGuixEnd},
		{"Export", testExport},
		{"ExportNotValid", testExportNotValid},
		{"ExportBrokenWriter", testExportBrokenWriter},
		{"Closure", testClosure},
		{"LeaseProtects", testLeaseProtects},
		{"LeaseBeforeImport", testLeaseBeforeImport},
		{"GarbageChain", testGarbageChain},
		{"GarbageOptions", testGarbageOptions},
		{"Verify", testVerify},
		{"Canceled", testCanceled},
		{"CanceledImport", testCanceledImport},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testkit.CheckLeaks(t)
			tt.test(t, &suite{Fixture: f, store: f.Open(t), nonce: rand.Text()})
		})
	}
}

// suite is what one of its tests works with.
type suite struct {
	Fixture
	store store.Store
	nonce string // in all contents, so that all names are new
}

// need returns the store as one with an ability, or skips the test.
func need[T any](t *testing.T, s store.Store) T {
	t.Helper()
	able, ok := s.(T)
	if !ok {
		t.Skipf("%T is no %T", s, (*T)(nil))
	}
	return able
}

// notShared skips a test that needs a store of its own.
func (s *suite) notShared(t *testing.T) {
	t.Helper()
	if s.Shared {
		t.Skip("the store is shared")
	}
}

// importer returns the store under test as the Importer that it must be.
func (s *suite) importer(t *testing.T) store.Importer {
	t.Helper()
	importer, ok := s.store.(store.Importer)
	if !ok {
		t.Fatalf("%T is not a store.Importer", s.store)
	}
	return importer
}

// fill imports items, which must succeed.
func (s *suite) fill(t *testing.T, items ...made) {
	t.Helper()
	fill(t, s.store, s.archive(t, items...))
}

func fill(t *testing.T, into store.Store, archive io.Reader) {
	t.Helper()
	if _, err := into.(store.Importer).Import(t.Context(), archive, store.ImportOptions{}); err != nil {
		t.Fatalf("Import: %v", err)
	}
}

// wantValid checks which of the items are valid, by each way to ask.
func wantValid(t *testing.T, s store.Store, want bool, items ...made) {
	t.Helper()
	for _, it := range items {
		_, err := s.Info(t.Context(), it.path)
		switch {
		case want && err != nil:
			t.Errorf("%s ought to be valid: %v", it.path, err)
		case !want && err == nil:
			t.Errorf("%s is valid and ought not to be", it.path)
		case !want && !errors.Is(err, store.ErrNotValid):
			t.Errorf("Info of an item that is not valid: %v, want ErrNotValid", err)
		}
		valid, err := store.IsValid(t.Context(), s, it.path)
		if err != nil || valid != want {
			t.Errorf("ValidPaths of %s: %v, %v, want %v", it.path, valid, err, want)
		}
	}
}

// wantContents checks that a valid item is what was made.
func wantContents(t *testing.T, s store.Store, it made) {
	t.Helper()
	info, err := s.Info(t.Context(), it.path)
	if err != nil {
		t.Errorf("Info: %v", err)
		return
	}
	it.wantInfo(t, info)
	if w, ok := s.(store.NARWriter); ok {
		it.wantNAR(t, w)
	}
}
