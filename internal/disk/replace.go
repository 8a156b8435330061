package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace has fill write a new file, and puts it in the place of the one of that name, if there is one:
// even after a crash the name leads to the old contents or the new, whole and durable. The new file
// starts with a dot until then, and is gone after an error.
func Replace(name string, mode fs.FileMode, fill func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	err = errors.Join(fill(f), f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return SyncFolder(filepath.Dir(name))
}

// SyncFolder makes the names in a folder durable.
func SyncFolder(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
