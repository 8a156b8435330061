package hooks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
)

var buildEvents = EventNames()[:7]

func TestOrderAndParallel(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.note.do = func(context.Context, *Event) (string, error) {
			time.Sleep(rand.N(100 * time.Millisecond))
			if rand.N(10) == 0 {
				return "", errNo
			}
			return "", nil
		}
		b.limits.window = 64
		hook := hookOn("h", BuildSubmitted, BuildStarted, BuildSucceeded)
		hook.Parallel, hook.Tries = 8, 100
		b.start(hook)
		const builds = 100
		for _, s := range []api.State{api.Queued, api.Placed, api.Building, api.Fetching, api.Succeeded} {
			for i := range builds {
				b.ledger.emit(of(b.ledger.build(fmt.Sprint("b", i), nil), s)...)
			}
		}
		b.settle()
		done := make(map[string][]string)
		for _, c := range b.note.all() {
			list := done[c.Build]
			if len(list) > 0 && list[len(list)-1] == c.Name {
				if c.Try == 1 {
					t.Errorf("build %s: %s was done twice", c.Build, c.Name)
				}
				continue
			}
			done[c.Build] = append(list, c.Name)
		}
		if len(done) != builds {
			t.Errorf("hooks ran for %d builds, want %d", len(done), builds)
		}
		for id, names := range done {
			if diff := cmp.Diff([]string{BuildSubmitted, BuildStarted, BuildSucceeded}, names); diff != "" {
				t.Errorf("build %s: (-want +got)\n%s", id, diff)
			}
		}
		if b.note.most != 8 {
			t.Errorf("%d ran at the same time, want 8", b.note.most)
		}
		if status := b.list().Hooks[0]; status.Done != 3*builds || status.Waiting+status.Running+status.Parked != 0 || status.Behind != 0 {
			t.Errorf("status: %+v", status)
		}
		if left := b.ledger.names(runPrefix); left != nil {
			t.Errorf("left in the ledger: %q", left)
		}
	})
}

