package display

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

// StatusLines is the coordinator at one glance: what there is to do, the machines, what
// failed lately, and what runs. No line is wider than width, and there are at most height;
// 0 means no limit. What does not fit is counted.
func StatusLines(s *api.Status, now time.Time, width, height int, style Style) []string {
	if width <= 0 {
		width = 1 << 12
	}
	page := statusHeader(s, now, width, style)
	sections := []section{
		{lines: queueLines(s.Queues, width, style), least: 5, floor: smallest},
		{lines: shareLines(s.Shares, width, style), least: 4, floor: 1, brief: "SHARES: " + strconv.Itoa(len(s.Shares))},
		{lines: machineLines(s, now, width, height, style), least: 13, floor: smallest},
		{lines: failureLines(s.Failures, now, width, style), least: 3, floor: 1, brief: "FAILED LATELY: " + human.Count(len(s.Failures), "build")},
		{lines: runningLines(s, now, width, style), brief: "UNDER WAY: " + human.Count(len(s.Running), "build") + ", " + human.Count(len(s.Transfers), "transfer")},
	}
	sections = slices.DeleteFunc(sections, func(c section) bool { return len(c.lines) == 0 })
	if height <= 0 {
		height = 1 << 24
	}
	if len(page) > height {
		page = page[:height]
	}
	rooms := shareRoom(sections, height-len(page))
	spare := height - len(page)
	for _, n := range rooms {
		spare -= n
	}
	for i, c := range sections {
		if rooms[i] == 0 {
			continue
		}
		if spare > 0 {
			page, spare = append(page, ""), spare-1
		}
		page = append(page, c.cut(rooms[i], width, style)...)
	}
	return page
}

// section is a heading with lines below it.
type section struct {
	lines []string
	least int    // lines that it gets before any section gets more
	floor int    // lines that it keeps where others lack their least
	brief string // all of it in a line; may be empty
}

// smallest is the least number of lines with which a section says anything without its
// brief form: its heading, a line, and how many more there are.
const smallest = 3

// cut returns at most n lines, the last of which counts those that are left out.
func (c section) cut(n, width int, style Style) []string {
	switch {
	case n >= len(c.lines):
		return c.lines
	case n < smallest && c.brief != "":
		return []string{style.Paint(Bold, human.Truncate(c.brief, width))}
	}
	more := fmt.Sprintf("  and %s more", human.Number(len(c.lines)-n+1))
	return append(slices.Clone(c.lines[:n-1]), style.Paint(Dim, human.Truncate(more, width)))
}

// shareRoom returns how many lines each section gets, of that many.
func shareRoom(sections []section, room int) []int {
	rooms := make([]int, len(sections))
	for i, c := range sections {
		rooms[i] = min(len(c.lines), c.least)
		room -= rooms[i]
	}
	// Too little: the last ones give way first, to their floor and then altogether.
	for _, all := range []bool{false, true} {
		for i := len(sections) - 1; i >= 0 && room < 0; i-- {
			keep := 0
			if !all {
				keep = min(rooms[i], max(sections[i].floor, rooms[i]+room))
			}
			room += rooms[i] - keep
			rooms[i] = keep
		}
	}
	for i, c := range sections {
		more := min(max(room, 0), len(c.lines)-rooms[i])
		if got := rooms[i] + more; got < min(smallest, len(c.lines)) && (c.brief == "" || got == 0) {
			continue
		}
		rooms[i] += more
		room -= more
	}
	return rooms
}

// Paused returns why the coordinator is paused, after that word, which the coordinator's
// own reasons begin with.
func Paused(why string) string {
	if strings.HasPrefix(why, "paused") {
		return why
	}
	return "paused: " + why
}

// storeName says whose the head's store is.
func storeName(kind string) string {
	if kind == "local" {
		return "lighter's own"
	}
	return kind + "'s"
}

