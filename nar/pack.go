package nar

import (
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"lighter/internal/wire"
)

// packBuffer is the size of the pieces that Pack writes.
const packBuffer = 256 << 10

// Pack writes the NAR of the file, symlink or tree at path to w, in pieces of 256
// KiB. A file is executable in it if its owner may execute it. A path that is a
// symlink makes the NAR of a symlink. A node of another kind is an
// *UnsupportedError, and a file whose size changes while it is read is an error.
func Pack(w io.Writer, path string) error {
	parent, base, err := openParentOfTree(path)
	if err != nil {
		return err
	}
	defer parent.close()
	st, err := parent.stat(base)
	if err != nil {
		return err
	}
	p := newPacker(w, st)
	if err := p.node(parent, base, "", st); err != nil {
		return err
	}
	return p.nar.Close()
}

// packer is one run of Pack.
type packer struct {
	out *wire.Writer
	nar *Writer
}

// newPacker returns a packer with a buffer for what st describes: there are many
// items that are but one small file.
func newPacker(w io.Writer, st *unix.Stat_t) *packer {
	size := int64(packBuffer)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		size = min(size, 1<<10+st.Size)
	}
	out := wire.NewWriterSize(w, int(size))
	return &packer{out: out, nar: newWriter(out)}
}

// node packs name in the open folder, which st describes, as the node path of the
// NAR.
func (p *packer) node(in openFolder, name, path string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h := &Header{Path: path, Kind: Regular, Executable: st.Mode&0o100 != 0, Size: st.Size}
		return p.file(in, name, h)
	case unix.S_IFLNK:
		target, err := in.readlink(name, st.Size)
		if err != nil {
			return err
		}
		return p.nar.WriteHeader(&Header{Path: path, Kind: Symlink, Target: target})
	case unix.S_IFDIR:
		return p.folder(in, name, path)
	}
	return unsupported(in.path(name), uint32(st.Mode)) //nolint:unconvert // the field's type depends on the platform
}

func (p *packer) folder(in openFolder, name, path string) error {
	d, err := in.folder(name)
	if err != nil {
		return err
	}
	defer d.close()
	if err := p.nar.WriteHeader(&Header{Path: path, Kind: Directory}); err != nil {
		return err
	}
	names, err := d.names()
	if err != nil {
		return err
	}
	slices.Sort(names)
	prefix := path
	if prefix != "" {
		prefix += "/"
	}
	for _, child := range names {
		st, err := d.stat(child)
		if err != nil {
			return err
		}
		if err := p.node(d, child, prefix+child, st); err != nil {
			return err
		}
	}
	return nil
}

// file packs a regular file, reading into the output's own buffer. It asks for one
// byte more than there should be, so that growth shows without a further call.
func (p *packer) file(in openFolder, name string, h *Header) error {
	fd, err := in.file(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := p.nar.WriteHeader(h); err != nil {
		return err
	}
	for rest := h.Size; ; {
		room, err := p.out.Room(int(min(rest+1, packBuffer)))
		if err != nil {
			return err
		}
		if rest < int64(len(room)) {
			room = room[:rest+1]
		}
		n, err := read(fd, room)
		switch {
		case err != nil:
			return in.problem("read", name, err)
		case int64(n) > rest:
			return in.problem("read", name, fmt.Errorf("the file grew beyond %d bytes while it was packed", h.Size))
		case n == 0 && rest > 0:
			return in.problem("read", name, fmt.Errorf("the file shrank from %d bytes to %d while it was packed", h.Size, h.Size-rest))
		}
		p.out.Commit(n)
		p.nar.remaining -= int64(n)
		rest -= int64(n)
		if n < len(room) && rest == 0 {
			return nil
		}
	}
}
