package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/store"
)

// day is when the builds of these tests end, and events of no build come.
func day(n int) time.Time { return time.Date(2026, 5, n, 0, 0, 0, 0, time.UTC) }

// ended is a build that became final on a day.
func ended(id string, state api.State, on int) *api.Build {
	b := build(id, state)
	stopped := day(on)
	b.Submitted, b.Stopped, b.Machine = stopped.Add(-time.Hour), &stopped, "m"
	b.Tags = map[string]string{"id": id}
	b.OutputPaths = map[string]store.Path{"out": "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-" + store.Path(id)}
	return b
}

// fill makes builds a to f, which end on days 1 to 6 or, as c and e, don't. Each has an
// event when it is made and one at its end; on each day there is one of no build.
func fill(t *testing.T, fs vfs.FS) *Ledger {
	t.Helper()
	now := day(1)
	l := open(t, "ledger", Options{FS: fs, Now: func() time.Time { return now }})
	for i, id := range []string{"a", "b", "c", "d", "e", "f"} {
		now = day(i + 1)
		b := ended(id, pick2(i%2 == 0, api.Failed, api.Succeeded), i+1)
		first := *b
		first.State, first.Stopped, first.OutputPaths, first.Machine = api.Queued, nil, nil, ""
		apply(t, l, Change{Build: &first, Create: true})
		if id != "c" && id != "e" {
			apply(t, l, Change{Build: b})
		}
		apply(t, l, Change{Event: &api.Event{Kind: api.KindOperator, Reason: "on day " + fmt.Sprint(i+1)}})
	}
	return l
}

func pick2[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}

