package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/internal/view"
)

// rows.go makes rows of what the coordinator says. It knows no screen and no clock.

func newRunning() *pane {
	return newPane("RUNNING", "nothing is on a machine now",
		column{least: 24},
		column{title: "MACHINE", least: 12},
		column{title: "PHASE"},
		column{title: "FOR", right: true, down: true},
		column{title: "DONE IN", right: true, drop: 1},
		column{title: "WHOSE", least: 6, drop: 3},
		column{title: "SYSTEM", drop: 4},
		column{title: "PRIO", right: true, down: true, drop: 5},
		column{title: "TRANSFER", least: 12, drop: 2},
	)
}

// runningRows are the attempts that are under way, the oldest first. since has when each came into its state, as far
// as that was seen.
func runningRows(s *api.Status, since map[string]time.Time, now time.Time) []row {
	moving := make(map[string][]api.Transfer)
	for _, t := range s.Transfers {
		moving[t.Build] = append(moving[t.Build], t)
	}
	list := view.OldestFirst(s.Running)
	rows := make([]row, len(list))
	for i := range list {
		b := &list[i]
		at, known := since[attemptOf(b)]
		if b.State == api.Building && b.Started != nil {
			at, known = *b.Started, true
		}
		lasted := cell{text: human.Known(known, quantity.Elapsed(now.Sub(at)))}
		if known {
			lasted.rank = now.Sub(at).Seconds()
		}
		if b.Overdue {
			lasted.text, lasted.colour = "overdue "+lasted.text, display.Yellow
		}
		phase := cell{text: string(b.State), colour: display.BuildColour(b.State)}
		rows[i] = row{id: attemptOf(b), build: b, machine: b.Machine, cells: []cell{
			{text: display.Name(b)},
			{text: b.Machine, colour: display.Cyan},
			phase, lasted, endCell(b.ExpectedEnd, now),
			{text: whose(b)},
			{text: b.System},
			priorityCell(b),
			{text: display.TransferText(moving[b.ID], now), colour: display.Dim},
		}}
	}
	return rows
}

// attemptOf names an attempt: a build may be made twice at the same time.
func attemptOf(b *api.Build) string { return b.ID + "/" + strconv.Itoa(b.Attempt) }

func endCell(e *api.Expected, now time.Time) cell {
	c := cell{text: display.ExpectedColumn(e, now), rank: 1e18} // what is not known comes last
	if e != nil {
		c.rank = float64(e.Middle.Unix())
	}
	return c
}

func priorityCell(b *api.Build) cell {
	return cell{text: human.Known(b.Priority != 0, strconv.Itoa(b.Priority)), rank: float64(b.Priority)}
}

// agoCell is how long something is ago: "5m".
func agoCell(t, now time.Time) cell {
	text := strings.TrimSuffix(human.ShortAgo(t, now), " ago")
	return cell{text: strings.TrimPrefix(text, "just "), rank: now.Sub(t).Seconds()}
}

// whose says for whom a build is, as far as it is known.
func whose(b *api.Build) string {
	switch s := b.Submitter; {
	case s == nil:
		return "-"
	case s.For != nil:
		return s.For.String()
	default:
		return s.String()
	}
}

func newMachines() *pane {
	return newPane("MACHINES", "there are none; lighter help machines.toml says how to add one",
		column{least: 10},
		column{title: "STATE"},
		column{title: "SLOTS", right: true, down: true},
		column{title: "LOAD", right: true, down: true},
		column{title: "CPU/MEM", right: true, down: true, drop: 5},
		column{title: "FREE MEM", right: true, drop: 4},
		column{title: "FREE DISK", right: true, drop: 2},
		column{title: "TRANSFERS", least: 10, drop: 3},
		column{title: "SYSTEMS", least: 12, drop: 6},
		column{title: "NOTE", least: 20, drop: 1},
	)
}

// machineRows are the machines, those in trouble first.
func machineRows(s *api.Status, now time.Time) []row {
	moving := make(map[string][]api.Transfer)
	for _, t := range s.Transfers {
		moving[t.Machine] = append(moving[t.Machine], t)
	}
	list := slices.Clone(s.Machines)
	slices.SortStableFunc(list, func(a, b api.MachineStatus) int { return cmp.Compare(view.MachineRank(&a), view.MachineRank(&b)) })
	rows := make([]row, len(list))
	for i := range list {
		m := &list[i]
		word := display.MachineState(m)
		known := m.Cores > 0
		rows[i] = row{id: m.Name, machine: m.Name, cells: []cell{
			{text: m.Name},
			{text: word, colour: display.MachineColour(word), rank: float64(view.MachineRank(m))},
			{text: fmt.Sprintf("%d/%d", m.Running, m.ParallelBuilds), rank: float64(m.Running)},
			{text: human.Known(known, strconv.FormatFloat(m.Load, 'f', 2, 64)), rank: m.Load},
			{text: human.Known(m.CPUPressure > 0 || m.MemoryPressure > 0, fmt.Sprintf("%.0f/%.0f%%", m.CPUPressure, m.MemoryPressure)), rank: m.CPUPressure},
			{text: human.Known(known && m.FreeMemory > 0, quantity.Bytes(m.FreeMemory)), rank: float64(m.FreeMemory)},
			{text: human.Known(m.FreeDisk > 0, quantity.Bytes(m.FreeDisk)), rank: float64(m.FreeDisk)},
			{text: display.MovingText(moving[m.Name], now)},
			{text: strings.Join(m.Systems, " ")},
			{text: firstLine(display.MachineNote(m, now)), colour: display.Dim},
		}}
	}
	return rows
}

