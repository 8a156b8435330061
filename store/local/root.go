package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"lighter/store"
	"lighter/store/local/roots"
)

// AddRoot has a link of a user's keep an item: see package roots. The link must be there, and
// lead to where the item's files are.
func (s *Store) AddRoot(ctx context.Context, r store.Root, uid uint32) error {
	rec, err := s.items.record(ctx, r.Path)
	if err == nil {
		err = s.layout.rootsFolder().Add(r, s.layout.data(rec.data()), uid)
	}
	if err == nil { // it may have been condemned meanwhile
		err = s.items.requireValid(ctx, []store.Path{r.Path})
	}
	if err != nil {
		return fmt.Errorf("root: %w", s.layout.explainSpace(err))
	}
	return nil
}

// Roots returns the roots that people have made.
func (s *Store) Roots(context.Context) ([]store.Root, error) { return s.layout.rootsFolder().List() }

// RemoveRoot ends a root. The error matches fs.ErrNotExist if there is none of that link.
func (s *Store) RemoveRoot(_ context.Context, link string) error {
	return s.layout.rootsFolder().Remove(link)
}

func (l layout) rootsFolder() roots.Folder { return roots.Folder(l.roots()) }

// readRoots returns what roots keep: those of people, and symlinks in the folder itself. One that
// can't be read is an error, since what it keeps must not be deleted.
func (l layout) readRoots() ([]store.Path, error) {
	if err := l.refresh(l.roots()); err != nil {
		return nil, err
	}
	made, err := l.rootsFolder().List()
	if err != nil {
		return nil, err
	}
	paths := make([]store.Path, 0, len(made))
	for _, r := range made {
		paths = append(paths, r.Path)
	}
	entries, err := os.ReadDir(l.roots())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.Type().IsRegular() && filepath.Ext(e.Name()) == roots.Extension {
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
		paths = append(paths, path)
	}
	return paths, nil
}
