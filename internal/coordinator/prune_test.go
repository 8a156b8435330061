package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"lighter/hooks"
	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
)

// oldDrv is the derivation of builds that are nothing but records.
const oldDrv = store.Path("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-old.drv")

const month = 30 * 24 * 3600 // seconds

// keepsState gives the coordinator a folder for its state, of which f.dir is the parent.
func keepsState(cfg *Config) {
	cfg.StateFolder = filepath.Join(filepath.Dir(cfg.LogDir), "state")
	cfg.LogDir = filepath.Join(cfg.StateFolder, "log")
}

// past puts a final build into the ledger that ended so many days ago, and returns its
// id. It had as many attempts as logs, which have this text.
func (f *farm) past(b api.Build, days int, logs ...string) string {
	f.t.Helper()
	<-f.c.recovered // or it may find the build before its end
	if b.ID == "" {
		b.ID = newID()
	}
	if b.Derivation == "" {
		b.Derivation = oldDrv
	}
	if b.State == "" {
		b.State = api.Succeeded
	}
	stopped := time.Now().Add(-time.Duration(days) * 24 * time.Hour)
	b.Submitted, b.Stopped, b.Attempt = stopped.Add(-time.Hour), &stopped, max(b.Attempt, len(logs))
	queued := b
	queued.State, queued.Stopped, queued.Machine, queued.Attempt = api.Queued, nil, "", 0
	f.apply(ledger.Change{Build: &queued, Create: true})
	f.apply(ledger.Change{Build: &b})
	for i, text := range logs {
		f.writeFile(f.c.logs.File(b.ID, i+1)+[]string{"", ".gz", ".zst"}[i%3], text)
	}
	return b.ID
}

func (f *farm) writeFile(name, text string) {
	f.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *farm) apply(changes ...ledger.Change) {
	f.t.Helper()
	if _, err := f.ledger.Apply(f.t.Context(), changes, true); err != nil {
		f.t.Fatal(err)
	}
}

// inLedger returns the ids of all builds.
func (f *farm) inLedger() (ids []string) {
	f.t.Helper()
	for b, err := range f.ledger.Builds(f.t.Context(), ledger.Filter{OldestFirst: true}) {
		if err != nil {
			f.t.Fatal(err)
		}
		ids = append(ids, b.ID)
	}
	return ids
}

// logsLeft returns, for each log that there is of some builds, which of them it is of.
func (f *farm) logsLeft(ids ...string) (left []string) {
	for i, id := range ids {
		for n := f.c.logs.Count(id, 9); n > 0; n-- {
			left = append(left, fmt.Sprint(i))
		}
	}
	return left
}

func (f *farm) prune(p api.Prune) *api.Pruned {
	f.t.Helper()
	f.hooksSawAll()
	result, err := f.c.Prune(f.t.Context(), &p)
	if err != nil {
		f.t.Fatal(err)
	}
	return result
}

// hooksSawAll waits until nothing is kept for event hooks.
func (f *farm) hooksSawAll() {
	f.t.Helper()
	f.until("the hooks have seen all events", func() bool { return f.c.eventHooks.Seen() == f.ledger.LastEvent() })
}

