package local

import (
	"os"
	"path/filepath"
	"testing"

	"lighter/internal/testkit"
	"lighter/store"
	"lighter/store/storetest"
)

func TestConformance(t *testing.T) {
	testkit.CheckLeaks(t)
	storetest.TestStore(t, storetest.Fixture{
		Key:  testKey,
		Open: func(t *testing.T) store.Store { return openTestStore(t) },
		Damage: func(t *testing.T, s store.Store, path store.Path) {
			name, err := s.(*Store).PhysicalPath(path)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(name, "text")
			if err := os.Chmod(file, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte("damaged"), 0); err != nil {
				t.Fatal(err)
			}
		},
	})
}
