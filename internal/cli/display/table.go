package display

import (
	"io"
	"math"
	"slices"
	"strings"

	"lighter/internal/api"
	"lighter/internal/human"
)

// Table is text in columns under a heading. Cells are made printable.
type Table struct {
	Heading []string
	Rows    [][]string
	// Optional are columns that go, the first one first, where a terminal has no room for all;
	// those without any value before the others.
	Optional []int
}

// Add adds a row.
func (t *Table) Add(cells ...string) {
	for i, c := range cells {
		cells[i] = human.Printable(c)
	}
	t.Rows = append(t.Rows, cells)
}

// Write writes the table. A width above 0 is that of a terminal: optional columns go there, and
// then lines are cut; the widest column gives way first, and the last one keeps enough to be read.
func (t *Table) Write(w io.Writer, width int) error {
	s := TableStream{W: w, Width: width, Heading: t.Heading, Optional: t.Optional}
	return s.Write(t.Rows)
}

// TableStream is a table that is written in parts. The first part decides on the widths
// of the columns; later ones are cut there on a terminal, and elsewhere make them wider.
type TableStream struct {
	W        io.Writer
	Width    int // of the terminal; 0 means no limit
	Heading  []string
	Optional []int // as those of a Table
	// State is the column with the states of builds, which is never cut, and painted; 0 is none.
	State int
	Style Style

	widths []int
}

// Write writes some more rows, whose cells are printable.
func (s *TableStream) Write(rows [][]string) error {
	first := s.widths == nil
	if first {
		s.widths = make([]int, len(s.Heading))
		s.widen([][]string{s.Heading}, false)
	}
	s.widen(rows, !first && s.Width > 0)
	if s.Width > 0 {
		if first {
			s.leaveOut(rows)
		}
		s.shrink()
	}
	var b strings.Builder
	layout := columns{widths: s.widths}
	if first {
		b.WriteString(s.Style.Paint(Bold, layout.line(plain(s.Heading), math.MaxInt, Style{})) + "\n")
	}
	for _, row := range rows {
		cells := plain(row)
		if s.State > 0 {
			cells[s.State].colour = BuildColour(api.State(row[s.State]))
		}
		b.WriteString(layout.line(cells, math.MaxInt, s.Style) + "\n")
	}
	_, err := io.WriteString(s.W, b.String())
	return err
}

// widen makes the columns as wide as rows need, or only the one that is never cut.
func (s *TableStream) widen(rows [][]string, onlyState bool) {
	for _, row := range rows {
		for i, c := range row {
			if !onlyState || s.State > 0 && i == s.State {
				s.widths[i] = max(s.widths[i], human.Width(c))
			}
		}
	}
}

const (
	minColumn = 8  // the least width that a column is shrunk to
	minLast   = 24 // that of the last one, which says why, as long as others can give more
)

// leaveOut drops optional columns until there is room for the others.
func (s *TableStream) leaveOut(rows [][]string) {
	last := len(s.widths) - 1
	tooWide := func() bool { return lineWidth(s.widths)-s.widths[last]+min(s.widths[last], minLast) > s.Width }
	empty := func(column int) bool {
		return !slices.ContainsFunc(rows, func(row []string) bool { return row[column] != "" && row[column] != "-" })
	}
	for _, all := range []bool{false, true} {
		for _, column := range s.Optional {
			if tooWide() && (all || empty(column)) {
				s.widths[column] = 0
			}
		}
	}
}

// lineWidth is the width of a line of columns, with the blanks between them.
func lineWidth(widths []int) int {
	sum := -2
	for _, w := range widths {
		if w > 0 {
			sum += w + 2
		}
	}
	return sum
}

// shrink takes cells from the widest column until all fit, or none can give more.
func (s *TableStream) shrink() {
	widths := s.widths
	last := len(widths) - 1
	for _, least := range []int{min(minLast, widths[last]), minColumn} {
		for lineWidth(widths) > s.Width {
			widest := -1
			for i, w := range widths {
				if w > minColumn && (s.State == 0 || i != s.State) && (i != last || w > least) && (widest < 0 || w > widths[widest]) {
					widest = i
				}
			}
			if widest < 0 {
				break
			}
			widths[widest]--
		}
	}
}
