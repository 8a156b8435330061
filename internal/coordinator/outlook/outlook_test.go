package outlook

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/coordinator/reserve"
	"lighter/scheduler"
	"lighter/scheduler/forecast"
)

const system = "x86_64-linux"

// snapshotOf has a machine with a slot and so many tasks in a row, of an hour each, but the last, which nothing can take.
func snapshotOf(now time.Time, tasks int) *Snapshot {
	s := &Snapshot{Farm: forecast.Farm{
		Now:      now,
		Machines: []scheduler.Machine{{Name: "m", Systems: []string{system}, Slots: 1, Speed: 1, FreeDisk: -1}},
	}}
	for i := range tasks {
		id := fmt.Sprintf("build-%d", i)
		t := forecast.Task{Build: scheduler.Build{ID: id, System: system, Expected: time.Hour}}
		if i > 0 {
			t.Inputs = []int32{int32(i - 1)}
		}
		if i == tasks-1 {
			t.Build.System, t.Inputs = "riscv64-linux", nil
		}
		s.Tasks, s.Builds = append(s.Tasks, t), append(s.Builds, Build{id, int32(i)})
	}
	s.Needs, s.Unmeasured = make([]reserve.Needs, tasks), make([]bool, tasks)
	return s
}

// running is an outlook for tests, and how often it was given a snapshot.
func running(t *testing.T, snapshot func(ctx context.Context) (*Snapshot, error)) (o *Outlook, made *atomic.Int32) {
	made = new(atomic.Int32)
	o = New(time.Now, func(ctx context.Context) (*Snapshot, error) {
		made.Add(1)
		return snapshot(ctx)
	})
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { o.Run(ctx); close(over) }()
	t.Cleanup(func() { cancel(); <-over })
	return o, made
}

// TestCost has forecasts take a time: the next one is begun no earlier than a second, or 20 times as
// long, after the last one, only if somebody asks, and nobody waits for longer than 300 ms.
func TestCost(t *testing.T) {
	for _, tt := range []struct{ cost, interval time.Duration }{
		{0, time.Second}, {100 * time.Millisecond, 2 * time.Second}, {2 * time.Second, 40 * time.Second}, {50 * time.Second, 1000 * time.Second},
	} {
		t.Run(tt.cost.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, made := running(t, func(context.Context) (*Snapshot, error) {
					time.Sleep(tt.cost)
					return snapshotOf(time.Now(), 3), nil
				})
				time.Sleep(time.Hour)
				if made.Load() != 0 {
					t.Fatalf("%d forecasts, and nobody asked", made.Load())
				}
				for range 2000 { // tenths of a second
					began := time.Now()
					v := o.Ask(t.Context())
					if d := time.Since(began); d > 300*time.Millisecond {
						t.Fatalf("somebody waited for %s", d)
					}
					if made.Load() > 1 && v.End("build-0", time.Now()) == nil {
						t.Fatal("there is a forecast, and nothing is told")
					}
					time.Sleep(100*time.Millisecond - time.Since(began)%(100*time.Millisecond))
				}
				if most := int32(200*time.Second/(tt.interval+tt.cost)) + 1; made.Load() < 1 || made.Load() > most {
					t.Errorf("%d forecasts, want at most %d", made.Load(), most)
				}
			})
		})
	}
}

// TestTooOld has nobody told what was thought an hour ago.
func TestTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := time.Duration(0)
		o, _ := running(t, func(context.Context) (*Snapshot, error) {
			time.Sleep(slow)
			return snapshotOf(time.Now(), 3), nil
		})
		if e := o.Ask(t.Context()).End("build-0", time.Now()); e == nil || time.Until(e.Middle).Round(5*time.Minute) != time.Hour {
			t.Errorf("got %v, want in an hour", e)
		}
		slow = time.Second
		time.Sleep(30 * time.Minute)
		if v := o.Ask(t.Context()); v.Unknown != working || v.End("build-0", time.Now()) != nil {
			t.Errorf("got %+v, want that it is being worked out", v)
		}
		time.Sleep(time.Second)
		if e := o.Ask(t.Context()).End("build-0", time.Now()); e == nil {
			t.Error("nothing is told a second later")
		}
	})
}

