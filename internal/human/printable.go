package human

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// Printable makes one line of text safe for a terminal and a log: control
// characters, line ends, bytes that are not UTF-8, and characters that turn the
// direction of writing are written as escapes, so that nothing from a machine or
// a builder can move the cursor or pass for something else.
func Printable(s string) string {
	return escape(s, func(rune) bool { return false })
}

// FileName is Printable for the name of a file, for which anything but a slash and NUL may be used:
// two names that differ look different, so a backslash is an escape of its own.
func FileName(name string) string { return Printable(strings.ReplaceAll(name, `\`, `\\`)) }

// ValidText makes text UTF-8, with escapes for the bytes that are not, as in Printable. It is not
// safe for a terminal: anything else stays.
func ValidText(s string) string { return escape(s, func(rune) bool { return true }) }

// Line is Printable for text that may have several lines: they are joined to one.
func Line(s string) string {
	var line strings.Builder
	for part := range strings.Lines(s) {
		part = strings.TrimSpace(part)
		switch {
		case part == "":
			continue
		case line.Len() == 0:
		case strings.HasSuffix(line.String(), ":"):
			line.WriteString(" ")
		default:
			line.WriteString(" | ")
		}
		line.WriteString(part)
	}
	return Printable(line.String())
}

// PrintableText is Printable for text of several lines: line ends and tabs stay.
func PrintableText(s string) string {
	return escape(s, func(r rune) bool { return r == '\n' || r == '\t' })
}

func escape(s string, keep func(rune) bool) string {
	if !needsEscape(s, keep) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case keep(r) || !Dangerous(r):
			b.WriteString(s[i : i+n])
		case r < 0x80:
			b.WriteString(escapeASCII(r))
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return b.String()
}

func needsEscape(s string, keep func(rune) bool) bool {
	if !utf8.ValidString(s) {
		return true
	}
	return strings.IndexFunc(s, func(r rune) bool { return Dangerous(r) && !keep(r) }) >= 0
}

func escapeASCII(r rune) string {
	switch r {
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	}
	return fmt.Sprintf(`\x%02x`, r)
}

// Dangerous holds for control characters (C0, DEL, C1), line and paragraph
// separators, and format characters such as the bidirectional overrides.
func Dangerous(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// LogLine makes one line of a build's log ready for a terminal: what a carriage
// return would have overwritten is dropped, tabs become blanks, colours and other
// escape sequences are removed, and what is dangerous beyond that is escaped.
func LogLine(s string) string {
	s = strings.TrimRight(s, "\r\n")
	if i := strings.LastIndexByte(s, '\r'); i >= 0 {
		s = s[i+1:]
	}
	return Printable(strings.ReplaceAll(removeSequences(s), "\t", "    "))
}

// removeSequences removes complete CSI sequences (ECMA-48, 5.4) and OSC strings.
func removeSequences(s string) string {
	if !strings.Contains(s, "\x1b") {
		return s
	}
	var b strings.Builder
	for s != "" {
		i := strings.IndexByte(s, 0x1b)
		if i < 0 {
			break
		}
		b.WriteString(s[:i])
		n := SequenceLen(s[i:])
		if n == 0 {
			b.WriteByte(0x1b)
			n = 1
		}
		s = s[i+n:]
	}
	b.WriteString(s)
	return b.String()
}

// maxOSC bounds an OSC string, in bytes: an ESC may come again and again with nothing that ends it.
const maxOSC = 2 << 10

// SequenceLen returns the length of the escape sequence that s starts with, or 0
// if it starts with none that is complete.
func SequenceLen(s string) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] {
	case '[':
		for i := 2; i < len(s); i++ {
			if 0x40 <= s[i] && s[i] <= 0x7e {
				return i + 1
			}
			if s[i] < 0x20 || s[i] > 0x3f {
				return 0
			}
		}
	case ']':
		s = s[:min(len(s), maxOSC)]
		bell, terminator := strings.IndexByte(s, 0x07), strings.Index(s, "\x1b\\")
		if terminator > 0 && (bell < 0 || terminator < bell) {
			return terminator + 2
		}
		return bell + 1
	case '(', ')':
		if len(s) >= 3 && 0x20 < s[2] && s[2] < 0x7f {
			return 3
		}
	}
	return 0
}

// Width returns the number of terminal cells that printable text takes.
func Width(s string) int { return runewidth.StringWidth(s) }

// Truncate shortens printable text to at most width cells, with an ellipsis
// where something was cut.
func Truncate(s string, width int) string {
	if width <= 0 {
		return ""
	}
	return runewidth.Truncate(s, width, "…")
}

// Head returns as much of the start of printable text as width cells hold, and CutLeft what comes after that.
func Head(s string, width int) string { return runewidth.Truncate(s, max(width, 0), "") }

// CutLeft is described at Head.
func CutLeft(s string, width int) string {
	if Width(s) <= width {
		return ""
	}
	return runewidth.TruncateLeft(s, width, "")
}

// TruncateMiddle is Truncate for names whose end tells as much as their start.
func TruncateMiddle(s string, width int) string {
	if Width(s) <= width || width < 5 {
		return Truncate(s, width)
	}
	tail := (width - 1) / 2
	head := width - 1 - tail
	return runewidth.Truncate(s, head, "") + "…" + runewidth.TruncateLeft(s, Width(s)-tail, "")
}

// Pad appends blanks up to width cells.
func Pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-Width(s)))
}

// LogColours makes a piece of a log safe for a terminal that shows colours: line
// ends, tabs, carriage returns and colours (SGR, ECMA-48 8.3.117) stay, other
// escape sequences are removed, and what is dangerous beyond that is escaped.
func LogColours(s string) string {
	var b strings.Builder
	coloured := false
	keep := func(r rune) bool { return r == '\n' || r == '\t' || r == '\r' }
	for s != "" {
		i := strings.IndexByte(s, 0x1b)
		if i < 0 {
			break
		}
		b.WriteString(escape(s[:i], keep))
		n := SequenceLen(s[i:])
		switch sequence := s[i : i+n]; {
		case n == 0:
			b.WriteString(`\x1b`)
			n = 1
		case IsColour(sequence):
			coloured = true
			b.WriteString(sequence)
		}
		s = s[i+n:]
	}
	b.WriteString(escape(s, keep))
	if coloured {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// IsColour reports whether a complete escape sequence is SGR, and no private one.
func IsColour(sequence string) bool {
	body, ok := strings.CutSuffix(sequence, "m")
	return ok && strings.HasPrefix(body, "\x1b[") && strings.Trim(body[2:], "0123456789;:") == ""
}
