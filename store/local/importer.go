package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/derivation"
)

// maxBatch bounds how many items of an import are complete and not visible yet.
const maxBatch = 256

// Import implements store.Importer. Contents go to the disk as they are read;
// items become visible in batches that are synced together, while what follows is read.
func (s *Store) Import(ctx context.Context, r io.Reader, opts store.ImportOptions) ([]*store.Info, error) {
	infos, err := s.importArchive(ctx, r, opts)
	if err != nil {
		return infos, fmt.Errorf("import: %w", s.layout.explainSpace(err))
	}
	return infos, nil
}

// ACL returns the keys whose archives Import accepts.
func (s *Store) ACL() (*signature.ACL, error) {
	if s.opts.ACL == nil {
		return new(signature.ACL), nil
	}
	return s.opts.ACL()
}

func (s *Store) importArchive(ctx context.Context, r io.Reader, opts store.ImportOptions) ([]*store.Info, error) {
	acl, err := s.ACL()
	if err != nil {
		return nil, err
	}
	im := &importer{
		store:   s,
		opts:    opts,
		acl:     acl,
		archive: nar.NewArchiveReader(stream.ReaderUntil(ctx, r), s.layout.dir),
		lease:   s.claims.newLease("import"),
		known:   make(map[store.Path]bool),
		queue:   make(chan *finished, maxBatch),
		failed:  make(chan struct{}),
		done:    make(chan struct{}),
	}
	defer im.lease.Release() //nolint:errcheck // a lease that stays ends with the store
	// What is complete becomes visible even if the caller loses interest then.
	go im.publish(context.WithoutCancel(ctx))
	err = im.read(ctx)
	close(im.queue)
	<-im.done
	return im.infos, errors.Join(im.err, err)
}

// importer is one run of Import. Its reader checks and unpacks items one by one; its
// publisher, in a goroutine of its own, makes them visible.
type importer struct {
	store   *Store
	opts    store.ImportOptions
	acl     *signature.ACL
	archive *nar.ArchiveReader
	lease   *lease
	known   map[store.Path]bool // items of this archive; the reader's

	queue  chan *finished
	failed chan struct{} // closed when the publisher has an error
	done   chan struct{} // closed when the publisher has ended
	infos  []*store.Info // the publisher's, as is err, until done is closed
	err    error
}

// read reads the archive to its end.
func (im *importer) read(ctx context.Context) error {
	for {
		contents, err := im.archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		it, err := im.item(ctx, contents)
		if err != nil {
			return err
		}
		select {
		case im.queue <- it:
			im.known[it.info.Path] = true
		case <-im.failed:
			return it.discard(im.store.layout)
		}
	}
}

// item unpacks and checks one item.
func (im *importer) item(ctx context.Context, contents io.Reader) (*finished, error) {
	tree, err := im.store.claims.tmpName()
	if err != nil {
		return nil, err
	}
	if err := nar.UnpackWith(contents, tree, nar.UnpackOptions{Room: im.store.disk.room}); err != nil {
		return nil, err
	}
	it := &finished{tree: tree}
	if err := im.check(ctx, it); err != nil {
		return nil, errors.Join(err, it.discard(im.store.layout))
	}
	return it, nil
}

func (im *importer) check(ctx context.Context, it *finished) error {
	in, err := im.archive.Item()
	if err != nil {
		return err
	}
	it.state = in.NARState
	it.info = &store.Info{
		Path:       in.Path,
		NARHash:    in.NARHash,
		NARSize:    in.NARSize,
		References: slices.Sorted(slices.Values(in.References)),
		Deriver:    in.Deriver,
	}
	if err := im.admit(ctx, in, it); err != nil {
		return fmt.Errorf("%s: %w", in.Path, err)
	}
	return nil
}

// admit decides whether an item may become visible.
func (im *importer) admit(ctx context.Context, in *nar.Item, it *finished) error {
	if in.Signature == "" {
		return fmt.Errorf("%w: it is not signed", store.ErrCorrupt)
	}
	key, err := im.acl.Check(in.Signature, in.SignedHash)
	if err != nil {
		return err
	}
	// lighter demo counts these lines.
	im.store.opts.Logger.Debug("signature verified", "item", string(in.Path), "key", key.Fingerprint())
	if in.Path.IsDerivation() {
		if err := checkDerivation(in, it.tree); err != nil {
			return err
		}
	}
	if err := im.lease.Add(ctx, append(slices.Clone(in.References), in.Path)...); err != nil {
		return err
	}
	for _, ref := range in.References {
		if ref == in.Path || im.known[ref] {
			continue
		}
		if err := im.store.items.requireValid(ctx, []store.Path{ref}); err != nil {
			return fmt.Errorf("it refers to %w", err)
		}
	}
	if im.opts.Accept != nil {
		return im.opts.Accept((&record{Info: *it.info}).copyInfo())
	}
	return nil
}

// checkDerivation checks that a derivation has the name that its text gives it: of
// the items that are named after their contents, only derivations can be told by name.
func checkDerivation(in *nar.Item, file string) error {
	st, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Mode()&0o100 != 0 || st.Size() > derivation.MaxSize {
		return fmt.Errorf("%w: it is not the file of a derivation", store.ErrCorrupt)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	want, err := in.Path.Dir().TextPath(in.Path.Name(), text, in.References)
	if err != nil {
		return err
	}
	if want != in.Path {
		return fmt.Errorf("%w: its contents give the name %s", store.ErrCorrupt, want)
	}
	return nil
}

// publish makes the queue's items visible until the queue is closed. After an error
// it discards the rest.
func (im *importer) publish(ctx context.Context) {
	defer close(im.done)
	for it := range im.queue {
		batch := im.more([]*finished{it})
		if im.err != nil {
			for _, it := range batch {
				im.err = errors.Join(im.err, it.discard(im.store.layout))
			}
			continue
		}
		infos, err := im.store.items.publish(ctx, batch)
		im.infos = append(im.infos, infos...)
		if err != nil {
			im.err = err
			close(im.failed)
		}
	}
}

// more adds to a batch the other items that are complete.
func (im *importer) more(batch []*finished) []*finished {
	for len(batch) < maxBatch {
		select {
		case it, ok := <-im.queue:
			if !ok {
				return batch
			}
			batch = append(batch, it)
		default:
			return batch
		}
	}
	return batch
}
