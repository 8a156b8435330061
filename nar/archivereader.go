package nar

import (
	"errors"
	"fmt"
	"io"

	"lighter/internal/wire"
	"lighter/store"
)

// ArchiveReader reads an export stream, item by item: Next gives the item's NAR,
// and Item, afterwards, what else there is. Everything is checked as it is read,
// and hashed in the same pass, but signatures and references are the caller's to
// judge: until then nothing of the item may be used.
//
// The stream is read up to and with its end marker and not further. The first
// error stays. Errors name the item by its number, from 1, since its name comes
// after its contents.
type ArchiveReader struct {
	w      *wire.Reader
	dir    store.Dir
	err    error
	number int
	nar    *narStream // of the current item; nil if it is complete
	hash   Hasher
	item   *Item
}

// NewArchiveReader returns a reader of the archive that starts at r's next byte.
// Items that are not in the store directory dir are refused.
func NewArchiveReader(r io.Reader, dir store.Dir) *ArchiveReader {
	return &ArchiveReader{w: wire.NewReader(r), dir: dir}
}

// Next completes the current item, if that has not been done, and returns the
// next item's NAR. After the end marker it returns io.EOF. The reader that it
// returns ends at the end of the NAR; it is valid until the next call of a method
// of the ArchiveReader.
func (a *ArchiveReader) Next() (io.Reader, error) {
	if a.nar != nil {
		if _, err := a.Item(); err != nil {
			return nil, err
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	a.item = nil
	a.number++
	a.w.Promise(8)
	mark, err := a.w.Uint64()
	switch {
	case err != nil:
		return nil, a.fail(err)
	case mark == endOfItems:
		a.err = io.EOF
		return nil, io.EOF
	case mark != itemFollows:
		return nil, a.fail(malformed("found %#x instead of the mark of an item or of the end", mark))
	}
	a.hash.Reset()
	a.nar = newNARStream(a.w, &a.hash)
	return a.nar, nil
}

// Item returns what the archive says of the item whose NAR Next returned. It reads,
// checks and hashes what is left of the NAR first. The result is the caller's.
func (a *ArchiveReader) Item() (*Item, error) {
	if a.item != nil {
		return a.item, nil
	}
	if a.err != nil {
		return nil, a.err
	}
	if a.nar == nil {
		return nil, errors.New("read archive: Item is called before Next")
	}
	if _, err := io.Copy(io.Discard, a.nar); err != nil {
		return nil, a.fail(err)
	}
	a.nar = nil
	item, err := a.metadata()
	if err != nil {
		return nil, a.fail(err)
	}
	a.item = item
	return item, nil
}

// metadata reads what follows the NAR.
func (a *ArchiveReader) metadata() (*Item, error) {
	item := &Item{NARHash: a.hash.Sum(), NARSize: a.hash.Size()}
	var err error
	if item.NARState, err = a.hash.State(); err != nil {
		return nil, err
	}
	var signed []byte
	a.w.Record(&signed)
	err = a.signedPart(item)
	a.w.Record(nil)
	if err != nil {
		return nil, err
	}
	a.hash.Write(signed) //nolint:errcheck // it never fails
	item.SignedHash = a.hash.Sum()

	a.w.Promise(8 + 8) // a flag, and the next item's mark
	hasSignature, err := a.w.Bool()
	if err != nil {
		return nil, err
	}
	if !hasSignature {
		return item, nil
	}
	if item.Signature, err = a.w.String(maxSignature); err == nil && item.Signature == "" {
		err = malformed("the signature is empty")
	}
	return item, err
}

func (a *ArchiveReader) signedPart(item *Item) error {
	a.w.Promise(6 * 8) // magic, length and a byte of the path, count, length of the deriver, flag
	mark, err := a.w.Uint64()
	if err != nil {
		return err
	}
	if mark != itemMagic {
		return malformed("found %#x instead of the mark of an item's description", mark)
	}
	if item.Path, err = a.path(); err != nil {
		return err
	}
	references, err := a.w.Strings(maxReferences, maxStorePath)
	if err != nil {
		return err
	}
	if item.References, err = a.references(references); err != nil {
		return err
	}
	deriver, err := a.w.String(maxStorePath)
	if err != nil || deriver == "" {
		return err
	}
	if item.Deriver, err = a.dir.ParsePath(deriver); err != nil {
		return malformed("deriver: %w", err)
	}
	return nil
}

func (a *ArchiveReader) path() (store.Path, error) {
	s, err := a.w.String(maxStorePath)
	if err != nil {
		return "", err
	}
	p, err := a.dir.ParsePath(s)
	if err != nil {
		return "", malformed("%w", err)
	}
	return p, nil
}

// references checks what an item claims to refer to. Their order carries no meaning.
func (a *ArchiveReader) references(names []string) ([]store.Path, error) {
	paths := make([]store.Path, 0, len(names))
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		p, err := a.dir.ParsePath(name)
		if err != nil {
			return nil, malformed("reference: %w", err)
		}
		if seen[name] {
			return nil, malformed("the reference %s appears twice", p)
		}
		seen[name] = true
		paths = append(paths, p)
	}
	return paths, nil
}

// fail keeps the error, after saying where it was found.
func (a *ArchiveReader) fail(err error) error {
	var format *FormatError
	var limit *wire.LimitError
	switch {
	case errors.As(err, &format) && format.located:
		a.err = fmt.Errorf("read archive: item %d: %w", a.number, err)
		return a.err
	case errors.As(err, &format):
		err = fmt.Errorf("%w: %w", store.ErrCorrupt, format.Err)
	case errors.As(err, &limit), errors.Is(err, wire.ErrPadding):
		err = fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	a.err = fmt.Errorf("read archive: item %d: offset %d: %w", a.number, a.w.Offset(), err)
	return a.err
}

// narStream gives the bytes of a NAR as they are, up to its end, and checks and
// hashes them on the way.
type narStream struct {
	nar    *Reader
	hash   *Hasher
	record []byte // bytes other than contents that the Reader has consumed
	given  int    // how many of them were given to the caller
	err    error
}

func newNARStream(w *wire.Reader, hash *Hasher) *narStream {
	s := &narStream{nar: newReader(w), hash: hash}
	s.nar.record = &s.record
	return s
}

func (s *narStream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if s.given < len(s.record) {
			n := copy(p, s.record[s.given:])
			s.given += n
			s.hash.Write(p[:n]) //nolint:errcheck // it never fails
			return n, nil
		}
		s.record, s.given = s.record[:0], 0
		if s.err != nil {
			return 0, s.err
		}
		n, err := s.advance(p)
		if n > 0 {
			s.hash.Write(p[:n]) //nolint:errcheck // it never fails
			return n, nil
		}
		s.err = s.plain(err)
	}
}

// plain takes off an error of the source what the Reader said about the place:
// readers of s say it again.
func (s *narStream) plain(err error) error {
	var format *FormatError
	if cause := errors.Unwrap(err); cause != nil && !errors.As(err, &format) {
		return cause
	}
	return err
}

// advance reads contents into p, or else what comes before or after them into the
// record.
func (s *narStream) advance(p []byte) (int, error) {
	if s.nar.state == inContents {
		n, err := s.nar.Read(p)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if n > 0 && err != nil {
			s.err = s.plain(err)
		}
		return n, err
	}
	s.nar.w.Record(&s.record)
	_, err := s.nar.Next()
	s.nar.w.Record(nil)
	return 0, err
}