// statusHeader is the top of the page: who it is, the counts, and what is in the way.
func statusHeader(s *api.Status, now time.Time, width int, style Style) []string {
	var lines []string
	add := func(colour, text string) {
		lines = append(lines, style.Paint(colour, human.Truncate(human.Printable(text), width)))
	}
	add(Bold, fmt.Sprintf("coordinator %s, process %d, started %s", s.Version, s.PID, human.Ago(s.Started, now)))
	if there := s.Installation; there != nil {
		add("", "store: "+storeName(there.StoreKind)+", in "+there.State+", as "+there.User)
	}
	if c := s.Caller; c != nil && !c.Operates {
		add("", "you may submit and look; "+c.Operators+" may operate")
	}
	if s.Paused != "" {
		add(Yellow, Paused(s.Paused))
	}
	for _, text := range s.SettingsProblems {
		first, _, _ := strings.Cut(text, "\n")
		add(Red, "lighter.toml, not carried out (lighter doctor says more): "+first)
	}
	if s.MachinesFile.Error != "" {
		first, _, _ := strings.Cut(strings.TrimPrefix(s.MachinesFile.Error, "machines file: "), "\n")
		add(Red, "machines file, not taken over: "+first)
	}
	var counts []string
	for _, state := range api.States() {
		if n := s.Counts[state]; n > 0 {
			counts = append(counts, human.Number(n)+" "+string(state))
		}
	}
	if len(counts) == 0 {
		counts = []string{"none yet"}
	}
	add("", "builds: "+strings.Join(counts, ", "))
	if text := Outlook(s.Outlook, now); text != "" && (s.Outlook.ExpectedEnd != nil || s.Paused == "") {
		add("", text)
	}
	if text := headText(s); text != "" {
		add("", text)
	}
	if s.HooksParked > 0 {
		add(Yellow, fmt.Sprintf("hooks: %s to come, %s parked; see lighter hooks list", human.Count(s.HooksPending, "run"), human.Number(s.HooksParked)))
	} else if s.HooksPending > 0 {
		add("", fmt.Sprintf("hooks: %s to come", human.Count(s.HooksPending, "run")))
	}
	return lines
}

// scarceInodes is how many free inodes are worth a word: one large closure needs about as many.
const scarceInodes = 1_000_000

func headText(s *api.Status) string {
	if s.Head.FreeDisk == 0 && s.Head.StateFreeDisk == 0 {
		return "" // an old coordinator does not say
	}
	text := "head: " + quantity.Bytes(s.Head.FreeDisk) + " free for the store, " + quantity.Bytes(s.Head.StateFreeDisk) + " for ledger and logs"
	if s.Head.FreeInodes > 0 && s.Head.FreeInodes < scarceInodes {
		text += ", " + human.Number(int(s.Head.FreeInodes)) + " inodes"
	}
	return text
}

// queueLines is the table of what there is to do for each system.
func queueLines(queues []api.SystemQueue, width int, style Style) []string {
	if len(queues) == 0 {
		return nil
	}
	g := grid{heading: []string{"SYSTEM", "QUEUED", "WAITING", "RUNNING", "PER HOUR", "EMPTY IN"}, right: 0b011110}
	for _, q := range queues {
		empty := "-"
		if q.Empty > 0 {
			empty = "about " + quantity.Elapsed(q.Empty.Duration())
		}
		g.add("", q.System, human.Number(q.Queued), human.Number(q.Waiting), human.Number(q.Running), RateText(q.Rate), empty)
	}
	return g.lines(width, style)
}

// shareLines is the table of those who ask, if there are several and one of them has builds now.
func shareLines(shares []api.Share, width int, style Style) []string {
	if len(shares) < 2 || !slices.ContainsFunc(shares, func(s api.Share) bool { return s.Queued+s.Running > 0 }) {
		return nil
	}
	g := grid{heading: []string{"SHARE", "WEIGHT", "PART", "READY", "RUNNING", "USED", "ITS PART OF THAT"}, right: 0b1111110}
	for i := range shares {
		s := &shares[i]
		g.add("", s.Name, strconv.FormatFloat(s.Weight, 'g', 4, 64), human.Known(s.Part > 0, Part(s)), human.Number(s.Queued), human.Number(s.Running),
			quantity.Elapsed(s.Used.Duration()), human.Known(s.Part > 0, quantity.Elapsed(s.Due.Duration())))
	}
	return g.lines(width, style)
}

// Part is a share's part of the machines, in percent.
func Part(s *api.Share) string { return strconv.FormatFloat(100*s.Part, 'f', 0, 64) + "%" }

// RateText is a number of builds in an hour.
func RateText(perHour float64) string {
	if perHour >= 100 {
		return human.Number(int(perHour + 0.5))
	}
	return strconv.FormatFloat(perHour, 'f', 1, 64)
}

// MachineState is the state of a machine in one word: "up", "down", "connecting",
// "unknown", "draining", "drained", "quarantined", "refuses" or "removed".
func MachineState(m *api.MachineStatus) string {
	switch {
	case m.Removed:
		return "removed"
	case m.Draining && m.Running == 0:
		return "drained"
	case m.Draining:
		return "draining"
	case m.State != api.MachineUp:
		return string(m.State)
	case m.Quarantined != "":
		return "quarantined"
	case m.Refuses != "":
		return "refuses"
	}
	return string(m.State)
}

