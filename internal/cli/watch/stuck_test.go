package watch

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
)

func (f *fakeCoordinator) setVerdicts(v ...api.MachineVerdict) {
	f.lockedChange(func() { f.verdicts = v })
}

// TestTellsOfBuildsWithoutAMachine says in a pipe why nothing happens: once, and again when the reason is
// another.
func TestTellsOfBuildsWithoutAMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCoordinator(fakeBuild("1", "hello", ""), fakeBuild("2", "world", ""))
		f.builds["1"].Reason = "no machine can take it: none builds for riscv64-linux"
		f.setVerdicts(api.MachineVerdict{Machine: "alpha", Rule: "system"})
		got, _, err := watchFake(t, f, []string{"1", "2"}, false, nil, func() {
			time.Sleep(time.Minute)
			f.setVerdicts(api.MachineVerdict{Machine: "alpha", Rule: "system"}, api.MachineVerdict{Machine: "beta", Rule: "available", Actual: "down: no route"})
			time.Sleep(time.Minute)
			f.setVerdicts(api.MachineVerdict{Machine: "beta", Rule: "slots", Actual: "1 of 1 taken"})
			time.Sleep(time.Minute)
			f.happen("1", api.Succeeded, "", nil)
			f.happen("2", api.Succeeded, "", nil)
		})
		if err != nil {
			t.Fatal(err)
		}
		want := "waiting   hello: no machine can take it: none builds for riscv64-linux\n" +
			"waiting   hello: no machine that may take it is there: beta: down: no route\n" +
			"built     hello (was there already)\nbuilt     world (was there already)\n"
		if diff := cmp.Diff(want, withoutBeats(got)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// withoutBeats leaves out the lines that say that builds go on.
func withoutBeats(shown string) string {
	return regexp.MustCompile("(?m)^.*builds? done, .*\n").ReplaceAllString(shown, "")
}

// TestGivesUpWithoutAMachine has a limit, for which a machine that is only busy does not count.
func TestGivesUpWithoutAMachine(t *testing.T) {
	for _, keepGoing := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeCoordinator(fakeBuild("1", "system", ""), fakeBuild("2", "kernel", "1"), fakeBuild("3", "other", ""))
			f.builds["3"].State, f.builds["2"].System = api.Building, "riscv64-linux"
			f.builds["1"].State = api.Waiting
			f.setVerdicts(api.MachineVerdict{Machine: "alpha", Rule: "slots", Actual: "1 of 1 taken"})
			var out bytes.Buffer
			w := New(Options{
				Client: f, Next: 1, Show: inLines(&out), KeepGoing: keepGoing, Patience: time.Minute, NoMachineWithin: 10 * time.Minute,
			}, []*api.Build{f.builds["1"], f.builds["3"]})
			begun := time.Now()
			var script sync.WaitGroup
			defer script.Wait()
			script.Go(func() {
				f.happen("2", api.Queued, "", nil)
				time.Sleep(time.Hour)
				f.setVerdicts(api.MachineVerdict{Machine: "alpha", Rule: "available", Actual: "draining"})
				time.Sleep(time.Hour)
				f.happen("3", api.Succeeded, "", nil)
			})
			if err := w.Run(t.Context()); err != nil || !w.NoMachine() {
				t.Fatalf("%v, without a machine: %v", err, w.NoMachine())
			}
			want := []string{"1", "3"}
			if keepGoing {
				want = []string{"1"}
			} else if took := time.Since(begun); took < time.Hour+10*time.Minute || took > time.Hour+11*time.Minute {
				t.Errorf("it took %s", took)
			}
			if got := slices.Sorted(slices.Values(f.canceled)); !slices.Equal(got, want) {
				t.Errorf("canceled %v, want %v", got, want)
			}
			if text := "given up  kernel: no machine for it within 10m00s: no machine that may take it is there: alpha: draining\n"; !strings.Contains(out.String(), text) {
				t.Errorf("it said:\n%s", out.String())
			}
		})
	}
}

// TestAttemptsSayWhy has the reason of each attempt in the line about the next one, and where the folder
// of the last one was kept.
func TestAttemptsSayWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCoordinator(fakeBuild("1", "hello", ""))
		failed := func(text string) *api.Failure {
			return &api.Failure{Culprit: api.CulpritMachine, Phase: api.Building, Machine: "alpha", Message: text}
		}
		try := func(n int) { f.lockedChange(func() { f.builds["1"].Attempt = n }) }
		got, _, err := watchFake(t, f, []string{"1"}, false, nil, func() {
			f.happen("1", api.Building, "alpha", nil)
			f.happen("1", api.Queued, "", failed("no space left on device; its last lines were:\nx"))
			try(2)
			f.happen("1", api.Building, "", nil)
			f.happen("1", api.Queued, "", failed(strings.Repeat("long ", 100)))
			try(3)
			f.happen("1", api.Building, "", nil)
			f.happen("1", api.Failed, "", &api.Failure{Culprit: api.CulpritDerivation, Machine: "alpha", Message: "exit code 1", KeptIn: "/tmp/kept"})
		})
		if err != nil {
			t.Fatal(err)
		}
		want := "building  hello on alpha\n" +
			"building  hello on alpha (attempt 2; the first: alpha: no space left on device)\n" +
			"building  hello on alpha (attempt 3; attempt 2: alpha: " + strings.Repeat("long ", 38) + "lo…)\n" +
			"failed    hello on alpha: exit code 1\n  │ compiling 1\n  │ error: no\n          the whole log: lighter builds log 1\n" +
			"          its folder was kept on alpha: /tmp/kept\n"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}
