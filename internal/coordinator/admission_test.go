package coordinator

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/coordinator/headroom"
	"lighter/internal/machinetest"
	"lighter/machines"
)

// roomy is a machine with enough of everything, and well is how it is then.
var (
	roomy = machines.Machine{
		Name: "m", MinFreeDisk: 1 << 30, MinFreeInodes: 1000, MinFreeMemory: 2 << 30, MaxCPUPressure: 50, MaxMemoryPressure: 10,
	}
	well = agentapi.Machine{
		Hardware: api.Hardware{Cores: 8}, FreeDisk: 2 << 30, FreeInodes: 2000, FreeMemory: 4 << 30,
		BuildFreeDisk: 2 << 30, BuildFreeInodes: 2000, CPUPressure: 5, MemoryPressure: 1,
	}
)

func TestRefusal(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(m *machines.Machine, i *agentapi.Machine)
		slack  float64
		want   string
	}{
		{"well", func(*machines.Machine, *agentapi.Machine) {}, 0, ""},
		{
			"store's disk", func(_ *machines.Machine, i *agentapi.Machine) { i.FreeDisk = 1<<30 - 1 }, 0,
			"only 1.00 GiB are free on the disk of its store; below 1.00 GiB it gets no builds",
		},
		{"just enough", func(_ *machines.Machine, i *agentapi.Machine) { i.FreeDisk = 1 << 30 }, 0, ""},
		{
			"just enough is not, with slack", func(_ *machines.Machine, i *agentapi.Machine) { i.FreeDisk = 1 << 30 }, 0.1,
			"only 1.00 GiB are free on the disk of its store; below 1.10 GiB it gets no builds",
		},
		{
			"full", func(_ *machines.Machine, i *agentapi.Machine) { i.BuildFreeDisk = 0 }, 0,
			"only 0 B are free on the disk of its builds; below 1.00 GiB it gets no builds",
		},
		{
			"store's inodes", func(_ *machines.Machine, i *agentapi.Machine) { i.FreeInodes = 999 }, 0,
			"only 999 inodes are free on the disk of its store; below 1000 it gets no builds",
		},
		{
			"build folder's inodes", func(_ *machines.Machine, i *agentapi.Machine) { i.BuildFreeInodes = 7 }, 0,
			"only 7 inodes are free on the disk of its builds; below 1000 it gets no builds",
		},
		{
			"memory", func(_ *machines.Machine, i *agentapi.Machine) { i.FreeMemory = 1 << 29 }, 0,
			"only 512 MiB of memory are free; below 2.00 GiB it gets no builds",
		},
		{
			"memory pressure", func(_ *machines.Machine, i *agentapi.Machine) { i.MemoryPressure = 10 }, 0,
			"memory pressure 10.0%: from 10% on it gets no builds",
		},
		{
			"CPU pressure", func(_ *machines.Machine, i *agentapi.Machine) { i.CPUPressure = 80.25 }, 0,
			"CPU pressure 80.2%: from 50% on it gets no builds",
		},
		{"below", func(_ *machines.Machine, i *agentapi.Machine) { i.CPUPressure = 46 }, 0, ""},
		{
			"below, with slack", func(_ *machines.Machine, i *agentapi.Machine) { i.CPUPressure = 46 }, 0.1,
			"CPU pressure 46.0%: from 45% on it gets no builds",
		},
		{
			"the worst comes first", func(_ *machines.Machine, i *agentapi.Machine) { i.CPUPressure, i.FreeMemory = 99, 0 }, 0,
			"only 0 B of memory are free; below 2.00 GiB it gets no builds",
		},
		{"not known", func(_ *machines.Machine, i *agentapi.Machine) {
			i.FreeInodes, i.BuildFreeDisk, i.BuildFreeInodes, i.CPUPressure, i.MemoryPressure = -1, -1, -1, -1, -1
		}, 0.1, ""},
		{"disregarded", func(m *machines.Machine, i *agentapi.Machine) {
			*m = machines.Machine{Name: "m"}
			*i = agentapi.Machine{Hardware: i.Hardware, CPUPressure: 100, MemoryPressure: 100}
		}, 0.1, ""},
		{"an old agent", func(_ *machines.Machine, i *agentapi.Machine) {
			*i = agentapi.Machine{FreeDisk: i.FreeDisk, FreeMemory: i.FreeMemory}
		}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, i := roomy, well
			tt.change(&m, &i)
			if got := machinetest.BeyondLimit(&m, machinetest.WithUnknown(&i), tt.slack); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// TestAdmissionDoesNotFlap feeds a machine's figures to it every ten seconds.
func TestAdmissionDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &loop{Coordinator: &Coordinator{log: slog.New(slog.DiscardHandler)}}
		m := &machine{Machine: roomy, host: &host{c: l.Coordinator}, log: l.log}
		for i, step := range []struct {
			pressure float64
			refused  bool
		}{
			{49, false},
			{50, true},
			{20, true},
			{20, false}, // a rest, and then well below
			{49, false},
			{51, true},
			{49, true},
			{49, true},
			{49, true},
			{44, false},
			{90, true},
			{40, true},
			{90, true},
			{40, true},
			{40, false},
		} {
			info := well
			info.CPUPressure = step.pressure
			m.info = &info
			m.admit(l)
			if refused := m.admission.Refuses != ""; refused != step.refused {
				t.Fatalf("step %d, pressure %g: refused %v: %s", i, step.pressure, refused, m.admission.Refuses)
			}
			time.Sleep(10 * time.Second)
		}
		if len(l.changed) != 6 {
			t.Errorf("%d events, want one for each start and end", len(l.changed))
		}
	})
}