// TestDrop forgets a forecast that is being made, too: it is of what was before.
func TestDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, made := running(t, func(context.Context) (*Snapshot, error) {
			time.Sleep(time.Second)
			return snapshotOf(time.Now(), 3), nil
		})
		o.Ask(t.Context())
		o.Drop()
		time.Sleep(time.Second)
		if v := o.Ask(t.Context()); v.Unknown != working {
			t.Errorf("got %+v", v)
		}
		time.Sleep(30 * time.Second)
		o.Ask(t.Context())
		time.Sleep(2 * time.Second)
		if v := o.Ask(t.Context()); v.Unknown != "" || made.Load() != 2 {
			t.Errorf("after %d forecasts got %+v", made.Load(), v)
		}
	})
}

// TestTakesTooLong gives a forecast up that goes on for a minute.
func TestTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _ := running(t, func(context.Context) (*Snapshot, error) {
			time.Sleep(maxCost + time.Second)
			return snapshotOf(time.Now(), 3), nil
		})
		o.Ask(t.Context())
		time.Sleep(maxCost + 2*time.Second)
		if v := o.Ask(t.Context()); v.Unknown != TooMany || v.All(time.Now()).ExpectedEnd != nil {
			t.Errorf("got %+v", v)
		}
	})
}

func TestTimes(t *testing.T) {
	for tasks, want := range map[int]int{0: 19, 1: 19, 2000: 19, 4000: 9, 12_000: 3, MaxTasks: 3} {
		if got := times(tasks); got != want {
			t.Errorf("%d tasks: %d, want %d", tasks, got, want)
		}
	}
}

func TestView(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	s := snapshotOf(now, 4)
	s.Unmeasured[0] = true
	futures, err := forecast.Of(t.Context(), &s.Farm, 9, 1)
	if err != nil {
		t.Fatal(err)
	}
	v := newView(s, futures)
	hour := func(d time.Duration) time.Duration { return d.Round(10 * time.Minute) }
	for i, unsure := range []string{"never built here before", "some of what it needs was never built here before", "some of what it needs was never built here before"} {
		id := fmt.Sprintf("build-%d", i)
		e, want := v.End(id, now), time.Duration(i+1)*time.Hour
		if hour(e.Middle.Sub(now)) != want || e.Low.After(e.Middle) || e.High.Before(e.Middle) || e.Unsure != unsure {
			t.Errorf("%s: got %v, want after %s", id, e, want)
		}
		if b := v.Start(id, now); i > 0 && hour(b.Middle.Sub(now)) != want-time.Hour {
			t.Errorf("%s begins at %v", id, b)
		}
	}
	if e := v.End("build-3", now); e != nil {
		t.Errorf("nothing can take it, and it is done at %v", e)
	}
	all := v.All(now)
	if hour(all.ExpectedEnd.Middle.Sub(now)) != 3*time.Hour || all.Builds != 3 || all.Untold != 1 || !strings.HasPrefix(all.ExpectedEnd.Unsure, "1 of 4 never") {
		t.Errorf("all: %+v, %v", all, all.ExpectedEnd)
	}
	if e := v.System(system, now); hour(e.Middle.Sub(now)) != 3*time.Hour {
		t.Errorf("of the system: %v", e)
	}
	if e := v.System("riscv64-linux", now); e != nil {
		t.Errorf("of the other system: %v", e)
	}
	some := v.Of(slices.Values([]string{"build-1", "build-0", "somebody's"}), now)
	if hour(some.ExpectedEnd.Middle.Sub(now)) != 2*time.Hour || some.Builds != 2 || some.Untold != 1 {
		t.Errorf("some: %+v, %v", some, some.ExpectedEnd)
	}
	// What should be done by now may be any time, but not before now.
	if e := v.End("build-0", now.Add(hour(time.Hour))); e == nil || e.Low.Before(now.Add(time.Hour)) {
		t.Errorf("late: %v", e)
	}
	if e := v.End("build-0", now.Add(2*time.Hour)); e != nil {
		t.Errorf("very late: %v", e)
	}
}

func TestOverhead(t *testing.T) {
	o := New(time.Now, nil)
	if d := o.Overhead(); d != defaultOverhead {
		t.Errorf("at first %s", d)
	}
	for range 40 {
		o.Took(15*time.Second, 5*time.Second)
	}
	o.Took(time.Hour*100, time.Second)
	o.Took(time.Second, time.Hour) // the machine's clock
	if d := o.Overhead(); d < 10*time.Second || d > maxOverhead/overheadPart+10*time.Second {
		t.Errorf("got %s", d)
	}
}
