package logview

import (
	"bytes"
	"regexp"
)

// What lines of a failed build's log tell. Guix's build systems say when a phase starts and how it fails; compilers, test programs
// and make say what went wrong before.
var (
	phaseStart  = regexp.MustCompile("^starting phase [`']")
	phaseFailed = regexp.MustCompile("^(?:phase [`'].*' failed after |error: in phase ')")
	cause       = regexp.MustCompile(`(?i:(?:^|[\s:\]])(?:fatal |internal compiler |cmake |syntax)?error(?:\[[a-z]+[0-9]+\])?: )` +
		`|^CMake Error|^(?:FAIL|FAILED|ERROR|XPASS)[: ]|^--- FAIL: |^Traceback \(most recent call last\)` +
		`|^(?:panic|fatal error): |undefined reference to |cannot find -l|^Segmentation fault|[Aa]ssertion .*failed|^\S+Error: `)
	hint = regexp.MustCompile(`\*\*\* |: command not found$|: No such file or directory$|: not found$|^(?i:error)\b|^Killed$|^Backtrace:$`)
)

// words are those without which none of the above is worth a try: in lower case, after a line end where they come first.
var words = [][]byte{
	[]byte("error:"), []byte("error["), []byte("\nerror"), []byte("\ncmake error"), []byte("phase"), []byte("***"), []byte("\nfail"), []byte("\n--- fail"),
	[]byte("\nxpass"), []byte("\ntraceback"), []byte("\nbacktrace"), []byte("\npanic"), []byte("undefined ref"), []byte("cannot find"), []byte("\nsegmentation"),
	[]byte("assertion"), []byte("no such file"), []byte("not found"), []byte("\nkilled"),
}

// telling returns the line as text if it may match, else "".
func (l *Line) telling() string {
	text := l.Text[:min(len(l.Text), maxLine)]
	if bytes.IndexByte(text, 0x1b) >= 0 || bytes.IndexByte(text, '\r') >= 0 {
		return l.Plain()
	}
	text = append([]byte("\n"), bytes.ToLower(text)...)
	for _, w := range words {
		if bytes.Contains(text, w) {
			return l.Plain()
		}
	}
	return ""
}

// FirstError returns which of the lines of a failed build's log says what went wrong first, or -1. The lines are the end of the
// log: it is the first cause in the phase that failed, or what comes closest to one.
func FirstError(lines []Line) int {
	caused, hinted, phase, last := -1, -1, -1, -1
	for i := len(lines) - 1; i >= 0; i-- {
		text := lines[i].telling()
		if last < 0 && (text != "" || lines[i].Plain() != "") {
			last = i
		}
		switch {
		case text == "":
		case phaseFailed.MatchString(text):
			caused, hinted, phase = -1, -1, i
		case cause.MatchString(text):
			caused = i
		case hint.MatchString(text):
			hinted = i
		}
		if phase >= 0 && phaseStart.MatchString(text) {
			break
		}
	}
	for _, i := range []int{caused, hinted, phase} {
		if i >= 0 {
			return i
		}
	}
	return last
}
