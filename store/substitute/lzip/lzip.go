// Package lzip decompresses lzip files, which substitute servers of Guix have.
//
// A file is one member or several, one after the other. A member is an LZMA stream between
// a header and a trailer with a CRC and two sizes, all of which are checked. What follows
// the last member must be the end: lzip itself ignores other data there, but a server that
// sends such has mixed something up. The format is that of draft-diaz-lzip, version 1.
//
// LZMA is decoded by github.com/ulikunitz/xz/lzma, which this package alone imports. That
// wants the header of .lzma files, which has the same facts as lzip's, and reads no byte
// beyond the end marker if it is given an [io.ByteReader]. It allocates a whole dictionary
// for each stream, and may decode as much as that before its first byte is returned.
package lzip

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

const (
	// MaxDictionary is the largest dictionary that is accepted, in bytes. lzip -9 and
	// guix publish have 32 MiB at most; the format allows 512 MiB.
	MaxDictionary = 64 << 20

	// Each member costs its dictionary and some more memory, cleared for it alone. Many that
	// have large dictionaries and hardly any data would be much work for few bytes: their
	// costs may be maxCost and costPerByte for each byte of data, together. lzip makes no
	// dictionary larger than the data if it knows how much that is.
	memberCost  = 64 << 10
	maxCost     = 1 << 30
	costPerByte = 8

	magic         = "LZIP"
	version       = 1
	headerSize    = 6
	trailerSize   = 20
	minDictionary = 4 << 10
)

// Reader reads what is in an lzip file. It starts no goroutine and need not be closed.
type Reader struct {
	in   source
	size int64

	members int
	cost    int64 // of these
	total   int64 // bytes of data

	member *lzma.Reader // the one that is being read, or nil between members
	start  int64        // where in the file it starts
	data   int64        // how many bytes of data it had until now
	crc    uint32       // of these

	err error // the first, which stays
}

// NewReader returns a reader of the file that in has; it reads nothing yet, and later
// nothing beyond the file's last member but what tells whether another one follows, and
// what fills a buffer. No dictionary is larger than size, the number of bytes that the
// caller expects to read: data of more bytes may lead to an error after that many.
func NewReader(in io.Reader, size int64) *Reader {
	return &Reader{in: source{r: bufio.NewReader(in)}, size: size}
}

// Read reads data, from several members at need. Errors tell the member and where it
// starts; a file that ends too early is an io.ErrUnexpectedEOF, and the errors of the file
// itself are passed on. The data of a member is read before its CRC is checked.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.err == nil {
		n, err := r.read(p)
		switch {
		case errors.Is(err, io.EOF):
			r.err = io.EOF
		case err != nil:
			r.err = fmt.Errorf("lzip: member %d, at byte %d: %w", r.members, r.start, err)
		}
		if n > 0 {
			return n, nil // the error comes with the next one
		}
	}
	return 0, r.err
}

// read reads a part of a member. It returns 0, nil after one without data, and io.EOF after
// the last one alone.
func (r *Reader) read(p []byte) (int, error) {
	if r.member == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	n, err := r.member.Read(p)
	r.data += int64(n)
	r.total += int64(n)
	r.crc = crc32.Update(r.crc, crc32.IEEETable, p[:n])
	switch {
	case errors.Is(err, io.EOF):
		r.member = nil
		err = r.check()
	case err != nil:
		err = fmt.Errorf("LZMA: %w", err)
	}
	return n, err
}

// open starts with the next member. It returns io.EOF if there is none.
func (r *Reader) open() error {
	if r.members > 0 && r.in.atEnd() {
		return io.EOF
	}
	r.start, r.data, r.crc = r.in.n, 0, 0
	r.members++
	var header [headerSize]byte
	if _, err := io.ReadFull(&r.in, header[:]); err != nil {
		return err
	}
	dictionary, err := parseHeader(header)
	if err != nil {
		return err
	}
	dictionary = min(dictionary, max(r.size, minDictionary))
	if r.cost += dictionary + memberCost; r.cost > maxCost+costPerByte*r.total {
		return fmt.Errorf("too many members with large dictionaries: they need %d bytes, for %d bytes of data", r.cost, r.total)
	}
	r.member, err = lzma.NewReader(&headed{source: &r.in, header: lzmaHeader(dictionary)})
	if err != nil {
		return fmt.Errorf("LZMA: %w", err)
	}
	return nil
}

// parseHeader returns the size of the dictionary.
func parseHeader(header [headerSize]byte) (int64, error) {
	if got := string(header[:4]); got != magic {
		return 0, fmt.Errorf("it starts with %q, not with %q", got, magic)
	}
	if header[4] != version {
		return 0, fmt.Errorf("lzip's version %d is not supported: want %d", header[4], version)
	}
	// The low five bits are the exponent of a power of two, from which the high three take
	// as many sixteenths.
	exponent, sixteenths := header[5]&0x1f, int64(header[5]>>5)
	if exponent < 12 || exponent > 29 {
		return 0, fmt.Errorf("its dictionary has 2^%d bytes: want 2^12 to 2^29", exponent)
	}
	size := int64(1) << exponent
	if size > minDictionary {
		size -= size / 16 * sixteenths
	}
	if size > MaxDictionary {
		return 0, fmt.Errorf("its dictionary has %d bytes: more than %d are not supported", size, MaxDictionary)
	}
	return size, nil
}

// lzmaHeader returns what starts a .lzma file with the stream of a member: the properties
// that lzip has always (lc 3, lp 0, pb 2), the size of the dictionary, and that the length
// of the data is not known.
func lzmaHeader(dictionary int64) []byte {
	header := binary.LittleEndian.AppendUint32([]byte{0x5d}, uint32(dictionary)) //nolint:gosec // it is MaxDictionary at most
	return binary.LittleEndian.AppendUint64(header, 1<<64-1)
}

// check reads the trailer of a member and compares it with what was read.
func (r *Reader) check() error {
	var trailer [trailerSize]byte
	if _, err := io.ReadFull(&r.in, trailer[:]); err != nil {
		return err
	}
	if want := binary.LittleEndian.Uint32(trailer[:]); r.crc != want {
		return fmt.Errorf("its data has CRC %08x, not %08x", r.crc, want)
	}
	if want := binary.LittleEndian.Uint64(trailer[4:]); uint64(r.data) != want { //nolint:gosec // it counts up from 0
		return fmt.Errorf("it has %d bytes of data, not %d", r.data, want)
	}
	size := r.in.n - r.start
	if want := binary.LittleEndian.Uint64(trailer[12:]); uint64(size) != want { //nolint:gosec // it counts up from 0
		return fmt.Errorf("it has %d bytes, not %d", size, want)
	}
	return nil
}

// source counts the bytes of a file. Its reader is within a member, so the
// file's end is unexpected.
type source struct {
	r *bufio.Reader
	n int64
}

// atEnd reports whether the file's end is next. Other errors come with the next Read.
func (s *source) atEnd() bool {
	_, err := s.r.Peek(1)
	return errors.Is(err, io.EOF)
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	return n, unexpected(err)
}

func (s *source) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err != nil {
		return 0, unexpected(err)
	}
	s.n++
	return b, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// headed is a header that is read, and a source whose bytes are.
type headed struct {
	*source
	header []byte
}

func (h *headed) Read(p []byte) (int, error) {
	if len(h.header) == 0 {
		return h.source.Read(p)
	}
	n := copy(p, h.header)
	h.header = h.header[n:]
	return n, nil
}
