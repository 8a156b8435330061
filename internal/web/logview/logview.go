// Package logview makes pages of build logs: lines with their numbers, in HTML that shows colours and nothing else of
// what a builder wrote. It is pure; who uses it reads the log.
//
// Terminal emulators for the web were not fit: they let a log bring images and links, and overwrite lines that were
// there before. Here a line of the log is a line of the page.
package logview

import (
	"bytes"
	"html"
	"html/template"
	"strconv"
	"strings"
	"unicode/utf8"

	"lighter/internal/human"
)

const (
	// maxLine is how many bytes of a line are shown.
	maxLine = 4000
	// MaxLines and MaxBytes bound the lines of one page; MaxHTML what is made of them, in bytes.
	MaxLines = 500
	MaxBytes = 48 << 10
	MaxHTML  = 192 << 10
)

// Line is a line of a log.
type Line struct {
	Number int   // from 1
	Offset int64 // of its first byte
	// Text is what was written, without line end.
	Text []byte
	// Continued says that the line began before Offset, and Open that there is no line end after Text.
	Continued, Open bool
}

// Split cuts a piece of a log into lines, at most so many. It begins at an offset, in the line with a number; atStart
// says that this line begins there.
func Split(piece []byte, offset int64, number int, atStart bool, most int) []Line {
	var lines []Line
	for len(piece) > 0 && len(lines) < most {
		text, rest, ended := bytes.Cut(piece, []byte("\n"))
		lines = append(lines, Line{Number: number, Offset: offset, Text: text, Continued: !atStart, Open: !ended})
		offset += int64(len(piece) - len(rest))
		number, atStart, piece = number+1, true, rest
	}
	return lines
}

// End returns the offset of what comes after the line.
func (l *Line) End() int64 {
	end := l.Offset + int64(len(l.Text))
	if !l.Open {
		end++
	}
	return end
}

// shown returns what of the line is shown: what a carriage return would have overwritten is dropped, and
// what is too much cut. more is how many bytes that leaves out at its end.
func (l *Line) shown() (text string, more int) {
	all := bytes.TrimRight(l.Text, "\r")
	all = all[bytes.LastIndexByte(all, '\r')+1:]
	n := min(len(all), maxLine)
	for n < len(all) && n > maxLine-utf8.UTFMax && !utf8.RuneStart(all[n]) {
		n--
	}
	return string(all[:n]), len(all) - n
}

// Plain returns the line as text that is safe to print.
func (l *Line) Plain() string {
	text, more := l.shown()
	return human.LogLine(text) + cutNote(more)
}

func cutNote(more int) string {
	if more == 0 {
		return ""
	}
	return " … " + human.Count(more, "more byte")
}

// Render returns lines as the contents of a <pre>: each a <span> with an id such as L12, a link to itself, and its text.
// Colours are classes; see the stylesheet. It stops when that has MaxHTML bytes,
// and returns how many lines it rendered. With last it leaves out lines at the start instead.
func Render(lines []Line, last bool) (template.HTML, int) {
	var b bytes.Buffer
	ends := make([]int, 0, len(lines))
	var s style
	for i := range lines {
		s = lines[i].render(&b, s)
		if b.Len() > MaxHTML && !last && i > 0 {
			break
		}
		ends = append(ends, b.Len())
	}
	n := len(ends)
	if n == 0 {
		return "", 0
	}
	text := b.Bytes()[:ends[n-1]]
	if last && len(text) > MaxHTML {
		for i, end := range ends {
			if len(text)-end <= MaxHTML || i == n-2 {
				text, n = text[end:], n-1-i
				break
			}
		}
	}
	return template.HTML(text), n // all that comes from a log was escaped
}

// render writes a line, and returns the style that the next one begins with.
func (l *Line) render(b *bytes.Buffer, s style) style {
	number := strconv.Itoa(l.Number)
	b.WriteString(`<span id="L` + number + `"`)
	if l.Open {
		b.WriteString(` class="open"`)
	}
	b.WriteString(`><a href="#L` + number + `" tabindex="-1">` + number + `</a>`)
	if l.Continued {
		b.WriteString(`<i>(continued)</i> `)
	}
	text, more := l.shown()
	s = renderText(b, text, s)
	if more > 0 {
		b.WriteString(`<i>` + cutNote(more) + `</i>`)
	}
	b.WriteString("\n</span>")
	return s
}

// renderText writes text with escape sequences: colours as classes, others not at all.
func renderText(b *bytes.Buffer, text string, s style) style {
	for text != "" {
		i := strings.IndexByte(text, 0x1b)
		if i < 0 {
			i = len(text)
		}
		s.write(b, text[:i])
		if text = text[i:]; text == "" {
			break
		}
		n := human.SequenceLen(text)
		if n == 0 {
			s.write(b, text[:1])
			n = 1
		} else if human.IsColour(text[:n]) {
			s = s.apply(text[2 : n-1])
		}
		text = text[n:]
	}
	return s
}

// write writes text in a style; what can't be seen, or turns the direction of writing, as a mark.
func (s style) write(b *bytes.Buffer, text string) {
	if text == "" {
		return
	}
	classes := s.classes()
	if classes != "" {
		b.WriteString(`<span class="` + classes + `">`)
	}
	for text != "" {
		n := 0
		for n < len(text) {
			r, size := utf8.DecodeRuneInString(text[n:])
			if r != '\t' && (r == utf8.RuneError && size == 1 || human.Dangerous(r)) {
				break
			}
			n += size
		}
		b.WriteString(html.EscapeString(text[:n]))
		if text = text[n:]; text == "" {
			break
		}
		_, size := utf8.DecodeRuneInString(text)
		b.WriteString(`<i>` + human.Printable(text[:size]) + `</i>`)
		text = text[size:]
	}
	if classes != "" {
		b.WriteString(`</span>`)
	}
}
