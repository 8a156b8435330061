package display

import (
	"strings"

	"lighter/internal/human"
)

// columns says how the cells of a line are laid out, with two blanks between columns.
type columns struct {
	widths []int // a longer cell is cut in its middle, the last one at its end; 0 leaves the column out
	right  uint  // bits of the columns that are aligned to the right
	margin string
}

// line lays out one line. What passes width is cut, and blanks at the end are dropped.
func (c *columns) line(cells []part, width int, style Style) string {
	parts := []part{{"", c.margin}}
	for i, cell := range cells {
		w := c.widths[i]
		if w == 0 {
			continue
		}
		text := human.TruncateMiddle(cell.text, w)
		switch {
		case i == len(cells)-1: // nothing follows, and it says most at its start
			text = human.Truncate(cell.text, w)
		case c.right>>i&1 == 1:
			text = strings.Repeat(" ", w-human.Width(text)) + text
		default:
			text = human.Pad(text, w)
		}
		if len(parts) > 1 {
			parts = append(parts, part{"", "  "})
		}
		parts = append(parts, part{cell.colour, text})
	}
	// Blanks at the end are not painted.
	for n := len(parts); n > 0 && strings.TrimRight(parts[n-1].text, " ") == ""; n = len(parts) {
		parts = parts[:n-1]
	}
	return join(parts, width, style)
}

type part struct{ colour, text string }

// plain makes parts without a colour.
func plain(texts []string) []part {
	parts := make([]part, len(texts))
	for i, text := range texts {
		parts[i].text = text
	}
	return parts
}

// join paints parts one after the other, cutting at width cells and dropping
// blanks at the end.
func join(parts []part, width int, style Style) string {
	var b strings.Builder
	for i, p := range parts {
		text := human.Truncate(p.text, width)
		if i == len(parts)-1 || human.Width(text) == width {
			text = strings.TrimRight(text, " ")
		}
		width -= human.Width(p.text)
		b.WriteString(style.Paint(p.colour, text))
		if width <= 0 {
			break
		}
	}
	return b.String()
}
