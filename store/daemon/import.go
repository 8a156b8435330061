package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"lighter/internal/stream"
	"lighter/internal/wire"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
)

// readAhead is how many chunks of an archive are read while the daemon works.
const readAhead = 32

// Import implements store.Importer. The daemon checks hashes and signatures, and says
// what refers to items that it lacks. The archive is read strictly before it gets it, and
// the name of an item, without which it cannot become visible, only when Accept has
// agreed.
//
// The daemon asks for 32 KiB at a time; so this is fast over the socket of this machine,
// and would be slow over a long wire.
func (s *Store) Import(ctx context.Context, r io.Reader, opts store.ImportOptions) ([]*store.Info, error) {
	var im *importer
	err := s.with(ctx, withHelper, "", func(c *conn) error {
		c.heat(s.aclStamp())
		c.rooted = true
		if im == nil {
			im = s.newImporter(ctx, r, opts)
		}
		c.op(opImportPaths)
		err := c.call(&streams{source: im.feed})
		if err != nil {
			return err
		}
		_, err = c.getPaths(s.dir)
		return err
	})
	if im == nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	infos, err := im.end(err)
	if err == nil {
		return infos, nil
	}
	if errors.Is(err, store.ErrUnauthorized) {
		s.pool.clear(func(c *conn) bool { return c.warm }) // so that a new ACL counts
	}
	if ctx.Err() != nil {
		return infos, fmt.Errorf("import: %w", context.Cause(ctx))
	}
	return infos, fmt.Errorf("import: %w", s.nameMissing(ctx, im.current, err))
}

// nameMissing adds to the daemon's words which reference of an item it lacks.
func (s *Store) nameMissing(ctx context.Context, it *store.Info, err error) error {
	var said *Error
	if it == nil || !errors.As(err, &said) {
		return err
	}
	err = fmt.Errorf("%s: %w", it.Path, err)
	if !said.Is(store.ErrNotValid) {
		return err
	}
	// A connection that has protected nothing yet tells the truth as well.
	missing, queryErr := store.Missing(ctx, s, it.References)
	missing = slices.DeleteFunc(missing, func(p store.Path) bool { return p == it.Path })
	if queryErr != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%s: it refers to %w", it.Path, store.NotValid(missing[0]))
}

// importer is one run of Import. A goroutine of its own reads the archive, checks it, and
// cuts what it is to the daemon into chunks, each of one item alone; the caller's
// goroutine sends them.
type importer struct {
	chunks chan *chunk   // closed by the reader when there is no more
	spent  chan *chunk   // to be filled again
	failed chan struct{} // closed when chunks are no longer wanted

	err error // of reading; the reader's until chunks is closed

	// The rest is the sender's.
	chunk   *chunk        // being sent
	rest    []byte        // of it
	sent    *store.Info   // the item whose last byte was sent
	current *store.Info   // the item that the daemon was last seen to work on, if it is known
	done    []*store.Info // items that are valid
}

// chunk is a piece of an archive.
type chunk struct {
	data []byte
	info *store.Info // of the item that ends with it, or nil
}

func (s *Store) newImporter(ctx context.Context, r io.Reader, opts store.ImportOptions) *importer {
	im := &importer{chunks: make(chan *chunk, readAhead), spent: make(chan *chunk, readAhead+2), failed: make(chan struct{})}
	cut := &cutter{im: im, archive: nar.NewArchiveReader(stream.ReaderUntil(ctx, r), s.dir), accept: opts.Accept}
	go func() {
		defer close(im.chunks)
		im.err = cut.run()
	}()
	return im
}

// feed is the source of the request.
func (im *importer) feed(limit int) []byte {
	if im.sent != nil && len(im.rest) == 0 {
		// The daemon wants more, so it is through with the item.
		im.done = append(im.done, im.sent)
		im.sent, im.current = nil, nil
	}
	if len(im.rest) == 0 {
		if im.chunk != nil {
			im.spent <- im.chunk
		}
		if im.chunk = <-im.chunks; im.chunk == nil {
			return nil
		}
		im.rest = im.chunk.data
	}
	part := im.rest[:min(limit, len(im.rest))]
	if im.rest = im.rest[len(part):]; len(im.rest) == 0 {
		im.sent, im.current = im.chunk.info, im.chunk.info
	}
	return part
}

