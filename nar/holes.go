package nar

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// holeBlock is the size of the blocks of zeros that become holes: the smallest one that the
// usual file systems have.
const holeBlock = 4 << 10

var zeros [contentBuffer]byte

// isZero reports whether nothing but zeros is in b, which has at most contentBuffer bytes. Of
// ordinary data it looks at the first few bytes.
func isZero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// writeBlocks writes p into a new file, from an offset on that is a multiple of holeBlock, but
// for the blocks that are zero. It returns the end of what it wrote, or 0 if that is nothing.
func writeBlocks(fd int, p []byte, at int64) (end int64, err error) {
	start := 0 // of what is to be written next
	write := func(until int) {
		if start < until && err == nil {
			end, err = at+int64(until), writeAllAt(fd, p[start:until], at+int64(start))
		}
	}
	for i := 0; i < len(p); i += holeBlock {
		next := min(i+holeBlock, len(p))
		if isZero(p[i:next]) {
			write(i)
			start = next
		}
	}
	write(len(p))
	return end, err
}

// endAt gives a new file its size, if what was written ends earlier.
func endAt(fd int, size, written int64) error {
	if written == size {
		return nil
	}
	return again(func() error { return unix.Ftruncate(fd, size) })
}
