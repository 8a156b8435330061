package apiserver

import (
	"testing"
	"time"
)

// TestGrantsAreBounded: a person with too many loses the one used longest ago; all together leave room
// for those who operate.
func TestGrantsAreBounded(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	g := newGrants(time.Hour, 0, 2, 4)
	add := func(uid uint32, operates bool) string {
		now = now.Add(time.Second)
		token, _, ok := g.add(peer(uid), uid, operates, now)
		if ok != (token != "") {
			t.Errorf("%v with the token %q", ok, token)
		}
		return token
	}
	there := func(token string) bool {
		_, ok := g.find(token, now, toLook)
		return ok
	}
	first, second := add(5, false), add(5, false)
	g.find(first, now.Add(time.Second), toUse)
	third := add(5, false)
	if !there(first) || there(second) || !there(third) {
		t.Error("not the one that was used longest ago made room")
	}
	if add(6, false) == "" || add(7, false) != "" || add(0, true) == "" || add(8, true) != "" {
		t.Error("the bound of all does not hold, or keeps operators out")
	}
	if add(6, false) == "" || len(g.byHash) != 4 {
		t.Errorf("who has one can't have another in its place, or %d are kept", len(g.byHash))
	}
	now = now.Add(time.Hour)
	if add(7, false) == "" || len(g.byHash) != 1 {
		t.Errorf("what is over is kept: %d", len(g.byHash))
	}
	if n := g.endOf(7, now); n != 1 || len(g.byHash) != 0 {
		t.Errorf("ended %d, %d are left", n, len(g.byHash))
	}
}
