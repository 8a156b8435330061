package stream

import (
	"bytes"
	"fmt"
)

const (
	maxEnd = 64 << 10 // bytes of the end that Ends keeps
	// MaxMarker bounds the line between beginning and end, in bytes.
	MaxMarker = 128
)

// Ends bounds a text of unknown length: the beginning passes, and the end is kept in memory until there
// is no more. It is for one goroutine at a time.
type Ends struct {
	max     int64 // bytes of all that comes out
	passed  int64
	newline bool // what has passed ends with one
	kept    []byte
	dropped int64 // bytes between
}

// NewEnds returns Ends of which no more than limit bytes come out, except that a line that says what
// is missing always has room.
func NewEnds(limit int64) *Ends { return &Ends{max: limit, newline: true} }

// Resumed returns Ends of whose beginning n bytes have passed already.
func Resumed(limit, n int64) *Ends { return &Ends{max: limit, passed: n, newline: true} }

func (e *Ends) end() int { return int(min(e.max/4, maxEnd)) }

// Next takes what comes next, and returns the part of it that passes.
func (e *Ends) Next(p []byte) []byte {
	room := max(0, min(int64(len(p)), e.max-int64(e.end())-MaxMarker-e.passed))
	if len(e.kept) > 0 || e.dropped > 0 {
		room = 0
	}
	now, later := p[:room], p[room:]
	if e.passed += room; room > 0 {
		e.newline = now[room-1] == '\n'
	}
	if over := len(later) - e.end(); over > 0 {
		e.dropped += int64(len(e.kept) + over)
		e.kept, later = e.kept[:0], later[over:]
	}
	e.kept = append(e.kept, later...)
	if len(e.kept) > 2*e.end() {
		e.trim()
	}
	return now
}

// trim drops what is more than the end.
func (e *Ends) trim() {
	if over := len(e.kept) - e.end(); over > 0 {
		e.dropped += int64(over)
		e.kept = e.kept[:copy(e.kept, e.kept[over:])]
	}
}

// Rest returns what comes after the beginning once there is no more: a line that says how much is
// missing, and the end, from the start of a line if there is one in it.
func (e *Ends) Rest() []byte {
	e.trim()
	if e.dropped == 0 {
		return e.kept
	}
	if i := bytes.IndexByte(e.kept, '\n'); i >= 0 && i < len(e.kept)-1 {
		e.dropped += int64(i + 1)
		e.kept = e.kept[i+1:]
	}
	var text []byte
	if !e.newline {
		text = append(text, '\n')
	}
	text = fmt.Appendf(text, "lighter: %d bytes of the log are missing here: no more than %d are kept\n", e.dropped, e.max)
	return append(text, e.kept...)
}
