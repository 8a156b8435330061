package turns

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/ledger"
)

var start = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func TestOf(t *testing.T) {
	alice, root := &api.Submitter{UID: 1000, User: "alice"}, &api.Submitter{UID: 0, User: "root", Operates: true}
	daemon := &api.Submitter{UID: 990, User: "guix-daemon"}
	forAlice := func(s *api.Submitter) *api.Submitter {
		for_ := *s
		for_.For = alice
		return &for_
	}
	build := func(s *api.Submitter, offload bool, tags ...string) *api.Build {
		b := &api.Build{Submitter: s, Request: api.Request{Offload: offload, Tags: make(map[string]string)}}
		for _, tag := range tags {
			k, v, _ := strings.Cut(tag, "=")
			b.Tags[k] = v
		}
		return b
	}
	for _, tt := range []struct {
		name                      string
		build                     *api.Build
		user, tag, source, nobody string
	}{
		{"a user", build(alice, false), "alice", "alice", "clients", ""},
		{"a user without a name", build(&api.Submitter{UID: 1001}, false), "1001", "1001", "clients", ""},
		{"a user who claims a tag", build(alice, false, "share=nightly"), "alice", "alice", "clients", ""},
		{"a user who claims a branch", build(alice, false, "branch=master", "commit=c"), "alice", "alice", "clients", ""},
		{"an operator", build(root, false), "root", "root", "clients", ""},
		{"an operator's tag", build(root, false, "share=nightly"), "root", "tag:nightly", "clients", ""},
		{"an operator's branch", build(root, false, "branch=master", "commit=c"), "root", "root", "queue:master", ""},
		{"guix-daemon for a user", build(forAlice(root), true), "alice", "alice", "guix-daemon", ""},
		{"guix-daemon for nobody known", build(root, true), "guix-daemon", "guix-daemon", "guix-daemon", ""},
		{"a guix-daemon without rights, for a user", build(forAlice(daemon), true), "alice", "alice", "guix-daemon", ""},
		{"who talks as a hook does", build(alice, true), "alice", "alice", "clients", ""},
		{"nobody known", build(nil, false), "unknown", "unknown", "unknown", ""},
		{"what was made for others, tried again", &api.Build{Share: "bob"}, "bob", "bob", "bob", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for by, want := range map[string]string{"": tt.user, ByUser: tt.user, ByTag: tt.tag, BySource: tt.source, ByNone: tt.nobody} {
				r := Rules{By: by}
				if got := r.Of(tt.build); got != want {
					t.Errorf("by %q: got %q, want %q", by, got, want)
				}
			}
		})
	}
	long := Rules{By: ByTag}
	if got := long.Of(build(root, false, "share="+strings.Repeat("x", api.MaxTag))); len(got) > api.MaxName {
		t.Errorf("a name of %d bytes", len(got))
	}
}

func TestUnion(t *testing.T) {
	list := func(text string) []string { return strings.Fields(text) }
	for _, tt := range []struct{ a, b, want string }{
		{"", "", ""},
		{"", "a", "a"},
		{"a", "", "a"},
		{"a", "a", "a"},
		{"b", "a", "a b"},
		{"a c", "b", "a b c"},
		{"a", "a b", "a b"},
		{"a b", "b c", "a b c"},
	} {
		a, b := list(tt.a), list(tt.b)
		if got := Union(a, b); !slices.Equal(got, list(tt.want)) {
			t.Errorf("%q and %q: got %q", tt.a, tt.b, got)
		}
		if !slices.Equal(a, list(tt.a)) || !slices.Equal(b, list(tt.b)) {
			t.Errorf("%q and %q were changed to %q and %q", tt.a, tt.b, a, b)
		}
	}
	whole := list("a b")
	if got := Union(list("b"), whole); &got[0] != &whole[0] {
		t.Error("a list that has all is not shared")
	}
	var many []string
	for i := range 100 {
		many = Union(many, []string{fmt.Sprintf("user%03d", i)})
	}
	if len(many) != maxTogether || !slices.IsSorted(many) {
		t.Errorf("%d names: %q", len(many), many)
	}
}

