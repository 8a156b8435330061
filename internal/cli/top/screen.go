package top

import (
	"strings"

	"lighter/internal/cli/display"
	"lighter/internal/human"
)

// Sizes of the screen at which it is laid out otherwise.
const (
	wide     = 170 // cells from which two tables stand side by side
	low      = 16  // lines below which there is room for one table alone
	obstacle = 20  // lines for each of what is in the way
)

// screen returns all that is shown, as many lines as there are, and where the cursor is; x is -1 where there is none.
func (m *model) screen() (text string, x, y int) {
	lines := m.top()
	bottom, x := m.bottom()
	room := max(0, m.height-len(lines)-len(bottom))
	lines = append(lines, m.middle(room)...)
	for len(lines) < m.height-len(bottom) {
		lines = append(lines, "")
	}
	lines = lines[:max(0, m.height-len(bottom))]
	lines = append(lines, bottom...)
	lines = lines[:min(len(lines), m.height)]
	return strings.Join(lines, "\n"), x, m.height - 1
}

// top is what is above all else.
func (m *model) top() []string {
	if m.height < 6 {
		return nil
	}
	return header(m.status, m.away, m.now(), m.width, max(1, m.height/obstacle), m.style)
}

// middle is the page in front, or the tables.
func (m *model) middle(room int) []string {
	if p := m.page(); p != nil {
		return p.draw(m, room)
	}
	if m.whole || m.height < low {
		return m.panes[m.here].lines(m.width, room, true, m.style)
	}
	if m.width < wide {
		return m.column([]int{running, machines, queue, failed, transfers, lately}, m.width, room)
	}
	width := m.width*11/20 - 1
	left := m.column([]int{running, failed, lately}, width, room)
	right := m.column([]int{machines, queue, transfers}, m.width-width-2, room)
	for i := range max(len(left), len(right)) {
		var a, b string
		if i < len(left) {
			a = left[i]
		}
		if i < len(right) {
			b = right[i]
		}
		line := a + strings.Repeat(" ", max(0, width+2-display.VisibleWidth(a))) + b
		if i < len(left) {
			left[i] = line
		} else {
			left = append(left, line)
		}
	}
	return left
}

// column stacks tables.
func (m *model) column(list []int, width, room int) []string {
	want, here := make([]int, len(list)), -1
	for i, n := range list {
		want[i] = 1 + m.panes[n].most
		if n == m.here {
			here = i
		}
	}
	var lines []string
	rooms := share(want, here, room)
	for _, height := range rooms {
		room -= height
	}
	for i, height := range rooms {
		if i > 0 && room >= len(list)-1 {
			lines = append(lines, "")
		}
		n := list[i]
		part := m.panes[n].lines(width, height, n == m.here, m.style)
		lines = append(lines, part...)
		for range height - len(part) {
			lines = append(lines, "") // it had more rows before, and perhaps soon again
		}
	}
	return lines
}

// share gives each of some tables lines of the screen: a heading to all, a row to all, and then in turns until all
// have what they want, two at a time to the one in which the person is.
func share(want []int, here, room int) []int {
	rooms := make([]int, len(want))
	give := func(i, n int) {
		n = max(0, min(n, want[i]-rooms[i], room))
		rooms[i] += n
		room -= n
	}
	for i := range want {
		give(i, 1)
	}
	if here >= 0 {
		give(here, 4)
	}
	for i := range want {
		give(i, 1)
	}
	for before := -1; room > 0 && room != before; {
		before = room
		for i := range want {
			give(i, 1)
			if i == here {
				give(i, 1)
			}
		}
	}
	return rooms
}

