package display

import (
	"io"
	"math"
	"slices"
	"strings"

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

	widths []int
}

// Write writes some more rows, whose cells are printable.
func (s *TableStream) Write(rows [][]string) error {
	first := s.widths == nil
	if first {
		rows = append([][]string{s.Heading}, rows...)
		s.widths = make([]int, len(s.Heading))
	}
	if first || s.Width == 0 {
		for _, row := range rows {
			for i, c := range row {
				s.widths[i] = max(s.widths[i], human.Width(c))
			}
		}
	}
	if first && s.Width > 0 {
		s.leaveOut(rows[1:])
		shrink(s.widths, s.Width)
	}
	var b strings.Builder
	layout := columns{widths: s.widths}
	for _, row := range rows {
		b.WriteString(layout.line(plain(row), math.MaxInt, Style{}) + "\n")
	}
	_, err := io.WriteString(s.W, b.String())
	return err
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
func shrink(widths []int, total int) {
	last := len(widths) - 1
	for _, least := range []int{min(minLast, widths[last]), minColumn} {
		for lineWidth(widths) > total {
			widest := -1
			for i, w := range widths {
				if w > minColumn && (i != last || w > least) && (widest < 0 || w > widths[widest]) {
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
