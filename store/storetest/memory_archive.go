package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
	"lighter/store/derivation"
)

// Export implements store.Exporter.
func (m *Memory) Export(ctx context.Context, w io.Writer, paths []store.Path) error {
	if err := m.export(ctx, w, paths); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func (m *Memory) export(ctx context.Context, w io.Writer, paths []store.Path) error {
	infos := make([]*store.Info, 0, len(paths))
	for _, p := range paths {
		info, err := m.Info(ctx, p)
		if err != nil {
			return err
		}
		infos = append(infos, info)
	}
	sorted, err := store.SortInfos(infos)
	if err != nil {
		return err
	}
	archive := nar.NewArchiveWriter(w)
	for _, info := range sorted {
		out := &nar.Item{Path: info.Path, References: info.References, Deriver: info.Deriver}
		write := func(w io.Writer) error { return m.WriteNAR(ctx, w, info.Path) }
		if err := archive.WriteItem(out, write, m.key.Sign); err != nil {
			return err
		}
		if out.NARHash != info.NARHash {
			return fmt.Errorf("%s: its contents have changed", info.Path)
		}
	}
	return archive.Close()
}

// Import implements store.Importer.
func (m *Memory) Import(ctx context.Context, r io.Reader, opts store.ImportOptions) ([]*store.Info, error) {
	archive := nar.NewArchiveReader(stream.ReaderUntil(ctx, r), m.dir)
	var infos []*store.Info
	for {
		contents, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return infos, nil
		}
		var info *store.Info
		if err == nil {
			info, err = m.importItem(ctx, archive, contents, opts)
		}
		if err != nil {
			return infos, fmt.Errorf("import: %w", err)
		}
		infos = append(infos, info)
	}
}

func (m *Memory) importItem(ctx context.Context, archive *nar.ArchiveReader, contents io.Reader, opts store.ImportOptions) (*store.Info, error) {
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(contents, maxNAR+1)); err != nil {
		return nil, err
	}
	if b.Len() > maxNAR {
		return nil, fmt.Errorf("a NAR has more than %d bytes", maxNAR)
	}
	in, err := archive.Item()
	if err != nil {
		return nil, err
	}
	if err := m.check(in, b.Bytes()); err != nil {
		return nil, fmt.Errorf("%s: %w", in.Path, err)
	}
	it := &item{nar: b.Bytes(), info: store.Info{
		Path:       in.Path,
		NARHash:    in.NARHash,
		NARSize:    in.NARSize,
		References: sortedCopy(in.References),
		Deriver:    in.Deriver,
		Registered: time.Now(),
	}}
	if opts.Accept != nil {
		if err := opts.Accept(it.copyInfo()); err != nil {
			return nil, fmt.Errorf("%s: %w", in.Path, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return m.register(it)
}

// check checks an item as far as that is possible without the store.
func (m *Memory) check(in *nar.Item, contents []byte) error {
	if in.Signature == "" {
		return fmt.Errorf("%w: it is not signed", store.ErrCorrupt)
	}
	if _, err := m.acl.Check(in.Signature, in.SignedHash); err != nil {
		return err
	}
	if in.Path.IsDerivation() {
		return checkDerivation(in, contents)
	}
	return nil
}

// checkDerivation checks that a derivation has the name that its text gives it:
// of the items that are named after their contents, this is the one kind that is
// known by its name.
func checkDerivation(in *nar.Item, contents []byte) error {
	r := nar.NewReader(bytes.NewReader(contents))
	header, err := r.Next()
	if err != nil {
		return err
	}
	if header.Kind != nar.Regular || header.Executable || header.Size > derivation.MaxSize {
		return fmt.Errorf("%w: it is not the file of a derivation", store.ErrCorrupt)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if want, err := in.Path.Dir().TextPath(in.Path.Name(), text, in.References); err != nil || want != in.Path {
		return errors.Join(fmt.Errorf("%w: its contents give the name %s", store.ErrCorrupt, want), err)
	}
	return nil
}
