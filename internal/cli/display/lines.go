package display

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

// Style says how lines are decorated. The zero value is plain text.
type Style struct{ Colour bool }

func (s Style) Paint(code, text string) string {
	if !s.Colour || text == "" || code == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// The SGR codes in use.
const (
	Bold   = "1"
	Dim    = "2"
	Red    = "31"
	Green  = "32"
	Yellow = "33"
	Cyan   = "36"
)

// Lines returns the display for a terminal of that many cells: one line for each
// build that holds a slot, then a summary. No line is wider than width, and there
// are at most height.
func (m *Model) Lines(now time.Time, width, height int, style Style) []string {
	width, height = max(width, 1), max(height, 1)
	tail := m.tail(now, width, style)
	if len(tail) > height {
		tail = tail[:height]
	}
	rows := m.rows(now)
	if room := height - len(tail); len(rows) > room {
		if room == 0 {
			return tail
		}
		hidden := len(rows) - room + 1
		lines := layOut(rows[:room-1], width, style)
		lines = append(lines, style.Paint(Dim, human.Truncate(fmt.Sprintf("  and %d more", hidden), width)))
		return append(lines, tail...)
	}
	return append(layOut(rows, width, style), tail...)
}

// row is a line of the display before it is fitted to the terminal.
type row struct {
	name, machine, phase, elapsed, detail string
	state                                 api.State
}

func (m *Model) rows(now time.Time) []row {
	byBuild := make(map[string][]api.Transfer)
	var others []api.Transfer
	for _, t := range m.transfers {
		if e := m.builds[t.Build]; e != nil && e.State.Running() {
			byBuild[t.Build] = append(byBuild[t.Build], t)
		} else {
			others = append(others, t)
		}
	}
	var rows []row
	for _, e := range m.running() {
		rows = append(rows, row{
			name:    human.Printable(Name(&e.Build)),
			machine: human.Printable(e.Machine),
			phase:   string(e.State),
			elapsed: quantity.Elapsed(now.Sub(e.since)),
			detail:  TransferText(byBuild[e.ID], now),
			state:   e.State,
		})
	}
	for _, t := range others {
		rows = append(rows, row{
			name:    human.Count(t.Items, "item"),
			machine: human.Printable(t.Machine),
			phase:   human.Printable(string(t.Direction)),
			elapsed: quantity.Elapsed(now.Sub(t.Started)),
			detail:  TransferText([]api.Transfer{t}, now),
			state:   api.Sending,
		})
	}
	return rows
}

// TransferText sums transfers up: "1.20 of 3.40 MiB, 12.3 MiB/s".
func TransferText(transfers []api.Transfer, now time.Time) string {
	if len(transfers) == 0 {
		return ""
	}
	var bytes, total int64
	known := true
	started := now
	for _, t := range transfers {
		bytes += t.Bytes
		total += t.Total
		known = known && t.Total > 0
		if t.Started.Before(started) {
			started = t.Started
		}
	}
	text := quantity.Bytes(bytes)
	// An archive is a little bigger than its NARs, so that bytes may pass total.
	if known && bytes < total {
		text = quantity.BytesOf(bytes, total)
	}
	if d := now.Sub(started).Seconds(); d > 0.2 {
		text += ", " + quantity.Rate(float64(bytes)/d)
	}
	return text
}

// layOut aligns rows in columns. When the terminal is narrow, the transfer goes
// first, then the names are shortened.
func layOut(rows []row, width int, style Style) []string {
	var machine, phase, elapsed, detail, name int
	for _, r := range rows {
		machine = max(machine, human.Width(r.machine))
		phase = max(phase, human.Width(r.phase))
		elapsed = max(elapsed, human.Width(r.elapsed))
		detail = max(detail, human.Width(r.detail))
		name = max(name, human.Width(r.name))
	}
	machine = min(machine, max(8, width/4))
	fixed := 2 + 2 + machine + 2 + phase + 2 + elapsed
	if short := min(machine, 12); detail > 0 && fixed+2+detail+min(name, 24) > width {
		fixed -= machine - short
		machine = short
	}
	if detail > 0 && fixed+2+detail+min(name, 16) > width {
		detail = 0
	}
	if detail > 0 {
		fixed += 2 + detail
	}
	name = max(0, min(name, width-fixed))
	c := columns{widths: []int{name, machine, phase, elapsed, detail}, right: 0b01000, margin: "  "}
	lines := make([]string, 0, len(rows))
	for _, r := range rows {
		cells := []part{{"", r.name}, {Cyan, r.machine}, {phaseColour(r.state), r.phase}, {"", r.elapsed}, {Dim, r.detail}}
		lines = append(lines, c.line(cells, width, style))
	}
	return lines
}

func phaseColour(s api.State) string {
	switch s {
	case api.Building:
		return Green
	case api.Sending, api.Fetching:
		return Yellow
	}
	return Dim
}

// BuildColour is that of any state of a build.
func BuildColour(s api.State) string {
	switch s {
	case api.Succeeded:
		return Green
	case api.Failed, api.TimedOut:
		return Red
	case api.DependencyFailed, api.Canceled:
		return Yellow
	case api.Building, api.Sending, api.Fetching, api.Placed:
		return Cyan
	}
	return ""
}

// tail is what stands below the rows: why nothing runs, the summary, the note.
func (m *Model) tail(now time.Time, width int, style Style) []string {
	var lines []string
	if reason := m.stalled(); reason != "" {
		lines = append(lines, style.Paint(Yellow, human.Truncate("  "+human.Printable(reason), width)))
	}
	for _, s := range m.machines {
		if s.State == api.MachineDown && s.Error != "" {
			text := fmt.Sprintf("  %s is down: %s", s.Name, s.Error)
			lines = append(lines, style.Paint(Yellow, human.Truncate(human.Printable(text), width)))
		}
	}
	// More than two such machines would push the builds off a small terminal.
	if len(lines) > 3 {
		lines = append(lines[:2], style.Paint(Yellow, human.Truncate(fmt.Sprintf("  and %d more machines are down", len(lines)-2), width)))
	}
	lines = append(lines, style.Paint(Bold, human.Truncate(m.summary(now, width), width)))
	if m.note != "" {
		lines = append(lines, style.Paint(Yellow, human.Truncate(human.Printable(m.note), width)))
	}
	return lines
}

// stalled returns why nothing is under way, if nothing is.
func (m *Model) stalled() string {
	reason := ""
	for _, e := range m.builds {
		if e.State.Running() {
			return ""
		}
		if e.State == api.Queued && e.Reason != "" && (reason == "" || e.Reason < reason) {
			reason = e.Reason
		}
	}
	return reason
}

// Summary returns one line with the counts, bytes and time.
func (m *Model) Summary(now time.Time) string { return m.summary(now, math.MaxInt) }

// summary returns a Summary for a line of that width: bytes go first, then words.
func (m *Model) summary(now time.Time, width int) string {
	var failed, running, total int
	for state, n := range m.counts {
		total += n
		switch {
		case state.FailedItself():
			failed += n
		case state.Running():
			running += n
		}
	}
	done := fmt.Sprintf("%s of %s done", human.Number(m.counts[api.Succeeded]), human.Count(total, "build"))
	var parts, moved []string
	for _, c := range []struct {
		n    int
		text string
	}{
		{failed, "failed"},
		{m.counts[api.DependencyFailed], "not built"},
		{m.counts[api.Canceled], "canceled"},
		{running, "running"},
		{m.counts[api.Queued] + m.counts[api.Waiting], "waiting"},
	} {
		if c.n > 0 {
			parts = append(parts, human.Number(c.n)+" "+c.text)
		}
	}
	if sent := m.sent + m.underWay(api.Send); sent > 0 {
		moved = append(moved, quantity.Bytes(sent)+" sent")
	}
	if fetched := m.fetched + m.underWay(api.Fetch); fetched > 0 {
		moved = append(moved, quantity.Bytes(fetched)+" fetched")
	}
	times := []string{quantity.Elapsed(now.Sub(m.started))}
	short := slices.Clone(times)
	if !m.Done() {
		left, told := m.left, m.end != nil && now.Before(m.end.High)
		if told {
			left = m.end.Middle.Sub(now)
			times = append(times, "to be done "+Expected(m.end, now))
		}
		if left > 0 {
			short = append(short, "~"+quantity.Elapsed(left)+" left")
		}
		if !told {
			times = short
		}
	}
	line := func(parts ...[]string) string { return strings.Join(slices.Concat(parts...), ", ") }
	text := line([]string{done}, parts, moved, times)
	if human.Width(text) > width {
		text = line([]string{done}, parts, times)
	}
	if human.Width(text) > width {
		text = line([]string{done}, parts, short)
	}
	if human.Width(text) > width {
		counts := fmt.Sprintf("%s/%s done", human.Number(m.counts[api.Succeeded]), human.Number(total))
		text = line([]string{counts}, parts, short)
	}
	return text
}

func (m *Model) underWay(direction api.Direction) int64 {
	var n int64
	for _, t := range m.transfers {
		if e := m.builds[t.Build]; e != nil && !e.State.Final() && t.Direction == direction {
			n += t.Bytes
		}
	}
	return n
}

// maxBeat is how many builds a Beat names.
const maxBeat = 3

// Beat returns a line that says that builds go on, or wait: which, for how long, what is left, and until when.
func (m *Model) Beat(now time.Time) string {
	var list []string
	for _, e := range m.running() {
		list = append(list, fmt.Sprintf("%s %s on %s for %s", human.Printable(Name(&e.Build)), e.State, human.Printable(e.Machine), quantity.Elapsed(now.Sub(e.since))))
	}
	word, why := "running", ""
	if len(list) == 0 {
		word = "waiting"
		for _, b := range m.Queued() {
			list = append(list, human.Printable(Name(b)))
		}
		if why = m.stalled(); why != "" {
			why = ": " + human.Line(why)
		}
	}
	if more := len(list) - maxBeat; more > 0 {
		list = append(list[:maxBeat], human.Number(more)+" more")
	}
	text := strings.Join(list, ", ") + why
	if text != "" {
		text += "; "
	}
	return verdict(Style{}, "", word) + text + m.summary(now, math.MaxInt)
}

// Outcome returns a line that says how a build ended, or "" if it has not.
func Outcome(b *api.Build, style Style) string {
	name := human.Printable(Name(b))
	where := ""
	if b.Machine != "" {
		where = " on " + human.Printable(b.Machine)
	}
	switch b.State {
	case api.Succeeded:
		return verdict(style, Green, "built") + name + succeeded(b, where)
	case api.Failed:
		return verdict(style, Red, "failed") + name + where + ": " + FailureText(b)
	case api.TimedOut:
		return verdict(style, Red, "timed out") + name + where + ": " + FailureText(b)
	case api.DependencyFailed:
		return verdict(style, Yellow, "not built") + name + ": " + FailureText(b)
	case api.Canceled:
		return verdict(style, Yellow, "canceled") + name
	}
	return ""
}

// verdict is the first column of an outcome.
func verdict(style Style, colour, word string) string {
	const column = len("timed out") + 1
	return style.Paint(colour, word) + strings.Repeat(" ", column-len(word))
}

func succeeded(b *api.Build, where string) string {
	if b.Check > 0 {
		return fmt.Sprintf(" on %s, with the same result", human.Count(b.Check, "machine"))
	}
	if b.Machine == "" {
		return " (was there already)"
	}
	text := where
	if b.BuildTime > 0 {
		text += " in " + quantity.Duration(b.BuildTime.Duration())
	}
	if b.OutputSize > 0 {
		text += ", " + quantity.Bytes(b.OutputSize)
	}
	return text
}

// maxAgain is how many cells of a reason are shown where a build is tried again.
const maxAgain = 200

// Start returns a line that says where a build starts, for output that is no terminal, or that it starts
// again; last is why the attempt before failed, or nil.
func Start(b *api.Build, ev *api.Event, last *api.Failure) string {
	again := ""
	if ev.Attempt > 1 {
		again = fmt.Sprintf(" (attempt %d", ev.Attempt)
		if last != nil {
			before := "the first"
			if ev.Attempt > 2 {
				before = fmt.Sprintf("attempt %d", ev.Attempt-1)
			}
			again += "; " + before + ": " + human.Truncate(headline(last.Short()), maxAgain)
		}
		again += ")"
	}
	return fmt.Sprintf("building  %s on %s%s", human.Printable(Name(b)), human.Printable(ev.Machine), again)
}

// WithoutMachine returns a line that says why no machine is there for a build, and GivenUp one for when
// that was so for too long.
func WithoutMachine(b *api.Build, reason string) string {
	return "waiting   " + human.Printable(Name(b)) + ": " + human.Line(reason)
}

// GivenUp is described at WithoutMachine.
func GivenUp(b *api.Build, limit time.Duration, reason string) string {
	return fmt.Sprintf("given up  %s: no machine for it within %s: %s", human.Printable(Name(b)), quantity.Duration(limit), human.Line(reason))
}

// Kept returns a line that says where the folder of a failed build is.
func Kept(f *api.Failure) string {
	return "          its folder was kept on " + human.Printable(f.Machine) + ": " + human.Printable(f.KeptIn)
}

// LogTail returns the last n lines of a log, each indented and safe to print.
func LogTail(log []byte, n int) []string {
	text := strings.TrimRight(string(log), "\r\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	lines = slices.Clone(lines[max(0, len(lines)-n):])
	for i, l := range lines {
		lines[i] = "  │ " + human.LogLine(l)
	}
	return lines
}

// Verdict returns one of two words, in green or red.
func (s Style) Verdict(ok bool, good, bad string) string {
	if ok {
		return s.Paint(Green, good)
	}
	return s.Paint(Red, bad)
}