func TestRetryParkAndRetryAgain(t *testing.T) {
	inBubble(t, func(b *bench) {
		fails := true
		b.note.do = func(_ context.Context, e *Event) (string, error) {
			if fails && e.Name == BuildStarted {
				return "what it wrote", errNo
			}
			return "", nil
		}
		b.start(hookOn("h", buildEvents...))
		b.ledger.emit(of(b.ledger.build("b1", nil), api.Queued, api.Building, api.Succeeded)...)
		b.ledger.emit(of(b.ledger.build("b2", nil), api.Building)...)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, s := range b.states() {
			if !strings.Contains(s, "retrying") && !strings.HasPrefix(s, "h/3 waiting 0") {
				t.Errorf("after ten seconds: %s", s)
			}
		}
		b.settle()
		want := []string{"b1 build-submitted 1"}
		for try := range DefaultTries {
			want = append(want, fmt.Sprint("b1 build-started ", try+1))
		}
		want = append(want, "b1 build-succeeded 1") // it goes on behind a parked one
		told := slices.DeleteFunc(b.note.told(), func(s string) bool { return strings.HasPrefix(s, "b2") })
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		calls := slices.DeleteFunc(b.note.all(), func(c call) bool { return c.Build != "b1" || c.Name != BuildStarted })
		for i := 1; i < len(calls); i++ {
			full := time.Second << (i - 1)
			if waited := calls[i].at.Sub(calls[i-1].at); waited < full*3/4 || waited > full*5/4+50*time.Millisecond {
				t.Errorf("before try %d it waited %s, want about %s", i+1, waited, full)
			}
		}
		if diff := cmp.Diff([]string{"h/2 parked 8", "h/4 parked 8"}, b.states()); diff != "" {
			t.Fatalf("(-want +got)\n%s", diff)
		}
		run, err := b.engine.Run(b.t.Context(), "h/2")
		if err != nil {
			t.Fatal(err)
		}
		if run.Output != "what it wrote" || run.Error != "no" || run.Build != "b1" || run.Event != BuildStarted {
			t.Errorf("run: %+v", run)
		}

		// The build is pruned meanwhile, and the engine is another: the run has a copy.
		delete(b.ledger.builds, "b1")
		b.end()
		b.start(hookOn("h", buildEvents...))
		synctest.Wait()
		if pending, parked := b.engine.Counts(); pending != 0 || parked != 2 {
			t.Errorf("after a restart: %d pending, %d parked", pending, parked)
		}
		fails = false
		b.note.calls = nil
		var derivation string
		b.note.do = func(_ context.Context, e *Event) (string, error) {
			derivation = string(e.Build.Derivation)
			return "", nil
		}
		got, err := b.engine.Retry(b.t.Context(), &api.HookSelection{IDs: []string{"h/2"}})
		if err != nil || got.Count != 1 {
			t.Fatal(got, err)
		}
		b.settle()
		if diff := cmp.Diff([]string{"b1 build-started 1"}, b.note.told()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if !strings.Contains(derivation, "b1") {
			t.Errorf("the derivation is %q", derivation)
		}
		got, err = b.engine.Drop(b.t.Context(), &api.HookSelection{All: true})
		if err != nil || got.Count != 1 {
			t.Fatal(got, err)
		}
		b.settle()
		for _, prefix := range runPrefixes {
			if left := b.ledger.names(prefix); left != nil {
				t.Errorf("%s: left in the ledger: %q", prefix, left)
			}
		}
		if n := b.engine.details.Load(); n != 0 {
			t.Errorf("%d details are counted", n)
		}
	})
}

func TestSelections(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.note.do = func(context.Context, *Event) (string, error) { return "", Permanent(errNo) }
		b.limits.details = 2
		b.start(hookOn("h1", BuildStarted), hookOn("h2", BuildStarted))
		for i := range 5 {
			b.ledger.emit(of(b.ledger.build(fmt.Sprint("b", i), nil), api.Building)...)
		}
		b.settle()
		if n := len(b.note.all()); n != 10 {
			t.Errorf("%d tries of what fails for good, want 10", n)
		}
		if names := b.ledger.names(detailPrefix); len(names) != 2 {
			t.Errorf("details of %q are kept, want 2", names)
		}
		if seen := b.engine.Seen(); seen != 5 {
			t.Errorf("seen up to %d, want 5: parked runs hold nothing up", seen)
		}
		bad := []api.HookSelection{
			{},
			{All: true, Hook: "h1"},
			{IDs: []string{"h1"}},
			{IDs: []string{"h1/x"}},
			{IDs: []string{"h3/1"}},
			{IDs: []string{"h1/77"}},
			{Hook: "h3"},
		}
		for _, s := range bad {
			var answer *api.Error
			if _, err := b.engine.Retry(b.t.Context(), &s); !errors.As(err, &answer) {
				t.Errorf("%+v: %v", s, err)
			}
			if _, err := b.engine.Drop(b.t.Context(), &s); !errors.As(err, &answer) {
				t.Errorf("%+v: %v", s, err)
			}
		}
		if got, err := b.engine.Drop(b.t.Context(), &api.HookSelection{IDs: []string{"h1/2"}}); err != nil || got.Count != 1 {
			t.Error(got, err)
		}
		b.note.do = nil
		got, err := b.engine.Retry(b.t.Context(), &api.HookSelection{Hook: "h1"})
		if err != nil || !slices.Equal(got.IDs, []string{"h1/1", "h1/3", "h1/4", "h1/5"}) {
			t.Error(got, err)
		}
		b.settle()
		if pending, parked := b.engine.Counts(); pending != 0 || parked != 5 {
			t.Errorf("%d pending, %d parked", pending, parked)
		}
		if got, err := b.engine.Drop(b.t.Context(), &api.HookSelection{All: true}); err != nil || got.Count != 5 {
			t.Error(got, err)
		}
		if n := b.engine.details.Load(); n != 0 {
			t.Errorf("%d details are counted", n)
		}
	})
}

