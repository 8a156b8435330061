package cli

import (
	"io"
	"strings"

	"lighter/internal/human"
)

// table is text in columns under a heading. Cells are made printable.
type table struct {
	heading []string
	rows    [][]string
}

func (t *table) add(cells ...string) {
	for i, c := range cells {
		cells[i] = human.Printable(c)
	}
	t.rows = append(t.rows, cells)
}

// write writes the table. A width above 0 is that of a terminal: lines are cut
// there, and the widest column gives way first.
func (t *table) write(w io.Writer, width int) error {
	s := tableStream{w: w, width: width, heading: t.heading}
	return s.write(t.rows)
}

// tableStream is a table that is written in parts. The first part decides on the widths
// of the columns; later ones are cut there on a terminal, and elsewhere make them wider.
type tableStream struct {
	w       io.Writer
	width   int // of the terminal; 0 is no limit
	heading []string
	widths  []int
}

func (s *tableStream) write(rows [][]string) error {
	first := s.widths == nil
	if first {
		rows = append([][]string{s.heading}, rows...)
		s.widths = make([]int, len(s.heading))
	}
	if first || s.width == 0 {
		for _, row := range rows {
			for i, c := range row {
				s.widths[i] = max(s.widths[i], human.Width(c))
			}
		}
	}
	if first && s.width > 0 {
		shrink(s.widths, s.width)
	}
	var b strings.Builder
	for _, row := range rows {
		line := ""
		for i, c := range row {
			line += human.Pad(human.TruncateMiddle(c, s.widths[i]), s.widths[i]) + "  "
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(s.w, b.String())
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