// draw is a page, for so many lines.
func (p *page) draw(m *model, room int) []string {
	title, state := p.title, ""
	if p.build != nil {
		title = human.TruncateMiddle(display.Name(p.build), max(12, m.width/4)) + " " + display.ShortID(p.build.ID)
		if p.build.Machine != "" {
			title += " on " + p.build.Machine
		}
		for _, t := range tabs {
			word := string(t)
			if t == p.tab {
				word = "[" + word + "]"
			}
			state += "  " + word
		}
		if p.tab == tabLog {
			state += "  " + p.log.state(p.build)
		}
	}
	if p.err != "" {
		state += "  " + p.err
	}
	lines := []string{m.style.Paint(display.Bold+";"+display.Cyan, human.Truncate(human.Line(title+state), m.width))}
	room--
	if p.pane == nil {
		t := p.searched()
		if p.build != nil && p.tab != tabLog && p.story == nil && p.err == "" {
			return append(lines, asking)
		}
		return append(lines, t.draw(m.width, room)...)
	}
	above := min(len(p.text.lines), max(0, room-min(room/2, len(p.pane.rows)+2)))
	lines = append(lines, p.text.draw(m.width, above)...)
	return append(lines, p.pane.lines(m.width, room-above, true, m.style)...)
}

// bottom is what is asked or typed, or what keys do; x is where the cursor is, -1 if there is none.
func (m *model) bottom() (lines []string, x int) {
	switch {
	case m.question != nil:
		for _, line := range wrap([]string{human.Line(m.question.text)}, m.width) {
			lines = append(lines, m.style.Paint(display.Bold+";"+display.Yellow, line))
		}
		var keys []string
		for _, a := range m.question.answers {
			keys = append(keys, a.key+" "+a.what)
		}
		return append(lines, human.Truncate(strings.Join(keys, "   ")+"   any other key: no", m.width)), -1
	case m.prompt != nil:
		all := wrap([]string{human.Line(m.prompt.label)}, m.width)
		last := len(all) - 1
		for _, line := range all[:last] {
			lines = append(lines, m.style.Paint(display.Yellow, line))
		}
		label := all[last]
		if strings.HasSuffix(m.prompt.label, " ") {
			label += " "
		}
		text := string(m.prompt.text)
		if over := human.Width(label) + human.Width(text) + 1 - m.width; over > 0 {
			text = human.CutLeft(text, over)
		}
		return append(lines, m.style.Paint(display.Yellow, label)+text), human.Width(label) + human.Width(text)
	case m.note != "":
		colour := display.Green
		if m.bad {
			colour = display.Yellow
		}
		return []string{m.style.Paint(colour, human.Truncate(human.Line(m.note), m.width))}, -1
	}
	return []string{m.style.Paint(display.Dim, human.Truncate(m.keys(), m.width))}, -1
}

// keys says what keys do here.
func (m *model) keys() string {
	list := []string{"? keys", "q leave"}
	p := m.page()
	switch {
	case p == nil:
		list = append(list, rowKeys(m.pane().selected())...)
		list = append(list, "/ filter", "s sort", "Tab table", "z whole", "! in the way", "B blocking", "P pause")
	case p.build != nil:
		list = []string{"? keys", "q back", "s story", "w why", "l log", "/ search", "n next"}
		if p.tab == tabLog {
			list = append(list, "G follow")
		}
		if p.story != nil && p.story.Cause != nil {
			list = append(list, "o cause")
		}
		if p.build.State.Final() {
			list = append(list, "r retry")
		} else {
			list = append(list, "c cancel", "p priority")
		}
	case p.pane != nil:
		list = []string{"? keys", "q back"}
		if p.make != nil {
			list = append(list, "d drain", "u resume")
		} else {
			list = append(list, "/ filter", "s sort")
		}
		list = append(list, rowKeys(p.pane.selected())...)
	default:
		list = []string{"q back", "/ search"}
	}
	return strings.Join(list, "  ")
}

// rowKeys are those for what is at the cursor.
func rowKeys(r *row) (list []string) {
	switch {
	case r == nil:
		return nil
	case r.build != nil && r.build.State.Final():
		return []string{"Enter open", "l log", "r retry"}
	case r.build != nil:
		return []string{"Enter open", "l log", "w why", "c cancel", "p priority"}
	case r.machine != "":
		return []string{"Enter open", "d drain", "u resume"}
	}
	return []string{"Enter open"}
}
