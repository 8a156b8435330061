package coordinator

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/mailbox"
	"lighter/internal/coordinator/remote"
)

// lostFarm has a build under way on a machine that is cut off and lost, while the build
// goes on there. It returns the build as it was there.
func lostFarm(t *testing.T, script string, names ...string) (*farm, *api.Build) {
	t.Helper()
	f := newFarm(t, func(c *Config) { c.Limits.MachineLostAfter = 300 * time.Millisecond }, names...)
	id := f.submit(f.drv("one", script))[0]
	b := f.awaitState(id, api.Building)
	a := f.agents[b.Machine]
	<-a.held
	a.cutLink(true)
	return f, b
}

// finishAway has the build end on the machine that is away.
func (f *farm) finishAway(b *api.Build) {
	f.t.Helper()
	a := f.agents[b.Machine]
	a.release("one")
	f.until("it is done there", func() bool { return a.count("one") == 1 })
}

func (f *farm) log(b *api.Build) string {
	f.t.Helper()
	var log strings.Builder
	if err := f.c.WriteLog(f.t.Context(), &log, b); err != nil {
		f.t.Error(err)
	}
	return log.String()
}

// TestLostMachineBringsResult shows that what a machine built which was lost is used, while
// the build waits for another.
func TestLostMachineBringsResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := lostFarm(t, "log=a hold log=b", "m1")
		f.await(b.ID, func(b *api.Build) bool { return b.State == api.Queued && b.Failure != nil })
		f.finishAway(b)
		f.agents["m1"].up()
		got := f.awaitState(b.ID, api.Succeeded)
		if got.Attempt != 2 || f.agents["m1"].count("one") != 1 || !f.valid(f.output(got.Derivation)) {
			t.Errorf("attempt %d, built %d times", got.Attempt, f.agents["m1"].count("one"))
		}
		if log := f.log(got); log != "a\nb\n" {
			t.Errorf("log %q", log)
		}
		f.idle()
	})
}

// TestLostMachineGoesOn shows that a build which still runs on the machine is taken up again
// there, as the attempt that it is.
func TestLostMachineGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := lostFarm(t, "log=a hold log=b", "m1")
		f.await(b.ID, func(b *api.Build) bool { return b.State == api.Queued && b.Failure != nil })
		f.agents["m1"].up()
		f.await(b.ID, func(b *api.Build) bool {
			return b.State == api.Building && strings.Contains(f.history(b.ID), "is still building it")
		})
		f.releaseAll("one")
		got := f.awaitState(b.ID, api.Succeeded)
		if got.Attempt != 1 || f.agents["m1"].count("one") != 1 {
			t.Errorf("attempt %d, built %d times", got.Attempt, f.agents["m1"].count("one"))
		}
		if log := f.log(got); log != "a\nb\n" {
			t.Errorf("log %q", log)
		}
		f.idle()
	})
}

// TestLostMachineOvertakes has the machine come back with the result while another one builds
// the same: that one is stopped, and its number says that what it reports late is not believed.
func TestLostMachineOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := lostFarm(t, "log=a hold log=b", "m1", "m2")
		second := f.await(b.ID, func(b *api.Build) bool { return b.State == api.Building && b.Attempt == 2 })
		if second.Machine == b.Machine {
			t.Fatalf("the second attempt is on %s too", b.Machine)
		}
		<-f.agents[second.Machine].held
		f.finishAway(b)
		f.agents[b.Machine].up()
		got := f.awaitState(b.ID, api.Succeeded)
		if got.Attempt != 3 || got.Machine != b.Machine || f.agents[second.Machine].count("one") != 0 {
			t.Errorf("attempt %d on %s, %s built it %d times", got.Attempt, got.Machine, second.Machine, f.agents[second.Machine].count("one"))
		}
		if log := f.log(got); log != "a\nb\n" {
			t.Errorf("log %q", log)
		}
		f.idle()
	})
}

