package cli

import (
	"io"
	"strings"

	"lighter/internal/cli/human"
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
	widths := make([]int, len(t.heading))
	for _, row := range append([][]string{t.heading}, t.rows...) {
		for i, c := range row {
			widths[i] = max(widths[i], human.Width(c))
		}
	}
	if width > 0 {
		shrink(widths, width)
	}
	var b strings.Builder
	for _, row := range append([][]string{t.heading}, t.rows...) {
		line := ""
		for i, c := range row {
			line += human.Pad(human.TruncateMiddle(c, widths[i]), widths[i]) + "  "
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
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
