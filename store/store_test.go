package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// item returns the path of an item whose name is its hash part's digit too.
func item(name string) Path {
	return Path("/gnu/store/" + strings.Repeat("0", HashPartLen) + "-" + name)
}

// graph reads "a b: c d" lines: the items a and b refer to c and d.
func graph(text string) []*Info {
	var infos []*Info
	for line := range strings.Lines(text) {
		from, to, _ := strings.Cut(line, ":")
		for _, name := range strings.Fields(from) {
			info := &Info{Path: item(name)}
			for _, ref := range strings.Fields(to) {
				info.References = append(info.References, item(ref))
			}
			infos = append(infos, info)
		}
	}
	return infos
}

func names(infos []*Info) string {
	var all []string
	for _, info := range infos {
		all = append(all, info.Path.Name())
	}
	return strings.Join(all, " ")
}

func TestSortInfos(t *testing.T) {
	for _, tt := range []struct{ name, graph, want string }{
		{"nothing", "", ""},
		{"independent items by name", "c\nb\na", "a b c"},
		{"chain", "a: b\nb: c\nc:", "c b a"},
		{"diamond", "a: b c\nb c: d\nd:", "d b c a"},
		{"self reference", "a: a b\nb: b", "b a"},
		{"reference outside the set", "b: x\na: b y", "b a"},
		{"the same item twice", "a: b\na: b\nb:", "b a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := SortInfos(graph(tt.graph))
			if err != nil || names(got) != tt.want {
				t.Errorf("got %q, %v, want %q", names(got), err, tt.want)
			}
		})
	}
}

func TestSortInfosCycle(t *testing.T) {
	for _, g := range []string{"a: b\nb: a", "a: b\nb: c\nc: a", "x: a\na: a b\nb: a"} {
		got, err := SortInfos(graph(g))
		if err == nil {
			t.Errorf("%q was sorted: %s", g, names(got))
		} else if !strings.Contains(err.Error(), "cycle") {
			t.Errorf("%q: error %q does not name a cycle", g, err)
		}
	}
}

// TestSortInfosAnyOrder shows that the order depends on the set alone, and holds
// for a deep graph that a recursive sort would not survive on a small stack.
func TestSortInfosAnyOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var infos []*Info
	for i := range 2000 {
		info := &Info{Path: item(fmt.Sprintf("n%04d", i))}
		for range rng.IntN(4) {
			info.References = append(info.References, item(fmt.Sprintf("n%04d", rng.IntN(i+1))))
		}
		if i > 0 {
			info.References = append(info.References, item(fmt.Sprintf("n%04d", i-1)))
		}
		infos = append(infos, info)
	}
	want, err := SortInfos(infos)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[Path]bool)
	for _, info := range want {
		for _, ref := range info.References {
			if ref != info.Path && !seen[ref] {
				t.Fatalf("%s comes before its reference %s", info.Path, ref)
			}
		}
		seen[info.Path] = true
	}
	rng.Shuffle(len(infos), func(i, j int) { infos[i], infos[j] = infos[j], infos[i] })
	got, err := SortInfos(infos)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("another order for the same set, error %v", err)
	}
}

// mapStore is a Store and nothing more.
type mapStore struct {
	infos map[Path]*Info
	err   error // returned by Info if set
	asked int   // calls of Info
}

func (s *mapStore) Dir() Dir { return DefaultDir }

func (s *mapStore) Info(_ context.Context, p Path) (*Info, error) {
	s.asked++
	if s.err != nil {
		return nil, s.err
	}
	if info := s.infos[p]; info != nil {
		return info, nil
	}
	return nil, NotValid(p)
}

func newMapStore(g string) *mapStore {
	s := &mapStore{infos: make(map[Path]*Info)}
	for _, info := range graph(g) {
		s.infos[info.Path] = info
	}
	return s
}

// batchStore can answer for many items too.
type batchStore struct{ mapStore }

func (s *batchStore) ValidPaths(_ context.Context, paths []Path) ([]Path, error) {
	return slices.DeleteFunc(slices.Clone(paths), func(p Path) bool { return s.infos[p] == nil }), s.err
}

func TestValidPaths(t *testing.T) {
	ctx := t.Context()
	plain := newMapStore("a b c")
	batch := &batchStore{*newMapStore("a b c")}
	paths := []Path{item("c"), item("x"), item("a"), item("y"), item("c")}
	for _, s := range []Store{plain, batch} {
		got, err := ValidPaths(ctx, s, paths)
		if diff := cmp.Diff([]Path{item("c"), item("a"), item("c")}, got); diff != "" || err != nil {
			t.Errorf("%T: ValidPaths, error %v (-want +got)\n%s", s, err, diff)
		}
		got, err = Missing(ctx, s, paths)
		if diff := cmp.Diff([]Path{item("x"), item("y")}, got); diff != "" || err != nil {
			t.Errorf("%T: Missing, error %v (-want +got)\n%s", s, err, diff)
		}
		for name, want := range map[string]bool{"a": true, "x": false} {
			if got, err := IsValid(ctx, s, item(name)); got != want || err != nil {
				t.Errorf("%T: IsValid(%s) = %v, %v, want %v", s, name, got, err, want)
			}
		}
	}
	if batch.asked != 0 {
		t.Errorf("a store that answers for many items was asked %d times for one", batch.asked)
	}
}

func TestValidPathsError(t *testing.T) {
	broken := errors.New("disk on fire")
	for _, s := range []Store{&mapStore{err: broken}, &batchStore{mapStore{err: broken}}} {
		paths := []Path{item("a")}
		if _, err := ValidPaths(t.Context(), s, paths); !errors.Is(err, broken) {
			t.Errorf("%T: ValidPaths: %v, want %v", s, err, broken)
		}
		if _, err := Missing(t.Context(), s, paths); !errors.Is(err, broken) {
			t.Errorf("%T: Missing: %v, want %v", s, err, broken)
		}
		if ok, err := IsValid(t.Context(), s, paths[0]); ok || !errors.Is(err, broken) {
			t.Errorf("%T: IsValid: %v, %v, want %v", s, ok, err, broken)
		}
	}
}

func TestClosure(t *testing.T) {
	s := newMapStore("a: b c\nb: b d\nc: d\nd:\nother: a")
	got, err := Closure(t.Context(), s, []Path{item("a"), item("c"), item("a")})
	if err != nil || names(got) != "d b c a" {
		t.Errorf("got %q, %v", names(got), err)
	}
	if s.asked != 4 {
		t.Errorf("the store was asked %d times about 4 items", s.asked)
	}
	if got, err := Closure(t.Context(), s, nil); err != nil || len(got) != 0 {
		t.Errorf("closure of nothing: %q, %v", names(got), err)
	}
}

func TestClosureOfMissing(t *testing.T) {
	s := newMapStore("a: b\nb: gone")
	_, err := Closure(t.Context(), s, []Path{item("a")})
	if !errors.Is(err, ErrNotValid) || !strings.Contains(err.Error(), "-gone") {
		t.Errorf("error %v, want ErrNotValid that names the item", err)
	}
}