// near reports whether two numbers of seconds are the same but for rounding.
func near(a, b api.Seconds) bool { return math.Abs(float64(a-b)) < 1e-3 }

func used(t *testing.T, a *Account, share string, now time.Time) api.Seconds {
	t.Helper()
	for _, s := range a.List(now) {
		if s.Name == share {
			return s.Used
		}
	}
	return 0
}

func TestCharge(t *testing.T) {
	a := New(Rules{HalfLife: time.Hour, Weights: map[string]float64{"alice": 3, "*": 0.5}})
	a.Hold("alice", 1, start)
	a.Hold("alice", 1, start)
	a.Hold("bob", 1, start.Add(10*time.Second))
	a.Hold("alice", -1, start.Add(20*time.Second))
	a.Hold("alice", -1, start.Add(30*time.Second))
	now := start.Add(30 * time.Second)
	const fades = 1 // seconds, at most, in that time
	if got := used(t, a, "alice", now); got > 50 || got < 50-fades {
		t.Errorf("alice has used %v, want almost 50 s", got)
	}
	if got := used(t, a, "bob", now); got > 20 || got < 20-fades {
		t.Errorf("bob has used %v, want almost 20 s", got)
	}
	if got := a.Served([]string{"alice", "bob"}, now); got != "alice" { // 50/3 and 20/0.5
		t.Errorf("served least: %s", got)
	}
	a.Hold("bob", -1, now)
	before := used(t, a, "bob", now)
	if after := used(t, a, "bob", now.Add(time.Hour)); !near(after, before/2) {
		t.Errorf("bob's %v became %v in a half-life", before, after)
	}
	// Other weights count at once; what was used stays.
	if a.SetRules(Rules{HalfLife: time.Hour, Weights: map[string]float64{"bob": 100}}, now) {
		t.Error("with other weights builds count for others")
	}
	if got := a.Served([]string{"alice", "bob"}, now); got != "bob" {
		t.Errorf("served least, now: %s", got)
	}
	if got := used(t, a, "bob", now); !near(got, before) {
		t.Errorf("bob's %v became %v with the weights", before, got)
	}
	if !a.SetRules(Rules{By: ByNone}, now) || a.Shares() != nil || a.List(now) != nil || a.Served([]string{"alice"}, now) != "" {
		t.Error("nobody is to be told apart, and somebody is")
	}
}

// TestClockBack sets the clock back: nothing is charged for that, and nothing given back.
func TestClockBack(t *testing.T) {
	a := New(Rules{})
	a.Hold("alice", 1, start)
	a.Advance(start.Add(-time.Hour))
	now := start.Add(-time.Hour + 5*time.Second)
	if got := used(t, a, "alice", now); got != 5 {
		t.Errorf("used %v", got)
	}
}

func TestList(t *testing.T) {
	a := New(Rules{Weights: map[string]float64{"bob": 2}})
	for share, seconds := range map[string]int{"alice": 60, "bob": 300, "carol": 10, "dave": 1} {
		a.Hold(share, 1, start)
		a.at = start
		a.Hold(share, -1, start.Add(time.Duration(seconds)*time.Second))
		a.at = start
	}
	a.Wait("alice", 2)
	a.Wait("bob", 5)
	now := start
	a.Hold("carol", 1, now)
	want := []api.Share{
		{Name: "alice", Weight: 1, Part: 0.25, Queued: 2, Used: 60, Due: 92.5},
		{Name: "bob", Weight: 2, Part: 0.5, Queued: 5, Used: 300, Due: 185},
		{Name: "carol", Weight: 1, Part: 0.25, Running: 1, Used: 10, Due: 92.5},
		{Name: "dave", Weight: 1, Used: 1},
	}
	if diff := cmp.Diff(want, a.List(now)); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	var queue Queue
	queue.Note("alice", true, false) // a more urgent one
	queue.Note("bob", true, true)
	queue.Note("bob", true, true)
	queue.Note("alice", false, true)
	turns := a.Turns(&queue, now)
	if len(turns) != 2 || turns[0].Name != "bob" || turns[0].Before != 2 || turns[1].Before != 1 {
		t.Errorf("turns: %+v", turns)
	}
	a.Wait("bob", -5)
	if turns := a.Turns(&Queue{}, now); turns != nil {
		t.Errorf("one alone has turns: %+v", turns)
	}
}

