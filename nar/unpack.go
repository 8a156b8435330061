package nar

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// contentBuffer is the size of the pieces in which contents are copied.
const contentBuffer = 256 << 10

// Unpack makes the tree that the NAR read from r describes at target, with the
// modes (0444, and 0555 for executables and folders) and the time (1 second after
// the epoch) of items in a store. Files have holes where there are blocks of zeros.
// Nothing may be at target before; the folder that it is in must be there. If Unpack
// fails it removes what it has made.
//
// Nothing outside target is touched, whatever the NAR says: every node is made
// exclusively in a folder that Unpack made itself and holds open, and no symlink
// is followed.
//
// r is read to the end of the NAR and not further. Its end may be found in many
// small reads; see Reader.
func Unpack(r io.Reader, target string) error { return UnpackWith(r, target, UnpackOptions{}) }

// UnpackOptions are what Unpack can be told.
type UnpackOptions struct {
	// Room is asked before contents go to the disk, and again and again, whether that many
	// bytes may: what is left of a file, holes included. An error ends the unpacking. Small
	// files are asked for in sum.
	Room func(bytes int64) error
}

// UnpackWith is Unpack with options.
func UnpackWith(r io.Reader, target string, opts UnpackOptions) error {
	parent, base, err := openParent(target)
	if err != nil {
		return err
	}
	defer parent.close()
	u := &unpacker{opts: opts, nar: NewReader(r), parent: parent, base: base, batch: &batch{}}
	u.writer.write = u.writeBatch
	err = u.run()
	if err != nil && u.made {
		return errors.Join(err, removeTree(parent, base))
	}
	return err
}

// unpacker is one run of Unpack.
type unpacker struct {
	opts   UnpackOptions
	nar    *Reader
	parent openFolder // of the target
	base   string     // the target's name in it
	made   bool       // the target is there, and ours
	dirs   []*unpackedFolder
	buf    []byte
	batch  *batch
	writer batchWriter
	modes  [2]modeCheck
}

// unpackedFolder is a folder that Unpack made. It is complete, and becomes
// read-only, when nothing holds it any more: neither the unpacker, which may add to
// it, nor a file of a batch.
type unpackedFolder struct {
	openFolder
	holders atomic.Int32
}

func (d *unpackedFolder) release() error {
	if d.holders.Add(-1) > 0 {
		return nil
	}
	defer d.close()
	if err := d.chmodSelf(modeFolder); err != nil {
		return err
	}
	return d.setTimeSelf()
}

func (u *unpacker) run() error {
	err := u.nodes()
	if completeErr := u.complete(0); err == nil {
		err = completeErr
	}
	if err != nil {
		u.writer.fail(err)
	}
	return u.writer.finish(u.batch)
}

