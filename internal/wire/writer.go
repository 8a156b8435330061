package wire

import (
	"encoding/binary"
	"io"
)

// writerSize is the size of a Writer's buffer where NewWriterSize is not told one.
const writerSize = 16 << 10

// Writer encodes integers and strings into a buffer, which Flush writes out. The
// first error of the sink stays, and every later call returns it, so that a
// caller may write a whole message and look at the error of Flush alone.
type Writer struct {
	dst    io.Writer
	buf    []byte
	n      int // bytes of buf in use
	offset int64
	err    error
}

// NewWriter returns a Writer with a buffer of 16 KiB.
func NewWriter(w io.Writer) *Writer { return NewWriterSize(w, writerSize) }

// NewWriterSize returns a Writer whose buffer has size bytes, at least 64.
func NewWriterSize(w io.Writer, size int) *Writer {
	return &Writer{dst: w, buf: make([]byte, max(size, 64))}
}

// Reset makes w as NewWriter would have made it, with the buffer that it has.
func (w *Writer) Reset(dst io.Writer) { *w = Writer{dst: dst, buf: w.buf} }

// Offset returns how many bytes were written, those in the buffer included.
func (w *Writer) Offset() int64 { return w.offset }

// Uint64 writes one integer.
func (w *Writer) Uint64(v uint64) error {
	b, err := w.room(wordSize)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(b, v)
	w.commit(wordSize)
	return nil
}

// Bool writes 0 or 1.
func (w *Writer) Bool(v bool) error {
	if v {
		return w.Uint64(1)
	}
	return w.Uint64(0)
}

// String writes a string.
func (w *Writer) String(s string) error { return writeString(w, s) }

// Bytes writes a string.
func (w *Writer) Bytes(b []byte) error { return writeString(w, b) }

func writeString[S string | []byte](w *Writer, s S) error {
	if size := StringSize(int64(len(s))); size <= int64(len(w.buf)) {
		b, err := w.room(int(size))
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint64(b, uint64(len(s)))
		n := wordSize + copy(b[wordSize:], s)
		clear(b[n:size])
		w.commit(int(size))
		return nil
	}
	_ = w.Uint64(uint64(len(s))) // the error stays
	_, _ = w.Write([]byte(s))
	return w.Pad(int64(len(s)))
}

// Strings writes a count and as many strings.
func (w *Writer) Strings(list []string) error {
	err := w.Uint64(uint64(len(list)))
	for _, s := range list {
		err = w.String(s)
	}
	return err
}

// Write writes raw bytes, such as the contents of a file, whose length the
// caller wrote with Uint64; Pad writes what is behind them.
func (w *Writer) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 && w.err == nil {
		if w.n == 0 && len(p) >= len(w.buf) {
			n := len(p)
			_, w.err = w.dst.Write(p)
			w.offset += int64(n)
			return written + n, w.err
		}
		n := copy(w.buf[w.n:], p)
		w.commit(n)
		written += n
		p = p[n:]
		if w.n == len(w.buf) {
			_ = w.Flush() // the error stays
		}
	}
	return written, w.err
}

// Pad writes the padding behind n bytes of data.
func (w *Writer) Pad(n int64) error {
	size := Padding(n)
	b, err := w.room(size)
	if err != nil {
		return err
	}
	clear(b)
	w.commit(size)
	return nil
}

// Room returns free space of the buffer, n bytes or what the empty buffer has if
// that is less, for data to be put there without a copy. Commit says how much of
// it was used.
func (w *Writer) Room(n int) ([]byte, error) {
	if len(w.buf)-w.n < min(n, len(w.buf)) {
		_ = w.Flush() // the error stays
	}
	return w.buf[w.n:], w.err
}

// Commit appends the first n bytes of what Room returned.
func (w *Writer) Commit(n int) { w.commit(n) }

// Flush writes the buffer to the sink.
func (w *Writer) Flush() error {
	if w.err == nil && w.n > 0 {
		_, w.err = w.dst.Write(w.buf[:w.n])
		w.n = 0
	}
	return w.err
}

// room returns n bytes of free space, and flushes if there are fewer.
func (w *Writer) room(n int) ([]byte, error) {
	if len(w.buf)-w.n < n {
		_ = w.Flush() // the error stays
	}
	if w.err != nil {
		return nil, w.err
	}
	return w.buf[w.n : w.n+n], nil
}

func (w *Writer) commit(n int) {
	w.n += n
	w.offset += int64(n)
}