// TestAdmission has a machine whose memory is short for a while.
func TestAdmission(t *testing.T) {
	f := newFarm(t, func(c *Config) {
		c.Machines[0].MinFreeMemory = 1 << 30
		c.Limits.PollInterval = 5 * time.Millisecond
	}, "m1")
	free := func(n int64) {
		f.agents["m1"].set(func(a *fakeAgent) { a.info = func(i *agentapi.Machine) { i.FreeMemory = n } })
	}
	free(1 << 20)
	f.until("it refuses", func() bool { return strings.HasPrefix(f.statusOf("m1").Refuses, "only 1.00 MiB of memory are free") })
	id := f.submit(f.drv("one", ""))[0]
	f.until("why says so", func() bool {
		w := f.why(id)
		return len(w.Machines) == 1 && w.Machines[0].Rule == "admission" && strings.HasPrefix(w.Machines[0].Actual, "only 1.00 MiB of memory are free")
	})
	free(4 << 30)
	if err := f.c.do(t.Context(), func(l *loop) { // its rest is over
		l.byName["m1"].admission.Since = time.Now().Add(-conduct.AdmissionRest)
	}); err != nil {
		t.Fatal(err)
	}
	f.until("the rest shows", func() bool {
		done := false
		if err := f.c.do(t.Context(), func(l *loop) {
			m := l.byName["m1"]
			if m.info.FreeMemory == 4<<30 {
				m.admission.Since = time.Now().Add(-conduct.AdmissionRest)
			}
			done = m.admission.Refuses == ""
		}); err != nil {
			t.Fatal(err)
		}
		return done
	})
	f.awaitState(id, api.Succeeded)
	if got := f.events(""); !strings.Contains(strings.Join(got, "\n"), "of memory are free; below 1.00 GiB it gets no builds") || !strings.Contains(strings.Join(got, "\n"), "m1 gets builds again") {
		t.Errorf("got %q", got)
	}
	f.idle()
}

// TestHeadWithoutRoom has the head's disk fill while a build runs: its outputs wait, nothing
// is started, and both go on when there is room.
func TestHeadWithoutRoom(t *testing.T) {
	f := newFarm(t, func(c *Config) {
		c.HeadLimits = headroom.Limits{MinFreeDisk: 1 << 30}
		c.HeadSpace = func() (api.HeadStatus, error) { return api.HeadStatus{}, errors.New("the test says it") }
	}, "m1")
	measure := func(free int64) {
		if err := f.c.do(t.Context(), func(l *loop) { l.headMeasured(api.HeadStatus{FreeDisk: free}) }); err != nil {
			t.Fatal(err)
		}
	}
	one := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(one, api.Building)
	measure(1 << 20)
	f.releaseAll("one")
	f.awaitState(one, api.Fetching)
	two := f.submit(f.drv("two", ""))[0]
	want := "paused until there is room on the head: 1.00 MiB free where the store is, want 1.00 GiB"
	for _, id := range []string{one, two} {
		f.until("why says so", func() bool { return f.why(id).Summary == want })
	}
	if s, err := f.c.Status(t.Context()); err != nil || s.Paused != want || s.Head.FreeDisk != 1<<20 {
		t.Errorf("got %+v, %v", s, err)
	}
	measure(1<<30 + 1) // room, but not enough to go on
	if s, err := f.c.Status(t.Context()); err != nil || s.Paused == "" {
		t.Errorf("got %+v, %v", s, err)
	}
	measure(2 << 30)
	f.awaitState(one, api.Succeeded)
	f.awaitState(two, api.Succeeded)
	if got := f.events(""); !strings.Contains(strings.Join(got, "\n"), want) || !strings.Contains(strings.Join(got, "\n"), "there is room on the head again") {
		t.Errorf("got %q", got)
	}
	f.idle()
}

// TestHeadIsMeasured asks the real file system.
func TestHeadIsMeasured(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.StoreFolder, c.StateFolder = t.TempDir(), t.TempDir() }, "m1")
	f.until("it was measured", func() bool {
		s, err := f.c.Status(t.Context())
		return err == nil && s.Head.FreeDisk > 0 && s.Head.StateFreeDisk > 0
	})
}
