package top

import (
	"slices"
	"strings"
	"unicode"

	"lighter/internal/human"
)

// text is lines in which a person moves and searches. Lines are safe for a terminal.
type text struct {
	lines  []string
	follow bool   // the end is shown, also when there is more
	first  int    // the first line on the screen
	left   int    // cells that are left out at the start of each line
	search string // what is marked
	hit    int    // the line that was found last
	room   int    // lines of the screen, as it was drawn last
}

// set replaces the lines, and leaves the screen where it is.
func (t *text) set(lines []string) {
	t.lines = lines
	t.move(0)
}

// move moves the screen by that many lines. Whoever is at the end and goes up does not follow any more.
func (t *text) move(by int) {
	if by < 0 {
		t.follow = false
	}
	t.first = max(0, min(t.first+by, len(t.lines)-t.room))
}

// key moves as a key says, and reports whether it was one for that.
func (t *text) key(key string) bool {
	switch key {
	case "up", "k":
		t.move(-1)
	case "down", "j":
		t.move(1)
	case "pgup", "b":
		t.move(1 - t.room)
	case "pgdown", "space":
		t.move(t.room - 1)
	case "home", "g":
		t.move(-len(t.lines))
	case "end", "G":
		t.move(len(t.lines))
	case "left":
		t.left = max(0, t.left-8)
	case "right":
		t.left += 8
	case "n":
		t.find(1)
	case "N":
		t.find(-1)
	default:
		return false
	}
	return true
}

// find goes to the next line, in a direction, that has what is searched for, beginning anew at the other end.
// It reports whether there is one.
func (t *text) find(direction int) bool {
	from := t.hit
	if from < t.first || from >= t.first+t.room {
		from = t.first
	}
	return t.findFrom(from+direction, direction)
}

// findFrom is find, beginning at a line.
func (t *text) findFrom(from, direction int) bool {
	for n := range t.lines {
		i := (from + direction*n + len(t.lines)) % len(t.lines)
		if i < 0 || len(t.matches(t.lines[i])) == 0 {
			continue
		}
		t.follow, t.hit = false, i
		if i < t.first || i >= t.first+t.room {
			t.first = i - t.room/3
		}
		t.move(0)
		return true
	}
	return false
}

// matches returns where a line has what is searched for: starts and ends, in bytes. Small letters match large ones,
// unless there is a large one among what is searched for.
func (t *text) matches(line string) (places [][2]int) {
	if t.search == "" {
		return nil
	}
	wanted, in := t.search, line
	if strings.IndexFunc(wanted, unicode.IsUpper) < 0 {
		in = strings.ToLower(line)
		if len(in) != len(line) {
			in = line // some letters are longer when small: such lines are searched as they are
		}
	}
	for at := 0; ; {
		i := strings.Index(in[at:], wanted)
		if i < 0 {
			return places
		}
		places = append(places, [2]int{at + i, at + i + len(wanted)})
		at += i + len(wanted)
	}
}

// draw returns what is on a screen of so many cells and lines.
func (t *text) draw(width, height int) []string {
	t.room = height
	if t.follow {
		t.first = max(0, len(t.lines)-height)
	}
	t.first = max(0, min(t.first, len(t.lines)-height))
	var lines []string
	for _, line := range t.lines[t.first:min(len(t.lines), t.first+height)] {
		lines = append(lines, t.paint(line, width))
	}
	return lines
}

// paint cuts a line, and marks what is searched for.
func (t *text) paint(line string, width int) string {
	if t.left > 0 {
		line = human.CutLeft(line, t.left)
	}
	line = human.Truncate(line, width)
	var b strings.Builder
	at := 0
	for _, place := range t.matches(line) {
		b.WriteString(line[at:place[0]] + inverse(line[place[0]:place[1]]))
		at = place[1]
	}
	return b.String() + line[at:]
}

// inverse marks text, also where no colours are wanted.
func inverse(text string) string { return "\x1b[7m" + text + "\x1b[0m" }

// wrap breaks lines that are wider than the screen, and indents what goes on.
func wrap(lines []string, width int) []string {
	const indent = "    "
	width = max(width, 2*len(indent))
	var all []string
	for _, line := range lines {
		for human.Width(line) > width {
			head := human.Head(line, width)
			if i := strings.LastIndexByte(head, ' '); i > width/2 {
				head = head[:i]
			}
			all = append(all, strings.TrimRight(head, " "))
			line = indent + strings.TrimLeft(line[len(head):], " ")
		}
		all = append(all, line)
	}
	return slices.Clip(all)
}
