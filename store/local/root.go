package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"lighter/store"
)

// readRoots reads the roots. One that can't be read is an error, since what it keeps must
// not be deleted.
func (l layout) readRoots() (map[string]store.Path, error) {
	if err := l.refresh(l.roots()); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(l.roots())
	if err != nil {
		return nil, err
	}
	roots := make(map[string]store.Path)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		target, err := os.Readlink(filepath.Join(l.roots(), e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed
		}
		if err != nil {
			return nil, err
		}
		path, _, err := l.dir.ParsePathWithin(target)
		if err != nil {
			return nil, fmt.Errorf("root %s: %w", e.Name(), err)
		}
		roots[e.Name()] = path
	}
	return roots, nil
}