// TestRetryingRun: one that waits for its next try can be hurried and dropped.
func TestRetryingRun(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.limits.retryMin = 20 * time.Minute
		b.limits.retryMax = 20 * time.Minute
		b.note.do = func(context.Context, *Event) (string, error) { return "half", errNo }
		b.start(hookOn("h", BuildStarted))
		b.ledger.emit(of(b.ledger.build("b1", nil), api.Building)...)
		time.Sleep(time.Minute)
		synctest.Wait()
		run, err := b.engine.Run(b.t.Context(), "h/1")
		if err != nil || run.State != "retrying" || run.Output != "half" || run.NextTry == nil {
			t.Fatalf("%+v %v", run, err)
		}
		if _, err := b.engine.Retry(b.t.Context(), &api.HookSelection{All: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(b.note.all()); n != 2 {
			t.Errorf("%d tries, want 2", n)
		}
		if seen := b.engine.Seen(); seen != 0 {
			t.Errorf("seen %d: the run still needs the event", seen)
		}
		if _, err := b.engine.Drop(b.t.Context(), &api.HookSelection{IDs: []string{"h/1"}}); err != nil {
			t.Fatal(err)
		}
		if seen := b.engine.Seen(); seen != 1 || len(b.ledger.names(runPrefix)) != 0 {
			t.Errorf("seen %d, left %q", seen, b.ledger.names(runPrefix))
		}
		b.settle()
		if n := len(b.note.all()); n != 2 {
			t.Errorf("%d tries, want 2", n)
		}
	})
}

// TestStop: what is under way when the engine stops is carried out again, and that it
// was stopped is no try.
func TestStop(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.note.do = func(ctx context.Context, e *Event) (string, error) {
			if e.Event.Build == "b2" {
				<-ctx.Done()
				return "", ctx.Err()
			}
			return "", nil
		}
		hook := hookOn("h", buildEvents...)
		hook.Parallel = 2
		b.start(hook)
		for _, id := range []string{"b1", "b2"} {
			b.ledger.emit(of(b.ledger.build(id, nil), api.Queued, api.Building)...)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		b.end()
		b.ledger.emit(of("b2", api.Succeeded)...)
		b.note.do, b.note.calls = nil, nil
		b.start(hook)
		b.settle()
		want := []string{"b2 build-submitted 1", "b2 build-started 1", "b2 build-succeeded 1"}
		if diff := cmp.Diff(want, b.note.told()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestTimeoutAndPanic(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.note.do = func(ctx context.Context, e *Event) (string, error) {
			if e.Event.Build == "b2" {
				panic("oh")
			}
			<-ctx.Done()
			return strings.Repeat("x", 2*maxOutput), ctx.Err()
		}
		hook := hookOn("h", BuildStarted)
		hook.Tries, hook.Timeout = 1, time.Minute
		b.start(hook)
		b.ledger.emit(of(b.ledger.build("b1", nil), api.Building)...)
		b.ledger.emit(of(b.ledger.build("b2", nil), api.Building)...)
		b.settle()
		for id, want := range map[string]string{"h/1": "took longer than 1m0s: ", "h/2": "panic: oh"} {
			run, err := b.engine.Run(b.t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(run.Error, want) || len(run.Output) < 100 || len(run.Output) > maxOutput+10 {
				t.Errorf("%s: %q, %d bytes of output", id, run.Error, len(run.Output))
			}
		}
	})
}

func TestConfigurationChanges(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.ledger.emit(of(b.ledger.build("b0", nil), api.Building)...)
		fail := true
		b.note.do = func(context.Context, *Event) (string, error) {
			if fail {
				return "", Permanent(errNo)
			}
			return "", nil
		}
		old := hookOn("old", BuildStarted)
		b.start(old)
		b.settle()
		if told := b.note.told(); told != nil {
			t.Errorf("a new hook was told of the past: %q", told)
		}
		b.ledger.emit(of(b.ledger.build("b1", nil), api.Building)...)
		b.settle()

		// The old one goes on as it is configured now, and a new one is there.
		fail = false
		old.Events = append(old.Events, BuildSucceeded)
		if err := b.engine.SetHooks(b.t.Context(), []Config{old, hookOn("new", BuildStarted, BuildSucceeded)}, nil); err != nil {
			t.Fatal(err)
		}
		b.ledger.emit(of("b1", api.Succeeded)...)
		b.settle()
		if diff := cmp.Diff([]string{"b1 build-started 1", "b1 build-succeeded 1", "b1 build-succeeded 1"}, b.note.told()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if err := b.engine.SetHooks(b.t.Context(), []Config{{Name: "bad"}}, nil); err == nil {
			t.Error("a bad hook was taken")
		}
		if n := len(b.list().Hooks); n != 2 {
			t.Errorf("%d hooks after a bad configuration, want 2", n)
		}

		// The old one goes, with its parked run; also one that goes while nothing runs.
		if err := b.engine.SetHooks(b.t.Context(), []Config{hookOn("new", BuildStarted)}, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"cursor/new"}, b.ledger.names("hooks/")); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		b.end()
		b.start()
		if left := b.ledger.names("hooks/"); left != nil {
			t.Errorf("left in the ledger: %q", left)
		}
		b.ledger.emit(of("b1", api.Building)...)
		if seen := b.engine.Seen(); seen != b.ledger.LastEvent() {
			t.Errorf("without hooks, seen %d", seen)
		}
	})
}

