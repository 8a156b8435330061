package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"lighter/store"
)

// formatVersion is the number of the layout that this package reads and writes.
const formatVersion = 1

// layout is a store's folder: the names of the files in it, and what its items are called.
type layout struct {
	root    string
	dir     store.Dir // the logical store directory
	network bool      // other machines share the folder
}

func (l layout) data(name string) string  { return filepath.Join(l.root, "store", name) }
func (l layout) infos() string            { return filepath.Join(l.root, "info") }
func (l layout) info(base string) string  { return filepath.Join(l.root, "info", base+infoSuffix) }
func (l layout) roots() string            { return filepath.Join(l.root, "roots") }
func (l layout) leases() string           { return filepath.Join(l.root, "leases") }
func (l layout) tmp() string              { return filepath.Join(l.root, "tmp") }
func (l layout) tmpOf(o owner) string     { return filepath.Join(l.root, "tmp", o.String()) }
func (l layout) lease(name string) string { return filepath.Join(l.root, "leases", name) }
func (l layout) builds() string           { return filepath.Join(l.root, "builds") }
func (l layout) failed() string           { return filepath.Join(l.root, "failed") }
func (l layout) trash() string            { return filepath.Join(l.root, "trash") }
func (l layout) condemned(base string) string {
	return filepath.Join(l.root, "trash", base+infoSuffix)
}
func (l layout) gcLock() string               { return filepath.Join(l.root, "gc.lock") }
func (l layout) version() string              { return filepath.Join(l.root, "version") }
func (l layout) logFolder(base string) string { return filepath.Join(l.root, "log", base[:2]) }
func (l layout) logFile(drv store.Path) string {
	base := drv.Base()
	return filepath.Join(l.logFolder(base), base[2:]+".gz")
}

const infoSuffix = ".json"

// dataBase returns the base name of the item that a name in store/ belongs to: the
// name itself, or what is before its random suffix.
func dataBase(name string) string {
	if i := len(name) - suffixLen - 1; i > 0 && name[i] == suffixMark {
		return name[:i]
	}
	return name
}

// Names in store/ that are not the item's own end in suffixMark, which no item has in its
// name, and suffixLen other characters.
const (
	suffixMark = '~'
	suffixLen  = 12
)

// create makes the folders and the version file, or checks that they are right.
func (l layout) create() error {
	if err := os.MkdirAll(l.root, 0o755); err != nil {
		return err
	}
	text, err := os.ReadFile(l.version())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if text, err = l.initialize(); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %q is not a format number", l.version(), text)
	}
	if version != formatVersion {
		return fmt.Errorf("%s has format %d, and this program knows format %d", l.root, version, formatVersion)
	}
	for folder, mode := range map[string]fs.FileMode{
		"store": 0o755, "info": 0o755, "roots": 0o755, "leases": 0o755, "log": 0o755,
		"tmp": 0o700, "builds": 0o700, "failed": 0o700, "trash": 0o700,
	} {
		if err := os.Mkdir(filepath.Join(l.root, folder), mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// initialize writes the version file of a new store. Several processes may do so at
// the same time.
func (l layout) initialize() ([]byte, error) {
	text := []byte(strconv.Itoa(formatVersion) + "\n")
	f, err := os.CreateTemp(l.root, ".version-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close(), os.Rename(f.Name(), l.version())); err != nil {
		return nil, err
	}
	return text, nil
}
