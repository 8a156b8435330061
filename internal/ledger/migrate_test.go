package ledger

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
)

// writeFormat1 makes a ledger as a lighter that knew format 1 left it: with that format's
// keys, and Pebble's default merger. It returns the builds, and the number of events.
func writeFormat1(t *testing.T, fs vfs.FS, n int) (m *model, events uint64) {
	t.Helper()
	if err := fs.MkdirAll("ledger", 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open("ledger", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatValueSeparation, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	number := func(prefix string, numbers ...uint64) []byte {
		key := []byte(prefix)
		for _, n := range numbers {
			key = binary.BigEndian.AppendUint64(key, n)
		}
		return key
	}
	b := db.NewBatch()
	set := func(key, value []byte) {
		if err := b.Set(key, value, nil); err != nil {
			t.Fatal(err)
		}
	}
	event := func(e storedEvent) {
		events++
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		set(number("e", events), append(number("", uint64(m.start.UnixNano())), text...))
	}
	set([]byte("mformat"), []byte("1"))
	m = newModel(7)
	codes := map[api.State]string{
		api.Queued: "q", api.Waiting: "w", api.Placed: "p", api.Sending: "s", api.Building: "b",
		api.Fetching: "f", api.Succeeded: "S", api.Failed: "F", api.TimedOut: "T", api.Canceled: "C",
	}
	for len(m.builds) < n {
		m.change()
	}
	for i, build := range m.builds {
		record, err := json.Marshal(build)
		if err != nil {
			t.Fatal(err)
		}
		at := uint64(i + 1)
		set(number("b", at), record)
		head := append(number("", at), codes[build.State]...)
		set([]byte("n"+build.ID), binary.BigEndian.AppendUint32(head, uint32(build.Attempt)))
		set(number("s"+codes[build.State], at), nil)
		for _, state := range []api.State{api.Queued, build.State} {
			event(storedEvent{Build: build.ID, State: state, Attempt: build.Attempt})
			set(number("h", at, events), nil)
		}
		if i%100 == 0 {
			event(storedEvent{Kind: api.KindOperator, Reason: "paused"})
		}
	}
	set([]byte("dx86_64-linux\x00hello"), []byte(`[{"machine":"m","speed":1,"seconds":2,"time":"2026-05-01T00:00:00Z"}]`))
	set([]byte("km"), []byte(`{"name":"m","bandwidth":1}`))
	set([]byte("opaused"), []byte(`true`))
	if err := errors.Join(b.Commit(pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
	return m, events
}

type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(text string, a ...any) { panic(fmt.Sprintf(text, a...)) }

// verifyMigrated compares a ledger with the builds that were in it before.
func verifyMigrated(t *testing.T, l *Ledger, m *model, last uint64, filters int) {
	t.Helper()
	check(t, l)
	m.compare(t, l, filters)
	var paused bool
	if found, err := l.Setting(t.Context(), "paused", &paused); err != nil || !found || !paused {
		t.Errorf("setting: %v, %v, %v", found, paused, err)
	}
	if got := l.LastEvent(); got != last {
		t.Errorf("last event %d, not %d", got, last)
	}
	for b, err := range l.Builds(t.Context(), Filter{Limit: 10}) {
		i := slices.IndexFunc(m.builds, func(want *api.Build) bool { return want.ID == b.ID })
		if diff := cmp.Diff(m.builds[i], b); err != nil || diff != "" {
			t.Errorf("build: %v (-want +got):\n%s", err, diff)
		}
	}
}

func TestMigration(t *testing.T) {
	fs := vfs.NewMem()
	m, last := writeFormat1(t, fs, 2500)
	var log bytes.Buffer
	opts := Options{FS: fs, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	l := open(t, "ledger", opts)
	verifyMigrated(t, l, m, last, 20)
	if !strings.Contains(log.String(), "bringing it to a new format") || !strings.Contains(log.String(), "builds=2500") {
		t.Errorf("log: %s", &log)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	log.Reset()
	l = open(t, "ledger", opts) // nothing is left to do
	if log.Len() > 0 {
		t.Errorf("log of another start: %s", &log)
	}
	for range 150 {
		apply(t, l, m.change())
	}
	m.compare(t, l, 20)
	check(t, l)
}

// A migration that is cut off after any of its steps goes on there at the next start.
func TestMigrationIsInterrupted(t *testing.T) {
	fs := vfs.NewCrashableMem()
	m, last := writeFormat1(t, fs, migrationStep+200)
	var crashed []*vfs.MemFS
	l := open(t, "ledger", Options{FS: fs, memTable: smallTable, migrated: func(l *Ledger) {
		if err := l.db.LogData(nil, pebble.Sync); err != nil {
			t.Error(err)
		}
		crashed = append(crashed, fs.CrashClone(vfs.CrashCloneCfg{}))
	}})
	verifyMigrated(t, l, m, last, 15)
	if len(crashed) != 2+3+1 { // of builds, of events, of which there are more, and of samples
		t.Errorf("%d steps", len(crashed))
	}
	for i, fs := range crashed {
		var log bytes.Buffer
		l := open(t, "ledger", Options{FS: fs, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if text := log.String(); strings.Contains(text, "fromBuild=0") || strings.Contains(text, "fromEvent=0") != (i < 2) {
			t.Errorf("after step %d it began again: %s", i, text)
		}
		verifyMigrated(t, l, m, last, 15)
	}
}

// Wherever a migration fails, and whatever of it is then on the disk, the next start
// makes a whole ledger of it.
func TestMigrationFails(t *testing.T) {
	old := vfs.NewCrashableMem()
	m, last := writeFormat1(t, old, migrationStep/4)
	for n := int64(0); ; n += 1 + n/3 {
		fs := old.CrashClone(vfs.CrashCloneCfg{})
		var writes atomic.Int64
		injector := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if isWrite(op) && writes.Add(1) > n {
				return syscall.EIO
			}
			return nil
		})
		l, err := Open("ledger", Options{FS: errorfs.Wrap(fs, injector), memTable: smallTable})
		if err == nil {
			_ = l.Close()
		}
		l = open(t, "ledger", Options{FS: fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(n), 6))})})
		verifyMigrated(t, l, m, last, 15)
		if t.Failed() {
			t.Fatalf("after %d writes", n)
		}
		if writes.Load() <= n {
			return
		}
	}
}

// Up to format 2, builds that failed because of others were "failed".
func TestMigrationOfDependents(t *testing.T) {
	fs := vfs.NewMem()
	l := open(t, "ledger", Options{FS: fs})
	own := &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: "exit code 1"}
	of := &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Waiting, Kind: api.KindDependency, Message: "needs it"}
	unread := &api.Failure{Culprit: api.CulpritCoordinator, Phase: api.Queued, Kind: api.KindDependency, Message: "can't be read"}
	want := map[string]api.State{"own": api.Failed, "dependent": api.DependencyFailed, "unread": api.Failed, "good": api.Succeeded}
	for id, f := range map[string]*api.Failure{"own": own, "dependent": of, "unread": unread, "good": nil} {
		b := build(id, api.Waiting)
		apply(t, l, Change{Build: b, Create: true})
		b.State, b.Failure = api.Failed, f
		if f == nil {
			b.State = api.Succeeded
		}
		apply(t, l, Change{Build: b})
	}
	if err := errors.Join(l.db.Set(keyMeta("format"), []byte("2"), pebble.Sync), l.Close()); err != nil {
		t.Fatal(err)
	}
	l = open(t, "ledger", Options{FS: fs})
	check(t, l)
	for id, state := range want {
		b, err := l.Build(t.Context(), id)
		if err != nil || b.State != state {
			t.Errorf("%s: %v %v, want %s", id, b, err, state)
		}
		events, err := l.BuildEvents(t.Context(), id)
		if err != nil || events[len(events)-1].State != state {
			t.Errorf("%s: %v %v, want %s", id, events, err, state)
		}
	}
	if got := l.Counts(); got[api.Failed] != 2 || got[api.DependencyFailed] != 1 || got[api.Succeeded] != 1 {
		t.Errorf("counts %v", got)
	}
	for state, n := range map[api.State]int{api.Failed: 2, api.DependencyFailed: 1} {
		found := 0
		for _, err := range l.Builds(t.Context(), Filter{Filter: api.Filter{States: []api.State{state}}}) {
			if err != nil {
				t.Fatal(err)
			}
			found++
		}
		if found != n {
			t.Errorf("%s: found %d, want %d", state, found, n)
		}
	}
}

func TestBrokenFormat(t *testing.T) {
	for _, tt := range []struct{ key, value, want string }{
		{"mformat", "x", `its format is "x", which is not one`},
		{"mformat", "0", `its format is "0", which is not one`},
	} {
		fs := vfs.NewMem()
		l := open(t, "ledger", Options{FS: fs})
		if err := l.db.Set([]byte(tt.key), []byte(tt.value), nil); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open("ledger", Options{FS: fs}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v", tt.key, err)
		}
	}
}