func firstLine(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	return text
}

func newQueue() *pane {
	return newPane("QUEUE", "nothing is to be done",
		column{least: 14},
		column{title: "QUEUED", right: true, down: true},
		column{title: "WAITING", right: true, down: true},
		column{title: "RUNNING", right: true, down: true},
		column{title: "PER HOUR", right: true, down: true},
		column{title: "EMPTY IN", right: true},
	)
}

func queueRows(s *api.Status, now time.Time) []row {
	rows := make([]row, len(s.Queues))
	for i := range s.Queues {
		q := &s.Queues[i]
		number := func(n int) cell { return cell{text: human.Number(n), rank: float64(n)} }
		rows[i] = row{id: q.System, system: q.System, cells: []cell{
			{text: q.System},
			number(q.Queued), number(q.Waiting), number(q.Running),
			{text: display.RateText(q.Rate), rank: q.Rate},
			endCell(q.ExpectedEnd, now),
		}}
	}
	return rows
}

func newFailed() *pane {
	return newPane("FAILED LATELY", "nothing failed lately",
		column{least: 14},
		column{title: "MACHINE", least: 8, drop: 1},
		column{title: "AGO", right: true},
		column{title: "BLOCKS", right: true, down: true},
		column{title: "ID", drop: 2},
		column{title: "WHY", least: 32},
	)
}

func failedRows(s *api.Status, now time.Time) []row {
	rows := make([]row, len(s.Failures))
	for i := range s.Failures {
		b := &s.Failures[i]
		at := stopped(b)
		rows[i] = row{id: b.ID, build: b, machine: b.Machine, cells: []cell{
			{text: display.Name(b)},
			{text: b.Machine, colour: display.Cyan},
			agoCell(at, now),
			{text: human.Number(b.Dependents), rank: float64(b.Dependents)},
			{text: display.ShortID(b.ID)},
			{text: display.Reason(b), colour: display.Red},
		}}
	}
	return rows
}

func stopped(b *api.Build) time.Time {
	if b.Stopped != nil {
		return *b.Stopped
	}
	return b.Submitted
}

func newTransfers() *pane {
	return newPane("TRANSFERS", "nothing travels",
		column{least: 10},
		column{title: "WAY"},
		column{title: "ITEMS", right: true, down: true},
		column{title: "FOR", right: true, down: true},
		column{title: "SO FAR", least: 12},
		column{title: "BUILD", least: 14, drop: 1},
	)
}

func transferRows(s *api.Status, now time.Time) []row {
	builds := make(map[string]*api.Build, len(s.Running))
	for i := range s.Running {
		builds[s.Running[i].ID] = &s.Running[i]
	}
	rows := make([]row, len(s.Transfers))
	for i := range s.Transfers {
		t := &s.Transfers[i]
		way := "to it"
		if t.Direction == api.Fetch {
			way = "from it"
		}
		b, name := builds[t.Build], display.ShortID(t.Build)
		if b != nil {
			name = display.Name(b)
		}
		rows[i] = row{id: fmt.Sprint(t.Machine, t.Direction, t.Build, t.Started), build: b, machine: t.Machine, cells: []cell{
			{text: t.Machine, colour: display.Cyan},
			{text: way},
			{text: human.Number(t.Items), rank: float64(t.Items)},
			{text: quantity.Elapsed(now.Sub(t.Started)), rank: now.Sub(t.Started).Seconds()},
			{text: display.TransferText([]api.Transfer{*t}, now), rank: float64(t.Bytes)},
			{text: name},
		}}
	}
	return rows
}

func newLately() *pane {
	return newPane("LATELY", "nothing since this was started",
		column{least: 14},
		column{title: "AGO", right: true},
		column{title: "WHAT", least: 20},
	)
}

// latelyRows are events, the newest first.
func latelyRows(events []api.Event, now time.Time) []row {
	rows := make([]row, 0, len(events))
	for i := len(events) - 1; i >= 0; i-- {
		ev := &events[i]
		r := row{id: strconv.FormatUint(ev.Seq, 10), machine: ev.Machine}
		name := ev.Machine
		if ev.Build != "" {
			r.build = &api.Build{Request: api.Request{ID: ev.Build, Derivation: ev.Derivation}, State: ev.State, Machine: ev.Machine, Attempt: ev.Attempt}
			name = display.Name(r.build)
		} else if name == "" {
			name = "the coordinator"
		}
		what := *ev
		if ev.Build == "" {
			what.Machine = ""
		}
		r.cells = []cell{
			{text: name},
			agoCell(ev.Time, now),
			{text: display.EventText(&what), colour: display.BuildColour(ev.State)},
		}
		rows = append(rows, r)
	}
	return rows
}

