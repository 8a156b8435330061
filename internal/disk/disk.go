// Package disk is what programs here ask of a file system beyond reading and writing: how much is
// free ([Free]), a file replaced in one step ([Replace]), a lock that goes with its process ([Lock]), and
// whose a file is ([Owner]).
package disk

import (
	"io/fs"
	"math"
	"math/bits"

	"golang.org/x/sys/unix"
)

// Space is what a file system has.
type Space struct {
	Free   int64 // bytes, for ordinary users
	Total  int64 // bytes
	Inodes int64 // free ones; negative if their number has no limit, or is not known
}

// Free returns what the file system of a folder has. With an error, which names the folder, nothing is
// known of it: all that is returned is negative.
func Free(folder string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil {
		return Space{Free: -1, Total: -1, Inodes: -1}, &fs.PathError{Op: "statfs", Path: folder, Err: err}
	}
	return spaceOf(&st), nil
}

func spaceOf(st *unix.Statfs_t) Space {
	block := st.Frsize
	if block == 0 {
		block = st.Bsize
	}
	size := uint64(max(0, block)) // #nosec G115 -- not negative
	s := Space{Free: bytesOf(st.Bavail, size), Total: bytesOf(st.Blocks, size), Inodes: -1}
	if st.Files != 0 { // btrfs and others make inodes as they need them
		s.Inodes = int64(min(st.Ffree, math.MaxInt64))
	}
	return s
}

// bytesOf returns how many bytes blocks have; what does not fit is more than is ever asked for.
func bytesOf(blocks, size uint64) int64 {
	hi, lo := bits.Mul64(blocks, size)
	if hi != 0 {
		return math.MaxInt64
	}
	return int64(min(lo, math.MaxInt64))
}
