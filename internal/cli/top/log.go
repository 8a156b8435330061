package top

import (
	"bytes"
	"slices"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
)

// Bounds of what is kept of a log, whatever a builder writes.
const (
	maxLogLines = 20_000
	maxLogBytes = 8 << 20
	maxLogLine  = 4 << 10 // bytes of one line; the rest of it is left out
	askedLines  = 10_000  // of what was written before somebody looks
)

// logText is the end of a log that may grow.
type logText struct {
	text
	open  bool // there is a last line without an end, which more may come to
	bytes int
	asked int    // which asking for a log it belongs to
	cut   bool   // earlier lines were left out
	over  bool   // nothing more comes
	err   string // why, if that is not its end
}

// logPart is what came of a log: whole lines, and the start of one that is not complete yet.
type logPart struct {
	asked int
	lines []string
	rest  string
}

// logOver says that a log has ended, or why it can't be read. logAnew says that it comes once more from where
// it is kept.
type logOver struct {
	asked int
	err   error
}

type logAnew struct{ asked int }

// add takes what came.
func (l *logText) add(part *logPart) {
	if l.open {
		l.drop(len(l.lines)-1, len(l.lines))
	}
	l.lines = append(l.lines, part.lines...)
	if l.open = part.rest != ""; l.open {
		l.lines = append(l.lines, part.rest)
		l.bytes += len(part.rest)
	}
	for _, line := range part.lines {
		l.bytes += len(line)
	}
	n, size := 0, l.bytes
	for len(l.lines)-n > maxLogLines || size > maxLogBytes {
		size -= len(l.lines[n])
		n++
	}
	if n > 0 {
		// Some more at a time, as each time all others move.
		n = min(len(l.lines)-1, n+maxLogLines/10)
		l.drop(0, n)
		l.cut = true
		l.first, l.hit = max(0, l.first-n), max(0, l.hit-n)
	}
}

func (l *logText) drop(from, to int) {
	for _, line := range l.lines[from:to] {
		l.bytes -= len(line)
	}
	l.lines = slices.Delete(l.lines, from, to)
}

// state says in a few words what the log shows.
func (l *logText) state(b *api.Build) string {
	state := "follows"
	switch {
	case l.err != "":
		state = l.err
	case l.over:
		state = "complete"
	case !l.follow:
		state = "goes on; G follows it"
	}
	switch {
	case l.cut:
		state += "; only its end is here: lighter builds log " + display.ShortID(b.ID)
	case len(l.lines) >= askedLines:
		state += "; its start may be left out: lighter builds log " + display.ShortID(b.ID)
	}
	return state
}

// logWriter makes parts of what is written to it.
type logWriter struct {
	send  func([]string, string)
	line  []byte // the start of a line that is not complete
	bytes int64
}

func (w *logWriter) Write(p []byte) (int, error) {
	var lines []string
	w.bytes += int64(len(p))
	rest := p
	for {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		w.line = append(w.line, line[:min(len(line), max(0, maxLogLine-len(w.line)))]...)
		if !whole {
			break
		}
		lines = append(lines, human.LogLine(string(w.line)))
		w.line, rest = w.line[:0], after
	}
	w.send(lines, human.LogLine(string(w.line)))
	return len(p), nil
}