func (u *unpacker) nodes() error {
	for {
		h, err := u.nar.Next()
		if errors.Is(err, io.EOF) {
			return nil
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
	}
}

// complete leaves folders until level of them are left.
func (u *unpacker) complete(level int) error {
	var first error
	for len(u.dirs) > level {
		last := len(u.dirs) - 1
		err := u.dirs[last].release()
		u.dirs = u.dirs[:last]
		if first == nil {
			first = err
		}
	}
	return first
}

func (u *unpacker) node(h *Header) error {
	if len(u.dirs) == 0 {
		return u.root(h)
	}
	in := u.dirs[len(u.dirs)-1]
	switch h.Kind {
	case Directory:
		return u.folder(in.openFolder, h.Name())
	case Symlink:
		return u.symlink(in.openFolder, h.Name(), h.Target)
	}
	if h.Size <= smallFile {
		return u.collect(in, h)
	}
	return u.file(in.openFolder, h.Name(), h)
}

// root makes the target itself.
func (u *unpacker) root(h *Header) error {
	switch h.Kind {
	case Directory:
		return u.folder(u.parent, u.base)
	case Symlink:
		return u.symlink(u.parent, u.base, h.Target)
	}
	return u.file(u.parent, u.base, h)
}

func (u *unpacker) symlink(in openFolder, name, target string) error {
	if err := in.symlink(target, name); err != nil {
		return err
	}
	u.made = true
	return in.setTime(name)
}

func (u *unpacker) folder(in openFolder, name string) error {
	if err := in.mkdir(name); err != nil {
		return err
	}
	u.made = true
	opened, err := in.folder(name)
	if err != nil {
		return err
	}
	d := &unpackedFolder{openFolder: opened}
	d.holders.Store(1)
	u.dirs = append(u.dirs, d)
	return nil
}

// collect puts a small file into the batch.
func (u *unpacker) collect(in *unpackedFolder, h *Header) error {
	size := int(h.Size)
	if _, err := io.ReadFull(u.nar, u.batch.extend(size)); err != nil {
		return err
	}
	in.holders.Add(1)
	u.batch.add(collectedFile{in: in, name: h.Name(), mode: fileMode(h), size: size})
	if !u.batch.isFull() {
		return nil
	}
	err := u.room(int64(len(u.batch.data)))
	if err != nil {
		return err
	}
	u.batch, err = u.writer.next(u.batch)
	return err
}

// writeBatch makes the files of a batch. It is called by several goroutines. After
// an error of one of them, the files are only let go.
func (u *unpacker) writeBatch(b *batch) error {
	data := b.data
	var first error
	for _, f := range b.files {
		var err error
		if first == nil && u.writer.failed() == nil {
			err = u.smallFile(f, data[:f.size])
		}
		data = data[f.size:]
		if releaseErr := f.in.release(); err == nil {
			err = releaseErr
		}
		if first == nil {
			first = err
		}
	}
	return first
}

func (u *unpacker) smallFile(f collectedFile, contents []byte) error {
	fd, err := f.in.create(f.name, f.mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	end, err := writeBlocks(fd, contents, 0)
	if err == nil {
		err = endAt(fd, int64(f.size), end)
	}
	if err != nil {
		return f.in.problem("write", f.name, err)
	}
	return u.finish(f.in.openFolder, f.name, fd, f.mode)
}

func (u *unpacker) file(in openFolder, name string, h *Header) error {
	fd, err := in.create(name, fileMode(h))
	if err != nil {
		return err
	}
	u.made = true
	defer unix.Close(fd)
	if err := u.contents(in, name, fd, h.Size); err != nil {
		return err
	}
	return u.finish(in, name, fd, fileMode(h))
}

func (u *unpacker) contents(in openFolder, name string, fd int, size int64) error {
	if want := min(size, contentBuffer); int64(len(u.buf)) < want {
		u.buf = make([]byte, want)
	}
	var end, room int64 // of what was written; how many bytes may be written
	for at := int64(0); at < size; {
		part := u.buf[:min(size-at, int64(len(u.buf)))]
		if _, err := io.ReadFull(u.nar, part); err != nil {
			return err
		}
		if !isZero(part) {
			if room -= int64(len(part)); room < 0 {
				if err := u.room(size - at); err != nil {
					return err
				}
				room = askAgain
			}
			var err error
			if end, err = writeBlocks(fd, part, at); err != nil {
				return in.problem("write", name, err)
			}
		}
		at += int64(len(part))
	}
	return in.problem("write", name, endAt(fd, size, end))
}

// askAgain is after how many bytes of one file the unpacker asks again for room: others
// use the disk too.
const askAgain = 16 << 20

func (u *unpacker) room(bytes int64) error {
	if u.opts.Room == nil {
		return nil
	}
	return u.opts.Room(bytes)
}

// finish gives a file that was written its mode and time.
func (u *unpacker) finish(in openFolder, name string, fd int, mode uint32) error {
	check := &u.modes[0]
	if mode == modeExecutable {
		check = &u.modes[1]
	}
	if !check.given(fd, mode) {
		if err := unix.Fchmod(fd, mode); err != nil {
			return in.problem("chmod", name, err)
		}
	}
	return in.setTime(name)
}

func fileMode(h *Header) uint32 {
	if h.Executable {
		return modeExecutable
	}
	return modeFile
}

// modeCheck finds out, with the first file that is created with a mode, whether
// files get just that mode, whatever umask and default ACLs are; if not, each of
// them needs a chmod.
type modeCheck struct {
	once sync.Once
	ok   bool
}

func (c *modeCheck) given(fd int, mode uint32) bool {
	c.once.Do(func() {
		var st unix.Stat_t
		c.ok = unix.Fstat(fd, &st) == nil && uint32(st.Mode)&0o7777 == mode //nolint:unconvert // the field's type depends on the platform
	})
	return c.ok
}
