package daemon

import (
	"context"
	"fmt"
	"io"
	"os"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
)

// Marks between the items of an archive (c.1 of the export stream; see package nar).
const (
	itemFollows = "\x01\x00\x00\x00\x00\x00\x00\x00"
	endOfItems  = "\x00\x00\x00\x00\x00\x00\x00\x00"
)

// Export implements store.Exporter. What it says of store.ErrNotValid comes before
// anything is written.
func (s *Store) Export(ctx context.Context, w io.Writer, paths []store.Path) error {
	if err := s.export(ctx, w, paths); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func (s *Store) export(ctx context.Context, w io.Writer, paths []store.Path) error {
	if err := s.check(paths...); err != nil {
		return err
	}
	want := withHelper
	if s.key != nil {
		want = plain
	}
	// What keeps the daemon from answering anything is found by the first of these
	// calls, so that nothing is written twice.
	return s.with(ctx, want, "", func(c *conn) error {
		sorted, err := s.rootedInfos(c, paths)
		if err != nil {
			return err
		}
		if s.key != nil {
			return s.exportSigned(ctx, w, sorted)
		}
		c.heat(s.aclStamp())
		for _, info := range sorted {
			if err := exportItem(c, w, info.Path); err != nil {
				return fmt.Errorf("%s: %w", info.Path, err)
			}
		}
		_, err = io.WriteString(w, endOfItems)
		return err
	})
}

// rootedInfos protects items for the time of the connection and returns what is known of
// them, references first. All must be valid.
func (s *Store) rootedInfos(c *conn, paths []store.Path) ([]*store.Info, error) {
	if err := c.addTempRoots(paths); err != nil {
		return nil, err
	}
	infos, err := s.infos(c, paths)
	if err != nil {
		return nil, err
	}
	for i, info := range infos {
		if info == nil {
			return nil, &notValidError{paths[i]}
		}
	}
	return store.SortInfos(infos)
}

func exportItem(c *conn, w io.Writer, path store.Path) error {
	if _, err := io.WriteString(w, itemFollows); err != nil {
		return err
	}
	c.op(opExportPath)
	c.putPath(path)
	_ = c.w.Bool(true) // sign; the error comes with call
	if err := c.call(&streams{sink: c.copyTo(w)}); err != nil {
		return err
	}
	return c.getDone()
}

// exportSigned writes an archive from the files on the disk.
func (s *Store) exportSigned(ctx context.Context, w io.Writer, infos []*store.Info) error {
	archive := nar.NewArchiveWriter(stream.WriterUntil(ctx, w))
	for _, info := range infos {
		it := &nar.Item{Path: info.Path, References: info.References, Deriver: info.Deriver}
		pack := func(w io.Writer) error { return nar.Pack(w, s.PhysicalPath(info.Path)) }
		sign := func(h store.Hash) (string, error) {
			if it.NARHash != info.NARHash {
				return "", fmt.Errorf("%w: its contents have changed on the disk", store.ErrCorrupt)
			}
			return s.key.Sign(h)
		}
		if err := archive.WriteItem(it, pack, sign); err != nil {
			return err
		}
	}
	return archive.Close()
}

// WriteNAR implements store.NARWriter. It reads the item's files.
func (s *Store) WriteNAR(ctx context.Context, w io.Writer, path store.Path) error {
	err := s.check(path)
	if err == nil {
		err = s.do(ctx, func(c *conn) error {
			if _, err := s.rootedInfos(c, []store.Path{path}); err != nil {
				return err
			}
			return nar.Pack(stream.WriterUntil(ctx, w), s.PhysicalPath(path))
		})
	}
	if err != nil {
		return fmt.Errorf("write NAR: %w", err)
	}
	return nil
}

// readText returns the contents of a valid item that is a file of at most limit bytes.
func (s *Store) readText(path store.Path, limit int64) ([]byte, error) {
	f, err := os.Open(s.PhysicalPath(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return text, err
}

// notValidError is the finding that an item is not valid, which does no harm to the
// connection.
type notValidError struct{ path store.Path }

func (e *notValidError) Error() string   { return store.NotValid(e.path).Error() }
func (e *notValidError) Is(t error) bool { return t == store.ErrNotValid }
