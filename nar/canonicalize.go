package nar

import (
	"context"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// UnsupportedError is the error about a node that is neither regular file nor
// folder nor symlink, and so can be in no NAR.
type UnsupportedError struct {
	Path string
	Mode fs.FileMode
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: a %s can't be in a store", e.Path, kindName(e.Mode))
}

func kindName(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "file of kind " + mode.Type().String()
}

func unsupported(path string, mode uint32) error {
	e := &UnsupportedError{Path: path, Mode: fs.ModeIrregular}
	switch mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		e.Mode = fs.ModeSocket
	case unix.S_IFIFO:
		e.Mode = fs.ModeNamedPipe
	case unix.S_IFBLK:
		e.Mode = fs.ModeDevice
	case unix.S_IFCHR:
		e.Mode = fs.ModeDevice | fs.ModeCharDevice
	}
	return e
}

// Owner is a user and a group.
type Owner struct{ UID, GID int }

// CanonicalizeOptions are what Canonicalize is to do beyond modes and times.
type CanonicalizeOptions struct {
	Owner  *Owner  // who gets the tree; nil leaves it to whom it belongs
	Budget *Budget // what may be in it; nil means no limit
}

// Canonicalize gives the tree at path the modes and times of items in a store:
// 0444, or 0555 for folders and for files that their owner may execute, and 1
// second after the epoch, symlinks too. Set-user-ID, set-group-ID and sticky bits
// go. Any other kind of file in the tree is an *UnsupportedError, as a folder over
// which something is mounted is an error. It ends early when the context does.
//
// A process that changes the tree meanwhile may spoil it, but can't have anything outside
// it changed.
func Canonicalize(ctx context.Context, path string, opts CanonicalizeOptions) error {
	parent, base, err := openParentOfTree(path)
	if err != nil {
		return err
	}
	defer parent.close()
	c := &canonicalizer{ctx: ctx, opts: opts}
	return c.node(parent, base, 0)
}

// canonicalizer is one run of Canonicalize.
type canonicalizer struct {
	ctx  context.Context
	opts CanonicalizeOptions
}

func (c *canonicalizer) node(in openFolder, name string, depth int) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	st, err := in.stat(name)
	if err != nil {
		return err
	}
	if err := c.opts.Budget.take(in, name, st); err != nil {
		return err
	}
	if o := c.opts.Owner; o != nil {
		if err := in.chown(name, *o); err != nil {
			return err
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
	case unix.S_IFREG:
		mode := uint32(modeFile)
		if st.Mode&0o100 != 0 {
			mode = modeExecutable
		}
		if uint32(st.Mode)&0o7777 != mode { //nolint:unconvert // the field's type depends on the platform
			if err := in.chmod(name, mode); err != nil {
				return err
			}
		}
	case unix.S_IFDIR:
		return c.folder(in, name, depth)
	default:
		return unsupported(in.path(name), uint32(st.Mode)) //nolint:unconvert // the field's type depends on the platform
	}
	return in.setTime(name)
}

func (c *canonicalizer) folder(in openFolder, name string, depth int) error {
	if depth == maxDepth {
		return fmt.Errorf("%s: more than %d folders are in one another", in.path(name), maxDepth)
	}
	d, err := openWritable(in, name)
	if err != nil {
		return err
	}
	defer d.close()
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, child := range names {
		if err := c.node(d, child, depth+1); err != nil {
			return err
		}
	}
	if err := d.chmodSelf(modeFolder); err != nil {
		return err
	}
	return d.setTimeSelf()
}
