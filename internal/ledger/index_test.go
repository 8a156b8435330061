package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/store"
)

// model is what a ledger should have, by the order of its builds.
type model struct {
	rng    *rand.Rand
	builds []*api.Build
	start  time.Time
}

func newModel(seed uint64) *model {
	return &model{rng: rand.New(rand.NewPCG(seed, 4)), start: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}
}

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

var (
	someNames    = []string{"hello-2.12", "hello-2.13", "help2man-1", "go-1.26", "a"}
	someSystems  = []string{"x86_64-linux", "aarch64-linux", "i586-gnu", ""}
	someMachines = []string{"", "m1", "m2", "m3"}
	someTags     = []string{"", "guix", "core-updates"}
)

func path(hash int, name string) store.Path {
	return store.Path(fmt.Sprintf("/gnu/store/%032d-%s", hash, name))
}

// change makes a build or changes one, in any way that is allowed.
func (m *model) change() Change {
	rng := m.rng
	if len(m.builds) == 0 || rng.IntN(3) == 0 {
		i := len(m.builds)
		b := build(fmt.Sprintf("%08x-%04d", rng.Uint32(), i), api.Queued)
		m.builds = append(m.builds, b)
		b.Derivation = path(rng.IntN(50), pick(rng, someNames...)+".drv")
		b.System = pick(rng, someSystems...)
		b.Submitted = m.start.Add(time.Duration(i+rng.IntN(20)) * time.Minute)
		b.Tags = map[string]string{"branch": pick(rng, someTags...)}
		if rng.IntN(2) == 0 {
			b.Tags["other"] = ""
		}
		return Change{Build: clone(b), Create: true}
	}
	b := m.builds[rng.IntN(len(m.builds))]
	switch rng.IntN(12) {
	case 0:
		b.Tags = map[string]string{"branch": pick(rng, someTags...), "new": "1"}
	case 1:
		b.System = pick(rng, someSystems...)
	case 2:
		b.Derivation = path(rng.IntN(50), pick(rng, someNames...)+".drv")
	case 3:
		b.Submitted = m.start.Add(time.Duration(rng.IntN(2000)) * time.Minute)
	case 4:
		b.OutputPaths = map[string]store.Path{"out": path(rng.IntN(30), "out"), "doc": path(rng.IntN(30), "doc")}
	case 5:
		b.SentBytes++
	default:
		b.State = pick(rng, api.States()...)
		b.Machine = pick(rng, someMachines...)
		b.Attempt = rng.IntN(3)
	}
	if rng.IntN(9) == 0 {
		return Change{Build: clone(b), Event: &api.Event{Reason: "noted"}}
	}
	return Change{Build: clone(b)}
}

func clone(b *api.Build) *api.Build { c := *b; return &c }

func (m *model) filter() Filter {
	rng := m.rng
	var f Filter
	maybe := func(set func()) {
		if rng.IntN(4) == 0 {
			set()
		}
	}
	maybe(func() { f.States = []api.State{pick(rng, api.States()...), pick(rng, api.States()...)} })
	maybe(func() { f.Derivation = path(rng.IntN(50), pick(rng, someNames...)+".drv") })
	maybe(func() {
		f.Name = pick(rng, append([]string{"h*", "hello-*", "go-*", "-*", "hello-2.13*", "*", "zzz*", "none"}, someNames...)...)
	})
	maybe(func() { f.System = pick(rng, someSystems...) })
	maybe(func() { f.Machine = pick(rng, someMachines...) })
	maybe(func() { f.Tags = map[string]string{"branch": pick(rng, someTags...)} })
	maybe(func() {
		f.NotTags = map[string]string{pick(rng, "other", "new"): "", "branch": pick(rng, "guix", "nothing")}
	})
	maybe(func() { f.Since = m.start.Add(time.Duration(rng.IntN(1000)) * time.Minute) })
	maybe(func() { f.Until = m.start.Add(time.Duration(rng.IntN(2000)) * time.Minute) })
	maybe(func() { f.After = m.builds[rng.IntN(len(m.builds))].ID })
	maybe(func() { f.Limit = 1 + rng.IntN(100) })
	f.OldestFirst = rng.IntN(2) == 0
	return f
}

