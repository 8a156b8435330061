package nar

import (
	"errors"
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
// *UnsupportedError, and a file whose size changes while it is read is an error. No
// symlink in the tree is followed, even where one takes the place of something else.
func Pack(w io.Writer, path string) error {
	return pack(w, path, packer{})
}

func pack(w io.Writer, path string, p packer) error {
	parent, base, err := openParentOfTree(path)
	if err != nil {
		return err
	}
	defer parent.close()
	st, err := parent.stat(base)
	if err != nil {
		return err
	}
	p.writeTo(w, st)
	if err := p.node(parent, base, "", st); err != nil {
		return err
	}
	return p.nar.Close()
}

// packer is one run of Pack, or of Copy.
type packer struct {
	out    *wire.Writer
	nar    *Writer
	budget *Budget
	// open has what can't be read made readable first. Then nothing is believed that was
	// not seen through a descriptor.
	open bool
}

// writeTo sets the output, with a buffer for what st describes: there are many items that
// are but one small file.
func (p *packer) writeTo(w io.Writer, st *unix.Stat_t) {
	size := int64(packBuffer)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		size = min(size, 1<<10+st.Size)
	}
	p.out = wire.NewWriterSize(w, int(size))
	p.nar = newWriter(p.out)
}

// node packs name in the open folder, which st describes, as the node path of the
// NAR.
func (p *packer) node(in openFolder, name, path string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return p.file(in, name, path, st)
	case unix.S_IFLNK:
		if err := p.budget.take(in, name, st); err != nil {
			return err
		}
		target, err := in.readlink(name, st.Size)
		if err != nil {
			return err
		}
		return p.nar.WriteHeader(&Header{Path: path, Kind: Symlink, Target: target})
	case unix.S_IFDIR:
		if err := p.budget.take(in, name, st); err != nil {
			return err
		}
		return p.folder(in, name, path)
	}
	return unsupported(in.path(name), uint32(st.Mode)) //nolint:unconvert // the field's type depends on the platform
}

func (p *packer) folder(in openFolder, name, path string) error {
	d, err := in.folder(name)
	if p.open && errors.Is(err, unix.EACCES) {
		d, err = openWritable(in, name)
	}
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

// file packs what was a regular file when st was asked for.
func (p *packer) file(in openFolder, name, path string, st *unix.Stat_t) error {
	fd, opened, err := in.file(name)
	if p.open && errors.Is(err, unix.EACCES) {
		if err := in.chmod(name, uint32(st.Mode)&0o100|0o400); err != nil { //nolint:unconvert // the field's type depends on the platform
			return err
		}
		fd, opened, err = in.file(name)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := p.budget.take(in, name, opened); err != nil {
		return err
	}
	return p.contents(in, name, fd, &Header{Path: path, Kind: Regular, Executable: opened.Mode&0o100 != 0, Size: opened.Size})
}

// contents packs a regular file that is open, reading into the output's own buffer. It
// asks for one byte more than there should be, so that growth shows without a further
// call.
func (p *packer) contents(in openFolder, name string, fd int, h *Header) error {
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
