package nar

import (
	"math"

	"golang.org/x/sys/unix"
)

// DiskUsage returns how many bytes the file or tree at path takes on the disk, a file with
// several names once. What can't be read does not count, so that there is always an
// answer. Others may change the tree meanwhile; it is not changed, and no symlink is
// followed.
func DiskUsage(path string) int64 {
	bytes, _ := DiskUsageUpTo(path, math.MaxInt)
	return bytes
}

// DiskUsageUpTo is DiskUsage that looks at so many files, folders and symlinks at most. It reports whether
// these were all.
func DiskUsageUpTo(path string, files int) (bytes int64, all bool) {
	parent, base, err := openParent(path)
	if err != nil {
		return 0, true
	}
	defer parent.close()
	u := &usage{left: files, seen: make(map[uint64]bool)}
	u.node(parent, base, 0)
	return u.bytes, u.left >= 0
}

type usage struct {
	bytes int64
	left  int             // so many more are looked at; negative: some were not
	seen  map[uint64]bool // inodes of files that have several names
}

func (u *usage) node(in openFolder, name string, depth int) {
	if u.left--; u.left < 0 {
		return
	}
	st, err := in.stat(name)
	if err != nil {
		return
	}
	isFolder := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !isFolder && st.Nlink > 1 {
		if u.seen[st.Ino] {
			return
		}
		u.seen[st.Ino] = true
	}
	u.bytes += st.Blocks * 512 // that is the unit, whatever the block size
	if !isFolder || depth == maxDepth {
		return
	}
	d, err := in.ownFolder(name)
	if err != nil {
		return
	}
	defer d.close()
	names, err := d.names()
	if err != nil {
		return
	}
	for _, child := range names {
		if u.left < 0 {
			return
		}
		u.node(d, child, depth+1)
	}
}
