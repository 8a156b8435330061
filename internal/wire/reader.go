package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// readerSize is the size of a Reader's buffer. A string that fits is read
// without an allocation of its own.
const readerSize = 16 << 10

// Reader decodes integers and strings. A method returns io.EOF if the input ends
// before the method's first byte, and io.ErrUnexpectedEOF if it ends later; what
// the source returns otherwise is passed on.
type Reader struct {
	src      io.Reader
	buf      []byte
	pos, end int   // buf[pos:end] is read ahead
	promised int64 // bytes that follow pos for certain
	offset   int64
	record   *[]byte
}

// NewReader returns a Reader that takes from r what it is asked for and nothing more.
func NewReader(r io.Reader) *Reader {
	size := readerSize
	// Of what is small and in memory, such as derivations, there is much.
	if memory, ok := r.(interface{ Len() int }); ok {
		size = min(size, max(memory.Len(), 512))
	}
	return &Reader{src: r, buf: make([]byte, size)}
}

// Offset returns how many bytes were consumed.
func (r *Reader) Offset() int64 { return r.offset }

// Promise says that at least n more bytes belong to the caller, so that they may
// be read ahead, which saves system calls. The whole stream is promised by
// math.MaxInt64. A smaller promise than an earlier one changes nothing.
func (r *Reader) Promise(n int64) { r.promised = max(r.promised, n) }

// Record makes the Reader append every byte that it consumes to *to; nil stops it.
func (r *Reader) Record(to *[]byte) { r.record = to }

// Uint64 reads one integer.
func (r *Reader) Uint64() (uint64, error) {
	b, err := r.take(wordSize)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// Int64 reads an integer that is not negative and at most limit.
func (r *Reader) Int64(limit int64) (int64, error) {
	v, err := r.Uint64()
	if err != nil {
		return 0, err
	}
	if v > uint64(max(0, limit)) {
		return 0, &LimitError{What: "integer", Value: v, Limit: uint64(max(0, limit))}
	}
	return int64(v), nil //nolint:gosec // G115: at most limit
}

// Uint32 reads what the worker protocol calls an int: its upper half must be 0.
func (r *Reader) Uint32() (uint32, error) {
	v, err := r.Int64(math.MaxUint32)
	return uint32(v), err //nolint:gosec // G115: at most math.MaxUint32
}

// Bool reads an integer that must be 0 or 1.
func (r *Reader) Bool() (bool, error) {
	v, err := r.Int64(1)
	return v == 1, err
}

// Token reads a string of at most limit bytes. The result is valid until the
// next call of a method.
func (r *Reader) Token(limit int) ([]byte, error) {
	n, err := r.length(limit)
	if err != nil {
		return nil, err
	}
	padding := Padding(int64(n))
	if n > len(r.buf)-padding {
		return r.long(n, padding)
	}
	b, err := r.take(n + padding)
	if err != nil {
		return nil, unexpected(err)
	}
	if err := checkPadding(b[n:]); err != nil {
		return nil, err
	}
	return b[:n:n], nil
}

// String reads a string of at most limit bytes.
func (r *Reader) String(limit int) (string, error) {
	b, err := r.Token(limit)
	return string(b), err
}

// Strings reads a count of at most maxCount and as many strings of at most limit
// bytes each.
func (r *Reader) Strings(maxCount, limit int) ([]string, error) {
	n, err := r.Uint64()
	if err != nil {
		return nil, err
	}
	if n > uint64(max(0, maxCount)) {
		return nil, &LimitError{What: "count", Value: n, Limit: uint64(max(0, maxCount))}
	}
	var list []string // grows with what arrives, not with what is claimed
	for range n {
		s, err := r.String(limit)
		if err != nil {
			return nil, unexpected(err)
		}
		list = append(list, s)
	}
	return list, nil
}

// Read reads raw bytes, such as the contents of a file, of which the caller has
// read the length with Int64; Pad reads what is behind them.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.pos == r.end && (len(p) >= len(r.buf) || int64(len(p)) >= r.promised) {
		n, err := r.src.Read(p)
		r.consumed(p[:n])
		return n, err
	}
	if r.pos == r.end {
		if err := r.fill(1); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.pos:r.end])
	r.pos += n
	r.consumed(p[:n])
	return n, nil
}

// Pad reads the padding behind n bytes of data and checks it.
func (r *Reader) Pad(n int64) error {
	b, err := r.take(Padding(n))
	if err != nil {
		return unexpected(err)
	}
	return checkPadding(b)
}

// length reads the length of a string.
func (r *Reader) length(limit int) (int, error) {
	n, err := r.Uint64()
	if err != nil {
		return 0, err
	}
	if n > uint64(max(0, limit)) {
		return 0, &LimitError{What: "length", Value: n, Limit: uint64(max(0, limit))}
	}
	return int(n), nil //nolint:gosec // G115: at most limit
}

// long reads a string that does not fit the buffer. It takes memory as the data
// arrives, so that a claimed length alone costs nothing.
func (r *Reader) long(n, padding int) ([]byte, error) {
	b := make([]byte, 0, min(n, 4*readerSize))
	for len(b) < n {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		part := b[len(b):min(cap(b), n)]
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, unexpected(err)
		}
		b = b[:len(b)+len(part)]
	}
	rest, err := r.take(padding)
	if err != nil {
		return nil, unexpected(err)
	}
	return b, checkPadding(rest)
}

// take consumes n bytes, which the buffer has room for.
func (r *Reader) take(n int) ([]byte, error) {
	if r.end-r.pos < n {
		if err := r.fill(n); err != nil {
			return nil, err
		}
	}
	b := r.buf[r.pos : r.pos+n]
	r.pos += n
	r.consumed(b)
	return b, nil
}

// fill reads until the buffer holds n bytes, and more where that was promised.
func (r *Reader) fill(n int) error {
	r.end = copy(r.buf, r.buf[r.pos:r.end])
	r.pos = 0
	want := max(n, int(min(r.promised, int64(len(r.buf)))))
	got, err := io.ReadAtLeast(r.src, r.buf[r.end:want], n-r.end)
	had := r.end > 0
	r.end += got
	if errors.Is(err, io.EOF) && had {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (r *Reader) consumed(b []byte) {
	r.offset += int64(len(b))
	if r.promised != math.MaxInt64 {
		r.promised = max(0, r.promised-int64(len(b)))
	}
	if r.record != nil {
		*r.record = append(*r.record, b...)
	}
}

func checkPadding(b []byte) error {
	for _, c := range b {
		if c != 0 {
			return fmt.Errorf("%w: %x", ErrPadding, b)
		}
	}
	return nil
}

// unexpected turns the end of input inside a structure into io.ErrUnexpectedEOF.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
