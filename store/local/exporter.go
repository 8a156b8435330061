package local

import (
	"context"
	"errors"
	"fmt"
	"io"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
)

// Export implements store.Exporter.
func (s *Store) Export(ctx context.Context, w io.Writer, paths []store.Path) error {
	if err := s.export(ctx, w, paths); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func (s *Store) export(ctx context.Context, w io.Writer, paths []store.Path) error {
	if s.opts.Key == nil {
		return errors.New("this store has no key to sign with")
	}
	lease := s.claims.newLease("export")
	defer lease.Release() //nolint:errcheck // a lease that stays ends with the store
	if err := lease.Add(ctx, paths...); err != nil {
		return err
	}
	records := make(map[store.Path]*record, len(paths))
	infos := make([]*store.Info, 0, len(paths))
	for _, p := range paths {
		r, err := s.items.record(ctx, p)
		if err != nil {
			return err
		}
		records[p] = r
		infos = append(infos, &r.Info)
	}
	sorted, err := store.SortInfos(infos)
	if err != nil {
		return err
	}
	archive := nar.NewArchiveWriter(stream.WriterUntil(ctx, w))
	for _, info := range sorted {
		if err := s.exportItem(archive, records[info.Path]); err != nil {
			return err
		}
	}
	return archive.Close()
}

func (s *Store) exportItem(archive *nar.ArchiveWriter, r *record) error {
	it := &nar.Item{
		Path: r.Path, References: r.References, Deriver: r.Deriver,
		NARHash: r.NARHash, NARSize: r.NARSize, NARState: r.NARState,
	}
	pack := func(w io.Writer) error { return nar.Pack(w, s.layout.data(r.data())) }
	// An item that has changed on the disk must not get a signature. Where its NAR is
	// not hashed again, the signature is that of the old contents, and nobody accepts it.
	sign := func(h store.Hash) (string, error) {
		if it.NARHash != r.NARHash {
			return "", fmt.Errorf("%w: its contents have changed on the disk of this store", store.ErrCorrupt)
		}
		return s.opts.Key.Sign(h)
	}
	return archive.WriteItem(it, pack, sign)
}

// WriteNAR implements store.NARWriter.
func (s *Store) WriteNAR(ctx context.Context, w io.Writer, path store.Path) error {
	if err := s.writeNAR(ctx, w, path); err != nil {
		return fmt.Errorf("write NAR: %w", err)
	}
	return nil
}

func (s *Store) writeNAR(ctx context.Context, w io.Writer, path store.Path) error {
	lease := s.claims.newLease("write NAR")
	defer lease.Release() //nolint:errcheck // a lease that stays ends with the store
	if err := lease.Add(ctx, path); err != nil {
		return err
	}
	r, err := s.items.record(ctx, path)
	if err != nil {
		return err
	}
	return nar.Pack(stream.WriterUntil(ctx, w), s.layout.data(r.data()))
}