// toCome says when what is to come will be.
func toCome(t, now time.Time) string {
	if t.Sub(now) < 2*time.Second {
		return "now"
	}
	return human.Ago(t, now)
}

// MachineNote says why a machine gets no builds, or "".
func MachineNote(m *api.MachineStatus, now time.Time) string {
	var parts []string
	add := func(is bool, text string) {
		if is {
			parts = append(parts, text)
		}
	}
	again := ""
	if m.NextTry != nil {
		again = " (next try " + toCome(*m.NextTry, now) + ")"
	}
	add(m.Removed, "no longer in the machines file")
	add(m.Draining && m.DrainedBy != "", "by "+m.DrainedBy)
	add(m.Draining && m.DrainReason != "", m.DrainReason)
	add(m.State != api.MachineUp && m.Error != "", m.Error+again)
	until := ""
	if m.QuarantinedUntil != nil {
		until = " (ends " + toCome(*m.QuarantinedUntil, now) + ")"
	}
	add(m.Quarantined != "", m.Quarantined+until)
	add(m.Refuses != "", m.Refuses)
	for _, name := range slices.Sorted(maps.Keys(m.Tokens)) {
		add(m.Tokens[name] > 0 && m.TakenTokens[name] >= m.Tokens[name], fmt.Sprintf("%s: all %d taken", name, m.Tokens[name]))
	}
	add(m.Host != "" && m.Host != m.Name, fmt.Sprintf("the same host as %s, where %d builds run in all", m.Host, m.HostRunning))
	add(m.State == api.MachineUp && m.Error != "", m.Error)
	return strings.Join(parts, "; ")
}

// MachineColour is that of a machine in a state, as MachineState has it.
func MachineColour(word string) string {
	switch word {
	case "up":
		return Green
	case "down", "untrusted", "unfit":
		return Red
	}
	return Yellow
}

// machineLines is the table of machines. Where there is no room for all, those in trouble
// come first.
func machineLines(s *api.Status, now time.Time, width, height int, style Style) []string {
	if len(s.Machines) == 0 {
		return nil
	}
	list := slices.Clone(s.Machines)
	if height > 0 && len(list)+1 > height/2 {
		slices.SortStableFunc(list, func(a, b api.MachineStatus) int {
			return cmp.Compare(machineRank(&a), machineRank(&b))
		})
	}
	moving := make(map[string][]api.Transfer)
	for _, t := range s.Transfers {
		moving[t.Machine] = append(moving[t.Machine], t)
	}
	g := grid{
		heading: []string{"MACHINE", "STATE", "SLOTS", "LOAD", "CPU/MEM", "FREE DISK", "TRANSFERS", "NOTE"},
		right:   0b00111100, optional: []int{4, 6}, paintColumn: 1,
	}
	for i := range list {
		m := &list[i]
		word := MachineState(m)
		slots, note := fmt.Sprintf("%d/%d", m.Running, m.ParallelBuilds), MachineNote(m, now)
		if m.State != api.MachineUp && m.Cores == 0 && note != "" {
			g.addSpan(MachineColour(word), 3, m.Name, word, slots, note)
			continue
		}
		g.add(MachineColour(word), m.Name, word, slots, human.Known(m.Cores > 0, strconv.FormatFloat(m.Load, 'f', 2, 64)),
			human.Known(m.CPUPressure > 0 || m.MemoryPressure > 0, fmt.Sprintf("%.0f/%.0f%%", m.CPUPressure, m.MemoryPressure)),
			human.Known(m.FreeDisk > 0, quantity.Bytes(m.FreeDisk)), MovingText(moving[m.Name], now), note)
	}
	g.foldIntoNote(g.widths(width))
	return g.lines(width, style)
}

// foldIntoNote gives machines without a note what they lose with columns for which there
// is no room.
func (g *grid) foldIntoNote(widths []int) {
	note := len(g.heading) - 1
	for i := range g.rows {
		r := &g.rows[i]
		if r.span > 0 || r.cells[note] != "" {
			continue
		}
		var parts []string
		for _, column := range slices.Backward(g.optional) {
			if cell := r.cells[column]; widths[column] == 0 && cell != "" && cell != "-" {
				parts = append(parts, cell)
			}
		}
		r.cells[note] = strings.Join(parts, " ")
	}
}

// machineRank sorts machines by how much a person wants to see them.
func machineRank(m *api.MachineStatus) int {
	switch MachineState(m) {
	case "down":
		return 0
	case "quarantined":
		return 1
	case "up":
		return 3
	}
	return 2
}

