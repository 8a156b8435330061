package coordinator

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
)

func TestBuild(t *testing.T) {
	f := newFarm(t, nil, "m1")
	drv := f.drv("one", "log=hello")
	id := f.submit(drv)[0]
	b := f.awaitFinal(id)
	if b.State != api.Succeeded || b.Machine != "m1" || b.Attempt != 1 || !f.valid(f.output(drv)) {
		t.Errorf("got %+v, want it to be built on m1 and its output at home", b)
	}
	want := []api.State{api.Queued, api.Placed, api.Sending, api.Building, api.Fetching, api.Succeeded}
	if diff := cmp.Diff(want, f.states(id)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if b.LogSize != 6 || b.SentBytes == 0 || b.FetchBytes == 0 || b.OutputSize == 0 || b.Stopped == nil || b.Started == nil {
		t.Errorf("sizes and times are missing in %+v", b)
	}
	f.idle()
}

// TestSlotIsFreeWhileOutputsTravel has outputs be on their way home for long: meanwhile others
// build where they were made.
func TestSlotIsFreeWhileOutputsTravel(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.Machines[0].ParallelBuilds = 1 }, "m1")
	travels, arrived := make(chan struct{}), make(chan struct{})
	f.agents["m1"].set(func(a *fakeAgent) {
		once := sync.OnceFunc(func() {
			close(travels)
			<-arrived
		})
		a.onExport = func(context.Context) { once() }
	})
	first := f.submit(f.drv("first", ""))[0]
	<-travels
	if b := f.awaitState(first, api.Fetching); b.Machine != "m1" {
		t.Errorf("it is fetched from %q", b.Machine)
	}
	second := f.submit(f.drv("second", "hold"))[0]
	f.awaitState(second, api.Building)
	if s := f.statusOf("m1"); s.Running != 1 {
		t.Errorf("%d slots are taken, want that of the second build", s.Running)
	}
	close(arrived)
	f.awaitState(first, api.Succeeded)
	f.releaseAll("second")
	f.awaitState(second, api.Succeeded)
	f.idle()
}

// TestGivenClock has builds and machines' standing be timed by the clock that is given.
func TestGivenClock(t *testing.T) {
	var now atomic.Int64 // seconds since 1970
	start := time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)
	now.Store(start.Unix())
	f := newFarm(t, func(c *Config) { c.Now = func() time.Time { return time.Unix(now.Load(), 0).UTC() } }, "m1", "m2")
	b := f.awaitState(f.submit(f.drv("one", ""))[0], api.Succeeded)
	if !b.Submitted.Equal(start) || !b.Stopped.Equal(start) {
		t.Errorf("submitted at %s, stopped at %s, want %s", b.Submitted, b.Stopped, start)
	}
	m := f.machine("m1")
	if err := f.c.do(t.Context(), func(l *loop) { m.quarantine(l, "for a test") }); err != nil {
		t.Fatal(err)
	}
	if until := f.statusOf("m1").QuarantinedUntil; until == nil || !until.Equal(start.Add(f.c.limits.QuarantineTime)) {
		t.Errorf("in quarantine until %v", until)
	}
	now.Store(start.Add(f.c.limits.QuarantineTime).Unix())
	f.until("its quarantine is over", func() bool {
		f.c.post(func(l *loop) { l.placing = true })
		return f.statusOf("m1").Quarantined == ""
	})
	f.idle()
}
