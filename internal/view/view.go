// Package view has what the page of the farm and the terminal's both show, computed once: what is in
// the way, machines by system, what runs and what failed in the order in which people want to see
// it. Its functions turn answers of the coordinator into what is shown; they do no I/O and know no
// clock. Texts from elsewhere are as they came: who shows them makes them harmless.
package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

// Level says how bad something is.
type Level string

// The levels: it stops work, it costs some of it or soon will, a person should know.
const (
	Bad  Level = "bad"
	Warn Level = "warn"
	Note Level = "note"
)

// Obstacle is something that is in the way of building.
type Obstacle struct {
	Level Level  `json:"level"`
	Text  string `json:"text"`
	// Machine is whose trouble it is, if one machine's.
	Machine string `json:"machine,omitempty"`
}

// Free space below which the head is said to run full, in bytes and inodes.
const (
	scarceDisk   = 5 << 30
	scarceInodes = 100_000
)

// Obstacles says what is in the way, the worst first.
func Obstacles(s *api.Status, now time.Time) []Obstacle {
	var list []Obstacle
	add := func(is bool, level Level, format string, args ...any) {
		if is {
			text, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\n")
			list = append(list, Obstacle{Level: level, Text: text})
		}
	}
	add(s.Paused != "", Bad, "%s", display.Paused(s.Paused))
	for _, q := range s.Queues {
		up := slices.ContainsFunc(s.Machines, func(m api.MachineStatus) bool { return slices.Contains(m.Systems, q.System) && Builds(&m) })
		add(q.Queued+q.Waiting > 0 && !up, Bad, "no machine builds for %s now: %s to do", q.System, human.Count(q.Queued+q.Waiting, "build"))
	}
	add(s.MachinesFile.Error != "", Bad, "the machines file is not taken over: %s", strings.TrimPrefix(s.MachinesFile.Error, "machines file: "))
	for _, text := range s.SettingsProblems {
		add(true, Warn, "a setting is not carried out: %s", text)
	}
	for _, disk := range []struct {
		of   string
		free int64
	}{{"its store", s.Head.FreeDisk}, {"the ledger and logs", s.Head.StateFreeDisk}} {
		add(disk.free > 0 && disk.free < scarceDisk, Warn, "the head has only %s left for %s", quantity.Bytes(disk.free), disk.of)
	}
	add(s.Head.FreeInodes > 0 && s.Head.FreeInodes < scarceInodes, Warn, "the head's store has only %s inodes left", human.Number(int(s.Head.FreeInodes)))
	for i := range s.Machines {
		m := &s.Machines[i]
		word, note := display.MachineState(m), display.MachineNote(m, now)
		level := Note
		switch word {
		case "up", "drained", "draining", "removed", "connecting", "unknown":
			continue // it works, or a person or the start is the reason: the table of machines says it
		case "down", "untrusted", "unfit", "quarantined":
			level = Warn
		}
		text := m.Name + " is " + word
		if word == "refuses" {
			text = m.Name + " takes no builds now"
		}
		if note != "" {
			text += ": " + note
		}
		text, _, _ = strings.Cut(text, "\n")
		list = append(list, Obstacle{Level: level, Text: text, Machine: m.Name})
	}
	add(s.HooksParked > 0, Warn, "%s of event hooks failed and are parked", human.Count(s.HooksParked, "run"))
	add(len(s.LedgerProblems) > 0, Warn, "%s of the ledger can't be used", human.Count(len(s.LedgerProblems), "record"))
	rank := map[Level]int{Bad: 0, Warn: 1, Note: 2}
	slices.SortStableFunc(list, func(a, b Obstacle) int { return cmp.Compare(rank[a.Level], rank[b.Level]) })
	return list
}

// Builds reports whether a machine gets builds, now or when a slot is free.
func Builds(m *api.MachineStatus) bool { return display.MachineState(m) == string(api.MachineUp) }

// MachineRank sorts machines: those in trouble first, then those that get no builds for a reason
// that passes, then those that build.
func MachineRank(m *api.MachineStatus) int {
	switch display.MachineState(m) {
	case "down", "untrusted", "unfit":
		return 0
	case "quarantined":
		return 1
	case "up":
		return 3
	}
	return 2
}

// Machine is a machine as people look at it.
type Machine struct {
	api.MachineStatus
	Word string `json:"word"`           // its state in one word, which is more than State
	Note string `json:"note,omitempty"` // why it gets no builds, or what else is to be said of it
	To   Load   `json:"to"`             // what travels there
	From Load   `json:"from"`
}

// Group has the machines that build for the same systems.
type Group struct {
	Systems  []string  `json:"systems"`
	Slots    int       `json:"slots"` // of those that get builds
	Running  int       `json:"running"`
	Machines []Machine `json:"machines"`
}

// BySystem groups machines by the systems for which they build, in the order of the systems' names;
// within a group those in trouble come first.
func BySystem(s *api.Status, now time.Time) []Group {
	groups := []Group{}
	places := make(map[string]int)
	for i := range s.Machines {
		m := NewMachine(&s.Machines[i], s.Transfers, now)
		key := strings.Join(m.Systems, " ")
		at, ok := places[key]
		if !ok {
			at = len(groups)
			places[key] = at
			groups = append(groups, Group{Systems: m.Systems})
		}
		g := &groups[at]
		g.Machines, g.Running = append(g.Machines, m), g.Running+m.Running
		if Builds(&m.MachineStatus) {
			g.Slots += m.ParallelBuilds
		}
	}
	for _, g := range groups {
		slices.SortStableFunc(g.Machines, func(a, b Machine) int {
			return cmp.Compare(MachineRank(&a.MachineStatus), MachineRank(&b.MachineStatus))
		})
	}
	slices.SortStableFunc(groups, func(a, b Group) int { return slices.Compare(a.Systems, b.Systems) })
	return groups
}

// NewMachine says of a machine what people look at. transfers has those of all machines.
func NewMachine(m *api.MachineStatus, transfers []api.Transfer, now time.Time) Machine {
	v := Machine{MachineStatus: *m, Word: display.MachineState(m), Note: display.MachineNote(m, now)}
	v.To, v.From = Moving(transfers, m.Name, now)
	return v
}

// OldestFirst sorts builds that run by when they were begun. Those of which that is not known yet
// come last.
func OldestFirst(running []api.Build) []api.Build {
	list := slices.Clone(running)
	slices.SortStableFunc(list, func(a, b api.Build) int {
		switch {
		case a.Started == nil && b.Started == nil:
			return a.Submitted.Compare(b.Submitted)
		case a.Started == nil:
			return 1
		case b.Started == nil:
			return -1
		}
		return a.Started.Compare(*b.Started)
	})
	return list
}

// Load is what a set of transfers carries in one direction.
type Load struct {
	Transfers int     `json:"transfers"`
	Rate      float64 `json:"rate"` // bytes/s
}

// Moving sums up the transfers of a machine, to it and from it.
func Moving(transfers []api.Transfer, machine string, now time.Time) (to, from Load) {
	for i := range transfers {
		t := &transfers[i]
		if t.Machine != machine {
			continue
		}
		l := &to
		if t.Direction == api.Fetch {
			l = &from
		}
		l.Transfers++
		if d := now.Sub(t.Started).Seconds(); d > 0.2 {
			l.Rate += float64(t.Bytes) / d
		}
	}
	return to, from
}
