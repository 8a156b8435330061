// Package terminal is what is in front of a person: whether a stream leads to a terminal, its
// size, the keys that are pressed there, the person's pager, and whether it shows more than
// ASCII.
//
// A stream that writes to a terminal by a detour, such as through the pager, says so with a
// method Terminal; [Of] finds it. The package draws nothing, and knows no commands.
package terminal

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Of returns the terminal to which a stream leads, else nil.
func Of(stream any) *os.File {
	switch s := stream.(type) {
	case *os.File:
		if term.IsTerminal(int(s.Fd())) {
			return s
		}
	case interface{ Terminal() *os.File }:
		return s.Terminal()
	}
	return nil
}

// Size returns columns and rows, or zeros where they cannot be known.
func Size(f *os.File) (width, height int) {
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return width, height
}

// Smart reports whether the variable TERM names a terminal on which the cursor can be moved.
func Smart(getenv func(string) string) bool {
	t := getenv("TERM")
	return t != "" && t != "dumb"
}

// OnlyASCII reports whether the locale is one with another character set than UTF-8. Where none
// is set UTF-8 is taken for granted: only who says C or POSIX means it.
func OnlyASCII(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := strings.ToLower(getenv(name)); locale != "" {
			return !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8")
		}
	}
	return false
}

// marks are the characters beyond ASCII in messages, each with one that is as wide.
var marks = strings.NewReplacer("…", "~", "→", ">", "│", "|", "↑", "^", "↓", "v", "µ", "u")

// InASCII returns a text with the marks of messages in ASCII.
func InASCII(text string) string { return marks.Replace(text) }

// Marks returns a stream that writes the marks of messages in ASCII where the locale asks for
// it; else the stream itself. What goes to a file or a pipe stays as it is, unless always is
// set.
func Marks(w io.Writer, getenv func(string) string, always bool) io.Writer {
	if t := Of(w); OnlyASCII(getenv) && (always || t != nil) {
		return &asciiWriter{w, t}
	}
	return w
}

type asciiWriter struct {
	w        io.Writer
	terminal *os.File
}

func (a *asciiWriter) Terminal() *os.File { return a.terminal }

func (a *asciiWriter) Write(p []byte) (int, error) {
	if _, err := marks.WriteString(a.w, string(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}