func TestPrune(t *testing.T) {
	f := newFarm(t, keepsState, "m1")
	f.ready("m1")
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	a := f.past(api.Build{Machine: "m1"}, 90, "a1", "a2", "a3")
	b := f.past(api.Build{Machine: "m1", Shares: a, Attempt: 3, State: api.Failed}, 80) // as a retried one
	recent := f.past(api.Build{}, 10, "recent")
	c := f.past(api.Build{State: api.Canceled}, 60)
	running := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(running, api.Building)
	f.hooksSawAll()

	dry, err := client.Prune(t.Context(), &api.Prune{OlderThan: month, DryRun: true})
	if want := (&api.Pruned{Builds: 3, Events: 6, Logs: 3}); err != nil || !cmp.Equal(dry, want) {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	if got := f.inLedger(); !slices.Equal(got, []string{a, b, recent, c, running}) {
		t.Fatalf("after a dry run there is %v", got)
	}

	done, err := client.Prune(t.Context(), &api.Prune{OlderThan: month, States: []api.State{api.Succeeded, api.Canceled}})
	if err != nil || done.Builds != 2 || done.Events != 4 || done.Logs != 0 {
		t.Fatalf("some states: %+v, %v", done, err)
	}
	if lines := readArchive(t, done.File); len(lines) != 2 || lines[0].Build.ID != a || lines[1].Build.ID != c {
		t.Errorf("archived %+v, want %v", lines, []string{a, c})
	}
	if got := f.logsLeft(a, b, recent); !slices.Equal(got, []string{"0", "0", "0", "2"}) {
		t.Errorf("logs %v are left; b still has those of a", got)
	}
	if _, err := client.Build(t.Context(), a); !isCode(err, api.CodeNotFound) {
		t.Errorf("the build that left: %v", err)
	}
	var log bytes.Buffer
	if err := client.Log(t.Context(), b, 0, false, &log); err == nil || strings.Contains(err.Error(), "no log") {
		t.Errorf("the log of a build that shares it: %v", err) // it is not zstd, but it exists
	}

	done, err = client.Prune(t.Context(), &api.Prune{OlderThan: month})
	if err != nil || done.Builds != 1 || done.Logs != 3 || !strings.HasPrefix(done.File, filepath.Join(f.config.StateFolder, "archive", "builds-")) {
		t.Fatalf("the rest: %+v, %v", done, err)
	}
	lines := readArchive(t, done.File)
	if info, err := os.Stat(done.File); err != nil || info.Size() != done.Bytes {
		t.Errorf("%d bytes, but %+v, %v", done.Bytes, info, err)
	}
	if len(lines) != 1 || lines[0].Build.ID != b || lines[0].Build.Shares != a || len(lines[0].Events) != 2 || lines[0].Events[1].State != api.Failed {
		t.Errorf("archived %+v", lines)
	}
	if got := f.logsLeft(a, b, recent); !slices.Equal(got, []string{"2"}) {
		t.Errorf("logs %v are left", got)
	}

	done, err = client.Prune(t.Context(), &api.Prune{OlderThan: month})
	if err != nil || !cmp.Equal(done, &api.Pruned{}) {
		t.Errorf("nothing: %+v, %v", done, err)
	}
	done, err = client.Prune(t.Context(), &api.Prune{OlderThan: 24 * 3600, KeepLogs: true})
	if err != nil || done.Builds != 1 || done.Logs != 0 || len(f.logsLeft(recent)) != 1 {
		t.Errorf("with logs kept: %+v, %v", done, err)
	}
	f.agents["m1"].release("one")
	f.awaitState(running, api.Succeeded)
	f.idle()
}

// leftBuild is a line of an archive.
type leftBuild struct {
	Build  api.Build
	Events []api.Event
}

func readArchive(t *testing.T, name string) (lines []leftBuild) {
	t.Helper()
	packed, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for d := json.NewDecoder(z); d.More(); {
		var line leftBuild
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines
}

func isCode(err error, code string) bool {
	var answer *api.Error
	return errors.As(err, &answer) && answer.Code == code
}

func TestPruneIsRefused(t *testing.T) {
	f := newFarm(t, keepsState)
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	old := f.past(api.Build{}, 100)
	for _, p := range []api.Prune{
		{},
		{OlderThan: -1},
		{OlderThan: 1e12},
		{OlderThan: month, States: []api.State{"over"}},
		{OlderThan: month, States: []api.State{api.Failed, api.Building}},
	} {
		if got, err := client.Prune(t.Context(), &p); !isCode(err, api.CodeBadRequest) {
			t.Errorf("%+v: %+v, %v", p, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.c.Prune(ctx, &api.Prune{OlderThan: month}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if got := f.inLedger(); !slices.Equal(got, []string{old}) {
		t.Errorf("there is %v", got)
	}
}

// TestPruneKeepsWhatMachinesKnow: a machine that is back can be told to forget its builds
// only as long as the ledger has them.
func TestPruneKeepsWhatMachinesKnow(t *testing.T) {
	f := unstarted(t, "m1", "m2")
	keepsState(&f.config)
	known, shared := newID(), newID()
	for _, id := range []string{known, shared} {
		f.agents["m1"].builds[id] = &fakeBuild{
			status: agentapi.BuildStatus{ID: id, Derivation: oldDrv, State: agentapi.Failed},
			cancel: func() {}, changed: make(chan struct{}),
		}
	}
	f.agents["m2"].cutLink(true)
	f.start()
	t.Cleanup(f.shutDown)
	f.ready("m1")
	f.past(api.Build{Request: api.Request{ID: known}, Machine: "m1"}, 90)
	shares := f.past(api.Build{Machine: "m1", Shares: shared}, 90)
	onAway := f.past(api.Build{Machine: "m2"}, 90)
	first := f.past(api.Build{Machine: "m2", Attempt: 1, State: api.Failed}, 90)
	b, err := f.ledger.Build(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	b.Machine, b.Attempt, b.State = "m1", 2, api.Succeeded // its first attempt was on m2
	f.apply(ledger.Change{Build: b})
	goes := f.past(api.Build{Machine: "m1"}, 90)
	gone := f.past(api.Build{Machine: "nowhere"}, 90) // is no longer in the machines file

	done := f.prune(api.Prune{OlderThan: month})
	if got := f.inLedger(); done.Builds != 2 || !slices.Equal(got, []string{known, shares, onAway, first}) {
		t.Fatalf("%+v; there is %v, but not %s and %s", done, got, goes, gone)
	}
	f.agents["m2"].up()
	f.ready("m2")
	f.agents["m1"].mu.Lock()
	delete(f.agents["m1"].builds, known)
	f.agents["m1"].mu.Unlock()
	if done := f.prune(api.Prune{OlderThan: month}); done.Builds != 3 || !slices.Equal(f.inLedger(), []string{shares}) {
		t.Errorf("when they don't: %+v; there is %v", done, f.inLedger())
	}
	f.agents["m1"].cutLink(true)
	if done := f.prune(api.Prune{OlderThan: month}); done.Builds != 0 {
		t.Errorf("of a machine that does not answer: %+v", done)
	}
}

func TestPruneKeepsWhatHooksNeed(t *testing.T) {
	f := unstarted(t)
	keepsState(&f.config)
	notes := &hookNotes{hold: make(chan struct{})}
	f.config.Hooks = []hooks.Config{{Name: "notes", Events: hooks.EventNames(), BuiltIn: "notes"}}
	f.config.BuiltIns = map[string]hooks.BuiltIn{"notes": notes}
	f.start()
	t.Cleanup(f.shutDown)
	f.past(api.Build{}, 90)
	f.until("the hook is called", func() bool { return len(notes.all()) > 0 })
	if done, err := f.c.Prune(t.Context(), &api.Prune{OlderThan: month}); err != nil || done.Builds != 0 {
		t.Errorf("before the hook is done: %+v, %v", done, err)
	}
	close(notes.hold)
	if done := f.prune(api.Prune{OlderThan: month}); done.Builds != 1 {
		t.Errorf("after that: %+v", done)
	}
}

// TestPruneWhileRetried: each old build either leaves or is tried again, not both.
func TestPruneWhileRetried(t *testing.T) {
	f := newFarm(t, keepsState, "m1")
	f.ready("m1")
	drv := f.drv("one", "fail")
	ids := make([]string, 500)
	for i := range ids {
		ids[i] = f.past(api.Build{Request: api.Request{Derivation: drv}, State: api.Canceled, System: "x86_64-linux"}, 90)
	}
	var mu sync.Mutex
	var retried []string
	var group sync.WaitGroup
	for part := range slices.Chunk(ids, 125) {
		group.Go(func() {
			for _, id := range slices.Backward(part) {
				list, err := f.c.Retry(t.Context(), []string{id}, "once more")
				if err != nil && !errors.Is(err, ledger.ErrNotFound) {
					t.Error(err)
				}
				mu.Lock()
				retried = append(retried, list...)
				mu.Unlock()
			}
		})
	}
	done := f.prune(api.Prune{OlderThan: month})
	group.Wait()
	for _, id := range retried {
		f.awaitState(id, api.Failed)
	}
	left := f.inLedger()
	slices.Sort(left)
	slices.Sort(retried)
	if !slices.Equal(left, retried) || done.Builds+len(left) != len(ids) {
		t.Errorf("%d builds left, %d were tried again, there are %d", done.Builds, len(retried), len(left))
	}
	f.idle()
}

// TestPruneAtStart: what a crash left of archives is dealt with at the start.
func TestPruneAtStart(t *testing.T) {
	f := unstarted(t)
	keepsState(&f.config)
	left := filepath.Join(f.config.StateFolder, "archive", "builds-20260504T020201Z.jsonl.zst.part")
	f.writeFile(left, "")
	f.start()
	t.Cleanup(f.shutDown)
	f.until("the archive without builds is gone", func() bool {
		_, err := os.Stat(left)
		return errors.Is(err, os.ErrNotExist)
	})
}
