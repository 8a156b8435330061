package nar

import (
	"errors"
	"fmt"
	"io"

	"lighter/internal/stream"
	"lighter/internal/wire"
	"lighter/store"
)

// ArchiveWriter writes an export stream. The order of the items is the caller's
// affair: importers need references before what refers to them. The first error
// stays.
type ArchiveWriter struct {
	w      io.Writer
	out    *wire.Writer // of what is not NARs
	hash   Hasher       // of the current item
	err    error
	closed bool
}

// NewArchiveWriter returns a writer of one archive to w.
func NewArchiveWriter(w io.Writer) *ArchiveWriter {
	return &ArchiveWriter{w: w, out: wire.NewWriterSize(w, 4<<10)}
}

// WriteItem writes one item: its NAR, which writeNAR writes, and its Path,
// References and Deriver. It sets the item's NARHash, NARSize and SignedHash, and
// its Signature to what sign, called with the SignedHash, returns; if sign is nil
// the item is written without a signature.
//
// If the item's NARState is that of its NARHash, the NAR is not hashed once more: the
// signature is of what it was then. A NAR of another size is an error; who reads the
// archive finds all other changes, since the signature does not fit.
func (a *ArchiveWriter) WriteItem(item *Item, writeNAR func(io.Writer) error, sign func(store.Hash) (string, error)) error {
	if a.closed && a.err == nil {
		return fmt.Errorf("write archive: %s comes after Close", item.Path)
	}
	if a.err == nil {
		if err := a.writeItem(item, writeNAR, sign); err != nil {
			a.err = fmt.Errorf("write archive: %s: %w", item.Path, err)
		}
	}
	return a.err
}

// Close writes the end marker. It does not close the underlying writer.
func (a *ArchiveWriter) Close() error {
	if a.err == nil && !a.closed {
		a.err = a.mark(endOfItems)
	}
	a.closed = true
	return a.err
}

func (a *ArchiveWriter) writeItem(item *Item, writeNAR func(io.Writer) error, sign func(store.Hash) (string, error)) error {
	if len(item.References) > maxReferences {
		return fmt.Errorf("%d references are more than %d", len(item.References), maxReferences)
	}
	if err := a.mark(itemFollows); err != nil {
		return err
	}
	a.hash.Reset()
	signed := &hashedWriter{w: a.w, hash: &a.hash}
	if item.NARState != nil && a.hash.Restore(item.NARState, item.NARSize, item.NARHash) {
		counted := &stream.Counter{W: a.w}
		if err := writeNAR(counted); err != nil {
			return err
		}
		if counted.N != item.NARSize {
			return fmt.Errorf("%w: its NAR has %d bytes instead of %d", store.ErrCorrupt, counted.N, item.NARSize)
		}
	} else {
		if err := writeNAR(signed); err != nil {
			return err
		}
		if a.hash.Size() == 0 || wire.Padding(a.hash.Size()) != 0 {
			return fmt.Errorf("what was written, %d bytes, is not a NAR", a.hash.Size())
		}
		item.NARHash, item.NARSize = a.hash.Sum(), a.hash.Size()
	}
	if err := a.describe(signed, item); err != nil {
		return err
	}
	item.SignedHash = a.hash.Sum()
	item.Signature = ""
	if sign != nil {
		var err error
		if item.Signature, err = sign(item.SignedHash); err != nil {
			return err
		}
		if len(item.Signature) == 0 || len(item.Signature) > maxSignature {
			return errors.New("the signature is empty or too long")
		}
	}
	return a.signature(item.Signature)
}

// describe writes the part of the description that is signed.
func (a *ArchiveWriter) describe(w io.Writer, item *Item) error {
	out := a.out
	out.Reset(w)
	_ = out.Uint64(itemMagic) // errors stay until Flush
	_ = out.String(string(item.Path))
	_ = out.Uint64(uint64(len(item.References)))
	for _, r := range item.References {
		_ = out.String(string(r))
	}
	_ = out.String(string(item.Deriver))
	return out.Flush()
}

func (a *ArchiveWriter) signature(s string) error {
	out := a.out
	out.Reset(a.w)
	_ = out.Bool(s != "") // errors stay until Flush
	if s != "" {
		_ = out.String(s)
	}
	return out.Flush()
}

func (a *ArchiveWriter) mark(v uint64) error {
	out := a.out
	out.Reset(a.w)
	_ = out.Uint64(v) // errors stay until Flush
	return out.Flush()
}

// hashedWriter hashes what passes through it.
type hashedWriter struct {
	w    io.Writer
	hash *Hasher
}

func (h *hashedWriter) Write(p []byte) (int, error) {
	h.hash.Write(p) //nolint:errcheck // it never fails
	return h.w.Write(p)
}
