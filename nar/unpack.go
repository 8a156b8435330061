package nar

import (
	"errors"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"
)

// contentBuffer is the size of the pieces in which contents are copied.
const contentBuffer = 256 << 10

// Unpack makes the tree that the NAR read from r describes at target, with the
// modes (0444, and 0555 for executables and folders) and the time (1 second after
// the epoch) of items in a store. Nothing may be at target before; the folder
// that it is in must be there. If Unpack fails it removes what it has made.
//
// Nothing outside target is touched, whatever the NAR says: every node is made
// exclusively in a folder that Unpack made itself and holds open, and no symlink
// is followed.
//
// r is read to the end of the NAR and not further. Its end may be found in many
// small reads; see Reader.
func Unpack(r io.Reader, target string) error {
	parent, base, err := openParent(target)
	if err != nil {
		return err
	}
	defer parent.close()
	u := &unpacker{nar: NewReader(r), parent: parent, base: base}
	err = u.run()
	for _, d := range u.dirs {
		d.close()
	}
	if err != nil && u.made {
		return errors.Join(err, removeTree(parent, base))
	}
	return err
}

// unpacker is one run of Unpack.
type unpacker struct {
	nar    *Reader
	parent openFolder // of the target
	base   string     // the target's name in it
	made   bool       // the target is there, and ours
	dirs   []openFolder
	buf    []byte
	// trusted has the modes that create is known to give, whatever umask and default
	// ACLs are; other files get theirs by chmod.
	checked, trusted map[uint32]bool
}

func (u *unpacker) run() error {
	u.checked, u.trusted = make(map[uint32]bool), make(map[uint32]bool)
	for {
		h, err := u.nar.Next()
		if errors.Is(err, io.EOF) {
			return u.complete(0)
		}
		if err != nil {
			return err
		}
		if err := u.complete(u.nar.level(h)); err != nil {
			return err
		}
		if err := u.node(h); err != nil {
			return err
		}
		u.made = true
	}
}

// complete finishes folders until level of them are left. Only now, when nothing
// is added any more, can a folder become read-only and get its time.
func (u *unpacker) complete(level int) error {
	for len(u.dirs) > level {
		last := len(u.dirs) - 1
		d := u.dirs[last]
		u.dirs = u.dirs[:last]
		err := d.chmodSelf(modeFolder)
		if err == nil {
			err = d.setTimeSelf()
		}
		d.close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) node(h *Header) error {
	in, name := u.parent, u.base
	if len(u.dirs) > 0 {
		in, name = u.dirs[len(u.dirs)-1], h.Name()
	}
	switch h.Kind {
	case Directory:
		return u.folder(in, name)
	case Symlink:
		if err := in.symlink(h.Target, name); err != nil {
			return err
		}
		u.made = true
		return in.setTime(name)
	}
	return u.file(in, name, h)
}

func (u *unpacker) folder(in openFolder, name string) error {
	if err := in.mkdir(name); err != nil {
		return err
	}
	u.made = true
	d, err := in.folder(name)
	if err != nil {
		return err
	}
	u.dirs = append(u.dirs, d)
	return nil
}

func (u *unpacker) file(in openFolder, name string, h *Header) error {
	mode := uint32(modeFile)
	if h.Executable {
		mode = modeExecutable
	}
	fd, err := in.create(name, mode)
	if err != nil {
		return err
	}
	u.made = true
	defer unix.Close(fd) //nolint:errcheck // an error here could only tell what write has told
	if err := u.contents(in, name, fd, h.Size); err != nil {
		return err
	}
	if !u.created(fd, mode) {
		if err := unix.Fchmod(fd, mode); err != nil {
			return in.problem("chmod", name, err)
		}
	}
	return in.setTime(name)
}

func (u *unpacker) contents(in openFolder, name string, fd int, size int64) error {
	for size > 0 {
		if u.buf == nil {
			u.buf = make([]byte, contentBuffer)
		}
		part := u.buf[:min(size, int64(len(u.buf)))]
		if _, err := io.ReadFull(u.nar, part); err != nil {
			return err
		}
		if err := writeAll(fd, part); err != nil {
			return in.problem("write", name, err)
		}
		size -= int64(len(part))
	}
	return nil
}

// created reports whether a file that was created with the mode has it, asking
// the kernel for the first file of each mode.
func (u *unpacker) created(fd int, mode uint32) bool {
	if !u.checked[mode] {
		var st unix.Stat_t
		u.checked[mode] = true
		u.trusted[mode] = unix.Fstat(fd, &st) == nil && uint32(st.Mode)&0o7777 == mode //nolint:unconvert // the field's type depends on the platform
	}
	return u.trusted[mode]
}

// isNotExist keeps RemoveAll silent about what is not there.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