// TestParkedHook has a hook that can't be set up at first: what happens meanwhile waits for it, across a restart.
func TestParkedHook(t *testing.T) {
	inBubble(t, func(b *bench) {
		parked := hookOn("hook", BuildStarted)
		parked.Problem = "no key"
		b.start(parked)
		b.settle()
		b.ledger.emit(of(b.ledger.build("b1", nil), api.Building)...)
		b.settle()
		if told := b.note.told(); told != nil {
			t.Errorf("it was told %q", told)
		}
		if h := b.list().Hooks[0]; h.Problem != "no key" || h.Behind == 0 {
			t.Errorf("its status is %+v", h)
		}
		b.end()
		b.start(parked)
		b.settle()
		if err := b.engine.SetHooks(b.t.Context(), []Config{hookOn("hook", BuildStarted)}, nil); err != nil {
			t.Fatal(err)
		}
		b.settle()
		if diff := cmp.Diff([]string{"b1 build-started 1"}, b.note.told()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestBacklog(t *testing.T) {
	inBubble(t, func(b *bench) {
		most := 0
		b.note.do = func(context.Context, *Event) (string, error) {
			time.Sleep(time.Millisecond)
			pending, _ := b.engine.Counts()
			most = max(most, pending)
			return "", nil
		}
		b.limits.window, b.limits.scan = 16, 10
		b.start(hookOn("h", BuildStarted))
		const builds = 1000
		var events []api.Event
		for i := range builds {
			events = append(events, of(b.ledger.build(fmt.Sprint("b", i), nil), api.Placed, api.Building)...)
		}
		b.ledger.emit(events...)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if behind := b.list().Hooks[0].Behind; behind == 0 {
			t.Error("it is not behind")
		}
		if seen := b.engine.Seen(); seen == 0 || seen > builds {
			t.Errorf("seen %d", seen)
		}
		b.settle()
		calls := b.note.all()
		if len(calls) != builds {
			t.Errorf("%d runs, want %d", len(calls), builds)
		}
		if !slices.IsSortedFunc(calls, func(a, b call) int { return int(a.Seq) - int(b.Seq) }) {
			t.Error("with one run at a time, they are not in the order of the events")
		}
		if most > b.limits.window {
			t.Errorf("%d runs in memory, want at most %d", most, b.limits.window)
		}
		if n := b.ledger.applies(); n > builds/2 {
			t.Errorf("%d changes of the ledger for %d runs", n, builds)
		}
	})
}

func TestUnwantedEventsCostNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.limits.unsaved = 1000
		tagged := hookOn("h", BuildStarted, MachineLost)
		tagged.Tags = map[string]string{"set": "nightly", "any": ""}
		b.start(tagged)
		b.ledger.build("other", map[string]string{"set": "nightly"})
		b.ledger.build("this", map[string]string{"set": "nightly", "any": "1"})
		before := b.ledger.applies()
		for range 900 {
			b.ledger.emit(of("other", api.Queued, api.Building)...)
			b.ledger.emit(of("unknown", api.Building)...)
			b.ledger.emit(api.Event{Kind: api.KindMachineLost, Machine: "m1"})
			time.Sleep(10 * time.Millisecond)
		}
		b.settle()
		if n := b.ledger.applies() - before; n > 4 {
			t.Errorf("%d changes of the ledger, want at most 4", n)
		}
		b.ledger.emit(of("this", api.Building)...)
		b.settle()
		if diff := cmp.Diff([]string{"this build-started 1"}, b.note.told()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// TestFullDisk: while the ledger takes nothing a hook waits, and then goes on.
func TestFullDisk(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.start(hookOn("h", BuildStarted))
		b.note.do = func(context.Context, *Event) (string, error) {
			b.ledger.refuse(errNo) // from the first run on
			return "", nil
		}
		for i := range 10 {
			b.ledger.emit(of(b.ledger.build(fmt.Sprint("b", i), nil), api.Building)...)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		stalled := len(b.note.all())
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(b.note.all()); n != stalled {
			t.Errorf("%d runs, then %d, though their ends can't be written", stalled, n)
		}
		b.note.do = nil
		b.ledger.refuse(nil)
		b.ledger.emit(of(b.ledger.build("b10", nil), api.Building)...)
		b.settle()
		if n := len(b.note.all()); n != 11 {
			t.Errorf("%d runs, want 11", n)
		}
		if left := b.ledger.names(runPrefix); left != nil {
			t.Errorf("left in the ledger: %q", left)
		}
	})
}

func TestNamesOf(t *testing.T) {
	for _, test := range []struct {
		name string
		ev   api.Event
		want []string
	}{
		{"submitted", api.Event{Kind: api.KindSubmitted, Build: "b", State: api.Queued}, []string{BuildSubmitted}},
		{"joins what is being built", api.Event{Kind: api.KindSubmitted, Build: "b", State: api.Building}, []string{BuildSubmitted, BuildStarted}},
		{"placed", api.Event{Build: "b", State: api.Placed}, nil},
		{"building", api.Event{Build: "b", State: api.Building}, []string{BuildStarted}},
		{"still building", api.Event{Kind: api.KindNote, Build: "b", State: api.Building}, nil},
		{"succeeded", api.Event{Build: "b", State: api.Succeeded}, []string{BuildSucceeded}},
		{"failed", api.Event{Build: "b", State: api.Failed}, []string{BuildFailed}},
		{"timed out", api.Event{Build: "b", State: api.TimedOut}, []string{BuildTimedOut}},
		{"dependency failed", api.Event{Build: "b", State: api.DependencyFailed}, []string{BuildDependencyFailed}},
		{"canceled", api.Event{Build: "b", State: api.Canceled}, []string{BuildCanceled}},
		{"missing inputs", api.Event{Kind: api.KindMissingInputs, Build: "b", State: api.Waiting}, []string{BuildMissingInputs}},
		{"lost", api.Event{Kind: api.KindMachineLost, Machine: "m"}, []string{MachineLost}},
		{"back", api.Event{Kind: api.KindMachineBack, Machine: "m"}, []string{MachineBack}},
		{"down", api.Event{Machine: "m", Reason: "down"}, nil},
		{"drained", api.Event{Kind: api.KindOperator, Machine: "m"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, namesOf(&test.ev)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	builtIns := map[string]BuiltIn{"note": &recorder{}}
	good := Config{Name: "a-1.x_y", Events: []string{BuildStarted}, Command: []string{"/bin/true"}}
	if err := good.Check(builtIns); err != nil {
		t.Error(err)
	}
	own := Config{Name: "_", Events: []string{BuildStarted}, BuiltIn: "other", Runner: &recorder{}}
	if err := own.Check(builtIns); err != nil {
		t.Error(err)
	}
	for _, test := range []struct {
		want   string
		change func(*Config)
	}{
		{`want a name`, func(c *Config) { c.Name = "a/b" }},
		{`want a name`, func(c *Config) { c.Name = "" }},
		{`want a name`, func(c *Config) { c.Name = strings.Repeat("a", 101) }},
		{`hook a-1.x_y: it has no events`, func(c *Config) { c.Events = nil }},
		{`no event is called "build-done"; there are build-submitted, `, func(c *Config) { c.Events = []string{"build-done"} }},
		{`a command and a built-in`, func(c *Config) { c.BuiltIn = "note" }},
		{`neither a command nor a built-in`, func(c *Config) { c.Command = nil }},
		{`no built-in is called "x"`, func(c *Config) { c.Command, c.BuiltIn = nil, "x" }},
		{`command "bin/x": want an absolute`, func(c *Config) { c.Command = []string{"bin/x"} }},
		{`command "": want an absolute`, func(c *Config) { c.Command = []string{""} }},
		{`NUL`, func(c *Config) { c.Command = []string{"x", "\x00"} }},
		{`timeout -1s`, func(c *Config) { c.Timeout = -time.Second }},
		{`parallel 10001`, func(c *Config) { c.Parallel = 10001 }},
		{`tries -1`, func(c *Config) { c.Tries = -1 }},
	} {
		c := good
		test.change(&c)
		if err := c.Check(builtIns); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
	if _, err := New(Options{Hooks: []Config{good, good}}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("twice: %v", err)
	}
}