// newBuilds shows builds that wait.
func newBuilds(title string) *pane {
	return newPane(title, "there are none",
		column{least: 14},
		column{title: "STATE"},
		column{title: "PRIO", right: true, down: true, drop: 2},
		column{title: "AGE", right: true, down: true},
		column{title: "DONE IN", right: true, drop: 1},
		column{title: "WHOSE", least: 6, drop: 4},
		column{title: "MACHINE", least: 8, drop: 5},
		column{title: "ID", drop: 3},
		column{title: "WHY", least: 32},
	)
}

func buildRows(list []api.Build, now time.Time) []row {
	rows := make([]row, len(list))
	for i := range list {
		b := &list[i]
		rows[i] = row{id: b.ID, build: b, machine: b.Machine, cells: []cell{
			{text: display.Name(b)},
			{text: string(b.State), colour: display.BuildColour(b.State)},
			priorityCell(b),
			agoCell(b.Submitted, now),
			endCell(b.ExpectedEnd, now),
			{text: whose(b)},
			{text: b.Machine, colour: display.Cyan},
			{text: display.ShortID(b.ID)},
			{text: display.Reason(b)},
		}}
	}
	return rows
}

// blockerRows are builds that hold up others.
func blockerRows(b *api.Blocking, now time.Time) []row {
	list := slices.Concat(b.Failures, b.Builds)
	var rows []row
	for i := range list {
		x := &list[i].Build
		n := list[i].Holds + x.Dependents
		if n == 0 {
			continue
		}
		rows = append(rows, row{id: x.ID, build: x, machine: x.Machine, cells: []cell{
			{text: display.Name(x)},
			{text: string(x.State), colour: display.BuildColour(x.State)},
			{text: human.Number(n), rank: float64(n)},
			{text: x.Machine, colour: display.Cyan},
			agoCell(stopped(x), now),
			{text: display.ShortID(x.ID)},
			{text: display.Reason(x)},
		}})
	}
	return rows
}

// failedSince counts builds that failed after a time; more says that there may be others.
func failedSince(s *api.Status, since time.Time) (n int, more bool) {
	for i := range s.Failures {
		if !stopped(&s.Failures[i]).Before(since) {
			n++
		}
	}
	return n, n == len(s.Failures) && n >= listedFailures
}

// overdue counts builds that take longer than such builds do.
func overdue(s *api.Status) (n int) {
	for i := range s.Running {
		if s.Running[i].Overdue {
			n++
		}
	}
	return n
}

// listedFailures is how many failures a status has at most.
const listedFailures = 20

// header is what an operator must know first: counts, when all is done, and in so many lines what is in the way. away
// says that the coordinator does not answer.
func header(s *api.Status, away string, now time.Time, width, obstacles int, style display.Style) []string {
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	failed, more := failedSince(s, midnight)
	count := func(n int, word string) string { return human.Number(n) + " " + word }
	failures := count(failed, "failed today")
	if more {
		failures = "at least " + failures
	}
	running := s.Counts[api.Placed] + s.Counts[api.Sending] + s.Counts[api.Building] + s.Counts[api.Fetching]
	runs := count(running, "running")
	if n := overdue(s); n > 0 {
		runs += " (" + count(n, "overdue") + ")"
	}
	text := strings.Join([]string{runs, count(s.Counts[api.Queued], "queued"), count(s.Counts[api.Waiting], "waiting"), failures}, ", ")
	clock := now.Local().Format("15:04:05")
	lines := []string{style.Paint(display.Bold, human.Pad(human.Truncate(text, width-len(clock)-1), width-len(clock))+clock)}

	second, rights, colour := human.Printable(display.Outlook(s.Outlook, now)), "", ""
	if c := s.Caller; c != nil && !c.Operates {
		rights = "  you may change only your own builds"
	}
	if second == "" && running+s.Counts[api.Queued]+s.Counts[api.Waiting] == 0 {
		second = "nothing is to be done"
	}
	if away != "" {
		second, rights, colour = human.Line(away), "", display.Red
	}
	second = human.Pad(human.Truncate(second, width-len(rights)), width-len(rights)) + rights
	lines = append(lines, style.Paint(colour, human.Truncate(second, width)))
	list := view.Obstacles(s, now)
	if len(list) == 0 {
		return append(lines, style.Paint(display.Dim, human.Truncate("nothing is in the way", width)))
	}
	for i, o := range list[:min(len(list), obstacles)] {
		text, rest := human.Line(o.Text), ""
		if left := len(list) - i - 1; left > 0 && i == obstacles-1 {
			rest = fmt.Sprintf(" (and %d more: !)", left)
		}
		lines = append(lines, style.Paint(levelColour(o.Level), human.Truncate(text, width-len(rest))+rest))
	}
	return lines
}

func levelColour(l view.Level) string {
	switch l {
	case view.Bad:
		return display.Red
	case view.Warn:
		return display.Yellow
	}
	return display.Dim
}
