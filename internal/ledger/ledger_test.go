package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/scheduler/estimate"
	"lighter/store"
)

// open opens a ledger that the end of the test checks and closes.
func open(t testing.TB, dir string, opts Options) *Ledger {
	t.Helper()
	l, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func build(id string, state api.State) *api.Build {
	return &api.Build{
		Request: api.Request{ID: id, Derivation: "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-hello-2.12.drv"},
		System:  "x86_64-linux", State: state, Submitted: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
	}
}

func apply(t testing.TB, l *Ledger, changes ...Change) []uint64 {
	t.Helper()
	seqs, err := l.Apply(context.Background(), changes, true)
	if err != nil {
		t.Fatal(err)
	}
	return seqs
}

func check(t testing.TB, l *Ledger) {
	t.Helper()
	if err := l.Check(context.Background()); err != nil {
		t.Errorf("check: %v", err)
	}
}

func list(t testing.TB, l *Ledger, f Filter) []string {
	t.Helper()
	var ids []string
	for b, err := range l.Builds(context.Background(), f) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, b.ID)
	}
	return ids
}

func events(t testing.TB, l *Ledger, from uint64) []api.Event {
	t.Helper()
	var all []api.Event
	err := l.Events(context.Background(), from, false, func(e api.Event) error {
		all = append(all, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestHistoryOfABuild(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	opts := Options{Now: func() time.Time { now = now.Add(time.Second); return now }}
	l := open(t, dir, opts)
	b := build("b1", api.Queued)
	b.Tags = map[string]string{"spec": "guix"}
	if seqs := apply(t, l, Change{Build: b, Create: true}); !slices.Equal(seqs, []uint64{1}) {
		t.Errorf("event %d", seqs)
	}
	b.State, b.Machine, b.Attempt, b.Reason = api.Placed, "m", 1, "earliest finish"
	apply(t, l, Change{Build: b})
	b.SentBytes = 7 // a record may change without an event
	if seqs := apply(t, l, Change{Build: b}); !slices.Equal(seqs, []uint64{0}) {
		t.Errorf("event %d", seqs)
	}
	failure := &api.Failure{Culprit: api.CulpritLink, Phase: api.Placed, Machine: "m", Message: "connection reset"}
	b.State, b.Failure, b.Reason = api.Queued, failure, "to be tried again"
	apply(t, l, Change{Build: b, Event: &api.Event{Machine: "m", Reason: "the link broke", Failure: failure}})
	apply(t, l, Change{Event: &api.Event{Machine: "m", Reason: "down"}},
		Change{Event: &api.Event{Build: "b1", Reason: "a late report of attempt 1"}})

	check(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, opts)
	check(t, l)
	got, err := l.Build(t.Context(), "b1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, got); diff != "" {
		t.Errorf("build (-want +got):\n%s", diff)
	}
	at := func(s int) time.Time { return time.Date(2026, 5, 1, 12, 0, s, 0, time.UTC) }
	want := []api.Event{
		{Seq: 1, Kind: api.KindSubmitted, Time: at(1), Build: "b1", State: api.Queued},
		{Seq: 2, Time: at(2), Build: "b1", State: api.Placed, Attempt: 1, Machine: "m", Reason: "earliest finish"},
		{Seq: 3, Time: at(4), Build: "b1", State: api.Queued, Attempt: 1, Machine: "m", Reason: "the link broke", Failure: failure},
		{Seq: 4, Time: at(5), Machine: "m", Reason: "down"},
		{Seq: 5, Time: at(5), Build: "b1", Reason: "a late report of attempt 1"},
	}
	if diff := cmp.Diff(want, events(t, l, 0)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[3:], events(t, l, 4)); diff != "" {
		t.Errorf("events from 4 (-want +got):\n%s", diff)
	}
	if all := events(t, l, 6); all != nil {
		t.Errorf("events that are not there: %v", all)
	}
	history, err := l.BuildEvents(t.Context(), "b1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(append(slices.Clone(want[:3]), want[4]), history); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	if got := l.LastEvent(); got != 5 {
		t.Errorf("last event %d", got)
	}
	if diff := cmp.Diff(map[api.State]int{api.Queued: 1}, l.Counts()); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestUnknownBuild(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	if _, err := l.Build(t.Context(), "b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("build: %v", err)
	}
	if _, err := l.BuildEvents(t.Context(), "b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("history: %v", err)
	}
	for _, err := range l.Builds(t.Context(), Filter{After: "b"}) {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("list: %v", err)
		}
	}
	if _, err := l.Apply(t.Context(), []Change{{Event: &api.Event{Build: "b"}}}, true); !errors.Is(err, ErrNotFound) {
		t.Errorf("event: %v", err)
	}
	for _, err := range l.Builds(t.Context(), Filter{Filter: api.Filter{States: []api.State{"lost"}}}) {
		if err == nil {
			t.Error("an unknown state is accepted")
		}
	}
}

func TestRefusedChanges(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	apply(t, l, Change{Build: build("there", api.Queued)})
	queued := build("new", api.Queued)
	tests := []struct {
		name    string
		changes []Change
		want    string
	}{
		{"create what is there", []Change{{Build: queued}, {Build: build("there", api.Queued), Create: true}}, "exists already"},
		{"create twice", []Change{{Build: queued, Create: true}, {Build: queued, Create: true}}, "exists already"},
		{"create nothing", []Change{{Create: true}}, "without a build"},
		{"no id", []Change{{Build: build("", api.Queued)}}, "1 to 200 bytes"},
		{"long id", []Change{{Build: build(strings.Repeat("x", 201), api.Queued)}}, "1 to 200 bytes"},
		{"unknown state", []Change{{Build: build("new", "lost")}}, `unknown state "lost"`},
		{"event of another build", []Change{{Build: queued, Event: &api.Event{Build: "there"}}}, "its event is about"},
		{"event of another state", []Change{{Build: queued, Event: &api.Event{State: api.Failed}}}, "its event is about"},
		{"event alone changes a state", []Change{{Event: &api.Event{Build: "there", State: api.Failed}}}, "an event says failed, its record queued"},
		{"event alone with an unknown state", []Change{{Event: &api.Event{Build: "there", State: "lost"}}}, "unknown state"},
		{"event before its build", []Change{{Event: &api.Event{Build: "new"}}, {Build: queued}}, "no such build"},
		{"samples without a name", []Change{{Samples: samplesFor("", "x86_64-linux")}}, "without name"},
		{"machine without a name", []Change{{Machine: &Machine{}}}, "without a name"},
	}
	for _, tt := range tests {
		seqs, err := l.Apply(t.Context(), append([]Change{{Build: build("first", api.Queued)}}, tt.changes...), true)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, %v; want %q", tt.name, seqs, err, tt.want)
		}
	}
	if _, err := l.Apply(t.Context(), []Change{{Build: build("there", api.Queued), Create: true}}, true); !errors.Is(err, ErrExists) {
		t.Errorf("create: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Apply(ctx, []Change{{Build: queued}}, true); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if got := list(t, l, Filter{}); !slices.Equal(got, []string{"there"}) {
		t.Errorf("refused changes left %v", got)
	}
	check(t, l)
}

// Several changes of one build in one Apply come in their order.
func TestChangesOfOneBuildTogether(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	placed := build("b", api.Placed)
	placed.Attempt = 1
	seqs := apply(t, l, Change{Build: build("b", api.Queued), Create: true}, Change{Build: placed},
		Change{Event: &api.Event{Build: "b", State: api.Placed, Reason: "noted"}}, Change{Build: build("b", api.Succeeded)})
	if !slices.Equal(seqs, []uint64{1, 2, 3, 4}) {
		t.Errorf("events %v", seqs)
	}
	check(t, l)
	if diff := cmp.Diff(map[api.State]int{api.Succeeded: 1}, l.Counts()); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestListing(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	const n = 3*pageSize + 7
	var all []string
	for i := range n {
		b := build(fmt.Sprintf("b%03d", i), api.States()[i%len(api.States())])
		b.Submitted = b.Submitted.Add(time.Duration(i) * time.Minute)
		b.Machine = fmt.Sprint("m", i%3)
		b.Tags = map[string]string{"half": fmt.Sprint(i % 2), "": ""}
		if i == 100 {
			b.Derivation = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-other.drv"
		}
		apply(t, l, Change{Build: b})
		all = append(all, b.ID)
	}
	newest := slices.Clone(all)
	slices.Reverse(newest)
	pick := func(ids []string, want func(i int) bool) []string {
		var picked []string
		for _, id := range ids {
			var i int
			fmt.Sscanf(id, "b%d", &i)
			if want(i) {
				picked = append(picked, id)
			}
		}
		return picked
	}
	tests := []struct {
		name   string
		filter Filter
		want   []string
	}{
		{"all", Filter{}, newest},
		{"oldest first", Filter{OldestFirst: true}, all},
		{"limit", Filter{Limit: 3}, newest[:3]},
		{"after", Filter{After: newest[9], Limit: 2}, newest[10:12]},
		{"after, oldest first", Filter{After: "b100", OldestFirst: true}, all[101:]},
		{"after the last", Filter{After: "b000"}, nil},
		{"one state", Filter{Filter: api.Filter{States: []api.State{api.Queued}}}, pick(newest, func(i int) bool { return i%11 == 0 })},
		{"states", Filter{Filter: api.Filter{States: NonFinal()}}, pick(newest, func(i int) bool { return i%11 < 6 })},
		{"states, oldest first", Filter{Filter: api.Filter{States: NonFinal()}, OldestFirst: true}, pick(all, func(i int) bool { return i%11 < 6 })},
		{"a state twice", Filter{Filter: api.Filter{States: []api.State{api.Failed, api.Failed}}}, pick(newest, func(i int) bool { return i%11 == 7 })},
		{"state and cursor", Filter{Filter: api.Filter{States: []api.State{api.Queued, api.Failed}}, After: "b100", Limit: 3}, []string{"b099", "b095", "b088"}},
		{"machine", Filter{Filter: api.Filter{Machine: "m2"}}, pick(newest, func(i int) bool { return i%3 == 2 })},
		{"tags", Filter{Filter: api.Filter{Tags: map[string]string{"half": "1", "": ""}}}, pick(newest, func(i int) bool { return i%2 == 1 })},
		{"no such tag", Filter{Filter: api.Filter{Tags: map[string]string{"none": ""}}}, nil},
		{"derivation", Filter{Filter: api.Filter{Derivation: store.Path("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-other.drv")}}, []string{"b100"}},
		{"since", Filter{Filter: api.Filter{Since: time.Date(2026, 5, 1, 3, 0, 0, 0, time.UTC)}}, pick(newest, func(i int) bool { return i >= 180 })},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, list(t, l, tt.filter)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	listed := 0
	for _, err := range l.Builds(ctx, Filter{}) {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("canceled: %v", err)
			}
			break
		}
		listed++
		cancel()
	}
	if listed != pageSize {
		t.Errorf("%d builds listed after cancellation", listed)
	}
	// Builds that move to another state while they are listed are listed once.
	seen := make(map[string]int)
	for b, err := range l.Builds(t.Context(), Filter{Filter: api.Filter{States: api.States()}, OldestFirst: true}) {
		if err != nil {
			t.Fatal(err)
		}
		seen[b.ID]++
		b.State = api.Canceled
		apply(t, l, Change{Build: b})
	}
	if len(seen) != n {
		t.Errorf("%d builds were listed, not %d", len(seen), n)
	}
	for id, times := range seen {
		if times != 1 {
			t.Errorf("%s was listed %d times", id, times)
		}
	}
	check(t, l)
}

func TestFollow(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	const writers, each = 4, 200
	var group sync.WaitGroup
	for range 3 { // followers
		group.Go(func() {
			want := uint64(1)
			done := errors.New("done")
			err := l.Events(t.Context(), 0, true, func(e api.Event) error {
				if e.Seq != want {
					t.Errorf("event %d, want %d", e.Seq, want)
				}
				if want++; want > writers*each {
					return done
				}
				return nil
			})
			if err != done { //nolint:errorlint // it must be returned as it is
				t.Errorf("follow: %v", err)
			}
		})
	}
	for w := range writers {
		group.Go(func() {
			for i := range each {
				b := build(fmt.Sprintf("%d-%d", w, i), api.Queued)
				if _, err := l.Apply(t.Context(), []Change{{Build: b, Create: true}}, i%2 == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	check(t, l)
}

func TestFollowEnds(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	apply(t, l, Change{Build: build("b", api.Queued)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := l.Events(ctx, 0, true, func(api.Event) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	seen := make(chan struct{})
	ended := make(chan error)
	go func() {
		ended <- l.Events(context.Background(), 0, true, func(api.Event) error { close(seen); return nil })
	}()
	<-seen
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestClosed(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
	_, applyErr := l.Apply(t.Context(), []Change{{Build: build("b", api.Queued)}}, false)
	_, buildErr := l.Build(t.Context(), "b")
	_, durationsErr := l.Estimate(t.Context(), estimate.Key{Name: "a", System: "b"})
	_, machinesErr := l.Machines(t.Context())
	_, historyErr := l.BuildEvents(t.Context(), "b")
	var listErr error
	for _, err := range l.Builds(t.Context(), Filter{}) {
		listErr = err
	}
	for i, err := range []error{applyErr, buildErr, durationsErr, machinesErr, historyErr, listErr, l.Check(t.Context())} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

func TestCloseWritesWhatWasNotDurable(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := open(t, "ledger", Options{FS: fs, SyncDelay: time.Hour})
	if _, err := l.Apply(t.Context(), []Change{{Build: build("b", api.Queued)}}, false); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, "ledger", Options{FS: fs.CrashClone(vfs.CrashCloneCfg{})})
	if _, err := l.Build(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}

func TestMachines(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	apply(t, l, Change{Machine: &Machine{Name: "a", Bandwidth: 1}}, Change{Machine: &Machine{Name: "b"}},
		Change{Machine: &Machine{Name: "a", Bandwidth: 2}})
	got, err := l.Machines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]Machine{"a": {Name: "a", Bandwidth: 2}, "b": {Name: "b"}}, got); diff != "" {
		t.Errorf("machines (-want +got):\n%s", diff)
	}
	check(t, l)
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Options{})
	var inUse *InUseError
	if _, err := Open(dir, Options{}); !errors.As(err, &inUse) || inUse.PID != os.Getpid() {
		t.Errorf("in this process: %v", err)
	}
	// In another process: this test binary, run for the test below.
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOpenForAnother$", "-test.v")
	cmd.Env = append(os.Environ(), "LIGHTER_TEST_LEDGER="+dir)
	output, err := cmd.CombinedOutput()
	want := fmt.Sprintf("open ledger %s: in use by the process with PID %d", dir, os.Getpid())
	if err != nil || !strings.Contains(string(output), want) {
		t.Errorf("in another process: %v\n%s", err, output)
	}
}

// TestOpenForAnother is what TestInUse runs in another process.
func TestOpenForAnother(t *testing.T) {
	dir := os.Getenv("LIGHTER_TEST_LEDGER")
	if dir == "" {
		return
	}
	_, err := Open(dir, Options{})
	t.Logf("%v", err)
}

func TestNewerFormat(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	if err := l.db.Set(keyMeta("format"), []byte("5"), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the refusal leaves the folder unlocked
		_, err := Open(dir, Options{})
		if err == nil || !strings.Contains(err.Error(), "its format is 5, and this lighter knows formats up to 4") {
			t.Errorf("got %v", err)
		}
	}
}

func TestOpenFailsWhereNoFolderCanBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "ledger"), Options{}); err == nil {
		t.Error("opened in a file")
	}
}

func TestFolderIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ledger")
	open(t, dir, Options{})
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestEveryStateHasACode(t *testing.T) {
	if len(stateCodes) != len(api.States()) || len(codeStates) != len(stateCodes) {
		t.Errorf("%d states, %d codes, %d different ones", len(api.States()), len(stateCodes), len(codeStates))
	}
	for _, s := range api.States() {
		if stateCodes[s] == 0 {
			t.Errorf("%s has none", s)
		}
	}
}

// Pebble speaks at debug level alone.
func TestLogger(t *testing.T) {
	var debug, info bytes.Buffer
	for _, tt := range []struct {
		level  slog.Level
		buffer *bytes.Buffer
	}{{slog.LevelDebug, &debug}, {slog.LevelInfo, &info}} {
		logger := slog.New(slog.NewTextHandler(tt.buffer, &slog.HandlerOptions{Level: tt.level}))
		l := open(t, t.TempDir(), Options{Logger: logger})
		apply(t, l, Change{Build: build("b", api.Queued)})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(debug.String(), "pebble: ") || info.Len() > 0 {
		t.Errorf("debug: %d bytes, info: %q", debug.Len(), &info)
	}
}

func TestNoGoroutinesAreLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		l := open(t, t.TempDir(), Options{})
		apply(t, l, Change{Build: build("b", api.Queued)})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 { // Pebble's own end a moment after Close
		if runtime.NumGoroutine() <= before {
			return
		}
		runtime.Gosched()
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines, before %d\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
}

// Check finds what is wrong: each damage here is one that a bug could do.
func TestCheckFindsDamage(t *testing.T) {
	tests := []struct {
		name   string
		damage func(l *Ledger) error
		want   string
	}{
		{"lost event", func(l *Ledger) error { return l.db.Delete(keyEvent(1), nil) }, "event 2 comes after event 0"},
		{"lost record", func(l *Ledger) error { return l.db.Delete(keyBuild(1), nil) }, "0 records"},
		{"lost entry", func(l *Ledger) error { return l.db.Delete(keyID("a"), nil) }, "not there"},
		{"lost index", func(l *Ledger) error { return l.db.Delete(keyTerm(stateTerm(api.Queued), 0), nil) }, "it lacks"},
		{"stale index", func(l *Ledger) error { return l.db.Merge(keyTerm(stateTerm(api.Placed), 0), []byte{1}, nil) }, "it is in others too"},
		{"lost name", func(l *Ledger) error { return l.db.Delete(keyName("hello-2.12", 0), nil) }, "it lacks"},
		{"index of none", func(l *Ledger) error { return l.db.Merge(keyTerm(stateTerm(api.Queued), 0), []byte{7}, nil) }, "of build number 7, which is not there"},
		{"short index", func(l *Ledger) error { return l.db.Set([]byte("iabc"), nil, nil) }, "corrupt entry"},
		{"lost times", func(l *Ledger) error { return l.db.Delete(keyTimes(0), nil) }, "the index of times does not have it"},
		{"wrong times", func(l *Ledger) error { return l.db.Set(keyTimes(0), span{1, 2}.encode(), nil) }, "the index of times does not have it"},
		{"lost system", func(l *Ledger) error { return l.db.Delete(keySystem("x86_64-linux"), nil) }, "is not listed"},
		{"stale entry", func(l *Ledger) error { return l.db.Set(keyID("a"), head{number: 1, state: 'q'}.encode(), nil) }, "not that of its record"},
		{"old index", func(l *Ledger) error { return l.db.Set([]byte{prefixOldState}, nil, nil) }, "older format"},
		{"bad setting", func(l *Ledger) error { return l.db.Set(keySetting("a"), []byte("{"), nil) }, "is not JSON"},
		{"lost history", func(l *Ledger) error { return l.db.Delete(keyHistory(1, 1), nil) }, "1 events and 0 entries"},
		{"wrong history", func(l *Ledger) error {
			return errors.Join(l.db.Delete(keyHistory(1, 1), nil), l.db.Set(keyHistory(1, 2), nil, nil))
		}, "1 events and 1 entries in its history, or others"},
		{"history of none", func(l *Ledger) error { return l.db.Set(keyHistory(9, 1), nil, nil) }, "not there"},
		{"state without event", func(l *Ledger) error {
			b := build("a", api.Placed)
			record, err := json.Marshal(b)
			return errors.Join(err, l.db.Set(keyID("a"), newTerms(b).head(1, 'p', 0).encode(), nil), l.db.Set(keyBuild(1), record, nil),
				l.db.Merge(keyTerm(stateTerm(api.Queued), 0), []byte{1 | cleared}, nil), l.db.Merge(keyTerm(stateTerm(api.Placed), 0), []byte{1}, nil))
		}, "a is placed, and its last event says queued"},
		{"no JSON", func(l *Ledger) error { return l.db.Set(keyBuild(1), []byte("{"), nil) }, "unexpected end"},
		{"two with a number", func(l *Ledger) error { return l.db.Set(keyID("c"), head{number: 1, state: 'q'}.encode(), nil) }, "same number"},
		{"short entry", func(l *Ledger) error { return l.db.Set(keyID("c"), []byte("x"), nil) }, "corrupt entry"},
		{"bad event", func(l *Ledger) error { return l.db.Set(keyEvent(3), nil, nil) }, "corrupt entry"},
		{"bad samples", func(l *Ledger) error { return l.db.Set(keyOf("a", "b"), nil, nil) }, "samples"},
		{"old samples", func(l *Ledger) error { return l.db.Set([]byte("da\x00b"), nil, nil) }, "older format"},
		{"bad class", func(l *Ledger) error { return l.db.Set(keyClass(estimate.Package, ""), nil, nil) }, "class"},
		{"bad machine", func(l *Ledger) error { return l.db.Set(keyMachine("a"), []byte("{}"), nil) }, `machine "a"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := open(t, "ledger", Options{FS: vfs.NewMem()})
			apply(t, l, Change{Build: build("a", api.Queued)}, Change{Build: build("b", api.Queued)})
			check(t, l)
			if err := tt.damage(l); err != nil {
				t.Fatal(err)
			}
			if err := l.Check(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestCause has builds of a derivation that failed, failed again later, and succeeded at last.
func TestCause(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	start := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	bad := path(1, "bad.drv")
	for i, state := range []api.State{api.Failed, api.TimedOut, api.Succeeded} {
		b, stopped := build(fmt.Sprint("bad", i), state), start.Add(time.Duration(i)*time.Hour)
		b.Derivation, b.Stopped = bad, &stopped
		apply(t, l, Change{Build: b})
	}
	at := func(hours float64) *time.Time { at := start.Add(time.Duration(hours * float64(time.Hour))); return &at }
	for _, tt := range []struct {
		what    string
		state   api.State
		stopped *time.Time
		input   store.Path
		want    string
	}{
		{"after the first failure", api.DependencyFailed, at(0.5), bad, "bad0"},
		{"at the time of the second one", api.DependencyFailed, at(1), bad, "bad1"},
		{"after all of them", api.DependencyFailed, at(9), bad, "bad1"},
		{"before the first one: it was tried again under its id", api.DependencyFailed, at(-1), bad, "bad2"},
		{"its time is not known", api.DependencyFailed, nil, bad, "bad1"},
		{"of a derivation without builds", api.DependencyFailed, at(9), path(2, "none.drv"), ""},
		{"it failed itself", api.Failed, at(9), bad, ""},
	} {
		b := &api.Build{State: tt.state, Stopped: tt.stopped, Failure: &api.Failure{Kind: api.KindDependency, Input: tt.input}}
		got, err := l.Cause(t.Context(), b)
		if err != nil || (got == nil) != (tt.want == "") || got != nil && got.ID != tt.want {
			t.Errorf("%s: got %v, %v, want %q", tt.what, got, err, tt.want)
		}
	}
}