// MovingText sums a machine's transfers up: "↑2 12.3 MiB/s ↓1 4.0 MiB/s".
func MovingText(transfers []api.Transfer, now time.Time) string {
	var parts []string
	for _, direction := range []struct {
		name  api.Direction
		arrow string
	}{{api.Send, "↑"}, {api.Fetch, "↓"}} {
		n, rate := 0, 0.0
		for _, t := range transfers {
			if t.Direction != direction.name {
				continue
			}
			n++
			if d := now.Sub(t.Started).Seconds(); d > 0.2 {
				rate += float64(t.Bytes) / d
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s%d %s", direction.arrow, n, quantity.Rate(rate)))
		}
	}
	return strings.Join(parts, " ")
}

func failureLines(failures []api.Build, now time.Time, width int, style Style) []string {
	if len(failures) == 0 {
		return nil
	}
	lines := []string{style.Paint(Bold, human.Truncate("FAILED LATELY", width))}
	for i := range failures {
		b := &failures[i]
		when := b.Submitted
		if b.Stopped != nil {
			when = *b.Stopped
		}
		what := Name(b)
		if b.Dependents > 0 {
			what += " " + NeededBy(b.Dependents)
		}
		if b.Machine != "" {
			what += ", on " + b.Machine
		}
		text := fmt.Sprintf("  %s  %s, %s: %s", human.Printable(ShortID(b.ID)), human.Printable(what), human.ShortAgo(when, now), Reason(b))
		lines = append(lines, human.Truncate(text, width))
	}
	return lines
}

func runningLines(s *api.Status, now time.Time, width int, style Style) []string {
	if len(s.Running) == 0 && len(s.Transfers) == 0 {
		return nil
	}
	m := NewModel(now)
	for i := range s.Running {
		m.Want(&s.Running[i], s.Running[i].Submitted)
	}
	m.SetStatus(s)
	return append([]string{style.Paint(Bold, human.Truncate("UNDER WAY", width))}, layOut(m.rows(now), width, style)...)
}

// grid lays cells out in columns. The last column gets what the others leave.
type grid struct {
	heading  []string
	rows     []gridRow
	right    uint  // bits of the columns that are aligned to the right
	optional []int // columns that go, the first one first, where the last one lacks room
	// paintColumn is the one that has the row's colour.
	paintColumn int
}

type gridRow struct {
	colour string
	cells  []string
	span   int // index of the cell that takes all columns from there on; 0 is none
}

func (g *grid) add(colour string, cells ...string) { g.addSpan(colour, 0, cells...) }

func (g *grid) addSpan(colour string, span int, cells ...string) {
	for i := range cells {
		cells[i] = human.Printable(cells[i])
	}
	g.rows = append(g.rows, gridRow{colour, cells, span})
}

// widths returns the width of each column; 0 where it is left out, since it is empty or
// takes what the last one needs more.
func (g *grid) widths(width int) []int {
	last := len(g.heading) - 1
	widths, empty := make([]int, len(g.heading)), make([]bool, len(g.heading))
	for i, h := range g.heading {
		widths[i], empty[i] = human.Width(h), true
		for _, r := range g.rows {
			if i >= len(r.cells) || r.span > 0 && i >= r.span {
				continue
			}
			widths[i] = max(widths[i], human.Width(r.cells[i]))
			empty[i] = empty[i] && (r.cells[i] == "" || r.cells[i] == "-")
		}
	}
	for _, i := range append(slices.Clone(g.optional), last) {
		if empty[i] && (i == last || slices.Contains(g.optional, i)) {
			widths[i] = 0
		}
	}
	widths[0] = min(widths[0], max(8, width/4))
	left := func() int {
		n := width
		for i, w := range widths[:last] {
			if w > 0 && i < last {
				n -= w + 2
			}
		}
		return n
	}
	// Fewer cells of a note than this say nothing.
	const leastNote = 16
	for _, i := range g.optional {
		if left() < min(widths[last], leastNote) {
			widths[i] = 0
		}
	}
	widths[last] = max(0, min(widths[last], left()))
	return widths
}

func (g *grid) lines(width int, style Style) []string {
	c := columns{widths: g.widths(width), right: g.right}
	lines := []string{style.Paint(Bold, c.line(plain(g.heading), width, Style{}))}
	for _, r := range g.rows {
		lines = append(lines, g.line(r, c, width, style))
	}
	return lines
}

func (g *grid) line(r gridRow, c columns, width int, style Style) string {
	cells := plain(r.cells)
	cells[g.paintColumn].colour = r.colour
	last := len(cells) - 1
	if r.span > 0 {
		cells[last].colour = Dim
		c.widths = append(slices.Clone(c.widths[:last]), width)
	}
	return c.line(cells, width, style)
}
