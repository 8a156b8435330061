package headstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/scheduler/estimate"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/storetest"
)

func newMemory(t *testing.T) *storetest.Memory {
	t.Helper()
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return storetest.NewMemory(store.DefaultDir, key, &signature.ACL{})
}

// addText adds a file, and fails the test if it can't.
func addText(t *testing.T, m *storetest.Memory, name, text string) store.Path {
	t.Helper()
	p, err := m.AddText(t.Context(), name, []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// informer is a store that can tell of many items at once.
type informer struct {
	*storetest.Memory
	asked []store.Path
	err   error
}

func (s *informer) Infos(ctx context.Context, paths []store.Path) ([]*store.Info, error) {
	s.asked = append(s.asked, paths...)
	infos := make([]*store.Info, len(paths))
	for i, p := range paths {
		infos[i], _ = s.Info(ctx, p) // nil where it is not valid
	}
	return infos, s.err
}

func TestPrefetch(t *testing.T) {
	s := &informer{Memory: newMemory(t)}
	h := New(s)
	a, b := addText(t, s.Memory, "a", "1"), addText(t, s.Memory, "b", "22")
	absent := store.Path("/gnu/store/00000000000000000000000000000000-x")
	s.err = errors.New("busy")
	h.Prefetch(t.Context(), []store.Path{a})
	if n := h.Size(a); n != 0 {
		t.Errorf("a store that fails told of %d bytes", n)
	}
	s.err, s.asked = nil, nil
	h.Prefetch(t.Context(), []store.Path{a, absent})
	h.Prefetch(t.Context(), []store.Path{a, b})
	h.Prefetch(t.Context(), []store.Path{a, b})
	if want := []store.Path{a, absent, b}; !slices.Equal(s.asked, want) {
		t.Errorf("asked for %v, want %v", s.asked, want)
	}
	if h.Size(a) == 0 || h.Size(b) == 0 || h.Size(absent) != 0 {
		t.Errorf("sizes %d, %d, %d", h.Size(a), h.Size(b), h.Size(absent))
	}
	h.Forget(a)
	if h.Size(a) != 0 || h.Size(b) == 0 {
		t.Error("one was forgotten, the other one not")
	}
	plain := New(s.Memory)
	plain.Prefetch(t.Context(), []store.Path{a})
	if info, err := plain.Recall(t.Context(), a); err != nil || info.Path != a {
		t.Errorf("of a store that tells of one at a time: %v, %v", info, err)
	}
}

// TestLease: a store without leases needs none, and a lease that is not complete is none.
func TestLease(t *testing.T) {
	m := newMemory(t)
	a := addText(t, m, "a", "1")
	if l, err := New(struct{ Backend }{m}).Lease(t.Context(), "x", a); err != nil || l != (NoLease{}) {
		t.Errorf("got %v, %v", l, err)
	}
	h := New(m)
	l, err := h.Lease(t.Context(), "x", a)
	if err != nil || len(m.Leases()) == 0 {
		t.Fatalf("leases %v, %v", m.Leases(), err)
	}
	if err := l.Release(); err != nil || len(m.Leases()) != 0 {
		t.Errorf("leases %v, %v", m.Leases(), err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Lease(ended, "x", a); !errors.As(err, new(*Error)) || len(m.Leases()) != 0 {
		t.Errorf("leases %v, %v", m.Leases(), err)
	}
}

func TestNode(t *testing.T) {
	m := newMemory(t)
	h := New(m)
	hasher := derivation.NewHasher(store.DefaultDir, nil)
	add := func(name string, d *derivation.Derivation) store.Path {
		t.Helper()
		d.System, d.Builder = "x86_64-linux", "builtin:fake"
		for _, o := range d.Outputs {
			d.Env = append(d.Env, derivation.EnvVar{Name: o.Name})
		}
		if err := hasher.Fill(name, d); err != nil {
			t.Fatal(err)
		}
		p, err := m.AddText(t.Context(), name+".drv", d.Marshal(), d.References())
		if err == nil {
			err = hasher.Add(p, d)
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	one := add("one", &derivation.Derivation{Outputs: []derivation.Output{{Name: "out"}}})
	two := add("two-2.0", &derivation.Derivation{Outputs: []derivation.Output{{Name: "lib"}, {Name: "out"}}})
	inputs := []derivation.Input{{Path: one, Outputs: []string{"out"}}, {Path: two, Outputs: []string{"lib"}}}
	slices.SortFunc(inputs, func(a, b derivation.Input) int { return strings.Compare(string(a.Path), string(b.Path)) })
	top, err := h.Node(t.Context(), add("top", &derivation.Derivation{Inputs: inputs, Outputs: []derivation.Output{{Name: "out"}}}))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := top.InputOutputs(one), top.InputOutputs(two); !slices.Equal(a, []string{"out"}) || !slices.Equal(b, []string{"lib"}) {
		t.Errorf("needs %v and %v", a, b)
	}
	n, err := h.Node(t.Context(), two)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := h.Node(t.Context(), two); again != n || err != nil {
		t.Errorf("it is read again: %v", err)
	}
	lib, err := n.OutputPaths([]string{"lib"})
	if err != nil || len(lib) != 1 || lib[0] != n.OutputMap()["lib"] || !n.Makes(lib[0]) || n.Makes(two) {
		t.Errorf("the output lib is %v, %v", lib, err)
	}
	if _, err := n.OutputPaths([]string{"out", "doc"}); err == nil || !strings.Contains(err.Error(), `has no output "doc"`) {
		t.Errorf("got %v", err)
	}
	want := estimate.Key{Kind: estimate.Package, Name: "two", Version: "2.0", System: "x86_64-linux"}
	if got := n.Key(); got != want {
		t.Errorf("its key is %+v, want %+v", got, want)
	}
}

// TestNoDerivation has what is none under the name of one.
func TestNoDerivation(t *testing.T) {
	m := newMemory(t)
	h := New(m)
	var folder bytes.Buffer
	w := nar.NewWriter(&folder)
	if err := errors.Join(w.WriteHeader(&nar.Header{Kind: nar.Directory}), w.Close()); err != nil {
		t.Fatal(err)
	}
	dir, err := m.AddNAR(t.Context(), "folder.drv", &folder)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[store.Path]string{
		addText(t, m, "text", "x"):     "is not a derivation",
		addText(t, m, "text.drv", "x"): "derivation ",
		dir:                            "it is a directory",
		"/gnu/store/00000000000000000000000000000000-x.drv": "not valid",
	} {
		if _, err := h.Node(t.Context(), p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", p, err, want)
		}
	}
	var b limitedBuffer
	if _, err := b.Write(make([]byte, maxDerivation+1)); err == nil || !strings.Contains(err.Error(), "it has more than 67108864 bytes") || b.Len() > 0 {
		t.Errorf("got %v", err)
	}
}

func TestMakeRoom(t *testing.T) {
	m := make(map[string]int)
	for i := range 99 {
		m[fmt.Sprint(i)] = i
	}
	if makeRoom(m, 100); len(m) != 99 {
		t.Errorf("%d are left of a memory with room", len(m))
	}
	m["99"] = 99
	if makeRoom(m, 100); len(m) != 74 {
		t.Errorf("%d of 100 are left", len(m))
	}
}

// TestOutputs has an output that is at home, and one that stayed on its machine.
func TestOutputs(t *testing.T) {
	m := newMemory(t)
	here := addText(t, m, "here", "text")
	info, err := m.Info(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	away := store.Path("/gnu/store/00000000000000000000000000000000-away")
	b := &api.Build{State: api.Succeeded, OutputPaths: map[string]store.Path{"out": here, "doc": away}, OutputsOn: "beta"}
	want := []api.Output{
		{Name: "doc", Path: away, On: "beta"},
		{Name: "out", Path: here, Home: true, Size: info.NARSize, Hash: store.EncodeBase32(info.NARHash[:])},
	}
	if diff := cmp.Diff(want, New(m).Outputs(t.Context(), b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.State = api.Building
	if got := New(m).Outputs(t.Context(), b); got != nil {
		t.Errorf("of a build that is not over: %+v", got)
	}
}
