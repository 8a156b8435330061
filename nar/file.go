package nar

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// The functions here are thin wrappers of the system calls that work relative to
// an open folder. Unlike package os they never follow a symlink in the last part
// of a name, and they cost no more than the call itself, of which a tree of many
// small files needs several per file. Each error is a *fs.PathError.

// The modes of items in a store.
const (
	modeFile       = 0o444
	modeExecutable = 0o555
	modeFolder     = 0o555
)

// openFolder is a folder held open by descriptor; name is for errors.
type openFolder struct {
	fd   int
	name string
}

// openParent opens the folder that path is in and returns the last part of path.
// Symlinks on the way are followed, as the caller asked for that path.
func openParent(path string) (openFolder, string, error) {
	path = filepath.Clean(path)
	parent, base := filepath.Dir(path), filepath.Base(path)
	if base == "." || base == ".." || base == "/" {
		return openFolder{}, "", &fs.PathError{Op: "open", Path: path, Err: fs.ErrInvalid}
	}
	fd, err := open(unix.AT_FDCWD, parent, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return openFolder{}, "", &fs.PathError{Op: "open", Path: parent, Err: err}
	}
	return openFolder{fd: fd, name: parent}, base, nil
}

// openParentOfTree is openParent for a tree that is there, which may be called "."
// or "..".
func openParentOfTree(path string) (openFolder, string, error) {
	if base := filepath.Base(path); base == "." || base == ".." {
		abs, err := filepath.Abs(path)
		if err != nil {
			return openFolder{}, "", err
		}
		path = abs
	}
	return openParent(path)
}

func (d openFolder) close() { _ = unix.Close(d.fd) }

func (d openFolder) path(name string) string { return filepath.Join(d.name, name) }

// folder opens the folder name in d.
func (d openFolder) folder(name string) (openFolder, error) {
	fd, err := open(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	return openFolder{fd: fd, name: d.path(name)}, d.problem("open", name, err)
}

// create makes a new file and opens it for writing.
func (d openFolder) create(name string, mode uint32) (int, error) {
	fd, err := open(d.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, mode)
	return fd, d.problem("create", name, err)
}

// ownFolder opens the folder name in d, of which something is to be changed or removed:
// one over which something else was mounted is not part of the tree, and an error.
// Kernels before 5.6 and some containers can't be asked for that; they follow no symlink
// either.
func (d openFolder) ownFolder(name string) (openFolder, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(d.fd, name, &how)
		switch err {
		case unix.EINTR, unix.EAGAIN:
			continue
		case unix.ENOSYS, unix.EPERM:
			return d.folder(name)
		}
		return openFolder{fd: fd, name: d.path(name)}, d.problem("open", name, err)
	}
}

// file opens a regular file for reading, and says what it is. Anything else that has its
// name by now is an *UnsupportedError or an error that matches ELOOP; O_NONBLOCK keeps
// a pipe from blocking.
func (d openFolder) file(name string) (int, *unix.Stat_t, error) {
	fd, err := open(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, nil, d.problem("open", name, err)
	}
	var st unix.Stat_t
	if err := again(func() error { return unix.Fstat(fd, &st) }); err != nil {
		_ = unix.Close(fd)
		return -1, nil, d.problem("stat", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return -1, nil, unsupported(d.path(name), uint32(st.Mode)) //nolint:unconvert // the field's type depends on the platform
	}
	return fd, &st, nil
}

func (d openFolder) mkdir(name string) error {
	return d.problem("mkdir", name, again(func() error { return unix.Mkdirat(d.fd, name, 0o700) }))
}

func (d openFolder) symlink(target, name string) error {
	return d.problem("symlink", name, again(func() error { return unix.Symlinkat(target, d.fd, name) }))
}

func (d openFolder) readlink(name string, size int64) (string, error) {
	if size < 0 || size > maxPath {
		size = maxPath
	}
	for {
		buf := make([]byte, size+1)
		n, err := unix.Readlinkat(d.fd, name, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", d.problem("readlink", name, err)
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
		size = maxPath + 1 // it became longer, or its size was not told
	}
}

func (d openFolder) stat(name string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	err := again(func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return &st, d.problem("stat", name, err)
}

// chmod changes the mode of a file or folder. That it has become a symlink meanwhile is an
// error; no symlink is followed.
func (d openFolder) chmod(name string, mode uint32) error {
	err := again(func() error { return unix.Fchmodat(d.fd, name, mode, unix.AT_SYMLINK_NOFOLLOW) })
	// It is a symlink, or the kernel is older than 6.6, or a container forbids the call.
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		err = d.chmodHeld(name, mode)
	}
	return d.problem("chmod", name, err)
}

// Chmod changes the mode of the file or folder at path, which is an error that matches
// ELOOP if it is a symlink, also one that has just taken its place.
func Chmod(path string, mode uint32) error {
	parent, base, err := openParent(path)
	if err != nil {
		return err
	}
	defer parent.close()
	return parent.chmod(base, mode)
}

// chmodHeld does chmod's work by a descriptor, which stays with the file that it was
// looked at, whatever happens to the name. A file that nobody may read has no other way
// to be changed than through /proc.
func (d openFolder) chmodHeld(name string, mode uint32) error {
	fd, err := open(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := again(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return unix.ELOOP
	}
	err = again(func() error { return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode) })
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("a kernel before Linux 6.6 needs /proc for that: %w", err)
	}
	return err
}

// chown gives a node to another user, symlinks themselves too.
func (d openFolder) chown(name string, o Owner) error {
	err := again(func() error { return unix.Fchownat(d.fd, name, o.UID, o.GID, unix.AT_SYMLINK_NOFOLLOW) })
	return d.problem("chown", name, err)
}

// chmodSelf changes the mode of the folder itself.
func (d openFolder) chmodSelf(mode uint32) error {
	return d.problem("chmod", "", again(func() error { return unix.Fchmod(d.fd, mode) }))
}

// storeTime is the time that everything in a store has: one second after the epoch.
var storeTime = []unix.Timespec{{Sec: 1}, {Sec: 1}}

// setTime gives a node the time of items in a store.
func (d openFolder) setTime(name string) error {
	err := again(func() error { return unix.UtimesNanoAt(d.fd, name, storeTime, unix.AT_SYMLINK_NOFOLLOW) })
	return d.problem("utimensat", name, err)
}

// setTimeSelf gives the folder itself the time of items in a store.
func (d openFolder) setTimeSelf() error { return d.setTime(".") }

func (d openFolder) rename(name string, to openFolder, toName string) error {
	err := again(func() error { return unix.Renameat(d.fd, name, to.fd, toName) })
	return d.problem("rename", name, err)
}

func (d openFolder) unlink(name string, flags int) error {
	return d.problem("remove", name, again(func() error { return unix.Unlinkat(d.fd, name, flags) }))
}

// names returns the names of what is in the folder, in no order.
func (d openFolder) names() ([]string, error) {
	fd, err := open(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, d.problem("open", "", err)
	}
	f := os.NewFile(uintptr(fd), d.name)
	defer f.Close()
	return f.Readdirnames(-1)
}

func (d openFolder) problem(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: d.path(name), Err: err}
}

func open(dirfd int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// maxIO bounds one read or write, since the kernel's own limit is just below 2 GiB.
const maxIO = 1 << 30

func writeAllAt(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p[:min(len(p), maxIO)], at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// read returns 0 and no error at the end of the file.
func read(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p[:min(len(p), maxIO)])
		if err != unix.EINTR {
			return max(0, n), err
		}
	}
}

// again repeats a call that a signal interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
