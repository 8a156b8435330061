package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// writeNew writes a file that must not be there yet, and closes it.
func writeNew(name string, contents []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(contents)
	return errors.Join(err, f.Close())
}

// remove deletes a file. It is no error if there is none.
func remove(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// exists reports whether a file is there, by opening it: see the package comment
// on NFS. It is for files of this package, all of which are readable.
func exists(name string) (bool, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case err == nil:
		return true, unix.Close(fd)
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, &fs.PathError{Op: "open", Path: name, Err: err}
}

// setTimeNow sets a file's time to now, by the file system's clock.
func setTimeNow(name string) error {
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, now, 0); err != nil {
		return &fs.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

// renameNew moves a file to a name that must be free; if it is not, the error matches
// fs.ErrExist. It matches errors.ErrUnsupported where the file system can't tell, such
// as NFS.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		err = errors.ErrUnsupported
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

// linkNew gives a file a second name that must be free; if it is not, the error matches
// fs.ErrExist. On file systems without links it moves the file.
func linkNew(from, to string) error {
	err := os.Link(from, to)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		// An NFS server may have done it, and its answer may have been lost.
		var st unix.Stat_t
		if unix.Stat(from, &st) == nil && st.Nlink == 2 {
			return nil
		}
		return err
	case errors.Is(err, unix.EPERM), errors.Is(err, errors.ErrUnsupported):
		return renameNew(from, to)
	}
	return err
}

// moveRecord moves an info file between info/ and trash/ without replacing one.
func moveRecord(from, to string) error {
	err := renameNew(from, to)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	// For a moment both names are the same file. Whoever asks finds it either way.
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

// onNetwork reports whether a folder is on a file system that caches what other
// machines change.
func onNetwork(folder string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil {
		return false, &fs.PathError{Op: "statfs", Path: folder, Err: err}
	}
	switch uint32(st.Type) { //nolint:gosec // magic numbers have 32 bits; the field's type depends on the platform
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.AFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, unix.CODA_SUPER_MAGIC:
		return true, nil
	}
	return false, nil
}

// explainSpace names the folder whose disk is full.
func (l layout) explainSpace(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("the disk of %s is full: %w", l.root, err)
	case errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("the disk quota for %s is used up: %w", l.root, err)
	}
	return err
}
