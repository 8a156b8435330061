package display_test

import (
	"fmt"
	"strings"
	"testing"
)

// fakeTerminal is a terminal of a few columns and rows that understands what
// Screen writes and fails the test on anything else. When it is made narrower or
// wider it wraps its lines again, as most terminals do.
type fakeTerminal struct {
	t             *testing.T
	columns, rows int
	// lines are logical ones, as long as they were written; wrapping is computed.
	lines    [][]rune
	row, col int // cursor: in wrapped rows from the top of all lines
	updating bool
}

func newFakeTerminal(t *testing.T, columns, rows int) *fakeTerminal {
	return &fakeTerminal{t: t, columns: columns, rows: rows, lines: [][]rune{nil}}
}

func (f *fakeTerminal) size() (int, int) { return f.columns, f.rows }

// place returns the logical line and the index in it of the cursor.
func (f *fakeTerminal) place() (line, index int) {
	row := f.row
	for i, l := range f.lines {
		n := max(1, (len(l)+f.columns-1)/f.columns)
		if row < n {
			return i, row*f.columns + f.col
		}
		row -= n
	}
	f.t.Fatalf("cursor below the last line")
	return 0, 0
}

func (f *fakeTerminal) Write(p []byte) (int, error) {
	s := string(p)
	for s != "" {
		switch {
		case strings.HasPrefix(s, "\x1b["):
			end := strings.IndexAny(s, "ABCDEFGHJKSTfhilmnpqrsu")
			f.control(s[2:end], s[end])
			s = s[end+1:]
		case s[0] == '\r':
			f.col = 0
			s = s[1:]
		case s[0] == '\n':
			f.newline()
			s = s[1:]
		default:
			r := []rune(s)[0]
			if r < ' ' {
				f.t.Fatalf("control character %q", r)
			}
			f.put(r)
			s = s[len(string(r)):]
		}
	}
	return len(p), nil
}

func (f *fakeTerminal) control(args string, final byte) {
	switch final {
	case 'm':
	case 'h', 'l':
		if args != "?2026" {
			f.t.Fatalf("mode %s", args)
		}
		if f.updating == (final == 'h') {
			f.t.Fatalf("updates do not pair up")
		}
		f.updating = final == 'h'
	case 'A':
		n := 0
		fmt.Sscan(args, &n)
		if n <= 0 || n > f.row {
			f.t.Fatalf("cursor up %q from row %d", args, f.row)
		}
		f.row -= n
	case 'K':
		line, index := f.place()
		f.lines[line] = f.lines[line][:min(index, len(f.lines[line]))]
	case 'J':
		line, index := f.place()
		f.lines[line] = f.lines[line][:min(index, len(f.lines[line]))]
		f.lines = f.lines[:line+1]
	default:
		f.t.Fatalf("control sequence %q %q", args, final)
	}
}

func (f *fakeTerminal) newline() {
	line, _ := f.place()
	if line == len(f.lines)-1 {
		f.lines = append(f.lines, nil)
	}
	f.row = 0
	for _, l := range f.lines[:line+1] {
		f.row += max(1, (len(l)+f.columns-1)/f.columns)
	}
}

func (f *fakeTerminal) put(r rune) {
	if f.col == f.columns {
		f.t.Fatalf("the line is wider than the terminal: %q", string(f.lines[len(f.lines)-1]))
	}
	line, index := f.place()
	for len(f.lines[line]) <= index {
		f.lines[line] = append(f.lines[line], ' ')
	}
	f.lines[line][index] = r
	f.col++
}

// resize rewraps all lines; the cursor stays on its character.
func (f *fakeTerminal) resize(columns, rows int) {
	line, index := f.place()
	f.columns, f.rows = columns, rows
	f.row = 0
	for _, l := range f.lines[:line] {
		f.row += max(1, (len(l)+columns-1)/columns)
	}
	// A cursor behind a full row stays in it.
	if index > 0 && index%columns == 0 {
		f.row, f.col = f.row+index/columns-1, columns
		return
	}
	f.row, f.col = f.row+index/columns, index%columns
}

func (f *fakeTerminal) text() string {
	var b strings.Builder
	for _, l := range f.lines {
		b.WriteString(strings.TrimRight(string(l), " ") + "\n")
	}
	return b.String()
}
