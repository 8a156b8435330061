package coordinator

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/machines"
	"lighter/store"
)

func TestHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hour{}
		for _, step := range []struct {
			sleep time.Duration
			add   int
			want  int
		}{
			{0, 3, 3},
			{30 * time.Minute, 2, 5},
			{29 * time.Minute, 0, 5},
			{time.Minute, 0, 2},
			{time.Minute, 1, 3},
			{59 * time.Minute, 0, 1},
			{5 * time.Hour, 0, 0},
			{0, 1, 1},
		} {
			time.Sleep(step.sleep)
			for range step.add {
				h.add(time.Now())
			}
			if got := h.sum(time.Now()); got != step.want {
				t.Errorf("at %s: %d, want %d", time.Now().Format(time.TimeOnly), got, step.want)
			}
		}
	})
}

// TestQueues adds up what there is to do for machines of a known speed.
func TestQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &loop{Coordinator: &Coordinator{started: time.Now()}, counts: newCounters(), tasks: make(map[store.Path]*task)}
		l.machines = []*machine{
			{c: new(Coordinator), Machine: machines.Machine{Name: "a", Systems: []string{"x"}, ParallelBuilds: 3, Speed: 1}, state: api.MachineUp},
			{c: new(Coordinator), Machine: machines.Machine{Name: "b", Systems: []string{"x", "y"}, ParallelBuilds: 1, Speed: 2}, state: api.MachineUp},
			{c: new(Coordinator), Machine: machines.Machine{Name: "c", Systems: []string{"x"}, ParallelBuilds: 100, Speed: 1}, state: api.MachineDown},
			{c: new(Coordinator), Machine: machines.Machine{Name: "d", Systems: []string{"z"}, ParallelBuilds: 9, Speed: 1}, state: api.MachineUp, setting: machineSetting{Draining: true}},
		}
		add := func(system string, state api.State, expected, rank time.Duration) *liveBuild {
			name := store.Path(fmt.Sprint(len(l.tasks)))
			r := &liveBuild{Build: api.Build{System: system, State: state}}
			work := &task{expected: expected, rank: rank, builds: []*liveBuild{r}}
			r.task = work
			l.tasks[name] = work
			l.counts.count(r)
			return r
		}
		for range 4 {
			add("x", api.Queued, 100*time.Second, 100*time.Second)
		}
		add("x", api.Waiting, 100*time.Second, 300*time.Second)
		running := add("x", api.Building, 100*time.Second, 100*time.Second)
		running.task.underWay = &attempt{began: time.Now()}
		add("y", api.Queued, 10*time.Second, 400*time.Second)
		add("z", api.Queued, 0, 0)
		time.Sleep(50 * time.Second)
		for range 6 {
			done := add("x", api.Fetching, time.Second, time.Second)
			done.State, done.task.stage = api.Succeeded, stageMade
			done.countFinal(l)
			done.countFinal(l) // saved again
		}
		time.Sleep(30*time.Minute - 50*time.Second)
		running.task.underWay.began = time.Now().Add(-50 * time.Second)
		want := []api.SystemQueue{
			{System: "x", Queued: 4, Waiting: 1, Running: 1, Rate: 12, Empty: 150}, // the longest path, at speed 2
			{System: "y", Queued: 1, Empty: 200},
			{System: "z", Queued: 1},
		}
		if diff := cmp.Diff(want, l.queues(time.Now())); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for range 10 {
			add("x", api.Queued, 100*time.Second, 100*time.Second)
		}
		if got := l.queues(time.Now())[0]; got.Empty != (15*100+50)/5 {
			t.Errorf("%g s until none is left", got.Empty)
		}
		if l.counts.finals[api.Succeeded] != 6 {
			t.Errorf("%v", l.counts.finals)
		}
	})
}

// TestSystemsAreBounded shows that derivations with endless systems don't fill the memory.
func TestSystemsAreBounded(t *testing.T) {
	n := newCounters()
	var all []*liveBuild
	for i := range 3 * maxSystems {
		r := &liveBuild{Build: api.Build{System: fmt.Sprint("s", i), State: api.Queued}}
		n.count(r)
		all = append(all, r)
	}
	if len(n.live) != maxSystems+1 || n.live[otherSystem].queued != 2*maxSystems {
		t.Errorf("%d systems, %+v", len(n.live), n.live[otherSystem])
	}
	for _, r := range all {
		r.State = api.Canceled
		n.count(r)
	}
	for system, l := range n.live {
		if *l != (liveCounts{}) {
			t.Errorf("%s: %+v", system, l)
		}
	}
}

// TestFailuresOfStatus shows the last builds that failed themselves, also after a restart.
func TestFailuresOfStatus(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "fail")
	top := f.submit(f.drv("top", "", base))[0]
	f.awaitState(top, api.Failed)
	late := f.submit(f.drv("late", "timeout"))[0]
	f.awaitState(late, api.TimedOut)
	names := func() (names []string) {
		s, err := f.c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range s.Failures {
			names = append(names, b.Derivation.Name())
		}
		return names
	}
	want := []string{"late.drv", "base.drv"}
	if diff := cmp.Diff(want, names()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f.shutDown()
	f.start()
	if diff := cmp.Diff(want, names()); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	for i := range maxFailures + 5 {
		f.awaitState(f.submit(f.drv(fmt.Sprint("more", i), "fail"))[0], api.Failed)
	}
	if got := names(); len(got) != maxFailures || got[0] != fmt.Sprintf("more%d.drv", maxFailures+4) {
		t.Errorf("got %v", got)
	}
	f.idle()
}
