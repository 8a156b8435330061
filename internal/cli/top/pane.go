package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
)

// pane is a table in which a person moves, sorts and filters. It is told rows as often as there are new
// ones, and stays at the row at which it was.
type pane struct {
	key     string // that goes to it; a blank if there is none
	title   string // of the first column
	columns []column
	empty   string // what is said where there are no rows

	all    []row // in the order in which they came
	rows   []row // of these those that the filter lets through, sorted
	sort   int   // by this column; -1 leaves the order
	back   bool  // the other way round
	filter string
	cursor int
	at     string // id of the row at the cursor
	first  int    // the first row on the screen
	most   int    // how many rows there were at most since the screen was laid out
}

// column is one column of a pane.
type column struct {
	title string
	right bool // aligned
	down  bool // sorted with the highest first
	least int  // cells that it keeps where there is too little room; 0 is all
	drop  int  // where there is still too little those with the highest number go first; 0 stays
}

// row is a line of a pane, and what it is about.
type row struct {
	id      string
	cells   []cell
	build   *api.Build
	machine string
	system  string
}

// cell is what stands in a column, and what it is sorted by: the rank, or where that is the same, the text.
type cell struct {
	text, colour string
	rank         float64
}

func newPane(title, empty string, columns ...column) *pane {
	columns[0].title = title
	return &pane{key: " ", title: title, columns: columns, empty: empty, sort: -1}
}

// set takes new rows.
func (p *pane) set(rows []row) {
	for i := range rows {
		for k := range rows[i].cells {
			rows[i].cells[k].text = human.Printable(rows[i].cells[k].text)
		}
	}
	p.all = rows
	p.arrange()
}

// arrange filters and sorts, and finds the row again at which the cursor was.
func (p *pane) arrange() {
	p.rows = slices.Clone(p.all)
	if p.filter != "" {
		wanted := strings.ToLower(p.filter)
		p.rows = slices.DeleteFunc(p.rows, func(r row) bool { return !r.contains(wanted) })
	}
	if p.sort >= 0 {
		slices.SortStableFunc(p.rows, func(a, b row) int {
			x, y := a.cells[p.sort], b.cells[p.sort]
			order := cmp.Or(cmp.Compare(x.rank, y.rank), cmp.Compare(x.text, y.text))
			if p.columns[p.sort].down != p.back {
				return -order
			}
			return order
		})
	} else if p.back {
		slices.Reverse(p.rows)
	}
	if i := slices.IndexFunc(p.rows, func(r row) bool { return r.id == p.at }); i >= 0 && p.at != "" {
		p.cursor = i
	}
	p.move(0)
	p.most = max(p.most, len(p.all))
}

// contains reports whether a row has a text, in small letters: in a cell, in a tag, in the id or the derivation.
func (r *row) contains(wanted string) bool {
	for _, c := range r.cells {
		if strings.Contains(strings.ToLower(c.text), wanted) {
			return true
		}
	}
	if r.build == nil {
		return strings.Contains(strings.ToLower(r.machine), wanted)
	}
	for k, v := range r.build.Tags {
		if strings.Contains(strings.ToLower(k+"="+v), wanted) {
			return true
		}
	}
	return strings.Contains(r.build.ID, wanted) || strings.Contains(strings.ToLower(string(r.build.Derivation)), wanted)
}

// move moves the cursor by that many rows.
func (p *pane) move(by int) {
	p.cursor = max(0, min(p.cursor+by, len(p.rows)-1))
	p.at = ""
	if len(p.rows) > 0 && (p.cursor > 0 || by != 0) {
		p.at = p.rows[p.cursor].id // the first row is stayed at as a place, until somebody moves
	}
}

// selected returns the row at the cursor, nil if there is none.
func (p *pane) selected() *row {
	if len(p.rows) == 0 {
		return nil
	}
	return &p.rows[p.cursor]
}

// nextSort sorts by the next column that is shown, and after the last one not at all.
func (p *pane) nextSort(width int) {
	widths := p.widths(width)
	for p.back = false; ; {
		if p.sort++; p.sort == len(p.columns) {
			p.sort = -1
		}
		if p.sort < 0 || widths[p.sort] > 0 {
			break
		}
	}
	p.arrange()
}

// heading returns the titles of the columns: the first one with how many rows there are.
func (p *pane) heading(shown int) []string {
	titles := make([]string, len(p.columns))
	for i, c := range p.columns {
		titles[i] = c.title
	}
	count := human.Number(len(p.rows))
	switch {
	case p.filter != "":
		count = fmt.Sprintf("%s/%s with %s", count, human.Number(len(p.all)), p.filter)
	case shown < len(p.rows):
		count = fmt.Sprintf("%d-%d/%s", p.first+1, min(p.first+shown, len(p.rows)), count)
	}
	titles[0] = p.title + " " + count
	if p.sort >= 0 {
		mark := "↑"
		if p.columns[p.sort].down != p.back {
			mark = "↓"
		}
		titles[p.sort] += mark
	}
	return titles
}

