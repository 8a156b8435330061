package owner

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"lighter/internal/tomlfile"
)

// read returns the contents of a file that nobody but its owner, who is this user or root,
// can change.
func read(name string) ([]byte, error) {
	if name == "" {
		return nil, fs.ErrNotExist
	}
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would be waited for
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	if err := safe(name, info); err != nil {
		return nil, err
	}
	if err := safeFolders(name); err != nil {
		return nil, err
	}
	return tomlfile.Read(f, name, "settings")
}

// safeFolders refuses a file that another user could replace.
func safeFolders(name string) error {
	dir, err := filepath.EvalSymlinks(filepath.Dir(name))
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	for err == nil {
		var info fs.FileInfo
		if info, err = os.Lstat(dir); err != nil {
			break
		}
		if info.Mode()&fs.ModeSticky == 0 || dir == filepath.Dir(name) {
			err = safe(dir, info)
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return err
}

// safe says who else than this user and root could change a file or folder, and how to
// mend that.
func safe(name string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && stat.Uid != 0 && int64(stat.Uid) != int64(os.Getuid()) {
		return fmt.Errorf("%s belongs to user %d: chown it to this user, or to root", name, stat.Uid)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s has mode %04o, so others can change it: chmod go-w %s", name, mode, name)
	}
	return nil
}

// MakeState makes an agent's state folder, for this user alone. One that is there and lets
// others in does so no more, unless a coordinator has it, too, whose socket is for others.
// One that belongs to another user, or that others can write to, is refused.
func MakeState(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	_, coordinator := os.Lstat(filepath.Join(dir, "ledger"))
	switch {
	case ok && int64(stat.Uid) != int64(os.Getuid()):
		return fmt.Errorf("state folder %s belongs to user %d, not to %d who runs this: choose another one, or chown it", dir, stat.Uid, os.Getuid())
	case coordinator == nil && mode&0o022 != 0:
		return fmt.Errorf("state folder %s has mode %04o, so others can change what is in it: chmod go-w %s", dir, mode, dir)
	case coordinator == nil || mode&0o077 == 0:
		return nil
	}
	return f.Chmod(mode &^ 0o077)
}
