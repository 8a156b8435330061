package agentapi

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"lighter/internal/api"
)

// Printable makes one line of at most limit bytes of what a machine says, safe for a
// terminal, a log and a protocol that counts lines: lines are joined with " | ", control
// characters, and those that turn the direction of writing, become escapes.
func Printable(text string, limit int) string {
	text = api.Cut(text, limit) // before it grows by escapes
	if !strings.ContainsFunc(text, dangerous) && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
			continue
		case b.Len() == 0:
		case strings.HasSuffix(b.String(), ":"):
			b.WriteString(" ")
		default:
			b.WriteString(" | ")
		}
		writePrintable(&b, line)
	}
	return api.Cut(b.String(), limit)
}

func writePrintable(b *strings.Builder, line string) {
	for i, r := range line {
		switch {
		case r == utf8.RuneError && line[i] != "\uFFFD"[0]:
			fmt.Fprintf(b, `\x%02x`, line[i])
		case r == '\t':
			b.WriteByte(' ')
		case !dangerous(r):
			b.WriteRune(r)
		case r < utf8.RuneSelf:
			fmt.Fprintf(b, `\x%02x`, r)
		default:
			fmt.Fprintf(b, `\u%04x`, r)
		}
	}
}

// dangerous holds for control characters (C0, DEL, C1), separators of lines and
// paragraphs, and format characters such as the bidirectional overrides.
func dangerous(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}
