package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/store"
)

// fakeCoordinator plays a script of events to its followers. Events become
// visible one by one; its builds are as of the events that were played.
type fakeCoordinator struct {
	mu       sync.Mutex
	builds   map[string]*api.Build
	events   []api.Event
	canceled []string
	down     bool
	verdicts []api.MachineVerdict // of all builds
	changed  chan struct{}
}

func newFakeCoordinator(builds ...*api.Build) *fakeCoordinator {
	f := &fakeCoordinator{builds: make(map[string]*api.Build), changed: make(chan struct{})}
	for _, b := range builds {
		f.builds[b.ID] = b
	}
	return f
}

func (f *fakeCoordinator) lockedChange(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	close(f.changed)
	f.changed = make(chan struct{})
}

// happen makes an event.
func (f *fakeCoordinator) happen(id string, state api.State, machine string, failure *api.Failure) {
	f.lockedChange(func() {
		b := f.builds[id]
		b.State, b.Failure = state, failure
		if machine != "" {
			b.Machine, b.Attempt = machine, 1
		}
		f.events = append(f.events, api.Event{
			Seq: uint64(len(f.events) + 1), Build: id, State: state, Machine: b.Machine, Attempt: b.Attempt,
			Failure: failure, Time: time.Now(),
		})
	})
}

func (f *fakeCoordinator) setDown(down bool) { f.lockedChange(func() { f.down = down }) }

func (f *fakeCoordinator) Build(_ context.Context, id string) (*api.Build, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, api.ErrUnavailable
	}
	b, ok := f.builds[id]
	if !ok {
		return nil, api.ErrNotFound
	}
	c := *b
	return &c, nil
}

func (f *fakeCoordinator) Cancel(_ context.Context, ids ...string) error {
	f.mu.Lock()
	f.canceled = append(f.canceled, ids...)
	f.mu.Unlock()
	for _, id := range ids {
		f.happen(id, api.Canceled, "", nil)
	}
	return nil
}

func (f *fakeCoordinator) Status(context.Context) (*api.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, api.ErrUnavailable
	}
	return &api.Status{}, nil
}

func (f *fakeCoordinator) Outlook(context.Context, *api.Selection) (*api.Outlook, error) {
	return &api.Outlook{}, nil
}

func (f *fakeCoordinator) Why(ctx context.Context, id string) (*api.Why, error) {
	b, err := f.Build(ctx, id)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.Why{Build: *b, Summary: b.Reason, Machines: f.verdicts}, nil
}

func (f *fakeCoordinator) LogTail(_ context.Context, id string, _ int64) ([]byte, error) {
	return []byte("compiling " + id + "\nerror: \x1b[31mno\x1b[0m\n"), nil
}

