package local

import (
	"crypto/rand"
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

// hashOf returns the part of an item's name, or of a name in store/, by which it is known.
func hashOf(name string) string {
	if len(name) > hashLen {
		return name[:hashLen]
	}
	return name
}

// otherName returns a new name in store/ for an item whose own is taken: the item's, or its hash
// alone where that would be too long, with suffixMark, which no item has in its name, and suffixLen
// random characters.
func otherName(base string) string {
	if len(base)+1+suffixLen > maxFileName {
		base = hashOf(base)
	}
	return base + string(suffixMark) + strings.ToLower(rand.Text()[:suffixLen])
}

// isOtherName reports whether a name in store/ is one that otherName gives the item.
func isOtherName(name, base string) bool {
	i := len(name) - suffixLen - 1
	return i > 0 && name[i] == suffixMark && (name[:i] == base || name[:i] == hashOf(base))
}

const (
	hashLen     = 32
	suffixMark  = '~'
	suffixLen   = 12
	maxFileName = 255 // bytes, on every file system
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