func prune(t *testing.T, l *Ledger, opts PruneOptions) (PruneResult, map[string][]api.Event) {
	t.Helper()
	archived := make(map[string][]api.Event)
	result, err := l.Prune(t.Context(), opts, func(b *api.Build, events []api.Event) error {
		archived[b.ID] = events
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return result, archived
}

func TestPrune(t *testing.T) {
	tests := []struct {
		name   string
		opts   PruneOptions
		want   PruneResult
		left   string // ids of builds
		events []uint64
	}{
		// Events: a 1 2, 3; b 4 5, 6; c 7, 8; d 9 10, 11; e 12, 13; f 14 15, 16.
		{"all", PruneOptions{Before: day(30)}, PruneResult{Builds: 4, Events: 14}, "ec", []uint64{7, 12}},
		{"before", PruneOptions{Before: day(4)}, PruneResult{Builds: 2, Events: 7}, "fedc", []uint64{7, 9, 10, 11, 12, 13, 14, 15, 16}},
		{"nothing", PruneOptions{Before: day(1)}, PruneResult{}, "fedcba", []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}},
		{"states", PruneOptions{Before: day(4), States: []api.State{api.Failed}}, PruneResult{Builds: 1, Events: 5}, "fedcb", []uint64{4, 5, 7, 9, 10, 11, 12, 13, 14, 15, 16}},
		{"limit", PruneOptions{Before: day(30), Limit: 3}, PruneResult{Builds: 3, Events: 12}, "fec", []uint64{7, 12, 14, 15}},
		{"events to be seen", PruneOptions{Before: day(30), KeepEventsFrom: 10}, PruneResult{Builds: 2, Events: 7}, "fedc", []uint64{7, 9, 10, 11, 12, 13, 14, 15, 16}},
		{"dry run", PruneOptions{Before: day(30), DryRun: true}, PruneResult{Builds: 4, Events: 14}, "fedcba", []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fs := vfs.NewMem()
			l := fill(t, fs)
			histories := make(map[string][]api.Event)
			for _, id := range list(t, l, Filter{}) {
				events, err := l.BuildEvents(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				histories[id] = events
			}
			got, archived := prune(t, l, tt.opts)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			for round := range 2 { // now and after a start
				check(t, l)
				if left := strings.Join(list(t, l, Filter{}), ""); left != tt.left {
					t.Errorf("left: %s, not %s", left, tt.left)
				}
				var seqs []uint64
				for _, e := range events(t, l, 0) {
					seqs = append(seqs, e.Seq)
				}
				if diff := cmp.Diff(tt.events, seqs); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				n := 0
				for _, count := range l.Counts() {
					n += count
				}
				if n != len(tt.left) || l.LastEvent() != 16 {
					t.Errorf("%d builds are counted, the last event is %d", n, l.LastEvent())
				}
				if round == 0 {
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
					l = open(t, "ledger", Options{FS: fs})
				}
			}
			for id, history := range histories {
				if strings.Contains(tt.left, id) != (archived[id] == nil) && !tt.opts.DryRun {
					t.Errorf("build %s: archived %v", id, archived[id])
				} else if diff := cmp.Diff(history, archived[id]); archived[id] != nil && diff != "" {
					t.Errorf("history of %s (-want +got):\n%s", id, diff)
				}
			}
			// Neither events nor builds get numbers again.
			if seqs := apply(t, l, Change{Build: ended("a2", api.Succeeded, 9)}); seqs[0] != 17 {
				t.Errorf("the next event is %d", seqs[0])
			}
			check(t, l)
			if got := list(t, l, Filter{Limit: 1}); got[0] != "a2" {
				t.Errorf("the newest is %v", got)
			}
		})
	}
}

// What is pruned leaves nothing in any index.
func TestPruneLeavesNothing(t *testing.T) {
	l := open(t, "ledger", Options{FS: vfs.NewMem(), memTable: smallTable})
	var changes []Change
	for i := range 5 * chunkSize {
		for _, state := range order {
			b := ended(fmt.Sprint("b", i), state, 1)
			b.Machine = fmt.Sprint("m", len(state))
			changes = append(changes, Change{Build: b})
		}
	}
	apply(t, l, changes...)
	if result, _ := prune(t, l, PruneOptions{Before: time.Now().Add(time.Hour)}); result.Builds != 5*chunkSize {
		t.Errorf("%+v", result)
	}
	check(t, l)
	left := make(map[byte]int)
	if err := scan(l.db, nil, func(key, _ []byte) error { left[key[0]]++; return nil }); err != nil {
		t.Fatal(err)
	}
	// The last chunk may get more builds.
	if diff := cmp.Diff(map[byte]int{prefixMeta: 4, prefixSystem: 1, prefixTimes: 1}, left); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if got := l.SystemCounts(); len(got) != 0 {
		t.Errorf("counts %v", got)
	}
}

func TestPruneRefuses(t *testing.T) {
	l := fill(t, vfs.NewMem())
	for _, tt := range []struct {
		opts PruneOptions
		want string
	}{
		{PruneOptions{}, "no time"},
		{PruneOptions{Before: day(3), States: []api.State{api.Queued}}, `state "queued": only builds that are final`},
	} {
		if _, err := l.Prune(t.Context(), tt.opts, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.opts, err)
		}
	}
	bad := errors.New("bad")
	archive := func(*api.Build, []api.Event) error { return nil }
	if _, err := l.Prune(t.Context(), PruneOptions{Before: day(30)}, func(*api.Build, []api.Event) error { return bad }); !errors.Is(err, bad) {
		t.Errorf("archive fails: %v", err)
	}
	if _, err := l.Prune(t.Context(), PruneOptions{Before: day(30), Sync: func() error { return bad }}, archive); !errors.Is(err, bad) {
		t.Errorf("sync fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Prune(ctx, PruneOptions{Before: day(30)}, archive); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if got := list(t, l, Filter{}); len(got) != 6 {
		t.Errorf("left: %v", got)
	}
	check(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Prune(t.Context(), PruneOptions{Before: day(30)}, archive); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// A build that changes between its archiving and its removal stays.
func TestPruneSparesWhatChanges(t *testing.T) {
	tests := map[string]func(l *Ledger) Change{
		"retried":      func(*Ledger) Change { return Change{Build: build("b", api.Queued)} },
		"late report":  func(*Ledger) Change { return Change{Event: &api.Event{Build: "b", Reason: "late"}} },
		"record alone": func(*Ledger) Change { b := ended("b", api.Succeeded, 2); b.LogSize = 7; return Change{Build: b} },
		"the same, noted": func(*Ledger) Change {
			return Change{Build: ended("b", api.Succeeded, 2), Event: &api.Event{Reason: "noted"}}
		},
		"final another way": func(*Ledger) Change { return Change{Build: ended("b", api.Canceled, 2)} },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			l := fill(t, vfs.NewMem())
			opts := PruneOptions{Before: day(30), Sync: func() error { apply(t, l, change(l)); return nil }}
			got, _ := prune(t, l, opts)
			if got.Builds != 3 || got.Changed != 1 {
				t.Errorf("%+v", got)
			}
			if left := list(t, l, Filter{}); !slices.Equal(left, []string{"e", "c", "b"}) {
				t.Errorf("left: %v", left)
			}
			check(t, l)
		})
	}
}

// Who follows the events while they are removed gets all that are left, in order, and an
// event that is missing for another reason is still an error.
func TestPruneWhileFollowed(t *testing.T) {
	l := open(t, "ledger", Options{FS: vfs.NewMem(), memTable: smallTable})
	const n = 600
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for i := range n {
			b := ended(fmt.Sprint("b", i), api.Queued, 1)
			for _, state := range order {
				b.State = state
				if _, err := l.Apply(t.Context(), []Change{{Build: clone(b)}}, false); err != nil {
					t.Error(err)
				}
			}
		}
		apply(t, l, Change{Build: build("end", api.Queued)}) // is not pruned
		close(stop)
	})
	group.Go(func() {
		for done := false; !done; {
			select {
			case <-stop:
				done = true
			default:
			}
			prune(t, l, PruneOptions{Before: time.Now().Add(time.Hour)})
		}
	})
	group.Go(func() {
		seen, last := make(map[string]int), uint64(0)
		enough := errors.New("enough")
		err := l.Events(t.Context(), 0, true, func(e api.Event) error {
			if e.Seq <= last {
				t.Errorf("event %d after %d", e.Seq, last)
			}
			last = e.Seq
			if i := rank(e.State); i < seen[e.Build] {
				t.Errorf("%s of %s came late", e.State, e.Build)
			} else {
				seen[e.Build] = i
			}
			if e.Build == "end" {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Errorf("events end with %d, %v", last, err)
		}
	})
	group.Wait()
	prune(t, l, PruneOptions{Before: time.Now().Add(time.Hour)})
	check(t, l)
	apply(t, l, Change{Build: build("new", api.Queued)}, Change{Build: build("newer", api.Queued)}, Change{Build: build("newest", api.Queued)})
	if err := l.db.Delete(keyEvent(l.LastEvent()-1), nil); err != nil {
		t.Fatal(err)
	}
	err := l.Events(t.Context(), 0, false, func(api.Event) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("an event is lost: %v", err)
	}
}

// After a crash each build is in the archive or in the ledger, whole.
func TestCrashWhilePruning(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := open(t, "ledger", Options{FS: fs, SyncDelay: time.Millisecond, memTable: smallTable})
	const n = 1500
	var changes []Change
	want := make(map[string]bool)
	for i := range n {
		id := fmt.Sprint("b", i)
		want[id] = true
		changes = append(changes, Change{Build: build(id, api.Queued)}, Change{Build: ended(id, api.Failed, 1)})
	}
	apply(t, l, changes...)
	a := startLoad(l, 2)
	archive, synced := []string{}, 0
	batches := uint64(0)
	opts := PruneOptions{Before: day(2), Sync: func() error {
		synced = len(archive)
		batches++
		if batches%4 != 0 {
			return nil
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(batches, 8))})
		a.pause.Lock()
		defer a.pause.Unlock()
		later, err := Open("ledger", Options{FS: crashed})
		if err != nil {
			t.Fatal(err)
		}
		check(t, later)
		there := make(map[string]bool)
		for _, id := range list(t, later, Filter{}) {
			there[id] = true
		}
		for _, id := range archive[:synced] {
			there[id] = true
		}
		for id := range want {
			if !there[id] {
				t.Errorf("build %s is lost", id)
			}
		}
		return later.Close()
	}}
	result, err := l.Prune(t.Context(), opts, func(b *api.Build, events []api.Event) error {
		if len(events) != 2 || b.State != api.Failed {
			t.Errorf("build %s: %d events", b.ID, len(events))
		}
		archive = append(archive, b.ID)
		return nil
	})
	if err != nil || result.Builds != n {
		t.Errorf("%+v, %v", result, err)
	}
	if errs := a.wait(); len(errs) > 0 {
		t.Error(errors.Join(errs...))
	}
	check(t, l)
}

