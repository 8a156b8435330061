package local

import (
	"bytes"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/store"
)

func scanPaths() []store.Path {
	var paths []store.Path
	for _, c := range "0123abcz" {
		paths = append(paths, store.Path("/gnu/store/"+strings.Repeat(string(c), 16)+"0123456789abcdfg-"+string(c)))
	}
	return paths
}

func scanned(paths []store.Path, parts ...[]byte) []store.Path {
	s := newScanner(paths)
	for _, p := range parts {
		_, _ = s.Write(p)
	}
	return s.references()
}

func TestScanner(t *testing.T) {
	paths := scanPaths()
	hash := func(i int) string { return paths[i].HashPart() }
	for _, tt := range []struct {
		name string
		text string
		want []store.Path
	}{
		{"nothing", "", nil},
		{"alone", hash(0), paths[:1]},
		{"in words", "see " + string(paths[1]) + "/bin", paths[1:2]},
		{"two", hash(2) + hash(0), []store.Path{paths[0], paths[2]}},
		{"among digits", "xxxxx" + hash(3) + "yyyyyy", paths[3:4]},
		{"cut short", hash(0)[:31] + "-" + hash(1)[1:], nil},
		{"upper case", strings.ToUpper(hash(4)), nil},
		{"a digit that is none", hash(0)[:16] + "e" + hash(0)[16:], nil},
		{"of another", strings.Repeat("9", 32), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, scanned(paths, []byte(tt.text))); diff != "" {
				t.Errorf("references (-want +got)\n%s", diff)
			}
			for i := range tt.text {
				if got := scanned(paths, []byte(tt.text[:i]), []byte(tt.text[i:])); !slices.Equal(got, tt.want) {
					t.Errorf("split at %d: %q", i, got)
				}
			}
			if got := scanned(paths, bytes.Split([]byte(tt.text), nil)...); !slices.Equal(got, tt.want) {
				t.Errorf("byte by byte: %q", got)
			}
		})
	}
}

// FuzzScanner compares the scanner with the plain way to search, however the text is
// cut into pieces.
func FuzzScanner(f *testing.F) {
	paths := scanPaths()
	f.Add([]byte(string(paths[0])+paths[1].HashPart()), uint8(7))
	f.Fuzz(func(t *testing.T, text []byte, size uint8) {
		var want []store.Path
		for _, p := range paths {
			if bytes.Contains(text, []byte(p.HashPart())) {
				want = append(want, p)
			}
		}
		parts := slices.Collect(slices.Chunk(text, int(size)+1))
		if diff := cmp.Diff(want, scanned(paths, parts...)); diff != "" {
			t.Errorf("references (-want +got)\n%s", diff)
		}
	})
}

func BenchmarkScanner(b *testing.B) {
	random := make([]byte, 256<<10)
	_, _ = rand.Read(random)
	text := bytes.Repeat([]byte("the quick brown fox jumps over /gnu/store/0000000000000000 the lazy dog\n"), 3600)
	digits := bytes.Repeat([]byte("0123456789abcdf"), 17000)
	for name, data := range map[string][]byte{"random": random, "text": text, "zeros": make([]byte, 256<<10), "digits": digits} {
		b.Run(name, func(b *testing.B) {
			s := newScanner(scanPaths())
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				_, _ = s.Write(data)
			}
		})
	}
}
