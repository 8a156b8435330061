package coordinator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/hooks"
	"lighter/internal/api"
)

// hookNotes is a built-in that notes what it is told.
type hookNotes struct {
	mu    sync.Mutex
	lines []string
	fail  bool          // builds' failures are its own, for good
	hold  chan struct{} // nothing ends before this is closed
}

func (h *hookNotes) Run(ctx context.Context, e *hooks.Event) (string, error) {
	h.mu.Lock()
	hold, fail := h.hold, h.fail
	h.lines = append(h.lines, fmt.Sprintf("%s %s", api.DerivationName(e.Build.Derivation), e.Name))
	h.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if fail && e.Name == hooks.BuildFailed {
		return "this is why", hooks.Permanent(errors.New("no use"))
	}
	return "", nil
}

func (h *hookNotes) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lines)
}

// TestEventHooks: a program and a built-in are told of builds, in order, across a crash
// of the coordinator, and what fails can be looked at, retried and dropped.
func TestEventHooks(t *testing.T) {
	f := unstarted(t, "m1")
	notes := &hookNotes{fail: true}
	told := filepath.Join(t.TempDir(), "told")
	f.config.Hooks = []hooks.Config{
		{Name: "notes", Events: hooks.EventNames(), BuiltIn: "notes"},
		{Name: "program", Events: []string{hooks.BuildSucceeded}, Tags: map[string]string{"set": "a"}, Command: []string{
			"sh", "-c", `echo "$LIGHTER_EVENT $LIGHTER_SYSTEM $LIGHTER_TAG_set $LIGHTER_SOCKET $LIGHTER_OUTPUTS" >>"$0"`, told,
		}},
	}
	f.config.BuiltIns = map[string]hooks.BuiltIn{"notes": notes}
	f.config.HookPrograms = hooks.Programs{Socket: "/run/s"}
	f.start()
	defer func() { f.shutDown() }()

	good := f.drv("good", "")
	ids := f.request(api.Request{Derivation: good, Tags: map[string]string{"set": "a"}}, api.Request{Derivation: f.drv("bad", "fail")})
	f.awaitState(ids[0], api.Succeeded)
	f.awaitState(ids[1], api.Failed)
	f.until("a parked run", func() bool {
		_, parked := f.c.eventHooks.Counts()
		return parked == 1
	})
	f.hooksDone()
	lines := notes.all()
	slices.Sort(lines)
	want := []string{
		"bad build-failed", "bad build-started", "bad build-submitted", "good build-started", "good build-submitted", "good build-succeeded",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	text, err := os.ReadFile(told)
	if want := "build-succeeded x86_64-linux a /run/s " + string(f.output(good)) + "\n"; err != nil || string(text) != want {
		t.Errorf("the program was told %q, %v, want %q", text, err, want)
	}

	f.crash()
	notes.lines, notes.fail = nil, false
	f.start()
	client, closeAll := f.serve(socketOf(t))
	defer func() { closeAll() }()
	ctx := t.Context()
	f.until("the parked run to be counted", func() bool {
		_, parked := f.c.eventHooks.Counts()
		return parked == 1
	})
	list, err := client.Hooks(ctx)
	if err != nil || len(list.Hooks) != 2 || len(list.Runs) != 1 || list.Runs[0].State != "parked" || list.Runs[0].Build != ids[1] {
		t.Fatalf("hooks: %+v, %v", list, err)
	}
	if status, err := client.Status(ctx); err != nil || status.HooksParked != 1 {
		t.Errorf("status: %+v, %v", status, err)
	}
	run, err := client.HookRun(ctx, list.Runs[0].ID)
	if err != nil || run.Output != "this is why" || run.Error != "no use" {
		t.Errorf("run: %+v, %v", run, err)
	}
	if selected, err := client.RetryHooks(ctx, &api.HookSelection{Hook: "notes"}); err != nil || selected.Count != 1 {
		t.Errorf("retry: %+v, %v", selected, err)
	}
	f.until("the run to be done", func() bool { return slices.Contains(notes.all(), "bad build-failed") })
	f.hooksDone()
	if selected, err := client.DropHooks(ctx, &api.HookSelection{All: true}); err != nil || selected.Count != 0 {
		t.Errorf("drop: %+v, %v", selected, err)
	}
	for _, id := range []string{"notes/999999", "nobody/1", "notes/x"} {
		if _, err := client.HookRun(ctx, id); err == nil {
			t.Errorf("there is a run %s", id)
		}
	}
	tested, err := client.TestHook(ctx, "notes", &api.HookTest{Build: ids[0][:8]})
	if err != nil || !tested.OK || tested.Event != hooks.BuildSucceeded {
		t.Errorf("test: %+v, %v", tested, err)
	}
	if _, err := client.TestHook(ctx, "notes", &api.HookTest{Build: ids[0], Event: "build-done"}); err == nil || !strings.Contains(err.Error(), "there are build-submitted") {
		t.Errorf("test of an event that is none: %v", err)
	}
	if seen := f.c.eventHooks.Seen(); seen != f.ledger.LastEvent() {
		t.Errorf("seen %d of %d", seen, f.ledger.LastEvent())
	}
}

// TestHooksOfDependents has one run of a hook on failures where many builds need what failed; a
// built-in is told of those too.
func TestHooksOfDependents(t *testing.T) {
	f := unstarted(t, "m1")
	f.config.Hooks = []hooks.Config{
		{Name: "program", Events: []string{hooks.BuildFailed}, Command: []string{"true"}},
		{Name: "dependents", Events: []string{hooks.BuildDependencyFailed}, BuiltIn: "dependents"},
		{Name: "all", Events: []string{hooks.BuildFailed}, BuiltIn: "all"},
	}
	f.config.BuiltIns = map[string]hooks.BuiltIn{"dependents": &hookNotes{}, "all": &hookNotes{}}
	f.start()
	defer func() { f.shutDown() }()
	bad := f.drv("bad", "fail")
	for _, id := range f.submit(f.drv("a", "", bad), f.drv("b", "", bad)) {
		f.awaitState(id, api.DependencyFailed)
	}
	f.hooksDone()
	for i, want := range []int64{1, 2, 3} {
		list, err := f.c.EventHooks().List(t.Context())
		if err != nil || list.Hooks[i].Done != want {
			t.Errorf("%s: %d runs, %v, want %d", list.Hooks[i].Name, list.Hooks[i].Done, err, want)
		}
	}
}

// hooksDone waits until no run of a hook is to come.
func (f *farm) hooksDone() {
	f.t.Helper()
	f.until("hooks to be done", func() bool {
		pending, _ := f.c.eventHooks.Counts()
		return pending == 0 && f.c.eventHooks.Seen() == f.ledger.LastEvent()
	})
}

// TestDeadHook: a hook that comes to no end holds no build up, and ends with the
// coordinator or with its configuration.
func TestDeadHook(t *testing.T) {
	notes := &hookNotes{hold: make(chan struct{})}
	dead := hooks.Config{Name: "dead", Events: hooks.EventNames(), BuiltIn: "notes"}
	f := newFarm(t, func(c *Config) {
		c.Hooks, c.BuiltIns = []hooks.Config{dead}, map[string]hooks.BuiltIn{"notes": notes}
	}, "m1")
	for i := range 20 {
		f.awaitState(f.submit(f.drv(fmt.Sprint("d", i), ""))[0], api.Succeeded)
	}
	if lines := notes.all(); len(lines) > 1 {
		t.Errorf("one run at a time, but there are %q", lines)
	}
	if f.c.eventHooks.Seen() >= f.ledger.LastEvent() {
		t.Error("the hook has seen all")
	}
	if err := f.c.SetHooks(t.Context(), []hooks.Config{{Name: "dead"}}, nil); err == nil {
		t.Error("a bad hook was taken")
	}
	if err := f.c.SetHooks(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	if f.c.eventHooks.Seen() != f.ledger.LastEvent() {
		t.Error("without hooks, something is still to be seen")
	}
	if err := f.c.SetHooks(t.Context(), []hooks.Config{dead}, nil); err != nil {
		t.Fatal(err)
	}
	f.submit(f.drv("last", ""))
	f.until("the run to start", func() bool { return len(notes.all()) == 2 })
}
