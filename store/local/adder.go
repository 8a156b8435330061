package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
)

// AddText implements store.Adder.
func (s *Store) AddText(ctx context.Context, name string, content []byte, references []store.Path) (store.Path, error) {
	path, err := s.addText(ctx, name, content, references)
	if err != nil {
		return "", fmt.Errorf("add text %s: %w", name, s.layout.explainSpace(err))
	}
	return path, nil
}

func (s *Store) addText(ctx context.Context, name string, content []byte, references []store.Path) (store.Path, error) {
	refs := slices.Clone(references)
	slices.Sort(refs)
	refs = slices.Compact(refs)
	path, err := s.layout.dir.TextPath(name, content, refs)
	if err != nil {
		return "", err
	}
	if valid, err := s.items.isValid(ctx, path); err != nil || valid {
		return path, err
	}
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	// A bytes.Buffer takes everything, and one file is a valid NAR.
	_ = w.WriteHeader(&nar.Header{Kind: nar.Regular, Size: int64(len(content))})
	_, _ = w.Write(content)
	_ = w.Close()
	return path, s.addItem(ctx, &b, func(store.Hash) (store.Path, error) { return path, nil }, refs)
}

// AddNAR implements store.Adder.
func (s *Store) AddNAR(ctx context.Context, name string, r io.Reader) (store.Path, error) {
	var path store.Path
	err := s.addItem(ctx, r, func(h store.Hash) (_ store.Path, err error) {
		path, err = s.layout.dir.SourcePath(name, h)
		return path, err
	}, nil)
	if err != nil {
		return "", fmt.Errorf("add %s: %w", name, s.layout.explainSpace(err))
	}
	return path, nil
}

// addItem publishes what a NAR holds under the name that its hash gives it.
func (s *Store) addItem(ctx context.Context, r io.Reader, name func(store.Hash) (store.Path, error), references []store.Path) error {
	lease := s.claims.newLease("add")
	defer lease.Release() //nolint:errcheck // a lease that stays ends with the store
	if err := lease.Add(ctx, references...); err != nil {
		return err
	}
	if err := s.items.requireValid(ctx, references); err != nil {
		return err
	}
	tree, err := s.claims.tmpName()
	if err != nil {
		return err
	}
	var h nar.Hasher
	if err := nar.UnpackWith(io.TeeReader(stream.ReaderUntil(ctx, r), &h), tree, nar.UnpackOptions{Room: s.disk.room}); err != nil {
		return err
	}
	it := &finished{tree: tree, info: &store.Info{NARHash: h.Sum(), NARSize: h.Size(), References: references}}
	if it.state, err = h.State(); err == nil {
		it.info.Path, err = name(it.info.NARHash)
	}
	if err == nil {
		err = lease.Add(ctx, it.info.Path)
	}
	if err == nil {
		var valid bool
		if valid, err = s.items.isValid(ctx, it.info.Path); err == nil && !valid {
			_, err = s.items.publish(ctx, []*finished{it})
			return err
		}
	}
	return errors.Join(err, it.discard(s.layout))
}
