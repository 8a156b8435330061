package nar

import "golang.org/x/sys/unix"

// DiskUsage returns how many bytes the file or tree at path takes on the disk, a file with
// several names once. What can't be read does not count, so that there is always an
// answer. Others may change the tree meanwhile; it is not changed, and no symlink is
// followed.
func DiskUsage(path string) int64 {
	parent, base, err := openParent(path)
	if err != nil {
		return 0
	}
	defer parent.close()
	u := &usage{seen: make(map[uint64]bool)}
	u.node(parent, base, 0)
	return u.bytes
}

type usage struct {
	bytes int64
	seen  map[uint64]bool // inodes of files that have several names
}

func (u *usage) node(in openFolder, name string, depth int) {
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
		u.node(d, child, depth+1)
	}
}
