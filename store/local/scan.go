package local

import (
	"maps"
	"slices"

	"lighter/store"
)

// scanner finds which of some items are mentioned, by the hash part of their names,
// in what is written to it, even across writes. It searches an item's NAR, so that file
// names and the targets of symlinks count as well as contents (scanForReferences in
// libstore).
type scanner struct {
	wanted map[[store.HashPartLen]byte][]store.Path
	starts [1 << 15]bool // the first three digits of those
	found  map[store.Path]bool
	edge   []byte // the end of the last write, shorter than a hash part, and what follows it
}

// noDigit is the value in hashDigits of bytes that hash parts don't have.
const noDigit = 0xff

// hashDigits has the value of each byte as a digit of hash parts.
var hashDigits = func() (values [256]uint8) {
	for i := range values {
		values[i] = noDigit
	}
	for i, c := range []byte("0123456789abcdfghijklmnpqrsvwxyz") {
		values[c] = uint8(i)
	}
	return values
}()

// start returns the index in starts of what begins with three digits.
func start(b []byte) int {
	return int(hashDigits[b[0]])<<10 | int(hashDigits[b[1]])<<5 | int(hashDigits[b[2]])
}

func newScanner(candidates []store.Path) *scanner {
	s := &scanner{wanted: make(map[[store.HashPartLen]byte][]store.Path, len(candidates)), found: make(map[store.Path]bool)}
	for _, p := range candidates {
		key := [store.HashPartLen]byte([]byte(p.HashPart()))
		s.wanted[key] = append(s.wanted[key], p)
		s.starts[start(key[:])] = true
	}
	return s
}

// Write implements io.Writer. It never fails.
func (s *scanner) Write(p []byte) (int, error) {
	const most = store.HashPartLen - 1
	if len(s.edge) > 0 {
		// What begins in earlier writes and ends in this one.
		s.scan(append(s.edge, p[:min(len(p), most)]...))
	}
	if len(p) >= most {
		s.scan(p)
		s.edge = append(s.edge[:0], p[len(p)-most:]...)
	} else {
		s.edge = append(s.edge, p...)
		if over := len(s.edge) - most; over > 0 {
			s.edge = s.edge[:copy(s.edge, s.edge[over:])]
		}
	}
	return len(p), nil
}

// scan searches b. It looks at the last byte that a hash part would have first: where
// that is not a digit, none of the bytes before it can begin one, so most are never
// looked at.
func (s *scanner) scan(b []byte) {
	const n = store.HashPartLen
	for i := 0; i+n <= len(b); {
		window := b[i : i+n]
		last := n - 1
		for last >= 0 && hashDigits[window[last]] != noDigit {
			last--
		}
		if last >= 0 {
			i += last + 1
			continue
		}
		i = s.digits(b, i)
	}
}

// digits looks at all hash parts in a run of digits that starts at i and has at least
// the length of one. It returns where to go on.
func (s *scanner) digits(b []byte, i int) int {
	const n = store.HashPartLen
	for ; ; i++ {
		if s.starts[start(b[i:])] {
			for _, p := range s.wanted[[n]byte(b[i:i+n])] {
				s.found[p] = true
			}
		}
		if i+n == len(b) || hashDigits[b[i+n]] == noDigit {
			return i + n
		}
	}
}

// references returns what was found, sorted.
func (s *scanner) references() []store.Path { return slices.Sorted(maps.Keys(s.found)) }
