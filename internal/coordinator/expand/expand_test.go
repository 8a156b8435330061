package expand

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/internal/coordinator/headstore"
	"lighter/internal/ledger"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/storetest"
)

// bench has a graph of derivations in a store, of which only some outputs are there.
type bench struct {
	t *testing.T
	Options
	hasher *derivation.Hasher
	built  map[store.Path]bool // outputs that are there
	asked  [][]store.Path      // of the store, in one call each
	gone   store.Path          // can't be read
}

func newBench(t *testing.T) *bench {
	t.Helper()
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(filepath.Join(t.TempDir(), "ledger"), ledger.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b := &bench{t: t, hasher: derivation.NewHasher(store.DefaultDir, nil), built: make(map[store.Path]bool)}
	b.Options = Options{
		Head:     headstore.New(outputsOf{storetest.NewMemory(store.DefaultDir, key, &signature.ACL{}), b}),
		Estimate: l.Estimate, Logger: slog.New(slog.DiscardHandler), Live: func(store.Path) *headstore.Node { return nil },
	}
	return b
}

// outputsOf is a store that has, besides what was added, the outputs that are said
// to be built, of 7 bytes each.
type outputsOf struct {
	*storetest.Memory
	b *bench
}

func (o outputsOf) ValidPaths(_ context.Context, paths []store.Path) (valid []store.Path, err error) {
	o.b.asked = append(o.b.asked, paths)
	for _, p := range paths {
		if o.b.built[p] {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

func (o outputsOf) WriteNAR(ctx context.Context, w io.Writer, p store.Path) error {
	if p == o.b.gone {
		return store.NotValid(p)
	}
	return o.Memory.WriteNAR(ctx, w, p)
}

func (o outputsOf) Info(ctx context.Context, p store.Path) (*store.Info, error) {
	if o.b.built[p] {
		return &store.Info{Path: p, NARSize: 7}, nil
	}
	return o.Memory.Info(ctx, p)
}

// drv adds a derivation to the store, and returns it with its output.
func (b *bench) drv(name string, inputs ...store.Path) (drv, output store.Path) {
	b.t.Helper()
	d := &derivation.Derivation{
		System: "x86_64-linux", Builder: "builtin:test", Outputs: []derivation.Output{{Name: "out"}}, Env: []derivation.EnvVar{{Name: "out"}},
	}
	for _, in := range inputs {
		d.Inputs = append(d.Inputs, derivation.Input{Path: in, Outputs: []string{"out"}})
	}
	slices.SortFunc(d.Inputs, func(a, b derivation.Input) int { return cmp.Compare(a.Path, b.Path) })
	if err := b.hasher.Fill(name, d); err != nil {
		b.t.Fatal(err)
	}
	drv, err := b.Head.Backend.(store.Adder).AddText(b.t.Context(), name+".drv", d.Marshal(), d.References())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.hasher.Add(drv, d); err != nil {
		b.t.Fatal(err)
	}
	n, err := b.Head.Node(b.t.Context(), drv)
	if err != nil {
		b.t.Fatal(err)
	}
	return drv, n.OutputMap()["out"]
}

func TestWalk(t *testing.T) {
	b := newBench(t)
	base, _ := b.drv("base")
	left, leftOut := b.drv("left", base)
	right, rightOut := b.drv("right", base)
	top, topOut := b.drv("top", left, right)
	both := []store.Path{left, right}
	if right < left {
		slices.Reverse(both)
	}

	g := Walk(t.Context(), b.Options, []Question{{Path: top}, {Path: top}})
	if want := []store.Path{top, both[0], both[1], base}; !slices.Equal(g.Order, want) || len(b.asked) != 3 {
		t.Errorf("found %v, want %v; asked %v", g.Order, want, b.asked)
	}
	for _, p := range g.Order {
		if f := g.Found[p]; !f.Missing || f.Err != nil || f.Live || (f.Parent == "") != (p == top) {
			t.Errorf("%s: %+v", p, f)
		}
	}
	if got := g.Found[top].InputPaths; !slices.Contains(got, leftOut) || !slices.Contains(got, rightOut) || len(got) != 2 {
		t.Errorf("needs %v", got)
	}

	b.built[leftOut], b.built[topOut] = true, true
	g = Walk(t.Context(), b.Options, []Question{{Path: top}})
	if f := g.Found[top]; f.Missing || f.Size != 7 || len(g.Order) != 1 {
		t.Errorf("what is there: %+v of %v", f, g.Order)
	}
	g = Walk(t.Context(), b.Options, []Question{{Path: top, Started: true}})
	if f := g.Found[top]; f.Missing || len(g.Order) != 4 || g.Found[left].Missing || !g.Found[right].Missing {
		t.Errorf("what is there, but started: %+v of %v", f, g.Order)
	}
	b.built[topOut] = false
	b.Live = func(p store.Path) *headstore.Node {
		if p != right {
			return nil
		}
		n, err := b.Head.Node(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	g = Walk(t.Context(), b.Options, []Question{{Path: top}})
	if f := g.Found[right]; !f.Live || f.Missing || g.Found[base] != nil {
		t.Errorf("what is live: %+v of %v", f, g.Order)
	}
}

func TestUnreadable(t *testing.T) {
	b := newBench(t)
	base, _ := b.drv("base")
	top, _ := b.drv("top", base)
	other, _ := b.drv("other")
	b.gone = base
	b.Head = headstore.New(b.Head.Backend) // which has read nothing yet
	absent := store.Path(strings.Replace(string(other), "other", "absent", 1))
	g := Walk(t.Context(), b.Options, []Question{{Path: top}, {Path: other}, {Path: absent}})
	if input, err := g.Unreadable(g.Found[top]); !errors.Is(err, store.ErrNotValid) || !strings.Contains(err.Error(), "input") || input != "" {
		t.Errorf("got %q, %v", input, err)
	}
	g.Found[top].Err = nil // as of one that was asked about before its input
	if input, err := g.Unreadable(g.Found[top]); !errors.Is(err, store.ErrNotValid) || input != base {
		t.Errorf("got %q, %v", input, err)
	}
	if _, err := g.Unreadable(g.Found[other]); err != nil {
		t.Error(err)
	}
	if _, err := g.Unreadable(g.Found[absent]); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("got %v", err)
	}
}
