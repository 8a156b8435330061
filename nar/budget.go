package nar

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Budget is what trees may have in them yet, all that it is given for in sum. A nil one
// has no end.
type Budget struct {
	Nodes int64 // files, folders and symlinks
	Bytes int64 // contents of files, whether they are sparse or not; hard links count each time
}

// LimitError is the error about a tree with which a Budget is exceeded.
type LimitError struct {
	Path string // the node with which it was
	Size int64  // of that file in bytes, if there were too many bytes; -1 if too many nodes
}

func (e *LimitError) Error() string {
	if e.Size < 0 {
		return e.Path + ": there are too many files"
	}
	return fmt.Sprintf("%s: with the %d bytes of this file there are too many bytes", e.Path, e.Size)
}

// take takes a node out of the budget.
func (b *Budget) take(in openFolder, name string, st *unix.Stat_t) error {
	if b == nil {
		return nil
	}
	if b.Nodes--; b.Nodes < 0 {
		return &LimitError{Path: in.path(name), Size: -1}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	if st.Size > b.Bytes {
		return &LimitError{Path: in.path(name), Size: st.Size}
	}
	b.Bytes -= st.Size
	return nil
}
