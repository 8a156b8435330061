package local

import (
	"maps"
	"slices"

	"lighter/store"
)

// scanner finds which of some items are mentioned, by the hash part of their names,
// in what is written to it, also across the ends of writes. What is searched is the
// item's NAR, so that file names and the targets of symlinks count as well as contents
// (scanForReferences in libstore).
type scanner struct {
	wanted map[[store.HashPartLen]byte][]store.Path
	found  map[store.Path]bool
	edge   []byte // the end of the last write, shorter than a hash part, and what follows it
}

// isHashDigit says which bytes hash parts are made of.
var isHashDigit = func() (digits [256]bool) {
	for _, c := range []byte("0123456789abcdfghijklmnpqrsvwxyz") {
		digits[c] = true
	}
	return digits
}()

func newScanner(candidates []store.Path) *scanner {
	s := &scanner{wanted: make(map[[store.HashPartLen]byte][]store.Path, len(candidates)), found: make(map[store.Path]bool)}
	for _, p := range candidates {
		key := [store.HashPartLen]byte([]byte(p.HashPart()))
		s.wanted[key] = append(s.wanted[key], p)
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
// that is no digit, none of the bytes before it can begin one, so most are never
// looked at.
func (s *scanner) scan(b []byte) {
	const n = store.HashPartLen
	for i := 0; i+n <= len(b); {
		window := b[i : i+n]
		last := n - 1
		for last >= 0 && isHashDigit[window[last]] {
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
		if paths := s.wanted[[n]byte(b[i:i+n])]; paths != nil {
			for _, p := range paths {
				s.found[p] = true
			}
		}
		if i+n == len(b) || !isHashDigit[b[i+n]] {
			return i + n
		}
	}
}

// references returns what was found, sorted.
func (s *scanner) references() []store.Path { return slices.Sorted(maps.Keys(s.found)) }
