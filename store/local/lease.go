package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"lighter/store"
)

// lease is a file in leases/ with the base names of items, one on each line. A line
// without its end is still being written, and does not count.
type lease struct {
	claims *claims
	name   string

	mu       sync.Mutex // owns all below; taken before claims.mu
	file     *os.File   // nil until the first Add
	paths    map[store.Path]bool
	released bool
}

// Lease implements store.Leaser.
func (s *Store) Lease(ctx context.Context, name string) (store.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.claims.newLease(name), nil
}

func (c *claims) newLease(name string) *lease {
	return &lease{claims: c, name: name, paths: make(map[store.Path]bool)}
}

// Add implements store.Lease.
func (l *lease) Add(ctx context.Context, paths ...store.Path) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.add(paths); err != nil {
		return fmt.Errorf("lease %s: %w", l.name, l.claims.layout.explainSpace(err))
	}
	return nil
}

func (l *lease) add(paths []store.Path) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return errors.New("it was released")
	}
	var fresh []store.Path
	var text []byte
	for _, p := range paths {
		if dir := l.claims.layout.dir; p.Dir() != dir {
			return fmt.Errorf("%s is not in the store %s", p, dir)
		}
		if !l.paths[p] {
			fresh = append(fresh, p)
			text = append(append(text, p.Base()...), '\n')
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := l.writeLocked(text); err != nil {
		return err
	}
	for _, p := range fresh {
		l.paths[p] = true
	}
	return nil
}

// writeLocked appends to the lease's file, and makes it if need be. When it returns,
// other processes see what was written.
func (l *lease) writeLocked(text []byte) error {
	if l.file == nil {
		if err := l.openLocked(); err != nil {
			return err
		}
	}
	if _, err := l.file.Write(text); err != nil {
		return err
	}
	if l.claims.layout.network {
		return l.file.Sync()
	}
	return nil
}

func (l *lease) openLocked() error {
	c := l.claims
	name, err := c.ownName()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.layout.lease(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	l.file = f
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leases[l] = true
	return nil
}

// Release implements store.Lease.
func (l *lease) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = true
	if l.file == nil {
		return nil
	}
	l.claims.mu.Lock()
	delete(l.claims.leases, l)
	l.claims.mu.Unlock()
	err := errors.Join(remove(l.file.Name()), l.file.Close())
	l.file = nil
	if err != nil {
		return fmt.Errorf("release the lease %s: %w", l.name, err)
	}
	return nil
}

func (c *claims) openLeases() []*lease {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.leases))
}

func (c *claims) releaseLeases() error {
	var errs []error
	for _, l := range c.openLeases() {
		errs = append(errs, l.Release())
	}
	return errors.Join(errs...)
}

// renewLeases writes the files of all leases anew.
func (c *claims) renewLeases() error {
	var errs []error
	for _, l := range c.openLeases() {
		errs = append(errs, l.renew())
	}
	return errors.Join(errs...)
}

func (l *lease) renew() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released || l.file == nil {
		return nil
	}
	var text []byte
	for p := range l.paths {
		text = append(append(text, p.Base()...), '\n')
	}
	old := l.file
	l.file = nil
	if err := l.writeLocked(text); err != nil {
		l.file = old
		return err
	}
	return errors.Join(remove(old.Name()), old.Close())
}

// leased calls visit with the base name of each item in a lease of a live process.
func (l layout) leased(c *census, visit func(base string)) error {
	if err := l.refresh(l.leases()); err != nil {
		return err
	}
	entries, err := os.ReadDir(l.leases())
	if err != nil {
		return err
	}
	for _, e := range entries {
		o, ok := parseOwner(e.Name())
		if !ok || e.Name() == o.String() || !c.alive(o) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(l.leases(), e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // released
		}
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if base, complete := strings.CutSuffix(line, "\n"); complete {
				visit(base)
			}
		}
	}
	return nil
}

// refresh makes sure that the next listing of a folder is not a cached one.
func (l layout) refresh(folder string) error {
	if !l.network {
		return nil
	}
	f, err := os.CreateTemp(folder, ".refresh-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
