package display

import (
	"io"
	"math"
	"strings"

	"lighter/internal/human"
)

// Table is text in columns under a heading. Cells are made printable.
type Table struct {
	Heading []string
	Rows    [][]string
}

// Add adds a row.
func (t *Table) Add(cells ...string) {
	for i, c := range cells {
		cells[i] = human.Printable(c)
	}
	t.Rows = append(t.Rows, cells)
}

// Write writes the table. A width above 0 is that of a terminal: lines are cut
// there, and the widest column gives way first.
func (t *Table) Write(w io.Writer, width int) error {
	s := TableStream{W: w, Width: width, Heading: t.Heading}
	return s.Write(t.Rows)
}

// TableStream is a table that is written in parts. The first part decides on the widths
// of the columns; later ones are cut there on a terminal, and elsewhere make them wider.
type TableStream struct {
	W       io.Writer
	Width   int // of the terminal; 0 means no limit
	Heading []string

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

// minColumn is the least width that a column is shrunk to.
const minColumn = 8

// shrink takes cells from the widest column until all fit, or none can give more.
func shrink(widths []int, total int) {
	for {
		sum, widest := 2*(len(widths)-1), 0
		for i, w := range widths {
			sum += w
			if w > widths[widest] {
				widest = i
			}
		}
		if sum <= total || widths[widest] <= minColumn {
			return
		}
		widths[widest] = max(minColumn, widths[widest]-(sum-total))
	}
}
