package coordinator

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
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
