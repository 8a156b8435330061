package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"lighter/store"
)

// lease implements store.Lease.
type lease struct {
	store *Memory
	name  string
	paths map[store.Path]bool // nil once it is released
}

// Lease implements store.Leaser.
func (m *Memory) Lease(ctx context.Context, name string) (store.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &lease{store: m, name: name, paths: make(map[store.Path]bool)}
	m.leases[l] = true
	return l, nil
}

// Leases returns the names of the leases that are held, sorted.
func (m *Memory) Leases() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := make([]string, 0, len(m.leases))
	for l := range m.leases {
		names = append(names, l.name)
	}
	slices.Sort(names)
	return names
}

func (l *lease) Add(ctx context.Context, paths ...store.Path) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if l.paths == nil {
		return fmt.Errorf("lease %s: it was released", l.name)
	}
	for _, p := range paths {
		l.paths[p] = true
	}
	return nil
}

func (l *lease) Release() error {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	delete(l.store.leases, l)
	l.paths = nil
	return nil
}

// CollectGarbage implements store.Collector. Leases are the only roots. With
// Paths set, those are deleted, after what refers to them; it is an error if one is alive.
func (m *Memory) CollectGarbage(ctx context.Context, opts store.GCOptions) (*store.GCResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var kept []store.Path
	garbage, err := m.garbageLocked(opts, nil)
	if err == nil && opts.Keep != nil {
		if kept, err = opts.Keep(ctx, store.PathsOf(garbage)); err == nil {
			garbage, err = m.garbageLocked(opts, kept)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("collect garbage: %w", err)
	}
	result := new(store.GCResult)
	for _, info := range garbage {
		if opts.MaxFreed > 0 && result.Freed >= opts.MaxFreed {
			break
		}
		result.Deleted = append(result.Deleted, info.Path)
		result.Freed += info.NARSize
		if !opts.DryRun {
			delete(m.items, info.Path)
		}
	}
	return result, nil
}

// garbageLocked returns what may be deleted, referrers first.
func (m *Memory) garbageLocked(opts store.GCOptions, kept []store.Path) ([]*store.Info, error) {
	alive := m.aliveLocked(time.Now().Add(-opts.OlderThan), kept)
	wanted := make(map[store.Path]bool)
	for _, p := range opts.Paths {
		if alive[p] {
			return nil, fmt.Errorf("%s is in use", p)
		}
		wanted[p] = true
	}
	infos := make([]*store.Info, 0, len(m.items))
	for _, it := range m.items {
		infos = append(infos, &it.info)
	}
	sorted, err := store.SortInfos(infos)
	if err != nil {
		return nil, err
	}
	var garbage []*store.Info
	for _, info := range sorted {
		if len(opts.Paths) > 0 && !wanted[info.Path] && !slices.ContainsFunc(info.References, func(r store.Path) bool { return wanted[r] }) {
			continue
		}
		if !alive[info.Path] {
			wanted[info.Path] = true
			garbage = append(garbage, info)
		}
	}
	slices.Reverse(garbage)
	return garbage, nil
}

// aliveLocked returns what leases hold, what was registered after youngest and what is kept, and
// all that these refer to.
func (m *Memory) aliveLocked(youngest time.Time, kept []store.Path) map[store.Path]bool {
	queue := slices.Clone(kept)
	for l := range m.leases {
		queue = slices.AppendSeq(queue, maps.Keys(l.paths))
	}
	for p, it := range m.items {
		if it.info.Registered.After(youngest) {
			queue = append(queue, p)
		}
	}
	alive := make(map[store.Path]bool)
	for len(queue) > 0 {
		p := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if it := m.items[p]; it != nil && !alive[p] {
			alive[p] = true
			queue = append(queue, it.info.References...)
		}
	}
	return alive
}

// Verify implements store.Verifier.
func (m *Memory) Verify(ctx context.Context, contents bool, report func(store.VerifyProblem)) error {
	for _, p := range m.Paths() {
		it, err := m.item(ctx, p)
		switch {
		case errors.Is(err, store.ErrNotValid):
			continue // deleted since
		case err != nil:
			return err
		}
		if contents && sha256.Sum256(it.nar) != it.info.NARHash {
			report(store.VerifyProblem{Path: p, Problem: "its contents have changed"})
		}
	}
	return nil
}
