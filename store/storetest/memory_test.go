package storetest

import (
	"testing"

	"lighter/nar/signature"
	"lighter/store"
)

// plain hides all abilities of a store but those that every fixture has.
type plain struct {
	store.Store
	store.Importer
}

func memoryFixture(t *testing.T) Fixture {
	t.Helper()
	key := Key(t)
	acl := new(signature.ACL)
	acl.Add(key.Public())
	return Fixture{
		Key:  key,
		Open: func(*testing.T) store.Store { return NewMemory(store.DefaultDir, key, acl) },
		Damage: func(t *testing.T, s store.Store, path store.Path) {
			if err := s.(*Memory).Damage(path); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func TestMemory(t *testing.T) { TestStore(t, memoryFixture(t)) }

// TestSuiteWithoutAbilities shows that the suite asks no more of a backend than it
// offers.
func TestSuiteWithoutAbilities(t *testing.T) {
	f := memoryFixture(t)
	open := f.Open
	f.Open = func(t *testing.T) store.Store {
		m := open(t)
		return plain{m, m.(store.Importer)}
	}
	f.Damage = nil
	TestStore(t, f)
}

func TestSuiteShared(t *testing.T) {
	f := memoryFixture(t)
	one := f.Open(t)
	f.Open = func(*testing.T) store.Store { return one }
	f.Shared = true
	TestStore(t, f)
}
