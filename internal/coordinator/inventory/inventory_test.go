package inventory

import (
	"testing"

	"lighter/internal/coordinator/peer"
	"lighter/store"
)

// TestKeptByTwo has two machines that were given different derivations with the
// same output.
func TestKeptByTwo(t *testing.T) {
	k := New(nil, nil)
	m1, m2 := &peer.Peer{}, &peer.Peer{}
	path := store.Path("/gnu/store/00000000000000000000000000000000-x")
	first, second := &store.Info{Path: path, NARSize: 1}, &store.Info{Path: path, NARSize: 2}
	k.Add(m1, Made(map[string]*store.Info{"out": first}, nil))
	k.Add(m2, Made(map[string]*store.Info{"out": second}, nil))
	if item, on := k.Get(path); item.Info != first || on != m1 {
		t.Errorf("the second machine's item is in the place of the first one's")
	}
	k.Remove(m1, []store.Path{path})
	if item, on := k.Get(path); item.Info != second || on != m2 {
		t.Errorf("got %+v", item)
	}
	k.Remove(m2, []store.Path{path})
	if item, _ := k.Get(path); item != nil {
		t.Error("it is still kept")
	}
}