// list does what Ledger.Builds should.
func (m *model) list(f Filter) (ids []string) {
	all := slices.Clone(m.builds)
	if !f.OldestFirst {
		slices.Reverse(all)
	}
	if f.After != "" {
		all = all[1+slices.IndexFunc(all, func(b *api.Build) bool { return b.ID == f.After }):]
	}
	for _, b := range all {
		if f.Matches(b) && (f.Limit == 0 || len(ids) < f.Limit) {
			ids = append(ids, b.ID)
		}
	}
	return ids
}

func (m *model) compare(t *testing.T, l *Ledger, filters int) {
	t.Helper()
	found := 0
	for range filters {
		f := m.filter()
		want, got := m.list(f), list(t, l, f)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%+v (-want +got):\n%s", f, diff)
		}
		found += len(got)
		m.compareCount(t, l, &f.Filter)
	}
	if found == 0 {
		t.Error("no filter found anything")
	}
	counts := make(map[string]map[api.State]int)
	states := make(map[api.State]int)
	for _, b := range m.builds {
		if counts[b.System] == nil {
			counts[b.System] = make(map[api.State]int)
		}
		counts[b.System][b.State]++
		states[b.State]++
	}
	if diff := cmp.Diff(counts, l.SystemCounts()); diff != "" {
		t.Errorf("counts by system (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(states, l.Counts()); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func (m *model) compareCount(t *testing.T, l *Ledger, f *api.Filter) {
	t.Helper()
	want := &api.BuildCounts{Systems: make(map[string]map[api.State]int), Exact: true}
	for _, b := range m.builds {
		if f.Matches(b) {
			want.Add(b.System, b.State, 1)
		}
	}
	got, err := l.Count(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("count of %+v (-want +got):\n%s", f, diff)
	}
}

// Whatever is done to builds, and in whatever groups, every filter finds what it should,
// also after Pebble has merged what was written, and after a start.
func TestIndexes(t *testing.T) {
	for seed := range uint64(2) {
		fs := vfs.NewMem()
		opts := Options{FS: fs, memTable: smallTable}
		l := open(t, "ledger", opts)
		m := newModel(seed)
		for range 2 {
			for range 150 {
				changes := make([]Change, 1+m.rng.IntN(15))
				for i := range changes {
					changes[i] = m.change()
				}
				if _, err := l.Apply(t.Context(), changes, m.rng.IntN(9) == 0); err != nil {
					t.Fatal(err)
				}
			}
			m.compare(t, l, 30)
			check(t, l)
			if m.rng.IntN(2) == 0 {
				if err := l.db.Compact(t.Context(), []byte{0}, []byte{255}, false); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = open(t, "ledger", opts)
		}
		m.compare(t, l, 60)
		check(t, l)
	}
}

// TestCountNearTimes has more builds submitted about when a filter's time begins than are looked at.
func TestCountNearTimes(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	start := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	const builds = maxCountRead + 3*chunkSize
	changes := make([]Change, builds)
	for i := range changes { // every second one was submitted later
		changes[i].Build = build(fmt.Sprint(i), api.Queued)
		changes[i].Build.Submitted = start.Add(time.Duration(i%2) * time.Hour)
	}
	apply(t, l, changes...)
	counts, err := l.Count(t.Context(), &api.Filter{Since: start.Add(time.Minute)})
	if n := counts.States()[api.Queued]; err != nil || counts.Exact || n < builds/2 || n > builds {
		t.Errorf("%d of %d, %v, exact: %v", n, builds, err, counts.Exact)
	}
	counts, err = l.Count(t.Context(), &api.Filter{Since: start, Until: start.Add(2 * time.Hour)})
	if n := counts.States()[api.Queued]; err != nil || !counts.Exact || n != builds {
		t.Errorf("%d of %d, %v, exact: %v", n, builds, err, counts.Exact)
	}
}

func TestByOutput(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	want := []string{}
	for i := range 2 * maxByOutput {
		b := build(fmt.Sprintf("b%03d", i), api.Succeeded)
		b.OutputPaths = map[string]store.Path{"out": path(i%2, "out"), "doc": path(i, "doc")}
		apply(t, l, Change{Build: b})
		if i%2 == 1 {
			want = append(want, b.ID)
		}
	}
	slices.Reverse(want)
	got, err := l.ByOutput(t.Context(), path(1, "out"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[:maxByOutput], got); diff != "" {
		t.Errorf("builds (-want +got):\n%s", diff)
	}
	if got, err := l.ByOutput(t.Context(), path(7, "doc")); err != nil || !slices.Equal(got, []string{"b007"}) {
		t.Errorf("one output: %v, %v", got, err)
	}
	if got, err := l.ByOutput(t.Context(), path(7, "none")); err != nil || len(got) != 0 {
		t.Errorf("no such output: %v, %v", got, err)
	}
	// A build whose outputs change is found by the new ones alone.
	b := build("b007", api.Succeeded)
	b.OutputPaths = map[string]store.Path{"out": path(7, "new")}
	apply(t, l, Change{Build: b})
	if got, err := l.ByOutput(t.Context(), path(7, "doc")); err != nil || len(got) != 0 {
		t.Errorf("an output that is not there any more: %v, %v", got, err)
	}
	if got, err := l.ByOutput(t.Context(), path(7, "new")); err != nil || !slices.Equal(got, []string{"b007"}) {
		t.Errorf("a new output: %v, %v", got, err)
	}
}

func TestByPrefix(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	for _, id := range []string{"ab1", "ab2", "ab3", "ac", "a", "b"} {
		apply(t, l, Change{Build: build(id, api.Queued)})
	}
	tests := []struct {
		prefix string
		limit  int
		want   []string
	}{
		{"ab", 10, []string{"ab1", "ab2", "ab3"}},
		{"ab", 2, []string{"ab1", "ab2"}},
		{"", 2, []string{"a", "ab1"}},
		{"b", 1, []string{"b"}},
		{"c", 1, nil},
	}
	for _, tt := range tests {
		got, err := l.ByPrefix(t.Context(), tt.prefix, tt.limit)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q, %d (-want +got):\n%s", tt.prefix, tt.limit, diff)
		}
	}
	if _, err := l.ByPrefix(t.Context(), "a", 0); err == nil {
		t.Error("a limit of 0 is accepted")
	}
}

// A build may go back from the end to the beginning, again and again.
func TestRetry(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	states := []api.State{api.Queued, api.Placed, api.Failed, api.Queued, api.Placed, api.Canceled, api.Queued, api.Succeeded}
	for i, state := range states {
		b := build("b", state)
		b.Attempt = i / 3
		if seqs := apply(t, l, Change{Build: b}); seqs[0] != uint64(i+1) {
			t.Errorf("event %d", seqs)
		}
		if diff := cmp.Diff(map[api.State]int{state: 1}, l.Counts()); diff != "" {
			t.Errorf("counts (-want +got):\n%s", diff)
		}
		for _, other := range api.States() {
			want := []string(nil)
			if other == state {
				want = []string{"b"}
			}
			if got := list(t, l, Filter{Filter: api.Filter{States: []api.State{other}}}); !slices.Equal(got, want) {
				t.Errorf("%s: listed as %s: %v", state, other, got)
			}
		}
		check(t, l)
	}
	history, err := l.BuildEvents(t.Context(), "b")
	if err != nil || len(history) != len(states) {
		t.Errorf("%d events, %v", len(history), err)
	}
}

// The last one of settings that are written together counts, as for those one by one.
func TestSettingsTogether(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	apply(t, l, Change{Setting: &Setting{"run/1", 1}}, Change{Setting: &Setting{"run/2", 1}}, Change{Setting: &Setting{"run/1", 2}},
		Change{Setting: &Setting{"run/2", nil}}, Change{Setting: &Setting{"run/3", nil}}, Change{Setting: &Setting{"run/3", "x"}})
	check(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Options{})
	got := make(map[string]string)
	err := l.Settings(t.Context(), "run/", func(name string, value json.RawMessage) error {
		got[name] = string(value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"run/1": "2", "run/3": `"x"`}, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

// However operations are grouped and joined, their outcome is that of all in order, and
// so it is if they are only put behind each other.
func TestMerger(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 5))
	for range 500 {
		var pieces [][]byte
		for range 1 + rng.IntN(6) {
			piece := make([]byte, rng.IntN(5))
			for i := range piece {
				piece[i] = byte(rng.IntN(6)*25) | byte(rng.IntN(2)*cleared)
			}
			pieces = append(pieces, piece)
		}
		want := decodeMask(slices.Concat(pieces...))
		from := rng.IntN(len(pieces))
		to := from
		key := keyTerm(1, 1)
		m, err := merger.Merge(key, pieces[from])
		if err != nil {
			t.Fatal(err)
		}
		for from > 0 || to < len(pieces)-1 {
			if to == len(pieces)-1 || from > 0 && rng.IntN(2) == 0 {
				from--
				err = m.MergeOlder(pieces[from])
			} else {
				to++
				err = m.MergeNewer(pieces[to])
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		base := []byte{0, 25, 50, 75, 100, 125}
		all, _, err := m.Finish(rng.IntN(2) == 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := decodeMask(all); got != want {
			t.Fatalf("%v: got %b, want %b", pieces, got, want)
		}
		// Without the oldest value, nothing of what it takes away is forgotten.
		m, err = merger.Merge(key, pieces[0])
		for _, piece := range pieces[1:] {
			err = errors.Join(err, m.MergeNewer(piece))
		}
		part, _, finishErr := m.Finish(false)
		if err := errors.Join(err, finishErr); err != nil {
			t.Fatal(err)
		}
		if got, want := decodeMask(slices.Concat(base, part)), decodeMask(slices.Concat(append([][]byte{base}, pieces...)...)); got != want {
			t.Fatalf("%v on all: got %b, want %b", pieces, got, want)
		}
	}
	if _, err := merger.Merge([]byte("b12345678"), nil); err == nil {
		t.Error("records are merged")
	}
}

func TestTimesOutOfRange(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	for i, year := range []int{1, 1600, 1971, 2026, 3000} {
		b := build(fmt.Sprint(i), api.Queued)
		b.Submitted = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		apply(t, l, Change{Build: b})
	}
	for _, tt := range []struct {
		since, until int
		want         []string
	}{{2000, 4000, []string{"4", "3"}}, {0, 1700, []string{"1", "0"}}, {2500, 0, []string{"4"}}, {1500, 1601, []string{"1"}}} {
		var f Filter
		if tt.since != 0 {
			f.Since = time.Date(tt.since, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		if tt.until != 0 {
			f.Until = time.Date(tt.until, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		if got := list(t, l, f); !slices.Equal(got, tt.want) {
			t.Errorf("%d to %d: %v", tt.since, tt.until, got)
		}
		if counts, err := l.Count(t.Context(), &f.Filter); err != nil || counts.States()[api.Queued] != len(tt.want) {
			t.Errorf("%d to %d: %v, %v", tt.since, tt.until, counts, err)
		}
	}
	check(t, l)
}

// A listing ends when its context does, also where it finds nothing.
func TestListingIsCanceled(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	apply(t, l, Change{Build: build("b", api.Queued)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range l.Builds(ctx, Filter{Filter: api.Filter{Name: "none*"}}) {
		if err == nil {
			t.Error("it goes on")
		}
	}
	if _, err := l.Count(ctx, &api.Filter{Name: "none*"}); err == nil {
		t.Error("counting goes on")
	}
}
