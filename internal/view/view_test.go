package view

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
)

var now = time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)

func TestObstacles(t *testing.T) {
	s := &api.Status{
		Paused: "moving the rack",
		Queues: []api.SystemQueue{{System: "x86_64-linux", Queued: 3}, {System: "riscv64-linux", Queued: 2, Waiting: 1}},
		Machines: []api.MachineStatus{
			{Name: "big", Systems: []string{"x86_64-linux"}, State: api.MachineUp},
			{Name: "star", Systems: []string{"riscv64-linux"}, State: api.MachineDown, Error: "connection refused\nand more"},
			{Name: "resting", Systems: []string{"x86_64-linux"}, State: api.MachineUp, Draining: true, DrainReason: "new disk"},
			{Name: "busy", Systems: []string{"x86_64-linux"}, State: api.MachineUp, Refuses: "load 2.5"},
		},
		Head:        api.HeadStatus{FreeDisk: 1 << 30, StateFreeDisk: 1 << 40},
		HooksParked: 2,
	}
	var got []string
	for _, o := range Obstacles(s, now) {
		got = append(got, string(o.Level)+" "+o.Text)
	}
	want := []string{
		"bad paused: moving the rack",
		"bad no machine builds for riscv64-linux now: 3 builds to do",
		"warn the head has only 1.00 GiB left for its store",
		"warn star is down: connection refused",
		"warn 2 runs of event hooks failed and are parked",
		"note busy takes no builds now: load 2.5",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("want - got +\n%s", d)
	}
	if list := Obstacles(&api.Status{}, now); len(list) != 0 {
		t.Errorf("a farm without trouble has %v", list)
	}
}

func TestBySystem(t *testing.T) {
	x86, arm := []string{"x86_64-linux", "i686-linux"}, []string{"aarch64-linux"}
	groups := BySystem(&api.Status{Machines: []api.MachineStatus{
		{Name: "a", Systems: x86, State: api.MachineUp, ParallelBuilds: 4, Running: 1},
		{Name: "b", Systems: arm, State: api.MachineUp, ParallelBuilds: 2},
		{Name: "c", Systems: x86, State: api.MachineDown, ParallelBuilds: 8},
	}}, now)
	var got []string
	for _, g := range groups {
		text := strings.Join(g.Systems, ",")
		for _, m := range g.Machines {
			text += " " + m.Name
		}
		got = append(got, text)
	}
	if d := cmp.Diff([]string{"aarch64-linux b", "x86_64-linux,i686-linux c a"}, got); d != "" {
		t.Errorf("want - got +\n%s", d)
	}
	if groups[1].Slots != 4 || groups[1].Running != 1 {
		t.Errorf("slots %d, running %d: want 4 and 1, as a machine that is down has none", groups[1].Slots, groups[1].Running)
	}
}

func TestOldestFirst(t *testing.T) {
	at := func(minutes int) *time.Time { t := now.Add(time.Duration(minutes) * time.Minute); return &t }
	got := ""
	for _, b := range OldestFirst([]api.Build{{Request: api.Request{ID: "sent"}}, {Request: api.Request{ID: "young"}, Started: at(2)}, {Request: api.Request{ID: "old"}, Started: at(1)}}) {
		got += b.ID + " "
	}
	if got != "old young sent " {
		t.Errorf("got %s", got)
	}
}

func TestMoving(t *testing.T) {
	start := now.Add(-10 * time.Second)
	to, from := Moving([]api.Transfer{
		{Machine: "a", Direction: api.Send, Bytes: 1000, Started: start},
		{Machine: "a", Direction: api.Send, Bytes: 500, Started: start},
		{Machine: "a", Direction: api.Fetch, Bytes: 10, Started: now},
		{Machine: "b", Direction: api.Fetch, Bytes: 1 << 30, Started: start},
	}, "a", now)
	if to != (Load{2, 150}) || from != (Load{1, 0}) {
		t.Errorf("to %v, from %v", to, from)
	}
}
