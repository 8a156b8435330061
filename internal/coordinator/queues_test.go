package coordinator

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/coordinator/stage"
	"lighter/internal/coordinator/tally"
	"lighter/machines"
	"lighter/scheduler/estimate"
	"lighter/store"
)

// TestQueues adds up what there is to do for machines of a known speed.
func TestQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &loop{Coordinator: &Coordinator{started: time.Now()}, counts: tally.New(), tasks: make(map[store.Path]*task)}
		l.machines = []*machine{
			{host: &host{c: new(Coordinator), state: api.MachineUp}, Machine: machines.Machine{Name: "a", Systems: []string{"x"}, ParallelBuilds: 3, Speed: 1}},
			{host: &host{c: new(Coordinator), state: api.MachineUp}, Machine: machines.Machine{Name: "b", Systems: []string{"x", "y"}, ParallelBuilds: 1, Speed: 2}},
			{host: &host{c: new(Coordinator), state: api.MachineDown}, Machine: machines.Machine{Name: "c", Systems: []string{"x"}, ParallelBuilds: 100, Speed: 1}},
			{host: &host{c: new(Coordinator), state: api.MachineUp}, Machine: machines.Machine{Name: "d", Systems: []string{"z"}, ParallelBuilds: 9, Speed: 1}, setting: conduct.Setting{Draining: true}},
		}
		l.machines = append(l.machines, &machine{ // another entry of a's host: its slots are a's
			host: l.machines[0].host, Machine: machines.Machine{Name: "a2", Systems: []string{"x", "w"}, ParallelBuilds: 2, Speed: 1},
		})
		for _, m := range l.machines {
			if len(m.host.machines) == 0 {
				l.hosts = append(l.hosts, m.host)
			}
			m.host.machines = append(m.host.machines, m)
		}
		add := func(system string, state api.State, expected, rank time.Duration) *liveBuild {
			name := store.Path(fmt.Sprint(len(l.tasks)))
			lb := &liveBuild{Build: api.Build{System: system, State: state, Attempt: 1}}
			samples := []estimate.Sample{{Duration: expected}}
			work := &task{estimate: estimate.Of(estimate.Key{}, samples, nil, nil), rank: rank, builds: []*liveBuild{lb}}
			lb.task = work
			l.tasks[name] = work
			l.counts.Count(&lb.Build, &lb.counted)
			return lb
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
			done.State, done.task.stage = api.Succeeded, stage.Made
			l.counts.Changed(&done.Build, &done.counted, l.now())
			l.counts.Changed(&done.Build, &done.counted, l.now()) // saved again
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
		if l.counts.Finals[api.Succeeded] != 6 {
			t.Errorf("%v", l.counts.Finals)
		}
	})
}

// TestFailuresOfStatus shows the last builds that failed themselves, also after a restart.
func TestFailuresOfStatus(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "fail")
	top := f.submit(f.drv("top", "", base))[0]
	f.awaitState(top, api.DependencyFailed)
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
	for i := range tally.MaxFailures + 5 {
		f.awaitState(f.submit(f.drv(fmt.Sprint("more", i), "fail"))[0], api.Failed)
	}
	if got := names(); len(got) != tally.MaxFailures || got[0] != fmt.Sprintf("more%d.drv", tally.MaxFailures+4) {
		t.Errorf("got %v", got)
	}
	f.idle()
}