// end waits for the reader, and returns what became valid. The error is that of the
// archive if there is one, else the daemon's.
func (im *importer) end(err error) ([]*store.Info, error) {
	close(im.failed)
	for range im.chunks { //nolint:revive // until the reader is done
	}
	if err == nil && im.sent != nil {
		im.done = append(im.done, im.sent)
	}
	// After a mistake in the archive the daemon says only that it ends too early.
	if im.err != nil && !errors.Is(im.err, errUnwanted) {
		return im.done, im.err
	}
	return im.done, err
}

// errUnwanted ends a reader whose chunks are not wanted.
var errUnwanted = errors.New("the daemon has stopped reading")

// cutter reads an archive and writes it in chunks. What it writes is what it reads: there
// is only one form of an archive that it takes.
type cutter struct {
	im      *importer
	archive *nar.ArchiveReader
	accept  func(*store.Info) error
	chunk   *chunk // being filled
}

func (k *cutter) run() error {
	buf := make([]byte, chunkSize)
	w := wire.NewWriterSize(k, 0)
	for {
		contents, err := k.archive.Next()
		if errors.Is(err, io.EOF) {
			if _, err := k.Write([]byte(endOfItems)); err != nil {
				return err
			}
			return k.give(nil)
		}
		if err != nil {
			return err
		}
		if _, err := k.Write([]byte(itemFollows)); err != nil {
			return err
		}
		if _, err := io.CopyBuffer(k, contents, buf); err != nil {
			return err
		}
		it, err := k.archive.Item()
		if err != nil {
			return err
		}
		// Text that is not an s-expression ends the daemon's helper, and the daemon's process
		// with it.
		if _, err := signature.ParseSexp([]byte(it.Signature)); err != nil {
			return fmt.Errorf("%s: %w: signature: %w", it.Path, store.ErrCorrupt, err)
		}
		info := &store.Info{
			Path: it.Path, NARHash: it.NARHash, NARSize: it.NARSize, Deriver: it.Deriver,
			References: slices.Sorted(slices.Values(it.References)),
		}
		if k.accept != nil {
			asked := *info
			asked.References = slices.Clone(info.References)
			if err := k.accept(&asked); err != nil {
				return fmt.Errorf("%s: %w", it.Path, err)
			}
		}
		if err := describe(w, it); err != nil {
			return err
		}
		if err := k.give(info); err != nil {
			return err
		}
	}
}

// archiveMagic begins what an archive says of an item, "NIXE".
const archiveMagic = 0x4558494e

// describe writes what follows an item's NAR.
func describe(w *wire.Writer, it *nar.Item) error {
	_ = w.Uint64(archiveMagic) // errors stay until Flush
	_ = w.String(string(it.Path))
	_ = w.Uint64(uint64(len(it.References)))
	for _, r := range it.References {
		_ = w.String(string(r))
	}
	_ = w.String(string(it.Deriver))
	_ = w.Bool(it.Signature != "")
	if it.Signature != "" {
		_ = w.String(it.Signature)
	}
	return w.Flush()
}

// Write fills chunks, and gives away those that are full.
func (k *cutter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if k.chunk == nil {
			k.chunk = k.fresh()
		}
		room := chunkSize - len(k.chunk.data)
		if room == 0 {
			if err := k.give(nil); err != nil {
				return written, err
			}
			continue
		}
		n := min(room, len(p))
		k.chunk.data = append(k.chunk.data, p[:n]...)
		p, written = p[n:], written+n
	}
	return written, nil
}

func (k *cutter) fresh() *chunk {
	select {
	case c := <-k.im.spent:
		c.data, c.info = c.data[:0], nil
		return c
	default:
		return &chunk{data: make([]byte, 0, chunkSize)}
	}
}

// give gives the chunk to the sender: the end of an item, if there is an info.
func (k *cutter) give(info *store.Info) error {
	c := k.chunk
	k.chunk = nil
	c.info = info
	select {
	case k.im.chunks <- c:
		return nil
	case <-k.im.failed:
		return errUnwanted
	}
}
