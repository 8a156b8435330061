package local

import (
	"os"
	"path/filepath"
	"testing"

	"lighter/internal/testkit"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/storetest"
)

func TestConformance(t *testing.T) {
	testkit.CheckLeaks(t)
	key := storetest.Key(t)
	acl := new(signature.ACL)
	acl.Add(key.Public())
	storetest.TestStore(t, storetest.Fixture{
		Key: key,
		Open: func(t *testing.T) store.Store {
			return openWith(t, Options{
				Root: filepath.Join(scratch(t), "store"),
				Key:  key,
				ACL:  func() (*signature.ACL, error) { return acl, nil },
			})
		},
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
