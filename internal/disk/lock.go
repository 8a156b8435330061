package disk

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked is matched by the error of Lock if another process has the lock, or just had it.
var ErrLocked = errors.New("another process has the lock")

// Lock takes the lock on a file, which is made if need be, without waiting. It is given back when the
// file is closed, and with the process, however that ends. Who has it may remove the file.
func Lock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	return f, nil
}

func lock(f *os.File) error {
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.EINTR):
		return ErrLocked
	case err != nil:
		return err
	}
	held, err := f.Stat()
	if err != nil {
		return err
	}
	// Who had it may have removed the file meanwhile: then it locks nothing.
	named, err := os.Stat(f.Name())
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(named, held) {
		return ErrLocked
	}
	return err
}
