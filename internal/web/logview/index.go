package logview

import "bytes"

// Block is how many bytes of a log an Index takes together.
const Block = 64 << 10

// Index tells lines of a log from offsets, and the reverse, to the block: how many line ends there are in each. It grows
// with the log, in 4 bytes for each block. The zero value is that of an empty log.
type Index struct {
	size  int64
	lines int
	ends  []int32 // in each block
}

// Size returns how many bytes were indexed.
func (x *Index) Size() int64 { return x.size }

// Lines returns how many line ends there are.
func (x *Index) Lines() int { return x.lines }

// Write indexes what comes next. It never fails.
func (x *Index) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if x.size%Block == 0 {
			x.ends = append(x.ends, 0)
		}
		part := rest[:min(int64(len(rest)), Block-x.size%Block)]
		n := bytes.Count(part, []byte("\n"))
		x.ends[len(x.ends)-1] += int32(n) //nolint:gosec // at most Block
		x.lines += n
		x.size += int64(len(part))
		rest = rest[len(part):]
	}
	return len(p), nil
}

// Before returns how many line ends come before a block, by its number.
func (x *Index) Before(block int64) (n int) {
	for _, ends := range x.ends[:min(block, int64(len(x.ends)))] {
		n += int(ends)
	}
	return n
}

// BlockOf returns the block in which the line with a number begins, or the one before if it begins with that one's end.
func (x *Index) BlockOf(line int) (block int64) {
	before := 0
	for i, ends := range x.ends {
		if before+int(ends) >= line-1 {
			return int64(i)
		}
		before += int(ends)
	}
	return max(0, int64(len(x.ends)-1))
}
