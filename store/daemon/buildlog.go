package daemon

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"time"

	"lighter/store"
)

// maxNotes bounds what is kept of what the daemon itself says during a build, in lines
// and in bytes of each.
const (
	maxNotes   = 200
	maxNoteLen = 8 << 10
)

// buildLog takes apart what the daemon says during a build. What builders write comes
// after lines "@ build-log PID LENGTH"; everything else is the daemon's own.
type buildLog struct {
	derivation store.Path
	out        io.Writer // may be nil
	outErr     error     // its first error; nothing is written after that
	// begun is called when the derivation's builder has started, with "SYSTEM LOGFILE PID".
	begun func(told string)

	line []byte // of the daemon, not complete
	left int64  // bytes of a builder's output that follow

	started, stopped time.Time
	notes            []string // the daemon's lines, without traces
	failed           *failure // of the derivation, or else of another one
	mismatch         string   // what a hash should be, and is
	keptIn           string
}

// failure is what a line "@ build-failed DRV - STATUS MESSAGE" says.
type failure struct {
	derivation store.Path
	status     string // "1", "0" (it could not be started), "timeout" or "cached"
	message    string
}

// Write takes text as it comes.
func (l *buildLog) write(text []byte) {
	for len(text) > 0 {
		if l.left > 0 {
			n := min(l.left, int64(len(text)))
			l.write1(text[:n])
			l.left -= n
			text = text[n:]
			continue
		}
		line, rest, complete := bytes.Cut(text, []byte("\n"))
		if len(l.line)+len(line) <= maxNoteLen {
			l.line = append(l.line, line...)
		}
		text = rest
		if complete {
			l.note(string(l.line))
			l.line = l.line[:0]
		}
	}
}

func (l *buildLog) write1(text []byte) {
	if l.out != nil && l.outErr == nil {
		_, l.outErr = l.out.Write(text)
	}
}

// end is called when no more comes.
func (l *buildLog) end() {
	if len(l.line) > 0 {
		l.note(string(l.line))
		l.line = nil
	}
}

// note takes a line of the daemon's.
func (l *buildLog) note(line string) {
	trace, isTrace := strings.CutPrefix(line, "@ ")
	if !isTrace {
		if kept, ok := between(line, "note: keeping build directory `", "'"); ok {
			l.keptIn = kept
		}
		if len(l.notes) < maxNotes {
			l.notes = append(l.notes, line)
		}
		return
	}
	word, rest, _ := strings.Cut(trace, " ")
	switch word {
	case "build-log":
		_, size, _ := strings.Cut(rest, " ")
		if n, err := strconv.ParseInt(size, 10, 64); err == nil && n > 0 {
			l.left = n
		}
	case "build-started":
		if l.mine(rest) {
			l.started = time.Now()
			_, told, _ := strings.Cut(rest, " - ")
			l.begun(told)
		}
	case "build-succeeded":
		if l.mine(rest) {
			l.stopped = time.Now()
		}
	case "build-failed", "hook-failed":
		l.fail(rest)
	case "hash-mismatch":
		l.hashMismatch(rest)
	}
}

// mine reports whether what follows the word of a trace is about the derivation.
func (l *buildLog) mine(rest string) bool {
	drv, _, _ := strings.Cut(rest, " ")
	return drv == string(l.derivation)
}

func (l *buildLog) fail(rest string) {
	drv, rest, _ := strings.Cut(rest, " ")
	_, rest, _ = strings.Cut(rest, " ") // the dash
	status, message, _ := strings.Cut(rest, " ")
	if l.failed == nil || drv == string(l.derivation) {
		l.failed = &failure{derivation: store.Path(drv), status: status, message: message}
	}
}

// hashMismatch reads "PATH ALGORITHM EXPECTED ACTUAL".
func (l *buildLog) hashMismatch(rest string) {
	if words := strings.Fields(rest); len(words) == 4 {
		l.mismatch = "expected " + words[1] + ":" + words[2] + ", got " + words[1] + ":" + words[3]
	}
}

// between returns what is between two pieces of a text.
func between(text, before, after string) (string, bool) {
	_, rest, ok := strings.Cut(text, before)
	if !ok {
		return "", false
	}
	middle, _, ok := strings.Cut(rest, after)
	return middle, ok
}