// The disk gives back what was removed.
func TestPruneShrinks(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{memTable: smallTable})
	rng := rand.New(rand.NewPCG(1, 9))
	for range 20 {
		var changes []Change
		for range 100 {
			b := ended(fmt.Sprintf("%x", rng.Uint64()), api.Succeeded, 1)
			b.Reason = fmt.Sprint(rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64())
			changes = append(changes, Change{Build: b})
		}
		apply(t, l, changes...)
	}
	before := sizeOf(t, dir)
	prune(t, l, PruneOptions{Before: day(30)})
	if err := l.Close(); err != nil { // obsolete files go in the background, at the latest here
		t.Fatal(err)
	}
	if after := sizeOf(t, dir); after > before/2 {
		t.Errorf("%d bytes before, %d after", before, after)
	}
}

func sizeOf(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return nil // a file that has just gone has no size
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// TestPruneAsked: the caller says what stays, and what is around each removal.
func TestPruneAsked(t *testing.T) {
	l := fill(t, vfs.NewMem())
	var asked, steps []string
	opts := PruneOptions{
		Before: day(7),
		Keep: func(b *api.Build, events []api.Event) bool {
			asked = append(asked, fmt.Sprint(b.ID, len(events)))
			return b.ID == "b"
		},
		Sync: func() error {
			steps = append(steps, "sync")
			return nil
		},
		Around: func(remove func() error) error {
			steps = append(steps, "before", fmt.Sprint(has(t, l, "a")))
			err := remove()
			steps = append(steps, "after", fmt.Sprint(has(t, l, "a")))
			return err
		},
	}
	opts.DryRun = true
	if result, _ := prune(t, l, opts); result.Builds != 3 || steps != nil {
		t.Errorf("dry run: %+v, %v", result, steps)
	}
	opts.DryRun, asked = false, nil
	result, archived := prune(t, l, opts)
	if result.Builds != 3 || len(archived) != 3 || !has(t, l, "b") {
		t.Errorf("%+v, archived %v", result, archived)
	}
	if want := []string{"a2", "b2", "d2", "f2"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
	if want := []string{"sync", "before", "true", "after", "false"}; !slices.Equal(steps, want) {
		t.Errorf("steps %v, want %v", steps, want)
	}
	broken := errors.New("broken")
	opts.Keep, opts.Around = nil, func(func() error) error { return broken }
	if _, err := l.Prune(t.Context(), opts, func(*api.Build, []api.Event) error { return nil }); !errors.Is(err, broken) || !has(t, l, "b") {
		t.Errorf("without removing: %v", err)
	}
}

func has(t *testing.T, l *Ledger, id string) bool {
	t.Helper()
	_, err := l.Build(t.Context(), id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}
