package display_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
)

// farm is a coordinator with n machines, some of them in trouble, and much to do.
func farm(n int) *api.Status {
	s := &api.Status{
		Version: "1.0", PID: 4242, Started: start.Add(-76 * time.Hour), Paused: "the head's disk is full \x1b[2J",
		Counts:       map[api.State]int{api.Queued: 12345, api.Waiting: 800, api.Building: 40, api.Succeeded: 987654, api.Failed: 12},
		Head:         api.HeadStatus{FreeDisk: 120 << 30, FreeInodes: 5_000_000, StateFreeDisk: 80 << 30},
		MachinesFile: api.MachinesFileStatus{File: "/etc/lighter/machines.toml", Error: "/etc/lighter/machines.toml:12:3: unknown key \"spede\"\n    spede = 2\n    ^"},
		HooksPending: 3, HooksParked: 1,
		Queues: []api.SystemQueue{
			{System: "x86_64-linux", Queued: 12000, Waiting: 700, Running: 30, Rate: 340.2, Empty: 133200},
			{System: "aarch64-linux", Queued: 345, Waiting: 100, Running: 10, Rate: 12.5},
		},
	}
	for i := range n {
		m := api.MachineStatus{
			Name: fmt.Sprintf("machine-%02d", i), State: "up", Running: 3, ParallelBuilds: 4, Cores: 8, Load: 0.71,
			FreeDisk: 200 << 30, CPUPressure: 12, MemoryPressure: 0.4,
		}
		switch i {
		case n - 1:
			m = api.MachineStatus{Name: m.Name, State: "down", ParallelBuilds: 4, Error: "dial tcp 10.0.0.7:22: connect: connection refused"}
		case n - 2:
			m.Draining, m.DrainReason = true, "new kernel \x1b[2J"
		case n - 3:
			m.Quarantined = "3 builds failed here that succeeded elsewhere"
		}
		s.Machines = append(s.Machines, m)
	}
	s.Transfers = []api.Transfer{{Machine: "machine-00", Direction: "send", Bytes: 50 << 20, Total: 80 << 20, Items: 7, Started: start.Add(-4 * time.Second)}}
	for i := range 8 {
		b := on("machine-01", build(fmt.Sprintf("f%d", i), fmt.Sprintf("broken-%d", i), api.Failed, ""))
		b.Failure = &api.Failure{Culprit: api.CulpritDerivation, Message: "builder exited with 1"}
		s.Failures = append(s.Failures, *b)
		s.Running = append(s.Running, *on("machine-02", build(fmt.Sprintf("r%d", i), fmt.Sprintf("working-%d", i), api.Building, "")))
	}
	return s
}

func TestPaused(t *testing.T) {
	for why, want := range map[string]string{
		"new kernel": "paused: new kernel", "paused: new kernel": "paused: new kernel", "paused": "paused",
		"paused until there is room on the head: 1 MiB": "paused until there is room on the head: 1 MiB",
	} {
		if got := display.Paused(why); got != want {
			t.Errorf("%q: got %q, want %q", why, got, want)
		}
	}
}

func TestStatusFitsTheTerminal(t *testing.T) {
	for _, machines := range []int{0, 3, 12, 100} {
		for _, size := range [][2]int{{80, 23}, {79, 24}, {200, 49}, {40, 12}, {20, 5}, {10, 1}, {0, 0}} {
			lines := display.StatusLines(farm(machines), start, size[0], size[1], display.Style{})
			if size[1] > 0 && len(lines) > size[1] {
				t.Errorf("%d machines, %v: %d lines", machines, size, len(lines))
			}
			for _, line := range lines {
				if size[0] > 0 && human.Width(line) > size[0] || human.Printable(line) != line || strings.TrimRight(line, " ") != line {
					t.Errorf("%d machines, %v: %q", machines, size, line)
				}
			}
		}
	}
}

func TestStatusShowsADozenMachines(t *testing.T) {
	text := strings.Join(display.StatusLines(farm(12), start, 80, 24, display.Style{}), "\n")
	for i := range 12 {
		if name := fmt.Sprintf("machine-%02d", i); !strings.Contains(text, name) {
			t.Errorf("%s is not shown:\n%s", name, text)
		}
	}
	for _, want := range []string{"paused: ", "machines file", "x86_64-linux", "12,000", "about 1d13h", "1 parked", "connection refu", "8 builds", "120 GiB free"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not shown:\n%s", want, text)
		}
	}
}

func TestStatusSaysWhatItLeavesOut(t *testing.T) {
	lines := display.StatusLines(farm(100), start, 80, 24, display.Style{})
	text := strings.Join(lines, "\n")
	shown := strings.Count(text, "\nmachine-")
	if want := fmt.Sprintf("  and %d more", 100-shown); !strings.Contains(text, want) {
		t.Errorf("%d machines are shown, but not %q:\n%s", shown, want, text)
	}
	// Those in trouble come first.
	for _, name := range []string{"machine-99", "machine-98", "machine-97"} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("%s is not shown:\n%s", name, text)
		}
	}
	// Without a limit all are there.
	text = strings.Join(display.StatusLines(farm(100), start, 0, 0, display.Style{}), "\n")
	if n := strings.Count(text, "\nmachine-"); n != 100 || strings.Contains(text, " more") || !strings.Contains(text, "working-7") || !strings.Contains(text, "broken-7") {
		t.Errorf("%d machines are shown:\n%s", n, text)
	}
}

func TestMachineState(t *testing.T) {
	for want, m := range map[string]api.MachineStatus{
		"up":          {State: "up"},
		"down":        {State: "down", Quarantined: "x"},
		"drained":     {State: "up", Draining: true},
		"draining":    {State: "up", Draining: true, Running: 1},
		"quarantined": {State: "up", Quarantined: "x", Refuses: "y"},
		"refuses":     {State: "up", Refuses: "load"},
		"removed":     {State: "up", Removed: true, Draining: true},
	} {
		if got := display.MachineState(&m); got != want {
			t.Errorf("%+v is %q, want %q", m, got, want)
		}
	}
}

func TestTableFitsTheTerminal(t *testing.T) {
	tab := display.Table{Heading: []string{"ID", "NAME", "WHY"}}
	tab.Add("1", strings.Repeat("long-", 10), "evil \x1b[2J")
	tab.Add("22", "short", strings.Repeat("because ", 10))
	for _, width := range []int{0, 30, 40, 80, 200} {
		var b bytes.Buffer
		if err := tab.Write(&b, width); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			line = strings.TrimRight(line, "\n")
			if width > 0 && human.Width(line) > width || human.Printable(line) != line {
				t.Errorf("width %d: %q", width, line)
			}
		}
	}
}
