package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"lighter/store"
)

// leases are those that this open store has given out and that hold something.
type leases struct {
	mu   sync.Mutex
	open map[*lease]bool
}

// lease is a file in leases/ with the base names of items, one on each line. A line
// without its end is one that is still being written, and counts for nothing.
type lease struct {
	store *Store
	name  string

	mu       sync.Mutex // owns all below; taken before leases.mu
	file     *os.File   // nil until the first Add
	paths    map[store.Path]bool
	released bool
}

// Lease implements store.Leaser.
func (s *Store) Lease(ctx context.Context, name string) (store.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.newLease(name), nil
}

func (s *Store) newLease(name string) *lease {
	return &lease{store: s, name: name, paths: make(map[store.Path]bool)}
}

// Add implements store.Lease.
func (l *lease) Add(ctx context.Context, paths ...store.Path) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.add(paths); err != nil {
		return fmt.Errorf("lease %s: %w", l.name, l.store.explainSpace(err))
	}
	return nil
}

func (l *lease) add(paths []store.Path) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return errors.New("it is released")
	}
	var fresh []store.Path
	var text []byte
	for _, p := range paths {
		if p.Dir() != l.store.dir {
			return fmt.Errorf("%s is not in the store %s", p, l.store.dir)
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
// other processes see it.
func (l *lease) writeLocked(text []byte) error {
	if l.file == nil {
		if err := l.openLocked(); err != nil {
			return err
		}
	}
	if _, err := l.file.Write(text); err != nil {
		return err
	}
	if l.store.network {
		return l.file.Sync()
	}
	return nil
}

func (l *lease) openLocked() error {
	s := l.store
	if err := s.beThere(); err != nil {
		return err
	}
	name := s.layout.lease(s.owner.String() + "." + strconv.FormatUint(s.names.Add(1), 10))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	l.file = f
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if s.leases.open == nil {
		s.leases.open = make(map[*lease]bool)
	}
	s.leases.open[l] = true
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
	l.store.leases.mu.Lock()
	delete(l.store.leases.open, l)
	l.store.leases.mu.Unlock()
	err := errors.Join(remove(l.file.Name()), l.file.Close())
	l.file = nil
	if err != nil {
		return fmt.Errorf("release the lease %s: %w", l.name, err)
	}
	return nil
}

func (s *Store) openLeases() []*lease {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	all := make([]*lease, 0, len(s.leases.open))
	for l := range s.leases.open {
		all = append(all, l)
	}
	return all
}

func (s *Store) releaseLeases() error {
	var errs []error
	for _, l := range s.openLeases() {
		errs = append(errs, l.Release())
	}
	return errors.Join(errs...)
}

// renewLeases writes the files of all leases again.
func (s *Store) renewLeases() error {
	var errs []error
	for _, l := range s.openLeases() {
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

// leased calls visit with the base name of each item in a lease of a process that
// is alive.
func (s *Store) leased(c *census, visit func(base string)) error {
	if err := s.refresh(s.layout.leases()); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.layout.leases())
	if err != nil {
		return err
	}
	for _, e := range entries {
		o, ok := parseOwner(e.Name())
		if !ok || e.Name() == o.String() || !c.alive(o) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(s.layout.leases(), e.Name()))
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

// refresh makes the next listing of a folder a true one, on file systems that might
// otherwise answer from what they knew.
func (s *Store) refresh(folder string) error {
	if !s.network {
		return nil
	}
	f, err := os.CreateTemp(folder, ".refresh-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
