package hooks

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/scheduler/estimate"
)

// realLedger is the ledger of the coordinator.
type realLedger struct{ *ledger.Ledger }

func (l realLedger) Apply(ctx context.Context, changes []Setting, durable bool) error {
	list := make([]ledger.Change, len(changes))
	for i, c := range changes {
		list[i].Setting = &ledger.Setting{Name: c.Name, Value: c.Value}
	}
	_, err := l.Ledger.Apply(ctx, list, durable)
	return err
}

func openLedger(t testing.TB, dir string) realLedger {
	t.Helper()
	l, err := ledger.Open(dir, ledger.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	return realLedger{l}
}

func (l realLedger) submit(t testing.TB, id string, states ...api.State) {
	t.Helper()
	for i, s := range states {
		b := &api.Build{Request: api.Request{ID: id, Derivation: path(id + ".drv")}, System: "x86_64-linux", State: s}
		if _, err := l.Ledger.Apply(t.Context(), []ledger.Change{{Build: b, Create: i == 0}}, false); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	killBuilds   = 60
	killVariable = "LIGHTER_TEST_HOOKS"
)

// killConfig is a hook whose program fails now and then, and notes what it is told:
// build, event, number.
func killConfig(dir string) Config {
	return Config{
		Name: "h", Events: []string{BuildSubmitted, BuildStarted, BuildSucceeded}, Parallel: 4, Tries: 1000,
		Command: []string{"sh", "-c", `[ $(($$ % 5)) != 0 ] || exit 1
			echo "$LIGHTER_BUILD_ID $LIGHTER_EVENT" >>"$0"; read event <&0`, filepath.Join(dir, "told")},
	}
}

// TestKill kills a process that runs hooks, again and again: each run is carried out at
// least once, and those of a build never in another order than that of its events.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	l := openLedger(t, filepath.Join(dir, "ledger"))
	// The first engine makes the hook known, so that it gets all events.
	ctx, cancel := context.WithCancel(t.Context())
	e, err := New(Options{Ledger: l, Hooks: []Config{killConfig(dir)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	e.Wait()
	for _, s := range []api.State{api.Queued, api.Building, api.Succeeded} {
		for i := range killBuilds {
			b := &api.Build{Request: api.Request{ID: fmt.Sprint("b", i), Derivation: path("x.drv")}, State: s}
			if _, err := l.Ledger.Apply(t.Context(), []ledger.Change{{Build: b, Create: s == api.Queued}}, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for round := 0; ; round++ {
		if round == 100 {
			t.Fatal("it comes to no end")
		}
		if runHooksUntil(t, dir, 20*(round+1)) {
			t.Logf("killed %d times", round)
			break
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "told"))
	if err != nil {
		t.Fatal(err)
	}
	checkOrder(t, strings.Split(strings.TrimSpace(string(text)), "\n"))
}

// checkOrder: each build has its three events, and an event is only repeated from a
// point on from which all were repeated.
func checkOrder(t *testing.T, told []string) {
	t.Helper()
	place := map[string]int{BuildSubmitted: 0, BuildStarted: 1, BuildSucceeded: 2}
	done := make(map[string]int)
	for _, line := range told {
		id, name, _ := strings.Cut(line, " ")
		at, ok := place[name]
		if !ok {
			t.Fatalf("told %q", line)
		}
		if at > done[id] {
			t.Errorf("build %s: %s was told before what comes before it", id, name)
		}
		done[id] = at + 1
	}
	for i := range killBuilds {
		if id := fmt.Sprint("b", i); done[id] != 3 {
			t.Errorf("build %s: the last of its events was not the last that was told", id)
		}
	}
}

// runHooksUntil runs the hooks in another process and kills it after that many runs, or
// reports that all are done.
func runHooksUntil(t *testing.T, dir string, runs int) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRunHooksUntilKilled$")
	cmd.Env = append(os.Environ(), killVariable+"="+dir)
	cmd.Stderr = os.Stderr
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := false
	lines := bufio.NewScanner(output)
	for n := 0; lines.Scan(); n++ {
		if lines.Text() == "all done" {
			all = true
		}
		if n >= runs && !all {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	return all
}

// TestRunHooksUntilKilled is what TestKill runs in another process. It writes a line
// for each run that is done.
func TestRunHooksUntilKilled(t *testing.T) {
	dir := os.Getenv(killVariable)
	if dir == "" {
		return
	}
	l := openLedger(t, filepath.Join(dir, "ledger"))
	e, err := New(Options{Ledger: announcing{l}, Hooks: []Config{killConfig(dir)}})
	if err != nil {
		t.Fatal(err)
	}
	e.limits.retryMin, e.limits.pace = 1, 1
	ctx, cancel := context.WithCancel(t.Context())
	defer e.Wait()
	defer cancel()
	if err := e.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for {
		list, err := e.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if h := list.Hooks[0]; h.Behind == 0 && h.Waiting+h.Running == 0 {
			fmt.Println("all done")
			return
		}
	}
}

// announcing writes a line for each run that is removed.
type announcing struct{ realLedger }

func (a announcing) Apply(ctx context.Context, changes []Setting, durable bool) error {
	err := a.realLedger.Apply(ctx, changes, durable)
	for _, c := range changes {
		if err == nil && c.Value == nil && strings.HasPrefix(c.Name, runPrefix) {
			fmt.Println("done")
		}
	}
	return err
}

// TestRealLedger: all that the engine keeps, in the coordinator's ledger.
func TestRealLedger(t *testing.T) {
	dir := t.TempDir()
	l := openLedger(t, dir)
	note := &recorder{do: func(_ context.Context, e *Event) (string, error) {
		if e.Name == BuildFailed {
			return "out", Permanent(errNo)
		}
		return "", nil
	}}
	start := func() (*Engine, func()) {
		e, err := New(Options{Ledger: l, Hooks: []Config{hookOn("h", EventNames()...)}, BuiltIns: map[string]BuiltIn{"note": note}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		if err := e.Start(ctx); err != nil {
			t.Fatal(err)
		}
		return e, func() {
			cancel()
			e.Wait()
		}
	}
	e, stop := start()
	l.submit(t, "b1", api.Queued, api.Placed, api.Building, api.Failed)
	for parked := 0; parked != 1; _, parked = e.Counts() {
		if t.Context().Err() != nil {
			t.Fatal("nothing is parked")
		}
	}
	stop()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLedger(t, dir)
	defer l.Close()
	e, stop = start()
	defer stop()
	run, err := e.Run(t.Context(), "h/4")
	if err != nil || run.Output != "out" || run.State != "parked" || run.Build != "b1" {
		t.Fatalf("%+v %v", run, err)
	}
	if got, err := e.Drop(t.Context(), &api.HookSelection{Hook: "h"}); err != nil || got.Count != 1 {
		t.Fatal(got, err)
	}
	var names []string
	if err := l.Settings(t.Context(), "hooks/", func(name string, _ json.RawMessage) error {
		names = append(names, name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(names) != 1 || names[0] != "hooks/cursor/h" {
		t.Errorf("left in the ledger: %q", names)
	}
}

// BenchmarkUnwanted is what an event costs that no hook wants.
func BenchmarkUnwanted(b *testing.B) {
	l := openLedger(b, b.TempDir())
	defer l.Close()
	fill(b, l, b.N, api.Queued, api.Placed)
	h := newBenchHook(b, l, BuildSucceeded)
	b.ResetTimer()
	for more := true; more; {
		var err error
		if more, err = h.take(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	if h.needs() != l.LastEvent() {
		b.Fatalf("needs %d of %d", h.needs(), l.LastEvent())
	}
}

// BenchmarkRuns is what a wanted event costs, with a hook that does nothing.
func BenchmarkRuns(b *testing.B) {
	l := openLedger(b, b.TempDir())
	defer l.Close()
	done := make(chan struct{}, b.N)
	note := &recorder{do: func(context.Context, *Event) (string, error) {
		done <- struct{}{}
		return "", nil
	}}
	hook := hookOn("h", BuildSubmitted)
	hook.Parallel = 4
	e, err := New(Options{Ledger: l, Hooks: []Config{hook}, BuiltIns: map[string]BuiltIn{"note": note}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	if _, err := l.Ledger.Apply(ctx, []ledger.Change{{Samples: &ledger.Samples{Key: estimate.Key{Kind: estimate.Package, Name: "x", System: "y"}}}}, false); err != nil {
		b.Fatal(err)
	}
	fillBefore := l.LastEvent()
	if err := e.Start(ctx); err != nil {
		b.Fatal(err)
	}
	defer e.Wait()
	defer cancel()
	fill(b, l, b.N, api.Queued)
	b.ResetTimer()
	for range b.N {
		<-done
	}
	if l.LastEvent() != fillBefore+uint64(b.N) {
		b.Fatal("events are missing")
	}
}

// fill submits builds, each of which goes through the states.
func fill(b *testing.B, l realLedger, builds int, states ...api.State) {
	b.Helper()
	var changes []ledger.Change
	for i := range builds {
		for n, s := range states {
			record := &api.Build{Request: api.Request{ID: fmt.Sprint("b", i), Derivation: path("x.drv")}, State: s}
			changes = append(changes, ledger.Change{Build: record, Create: n == 0})
		}
		if len(changes) >= 1000 || i == builds-1 {
			if _, err := l.Ledger.Apply(b.Context(), changes, false); err != nil {
				b.Fatal(err)
			}
			changes = nil
		}
	}
}

// newBenchHook returns a hook without a loop.
func newBenchHook(b *testing.B, l Ledger, events ...string) *hook {
	b.Helper()
	note := &recorder{}
	e, err := New(Options{Ledger: l, Hooks: []Config{hookOn("h", events...)}, BuiltIns: map[string]BuiltIn{"note": note}})
	if err != nil {
		b.Fatal(err)
	}
	return &hook{engine: e, name: "h", cfg: e.configs[0].complete(note), window: newWindow()}
}
