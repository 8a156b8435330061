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

// AddRoot keeps an item, valid or not yet, and what it refers to from garbage
// collection until the root is removed. An older root of that name is replaced. The
// name is that of a file in the folder roots/, so it may have no slash. As with
// leases, ask for validity afterwards.
func (s *Store) AddRoot(name string, path store.Path) error {
	if err := s.addRoot(name, path); err != nil {
		return fmt.Errorf("add root %s: %w", name, s.explainSpace(err))
	}
	return nil
}

func (s *Store) addRoot(name string, path store.Path) error {
	if err := checkRootName(name); err != nil {
		return err
	}
	if path.Dir() != s.dir {
		return fmt.Errorf("%s is not in the store %s", path, s.dir)
	}
	tmp, err := s.tmpName()
	if err != nil {
		return err
	}
	if err := os.Symlink(string(path), tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(s.layout.roots(), name)); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// RemoveRoot removes a root. That there is none of that name is not an error.
func (s *Store) RemoveRoot(name string) error {
	err := checkRootName(name)
	if err == nil {
		err = remove(filepath.Join(s.layout.roots(), name))
	}
	if err != nil {
		return fmt.Errorf("remove root %s: %w", name, err)
	}
	return nil
}

func checkRootName(name string) error {
	if name == "" || len(name) > 255 || name[0] == '.' || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is not a name for a root: want a file name that does not start with a dot", name)
	}
	return nil
}

// Roots returns the item that each root keeps, by the root's name.
func (s *Store) Roots() (map[string]store.Path, error) {
	roots, err := s.readRoots()
	if err != nil {
		return nil, fmt.Errorf("read roots: %w", err)
	}
	return roots, nil
}

// readRoots reads the roots. Something among them that can't be read is an error,
// since what it keeps must not be deleted.
func (s *Store) readRoots() (map[string]store.Path, error) {
	if err := s.refresh(s.layout.roots()); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.layout.roots())
	if err != nil {
		return nil, err
	}
	roots := make(map[string]store.Path)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		target, err := os.Readlink(filepath.Join(s.layout.roots(), e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed
		}
		if err != nil {
			return nil, err
		}
		path, _, err := s.dir.ParsePathWithin(target)
		if err != nil {
			return nil, fmt.Errorf("root %s: %w", e.Name(), err)
		}
		roots[e.Name()] = path
	}
	return roots, nil
}
