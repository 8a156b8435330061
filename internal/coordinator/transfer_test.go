package coordinator

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/store/derivation"
)

// TestOwnLoad has a machine that its own builds keep busy: it gets more of them until its slots are
// taken, and none while others keep it busy too.
func TestOwnLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) {
			c.Machines[0].ParallelBuilds, c.Machines[0].OverloadThreshold = 4, 0.8
			c.Limits.PollInterval = 10 * time.Second
		}, "m1")
		says := func(load, own float64) {
			f.agents["m1"].set(func(a *fakeAgent) {
				a.info = func(i *agentapi.Machine) { i.Cores, i.Load, i.OwnLoad = 2, load, own }
			})
			time.Sleep(20 * time.Second)
		}
		says(1.5, 1.4)
		for _, name := range []string{"one", "two", "three"} {
			f.submit(f.drv(name, "hold"))
		}
		time.Sleep(time.Second)
		if n := f.statusOf("m1").Running; n != 3 {
			t.Errorf("%d builds run, want all 3", n)
		}
		says(5, 3) // of which others make 1 per core
		id := f.submit(f.drv("four", ""))[0]
		time.Sleep(time.Second)
		if w := f.why(id); len(w.Machines) != 1 || w.Machines[0].Actual != "load 1.00 per core besides 1.50 of its own builds" {
			t.Errorf("got %+v", w.Machines)
		}
		if got := f.statusOf("m1").Refuses; !strings.Contains(got, "besides 1.50 of its own builds, want load below 0.80") {
			t.Errorf("it refuses %q", got)
		}
		says(4, 3)
		f.awaitState(id, api.Succeeded)
		f.releaseAll("one", "two", "three")
		f.idle()
	})
}

// TestGather has a build need what only a machine behind a slow link has: that it must first come home
// counts on all others.
func TestGather(t *testing.T) {
	f := newFarm(t, nil, "near", "far")
	f.ready("near", "far")
	base := f.derive(&derivation.Derivation{System: "x86_64-linux", Env: []derivation.EnvVar{{Name: "requiredSystemFeatures", Value: "on-far"}}}, "base", "")
	other := f.drv("other", "hold")
	top := f.drv("top", "", base, other)
	f.submit(top)
	f.until("base was built, and is kept", func() (kept bool) {
		if err := f.c.do(t.Context(), func(l *loop) { kept = l.tasks[base] != nil && l.tasks[base].kept != nil }); err != nil {
			t.Fatal(err)
		}
		return kept
	})
	if err := f.c.do(t.Context(), func(l *loop) {
		far := l.byName["far"]
		far.peer.FetchBandwidth.Set(1)
		task := l.tasks[top]
		b := task.schedulerBuild(l)
		l.schedulerMachines(l.now())
		made, _ := l.inventory.Get(f.output(base))
		on, elsewhere := l.missing(&b, "far"), l.missing(&b, "near")
		if on.Gather != 0 || elsewhere.Gather != time.Duration(made.Info.NARSize)*time.Second || elsewhere.Bytes != on.Bytes+made.Info.NARSize {
			t.Errorf("far lacks %+v, near %+v", on, elsewhere)
		}
		if got := l.near(&b); !slices.Equal(got, []string{"far"}) {
			t.Errorf("near is %q", got)
		}
	}); err != nil {
		t.Fatal(err)
	}
	f.releaseAll("other")
	f.idle()
}