// TestLostMachineTooLate has the machine come back with a result that is at home by then.
func TestLostMachineTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := lostFarm(t, "hold", "m1", "m2")
		second := f.await(b.ID, func(b *api.Build) bool { return b.State == api.Building && b.Attempt == 2 })
		f.agents[second.Machine].release("one")
		if got := f.awaitState(b.ID, api.Succeeded); got.Machine != second.Machine {
			t.Errorf("it ended on %s", got.Machine)
		}
		f.finishAway(b)
		f.agents[b.Machine].up()
		f.idle() // it was told to forget it
	})
}

// TestLostMachineIncomplete has the machine come back with a result that lacks an output.
func TestLostMachineIncomplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := lostFarm(t, "hold", "m1", "m2")
		second := f.await(b.ID, func(b *api.Build) bool { return b.State == api.Building && b.Attempt == 2 })
		f.finishAway(b)
		f.agents[b.Machine].set(func(a *fakeAgent) { a.builds[b.ID].status.Outputs = nil })
		f.agents[b.Machine].up()
		f.until("it was told to forget it", func() bool { return f.agents[b.Machine].knows() == 0 })
		f.agents[second.Machine].release("one")
		if got := f.awaitState(b.ID, api.Succeeded); got.Machine != second.Machine || got.Attempt != 2 {
			t.Errorf("attempt %d ended on %s", got.Attempt, got.Machine)
		}
		f.idle()
	})
}

// TestLostMachineLeavesAgain has the machine vanish while its result is fetched: the build
// goes on as after any attempt.
func TestLostMachineLeavesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := lostFarm(t, "hold", "m1", "m2")
		second := f.await(b.ID, func(b *api.Build) bool { return b.State == api.Building && b.Attempt == 2 })
		f.finishAway(b)
		away := f.agents[b.Machine]
		fetching := make(chan struct{}, 1)
		away.set(func(a *fakeAgent) {
			a.onExport = func(ctx context.Context) {
				a.cutLink(true)
				<-ctx.Done()
				mailbox.Signal(fetching)
			}
		})
		away.up()
		<-fetching
		f.agents[second.Machine].release("one")
		if got := f.awaitState(b.ID, api.Succeeded); got.Machine != second.Machine || got.Attempt != 4 {
			t.Errorf("attempt %d ended on %s", got.Attempt, got.Machine)
		}
		away.set(func(a *fakeAgent) { a.onExport = nil })
		away.up()
		f.idle()
	})
}

// TestCrashWhileResultIsFetched has the coordinator die while it fetches what a machine came
// back with: the next one goes on with that.
func TestCrashWhileResultIsFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := lostFarm(t, "hold", "m1")
		f.await(b.ID, func(b *api.Build) bool { return b.State == api.Queued && b.Failure != nil })
		f.finishAway(b)
		a := f.agents["m1"]
		fetching := make(chan struct{}, 1)
		a.set(func(a *fakeAgent) {
			a.onExport = func(ctx context.Context) {
				mailbox.Signal(fetching)
				<-ctx.Done()
			}
		})
		a.up()
		<-fetching
		f.awaitState(b.ID, api.Fetching)
		f.crash()
		a.set(func(a *fakeAgent) { a.onExport = nil })
		a.cutLink(false)
		f.start()
		if got := f.awaitState(b.ID, api.Succeeded); got.Attempt != 2 || a.count("one") != 1 {
			t.Errorf("attempt %d, built %d times", got.Attempt, a.count("one"))
		}
		f.idle()
	})
}

func TestComplete(t *testing.T) {
	f := unstarted(t)
	n, err := headstore.New(f.head).Node(t.Context(), f.drv("one", ""))
	if err != nil {
		t.Fatal(err)
	}
	if remote.Complete(n, &agentapi.BuildStatus{State: agentapi.Succeeded, Derivation: n.Path}) {
		t.Error("a result without outputs counts")
	}
}