func (f *fakeCoordinator) Follow(ctx context.Context, from uint64, fn func(*api.Event) error, _ ...string) error {
	for {
		f.mu.Lock()
		down, changed := f.down, f.changed
		var ev *api.Event
		if from <= uint64(len(f.events)) {
			c := f.events[from-1]
			ev = &c
		}
		f.mu.Unlock()
		switch {
		case down:
			return api.ErrUnavailable
		case ev != nil:
			if err := fn(ev); err != nil {
				return err
			}
			from++
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func fakeBuild(id, name, parent string) *api.Build {
	return &api.Build{
		Request: api.Request{ID: id, Derivation: store.Path("/gnu/store/" + strings.Repeat("0", 32) + "-" + name + ".drv")},
		State:   api.Queued, Parent: parent,
	}
}

// watchFake runs a watcher over the wanted builds while script plays, and returns
// what was shown and how the watcher ended.
func watchFake(t *testing.T, f *fakeCoordinator, wanted []string, keepGoing bool, signals chan os.Signal, script func()) (string, *Watcher, error) {
	t.Helper()
	var out bytes.Buffer
	var builds []*api.Build
	for _, id := range wanted {
		b := *f.builds[id]
		builds = append(builds, &b)
	}
	w := New(Options{Client: f, Next: 1, Show: inLines(&out), Signals: signals, KeepGoing: keepGoing, Patience: time.Minute}, builds)
	go script()
	err := w.Run(t.Context())
	return out.String(), w, err
}

func inLines(w io.Writer) *display.Live { return display.NewLive(w, func(string) string { return "" }) }

func TestShowsABuildAndWhatItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCoordinator(fakeBuild("1", "hello", ""), fakeBuild("2", "gcc", "1"), fakeBuild("3", "libc", "2"), fakeBuild("9", "other", ""))
		got, _, err := watchFake(t, f, []string{"1"}, false, nil, func() {
			f.happen("3", api.Building, "alpha", nil)
			f.happen("9", api.Building, "alpha", nil)
			f.happen("3", api.Succeeded, "", nil)
			f.happen("2", api.Building, "beta", nil)
			f.happen("2", api.Succeeded, "", nil)
			f.happen("1", api.Building, "alpha", nil)
			f.happen("1", api.Succeeded, "", nil)
		})
		if err != nil {
			t.Fatal(err)
		}
		want := "building  libc on alpha\nbuilt     libc on alpha\nbuilding  gcc on beta\nbuilt     gcc on beta\n" +
			"building  hello on alpha\nbuilt     hello on alpha\n"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

func TestShowsTheLogOfAFailureAndCancelsTheRest(t *testing.T) {
	failure := &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: "exit code 1"}
	for _, keepGoing := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeCoordinator(fakeBuild("1", "hello", ""), fakeBuild("2", "world", ""))
			got, w, err := watchFake(t, f, []string{"1", "2"}, keepGoing, nil, func() {
				f.happen("1", api.Failed, "alpha", failure)
				if keepGoing {
					f.happen("2", api.Succeeded, "alpha", nil)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			want := "failed    hello on alpha: exit code 1\n  │ compiling 1\n  │ error: no\n          the whole log: lighter builds log 1\n"
			if keepGoing {
				want += "built     world on alpha\n"
			} else {
				want += "canceled  world\n"
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("keepGoing %v: -want +got:\n%s", keepGoing, diff)
			}
			others := map[bool]api.State{false: api.Canceled, true: api.Succeeded}
			if all := w.Builds(); all[0].State != api.Failed || all[1].State != others[keepGoing] {
				t.Errorf("keepGoing %v: builds are %s and %s", keepGoing, all[0].State, all[1].State)
			}
		})
	}
}

// TestCountsWhatNeedsAFailure has one line for all that was not made, and ends with what failed
// itself; what failed for somebody else is named once.
func TestCountsWhatNeedsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := fakeBuild("2", "bad", "1")
		bad.Dependents = 114
		f := newFakeCoordinator(fakeBuild("1", "hello", ""), bad, fakeBuild("3", "world", ""), fakeBuild("4", "good", ""), fakeBuild("5", "far", ""), fakeBuild("6", "further", ""))
		needs := func(name string) *api.Failure {
			return &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Waiting, Kind: api.KindDependency, Input: fakeBuild("", name, "").Derivation}
		}
		got, w, err := watchFake(t, f, []string{"1", "3", "4", "5", "6"}, true, nil, func() {
			f.happen("2", api.Building, "alpha", nil)
			f.happen("2", api.Failed, "alpha", &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: "exit code 1"})
			f.happen("1", api.DependencyFailed, "", needs("bad"))
			f.happen("3", api.DependencyFailed, "", needs("bad"))
			f.happen("5", api.DependencyFailed, "", needs("another"))
			f.happen("6", api.DependencyFailed, "", needs("another"))
			f.happen("4", api.Succeeded, "alpha", nil)
		})
		if err != nil {
			t.Fatal(err)
		}
		want := `building  bad on alpha
failed    bad on alpha: exit code 1
  │ compiling 2
  │ error: no
          the whole log: lighter builds log 2
          + 114 that need it
not built far: needs another, which failed
built     good on alpha
`
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if got, want := w.Summary(), "1 of 6 builds done, 1 failed, 4 not built, 0s"; got != want {
			t.Errorf("summary %q, want %q", got, want)
		}
		want = `failed    bad on alpha: exit code 1
          lighter builds show 2  + 114 that need it
failed    another, which was not asked for here
          lighter builds list --derivation ` + string(fakeBuild("", "another", "").Derivation) + "  + 2 that need it"
		if diff := cmp.Diff(want, strings.Join(w.Failures(), "\n")); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// TestOneFailureIsNotSaidTwice ends with nothing more where the failure is what was shown last.
func TestOneFailureIsNotSaidTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCoordinator(fakeBuild("1", "hello", ""))
		_, w, err := watchFake(t, f, []string{"1"}, false, nil, func() {
			f.happen("1", api.Failed, "alpha", &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: "exit code 1"})
		})
		if lines := w.Failures(); err != nil || lines != nil {
			t.Errorf("%v, %q", err, lines)
		}
	})
}

func TestOutlivesTheCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCoordinator(fakeBuild("1", "hello", ""))
		got, _, err := watchFake(t, f, []string{"1"}, false, nil, func() {
			f.happen("1", api.Building, "alpha", nil)
			time.Sleep(time.Second)
			f.setDown(true)
			time.Sleep(20 * time.Second)
			f.happen("1", api.Succeeded, "", nil)
			f.setDown(false)
		})
		if err != nil {
			t.Fatal(err)
		}
		want := "building  hello on alpha\nthe coordinator went away; waiting for it to come back\nthe coordinator is back\nbuilt     hello on alpha\n"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

func TestGivesUpOnACoordinatorThatStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCoordinator(fakeBuild("1", "hello", ""))
		_, _, err := watchFake(t, f, []string{"1"}, false, nil, func() { f.setDown(true) })
		if code, _ := command.ExitCode(err); code != command.ExitNoAnswer || !strings.Contains(err.Error(), "lighter builds list") {
			t.Errorf("error %v, code %d", err, code)
		}
	})
}

func TestInterruptCancelsThenLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCoordinator(fakeBuild("1", "hello", ""), fakeBuild("2", "world", ""))
		signals := make(chan os.Signal, 2)
		got, _, err := watchFake(t, f, []string{"1", "2"}, false, signals, func() { signals <- os.Interrupt })
		if !errors.Is(err, command.ErrInterrupted) {
			t.Errorf("error %v", err)
		}
		want := "canceling the builds; interrupt again to leave at once\ncanceled  hello\ncanceled  world\n"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if fmt.Sprint(f.canceled) != "[1 2]" {
			t.Errorf("canceled %v", f.canceled)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := &stubborn{newFakeCoordinator(fakeBuild("1", "hello", ""))}
		signals := make(chan os.Signal, 2)
		signals <- os.Interrupt
		signals <- os.Interrupt
		w := New(Options{Client: f, Next: 1, Show: inLines(io.Discard), Signals: signals, Patience: time.Minute}, []*api.Build{f.builds["1"]})
		if err := w.Run(t.Context()); !errors.Is(err, command.ErrInterrupted) {
			t.Errorf("error %v", err)
		}
	})
}

// TestOnlyLooks watches builds of others: a failure cancels none of them, nor does an interrupt.
func TestOnlyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := fakeBuild("3", "old", "")
		done.State = api.Succeeded
		f := newFakeCoordinator(fakeBuild("1", "hello", ""), fakeBuild("2", "world", ""), done)
		var out bytes.Buffer
		signals := make(chan os.Signal, 1)
		w := New(Options{Client: f, Next: 1, Show: inLines(&out), Signals: signals, OnlyLooks: true, Patience: time.Minute},
			[]*api.Build{fakeBuild("1", "hello", ""), fakeBuild("2", "world", ""), done})
		over := make(chan error)
		go func() { over <- w.Run(t.Context()) }()
		f.happen("1", api.Failed, "alpha", &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: "exit code 1"})
		synctest.Wait()
		signals <- os.Interrupt
		if err := <-over; !errors.Is(err, command.ErrInterrupted) {
			t.Errorf("error %v", err)
		}
		if got := out.String(); !strings.HasPrefix(got, "failed    hello on alpha: exit code 1\n") || strings.Contains(got, "old") || len(f.canceled) > 0 {
			t.Errorf("shown %q, canceled %v", got, f.canceled)
		}
	})
}

// stubborn does not cancel.
type stubborn struct{ *fakeCoordinator }

func (*stubborn) Cancel(context.Context, ...string) error { return nil }