const (
	gap = 2 // between columns
	// mostTitle is how much of the first title is kept where there is too little room: with a count, or a filter.
	mostTitle = 28
)

// widths returns how wide each column is on a screen of so many cells, 0 where it is left out: columns that
// may go, those without a value first, then the widest of those that may shrink.
func (p *pane) widths(width int) []int {
	widths, least := make([]int, len(p.columns)), make([]int, len(p.columns))
	for i, title := range p.heading(len(p.rows) - 1) {
		widths[i] = human.Width(title)
		valued := p.columns[i].drop == 0
		for _, r := range p.all {
			widths[i] = max(widths[i], human.Width(r.cells[i].text))
			valued = valued || r.cells[i].text != "" && r.cells[i].text != "-"
		}
		if !valued {
			widths[i] = 0
		}
		if least[i] = min(widths[i], p.columns[i].least); p.columns[i].least == 0 {
			least[i] = widths[i]
		}
		if i == 0 {
			least[i] = min(widths[i], max(least[i], min(human.Width(title), mostTitle)))
		}
	}
	total := func(list []int) int {
		n := -gap
		for i := range list {
			if widths[i] > 0 {
				n += list[i] + gap
			}
		}
		return n
	}
	for total(least) > width {
		goes := -1
		for i, c := range p.columns {
			if widths[i] > 0 && c.drop > 0 && (goes < 0 || c.drop > p.columns[goes].drop) {
				goes = i
			}
		}
		if goes < 0 {
			break
		}
		widths[goes] = 0
	}
	for total(widths) > width {
		widest := -1
		for i := range widths {
			if widths[i] > least[i] && (widest < 0 || widths[i] >= widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

// margin is where the mark of the cursor is, and in a heading the pane's key.
const margin = 2

// lines returns a heading, and rows below it, for so many cells and lines. Where the person is, a row has a mark,
// and is painted.
func (p *pane) lines(width, height int, here bool, style display.Style) []string {
	if height <= 0 {
		return nil
	}
	room := height - 1
	p.first = max(0, min(p.first, len(p.rows)-room))
	if p.cursor < p.first {
		p.first = p.cursor
	}
	if p.cursor >= p.first+room {
		p.first = max(0, p.cursor-room+1)
	}
	widths := p.widths(width - margin)
	var titles []cell
	for _, text := range p.heading(room) {
		titles = append(titles, cell{text: text})
	}
	colour, mark := display.Bold, p.key+" "
	if here {
		colour, mark = display.Bold+";"+display.Cyan, p.key+">"
	}
	if len(p.rows) == 0 {
		text := p.empty
		if len(p.all) > 0 {
			text = "nothing has that"
		}
		title := mark + titles[0].text
		return []string{style.Paint(colour, human.Truncate(title, width)) + style.Paint(display.Dim, human.Truncate("  "+text, width-human.Width(title)))}
	}
	lines := []string{style.Paint(colour, mark+p.line(titles, widths, width-margin, display.Style{}))}
	for i := p.first; i < min(len(p.rows), p.first+room); i++ {
		if here && i == p.cursor {
			text := human.Pad("> "+p.line(p.rows[i].cells, widths, width-margin, display.Style{}), width)
			lines = append(lines, inverse(text))
			continue
		}
		lines = append(lines, "  "+p.line(p.rows[i].cells, widths, width-margin, style))
	}
	return lines
}

// line lays cells out.
func (p *pane) line(cells []cell, widths []int, width int, style display.Style) string {
	var b strings.Builder
	last := len(cells) - 1
	for last > 0 && widths[last] == 0 {
		last--
	}
	for i, c := range cells[:last+1] {
		w := min(widths[i], width)
		if w <= 0 {
			continue
		}
		text := c.text
		if i == 0 {
			text = human.TruncateMiddle(text, w)
		} else {
			text = human.Truncate(text, w)
		}
		pad := strings.Repeat(" ", max(0, w-human.Width(text)))
		switch {
		case p.columns[i].right:
			b.WriteString(pad + style.Paint(c.colour, text))
		case i == last:
			b.WriteString(style.Paint(c.colour, text))
		default:
			b.WriteString(style.Paint(c.colour, text) + pad)
		}
		if width -= w + gap; width <= 0 {
			break
		}
		if i < last {
			b.WriteString(strings.Repeat(" ", gap))
		}
	}
	return strings.TrimRight(b.String(), " ")
}