// TestManyShares has more come than are remembered, or counted under their own names.
func TestManyShares(t *testing.T) {
	a := New(Rules{})
	now := start
	for i := range maxShares + 100 {
		share := fmt.Sprintf("user%04d", i)
		a.Hold(share, 1, now)
		now = now.Add(time.Duration(2+i) * time.Second)
		a.Hold(share, -1, now)
	}
	a.Wait("latest", 1)
	if len(a.List(now)) != maxListed {
		t.Errorf("%d are listed", len(a.List(now)))
	}
	counts := a.Counts(now)
	if len(counts) != maxCounted+1 || counts[otherShare].SlotSeconds == 0 || counts[otherShare].Queued != 1 {
		t.Errorf("%d are counted, others: %+v", len(counts), counts[otherShare])
	}
	if s := a.Save(now, true); len(s.Value.(record).Used) != maxShares {
		t.Errorf("%d are kept", len(s.Value.(record).Used))
	}
	if n := len(a.shares.Names()); n != maxShares {
		t.Errorf("%d are remembered", n)
	}
	if a.shares.Used("user0001", now) != 0 || a.shares.Used("user1000", now) == 0 {
		t.Error("those who used most were forgotten")
	}
}

func TestRestart(t *testing.T) {
	ctx := t.Context()
	records, err := ledger.Open("ledger", ledger.Options{MinFree: -1, FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	rules := Rules{HalfLife: time.Hour}
	a := New(rules)
	if err := a.Recover(ctx, records, slog.New(slog.DiscardHandler), start); err != nil {
		t.Fatal(err)
	}
	if s := a.Save(start.Add(2*saveInterval), false); s != nil {
		t.Errorf("a record of nothing: %v", s)
	}
	a.Hold("alice", 1, start)
	now := start.Add(time.Hour)
	save := func(now time.Time) {
		t.Helper()
		s := a.Save(now, false)
		if s == nil {
			t.Fatal("nothing is to be kept")
		}
		if _, err := records.Apply(ctx, []ledger.Change{{Setting: s}}, true); err != nil {
			t.Fatal(err)
		}
	}
	save(now)
	if a.Save(now.Add(saveInterval/2), false) != nil {
		t.Error("a record right after another")
	}
	was := used(t, a, "alice", now)
	for name, at := range map[string]struct {
		now  time.Time
		want api.Seconds
	}{
		"at once":                    {now, was},
		"a half-life later":          {now.Add(time.Hour), was / 2},
		"with the clock an hour ago": {now.Add(-time.Hour), was},
	} {
		b := New(rules)
		if err := b.Recover(ctx, records, slog.New(slog.DiscardHandler), at.now); err != nil {
			t.Fatal(err)
		}
		if got := used(t, b, "alice", at.now); !near(got, at.want) {
			t.Errorf("%s: alice has used %v, want %v", name, got, at.want)
		}
	}
	if _, err := records.Apply(ctx, []ledger.Change{{Setting: &ledger.Setting{Name: setting, Value: "damaged"}}}, true); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	if err := New(rules).Recover(context.Background(), records, slog.New(slog.NewTextHandler(&log, nil)), now); err != nil || !strings.Contains(log.String(), "begin anew") {
		t.Errorf("a damaged record: %v, log %q", err, log.String())
	}
}
