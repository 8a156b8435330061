package sshtransport

import (
	"strings"
	"sync"
	"unicode"
)

// maxTail is how many bytes of what a remote command says are kept for errors.
const maxTail = 4 << 10

// tail keeps the last bytes written to it. It may be used from several goroutines.
type tail struct {
	mu   sync.Mutex
	kept []byte
	lost bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - maxTail; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
		t.lost = true
	}
	return len(p), nil
}

// String returns what was kept, fit to be printed.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := printable(string(t.kept))
	if t.lost {
		text = "…" + text
	}
	return text
}

// quoted returns what was kept as the end of a sentence, or nothing.
func (t *tail) quoted() string {
	if text := t.String(); text != "" {
		return ": " + text
	}
	return ""
}

// printable makes text from a remote end harmless on a terminal and in a log: lines
// are joined by " | ", control characters and what is not UTF-8 are replaced.
func printable(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(strings.Map(func(r rune) rune {
			switch {
			case r == '\t':
				return ' '
			case r == '\n' || r == '\r':
				return -1
			case !unicode.IsPrint(r):
				return unicode.ReplacementChar
			}
			return r
		}, strings.ToValidUTF8(line, string(unicode.ReplacementChar))))
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, " | ")
}

// harmless returns an error whose text can be printed and is short, as what a remote end
// says need not be.
func harmless(err error) error {
	if err == nil {
		return nil
	}
	text := truncate(printable(err.Error()), maxTail)
	if text == err.Error() {
		return err
	}
	return &saidError{text, err}
}

// saidError is an error of which a part comes from a remote end.
type saidError struct {
	text  string
	cause error
}

func (e *saidError) Error() string { return e.text }
func (e *saidError) Unwrap() error { return e.cause }

// truncate cuts text to at most n bytes and a mark.
func truncate(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}
