package catalogue

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"lighter/store"
)

// The first bytes of keys.
const (
	prefixMeta       = 'm'
	prefixRepository = 'r'
	prefixBranch     = 'b'
	prefixRevision   = 's'
	prefixCommit     = 'c'
	prefixPackage    = 'n'
	prefixDerivation = 'd'
	prefixText       = 't'
)

// open is the end of a span that has none yet.
const open = math.MaxUint64

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func keyMeta(name string) []byte { return append([]byte{prefixMeta}, name...) }

func keyRepository(id uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefixRepository}, id)
}

// keyOf begins all keys that are of a branch.
func keyOf(prefix byte, branch uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefix}, branch)
}

func keyRevision(branch uint32, n uint64) []byte {
	return binary.BigEndian.AppendUint64(keyOf(prefixRevision, branch), n)
}

func prefixOfCommit(commit string) []byte {
	return append(append([]byte{prefixCommit}, commit...), 0)
}

func keyCommit(commit string, branch uint32) []byte {
	return binary.BigEndian.AppendUint32(prefixOfCommit(commit), branch)
}

// prefixOfName begins the keys of all versions of a package.
func prefixOfName(branch uint32, name string) []byte {
	return append(append(keyOf(prefixPackage, branch), name...), 0)
}

func keyPackage(branch uint32, id identifier, first uint64) []byte {
	key := append(append(prefixOfName(branch, id.name), id.version...), 0)
	return binary.BigEndian.AppendUint64(key, first)
}

func keyDerivation(branch uint32, path store.Path, first uint64) []byte {
	key := append(append(keyOf(prefixDerivation, branch), path...), 0)
	return binary.BigEndian.AppendUint64(key, first)
}

func keyText(hash [16]byte) []byte { return append([]byte{prefixText}, hash[:]...) }

// after returns the first key after all keys with a prefix.
func after(prefix []byte) []byte {
	end := slices.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil // no key comes after 0xff…
}

// corrupt is the error of a key that can't be, or whose value can't.
func corrupt(key []byte) error { return fmt.Errorf("the catalogue's entry %.200q is damaged", key) }

// identifier is what tells packages of a revision apart.
type identifier struct{ name, version string }

func (i identifier) String() string {
	if i.version == "" {
		return i.name
	}
	return i.name + "@" + i.version
}

// span says which revisions of a branch have something: those from first on, up to but without end.
type span struct{ first, end uint64 }

func (s span) has(n uint64) bool { return s.first <= n && n < s.end }

// spanOf reads the span of a package or derivation, and returns the rest of key and value.
func spanOf(key, value []byte) (s span, rest, body []byte, err error) {
	const before = 1 + 4
	if len(key) < before+8+1 || len(value) < 8 || key[len(key)-9] != 0 {
		return s, nil, nil, corrupt(key)
	}
	s.first = binary.BigEndian.Uint64(key[len(key)-8:])
	s.end = binary.BigEndian.Uint64(value)
	if s.first >= s.end {
		return s, nil, nil, corrupt(key)
	}
	return s, key[before : len(key)-9], value[8:], nil
}

func identifierOf(key, rest []byte) (identifier, error) {
	name, version, ok := bytes.Cut(rest, []byte{0})
	if !ok {
		return identifier{}, corrupt(key)
	}
	return identifier{string(name), string(version)}, nil
}
