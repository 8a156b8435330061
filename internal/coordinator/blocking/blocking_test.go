package blocking

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lighter/internal/api"
	"lighter/internal/coordinator/outlook"
	"lighter/internal/coordinator/reserve"
	"lighter/internal/ledger"
	"lighter/scheduler"
	"lighter/scheduler/forecast"
)

// viewOf returns a forecast of a build and another that needs it.
func viewOf(t *testing.T, now func() time.Time, ids ...string) *outlook.View {
	t.Helper()
	s := &outlook.Snapshot{Farm: forecast.Farm{
		Now: now(), Machines: []scheduler.Machine{{Name: "m", Systems: []string{"s"}, Slots: 1, Speed: 1, FreeDisk: -1}},
	}}
	for i, id := range ids {
		task := forecast.Task{Build: scheduler.Build{ID: id, System: "s", Expected: time.Hour}}
		if i > 0 {
			task.Inputs = []int32{int32(i - 1)}
		}
		s.Tasks, s.Builds = append(s.Tasks, task), append(s.Builds, outlook.Build{ID: id, Task: int32(i)})
	}
	s.Needs, s.Unmeasured = make([]reserve.Needs, len(ids)), make([]bool, len(ids))
	o := outlook.New(now, func(context.Context) (*outlook.Snapshot, error) { return s, nil })
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { o.Run(ctx); close(over) }()
	defer func() { cancel(); <-over }()
	v := o.Ask(t.Context())
	for !v.Told() {
		v = o.Ask(t.Context())
	}
	return v
}

// TestAsk asks again and again while time passes, and what can be told comes and goes.
func TestAsk(t *testing.T) {
	clock := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return clock }
	l, err := ledger.Open("ledger", ledger.Options{FS: vfs.NewMem(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	ids := []string{"00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"}
	record := func(id string, state api.State, create bool) {
		t.Helper()
		b := &api.Build{
			Request: api.Request{ID: id, Derivation: "/gnu/store/00000000000000000000000000000000-a.drv"}, System: "s", State: state, Submitted: clock,
		}
		if state.Final() {
			b.Stopped = &clock
		}
		if _, err := l.Apply(t.Context(), []ledger.Change{{Build: b, Create: create}}, true); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		record(id, api.Queued, true)
	}
	told, untold := viewOf(t, now, ids...), &outlook.View{Unknown: "it is being worked out"}
	view, looks := untold, 0
	b := New(now, func(context.Context) *outlook.View { looks++; return view }, l)
	ask := func(what string, builds int, unknown string, wantLooks int) {
		t.Helper()
		got, err := b.Ask(t.Context(), "", 10)
		if err != nil || len(got.Builds) != builds || got.Unknown != unknown || looks != wantLooks {
			t.Errorf("%s: %+v, %v, after %d looks; want %d builds, unknown %q, after %d", what, got, err, looks, builds, unknown, wantLooks)
		}
	}
	ask("nothing is told yet", 0, untold.Unknown, 1)
	ask("at the same time", 0, untold.Unknown, 1)
	clock = clock.Add(soon)
	view = told
	ask("it is told", 1, "", 2)
	view = untold
	clock = clock.Add(minInterval - time.Millisecond)
	ask("soon after", 1, "", 2)
	clock = clock.Add(time.Minute)
	ask("nothing is told any more", 1, "", 3)
	clock = clock.Add(tooOld)
	ask("for a long time", 0, untold.Unknown, 4)
	view = told
	clock = clock.Add(soon)
	ask("it is told again", 1, "", 5)
	record(ids[0], api.Failed, false)
	ask("it has ended since", 0, "", 5)
	clock = clock.Add(time.Minute)
	if got, err := b.Ask(t.Context(), "s", 10); err != nil || len(got.Failures) != 1 || got.FailuresCount != 1 || got.BuildsCount != 1 {
		t.Errorf("it has failed: %+v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	clock = clock.Add(time.Minute)
	if _, err := b.Ask(ctx, "", 10); err == nil {
		t.Error("who has gone is answered")
	}
	ask("somebody else asks", 0, "", 7)
}
