package inventory

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/peer"
	"lighter/store"
)

// TestWanted asks what two machines lack of items that are at home, on one of them, on both, and only
// on a third one behind a slow link.
func TestWanted(t *testing.T) {
	head := headstore.New(nil)
	k, numbers := New(head, nil), NewNumbers()
	peers := make(map[string]*peer.Peer)
	sets := make(map[string]*Set)
	for _, name := range []string{"m1", "m2", "far", "home"} {
		p := &peer.Peer{Fetching: &peer.Lane{}}
		p.SetName(name)
		peers[name], sets[name] = p, numbers.NewSet(p)
	}
	rates := map[string]float64{"m1": 1000, "m2": 1000, "far": 10, "home": math.Inf(1)}
	path := func(name string) store.Path {
		return store.Path("/gnu/store/00000000000000000000000000000000-" + name)
	}
	kept := func(name string, size int64, on string) {
		k.Add(peers[on], []*Item{{Info: &store.Info{Path: path(name), NARSize: size}}})
		sets[on].Add(path(name))
	}
	head.Remember(&store.Info{Path: path("source"), NARSize: 1})
	head.Remember(&store.Info{Path: path("common"), NARSize: 10})
	sets["m1"].Add(path("common"))
	sets["m2"].Add(path("common"))
	kept("on-m1", 100, "m1")
	kept("far", 1000, "far")
	kept("far2", 3000, "far")
	kept("local", 10_000, "home")
	names := []string{"source", "common", "on-m1", "far", "far2", "local", "unknown"}
	var paths []store.Path
	for _, name := range names {
		paths = append(paths, path(name))
	}
	w := k.Want(numbers, paths, func(p *peer.Peer) float64 { return rates[p.Name()] })
	for _, want := range []struct {
		machine string
		bytes   int64
		gather  time.Duration
	}{
		{"m1", 14_001, 400 * time.Second},
		{"m2", 14_101, 400 * time.Second}, // the sources send at the same time
		{"far", 10_111, 100 * time.Millisecond},
		{"home", 4111, 400 * time.Second},
		{"m1", 14_001, 400 * time.Second},
	} {
		if bytes, gather := w.LackedBy(sets[want.machine]); bytes != want.bytes || gather != want.gather {
			t.Errorf("%s lacks %d bytes, at home after %v; want %d, %v", want.machine, bytes, gather, want.bytes, want.gather)
		}
	}
	near := func(n int) (names []string) {
		for _, p := range w.Near(n) {
			names = append(names, p.Name())
		}
		return names
	}
	if got := near(8); !slices.Equal(got, []string{"home", "far", "m1", "m2"}) {
		t.Errorf("near are %q", got)
	}
	if got := near(2); !slices.Equal(got, []string{"home", "far"}) {
		t.Errorf("the nearest two are %q", got)
	}
	// What has come home is no longer fetched.
	head.Remember(&store.Info{Path: path("far2"), NARSize: 3000})
	w = k.Want(numbers, paths, func(p *peer.Peer) float64 { return rates[p.Name()] })
	if bytes, gather := w.LackedBy(sets["m1"]); bytes != 14_001 || gather != 100*time.Second {
		t.Errorf("m1 lacks %d bytes, at home after %v", bytes, gather)
	}
}

// BenchmarkWanted asks 1,000 machines what they lack of the 40 inputs of a build, half of which only
// some of them have.
func BenchmarkWanted(b *testing.B) {
	head := headstore.New(nil)
	k, numbers := New(head, nil), NewNumbers()
	var sets []*Set
	var paths []store.Path
	for range 1000 {
		p := &peer.Peer{Fetching: &peer.Lane{}}
		sets = append(sets, numbers.NewSet(p))
		sets[len(sets)-1].Add()
	}
	for i := range 40 {
		p := store.Path(fmt.Sprintf("/gnu/store/%032d-item", i))
		paths = append(paths, p)
		on := sets[i*7%1000]
		on.Add(p)
		if i%2 == 0 {
			head.Remember(&store.Info{Path: p, NARSize: 1000})
		} else {
			k.Add(on.machine, []*Item{{Info: &store.Info{Path: p, NARSize: 1000}}})
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		w := k.Want(numbers, paths, func(*peer.Peer) float64 { return 1e6 })
		for _, s := range sets {
			w.LackedBy(s)
		}
		w.Near(8)
	}
}
