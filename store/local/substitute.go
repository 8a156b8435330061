package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
)

var _ store.Substitutee = (*Store)(nil)

// AddSubstitute implements store.Substitutee.
func (s *Store) AddSubstitute(ctx context.Context, info *store.Info, contents io.Reader) error {
	if err := s.addSubstitute(ctx, info, contents); err != nil {
		return fmt.Errorf("add %s: %w", info.Path, s.layout.explainSpace(err))
	}
	return nil
}

func (s *Store) addSubstitute(ctx context.Context, info *store.Info, contents io.Reader) error {
	if info.Path.Dir() != s.layout.dir {
		return fmt.Errorf("it is not in the store %s", s.layout.dir)
	}
	lease := s.claims.newLease("substitute")
	defer lease.Release() //nolint:errcheck // a lease that stays ends with the store
	others := slices.DeleteFunc(slices.Clone(info.References), func(p store.Path) bool { return p == info.Path })
	if err := lease.Add(ctx, append(slices.Clone(others), info.Path)...); err != nil {
		return err
	}
	if valid, err := s.items.isValid(ctx, info.Path); err != nil || valid {
		return err
	}
	if err := s.items.requireValid(ctx, others); err != nil {
		return fmt.Errorf("it refers to %w", err)
	}
	it, err := s.unpackSubstitute(ctx, info, contents)
	if err != nil {
		return err
	}
	_, err = s.items.publish(ctx, []*finished{it})
	return err
}

// unpackSubstitute unpacks an item and checks it.
func (s *Store) unpackSubstitute(ctx context.Context, info *store.Info, contents io.Reader) (*finished, error) {
	tree, err := s.claims.tmpName()
	if err != nil {
		return nil, err
	}
	var h nar.Hasher
	if err := nar.UnpackWith(io.TeeReader(stream.ReaderUntil(ctx, contents), &h), tree, nar.UnpackOptions{Room: s.disk.room}); err != nil {
		return nil, err
	}
	it := &finished{tree: tree, info: &store.Info{
		Path: info.Path, NARHash: h.Sum(), NARSize: h.Size(), References: info.References, Deriver: info.Deriver,
	}}
	if it.state, err = h.State(); err == nil {
		err = checkSubstitute(info, it)
	}
	if err != nil {
		return nil, errors.Join(err, it.discard(s.layout))
	}
	return it, nil
}

func checkSubstitute(want *store.Info, it *finished) error {
	if it.info.NARHash != want.NARHash || it.info.NARSize != want.NARSize {
		return fmt.Errorf("%w: its NAR has %d bytes and hash %s, not %d bytes and %s",
			store.ErrCorrupt, it.info.NARSize, it.info.NARHash, want.NARSize, want.NARHash)
	}
	if !want.Path.IsDerivation() {
		return nil
	}
	return checkDerivation(&nar.Item{Path: want.Path, References: want.References}, it.tree)
}
