package logview

import "bytes"

// Want says which part of a log is wanted. The zero value is its end.
type Want struct {
	From   *int64 // what begins there
	Before int64  // what ends there, if it is not 0
	Line   int    // what has the line with this number, from 1, a few lines into it
}

// Context is how many lines come before one that was asked for by number.
const Context = 20

// Part is lines of a log that come after each other: at most MaxLines, of at most MaxBytes.
type Part struct {
	Lines []Line
	// Start is the offset of the first, and Next that of what comes after them: where a part continues, once there is more.
	Start, Next int64
	// Last says that there is nothing after them now.
	Last bool
}

// Part returns a part of the log that was indexed. read returns its bytes from an offset to another; growing says that the log may
// get more.
func (x *Index) Part(want Want, growing bool, read func(from, to int64) ([]byte, error)) (*Part, error) {
	lo, hi, forward := x.window(want)
	base := lo / Block * Block
	piece, err := read(max(0, base-1), hi)
	if err != nil {
		return nil, err
	}
	atStart := func(at int) bool { return at > 0 && piece[at-1] == '\n' || base == 0 && at == 0 }
	if base > 0 && len(piece) > 0 {
		first := piece[0] == '\n'
		piece = piece[1:]
		atStart = func(at int) bool { return at > 0 && piece[at-1] == '\n' || at == 0 && first }
	}
	number := x.Before(base/Block) + 1
	var at int // where the part begins in the piece
	switch {
	case want.Line > 0:
		at = startOfLine(piece, want.Line-number)
	case forward:
		at = int(min(lo-base, int64(len(piece))))
	default:
		at = startOfLast(piece, int(min(lo-base, int64(len(piece)))))
	}
	number += bytes.Count(piece[:at], []byte("\n"))
	lines := Split(piece[at:], base+int64(at), number, atStart(at), MaxLines)
	if n := len(lines); forward && n > 1 && lines[n-1].Open && hi < x.size {
		lines = lines[:n-1] // it goes on after the window: it is for the next part
	}
	return x.part(lines, hi, growing), nil
}

// window returns between which offsets a part is to be found. forward says that it begins at the first, else it
// ends at the second.
func (x *Index) window(want Want) (lo, hi int64, forward bool) {
	switch {
	case want.Line > 0:
		lo = x.BlockOf(min(want.Line, x.lines+1)) * Block
		return lo, min(x.size, lo+Block+MaxBytes), true
	case want.From != nil:
		lo = max(0, min(*want.From, x.size))
		return lo, min(x.size, lo+MaxBytes), true
	case want.Before > 0:
		hi = min(want.Before, x.size)
	default:
		hi = x.size
	}
	return max(0, hi-MaxBytes), hi, false
}

// startOfLine returns where a line of a piece begins that comes so many line ends after its start, or the last one,
// with a few lines before it unless they are long.
func startOfLine(piece []byte, ends int) int {
	at := 0
	for ; ends > 0; ends-- {
		i := bytes.IndexByte(piece[at:], '\n')
		if i < 0 || at+i+1 == len(piece) {
			break
		}
		at += i + 1
	}
	if bytes.IndexByte(piece[at:], '\n') < 0 {
		return at // what comes before it would be all that there is room for
	}
	start := at
	for range Context {
		before := bytes.LastIndexByte(piece[:max(0, start-1)], '\n') + 1
		if start == 0 || at-before > MaxBytes/4 {
			break
		}
		start = before
	}
	return start
}

// startOfLast returns where the last MaxLines lines of a piece begin, or the first line that begins at an offset or later.
// If none does it is that offset.
func startOfLast(piece []byte, least int) int {
	start := len(piece)
	for range MaxLines {
		before := bytes.LastIndexByte(piece[:max(0, start-1)], '\n') + 1
		if start == 0 || before < least {
			break
		}
		start = before
	}
	if start == len(piece) {
		return least
	}
	return start
}

// part bounds lines, which end at an offset.
func (x *Index) part(lines []Line, hi int64, growing bool) *Part {
	size, n := 0, 0
	for n < len(lines) && n < MaxLines && (n == 0 || size+len(lines[n].Text) <= MaxBytes) {
		size += len(lines[n].Text) + 1
		n++
	}
	p := &Part{Lines: lines[:n], Start: hi, Next: hi}
	if n > 0 {
		last := &lines[n-1]
		p.Start, p.Next = lines[0].Offset, last.End()
		p.Last = p.Next >= x.size
		if last.Open && p.Last && growing {
			p.Next = last.Offset // it is shown again when there is more of it
		}
	} else {
		p.Last = hi >= x.size
	}
	return p
}

// Keep leaves out lines of the part so that n are left: the last ones, or the first ones.
func (p *Part) Keep(n int, last bool) {
	switch {
	case n >= len(p.Lines) || n == 0:
	case last:
		p.Lines = p.Lines[len(p.Lines)-n:]
		p.Start = p.Lines[0].Offset
	default:
		p.Next, p.Last = p.Lines[n].Offset, false
		p.Lines = p.Lines[:n]
	}
}

// Tail splits the end of a log that was not indexed: its lines have no right numbers. The first may be a part of one.
func Tail(end []byte) []Line { return Split(end, 0, 1, true, len(end)) }
