package nar

import (
	"errors"
	"fmt"
	"io"
	"math"

	"lighter/internal/wire"
	"lighter/store"
)

// FormatError is the error about input that is not a NAR, or no archive, as they
// must be. It matches store.ErrCorrupt. Input that ends too early, or that cannot
// be read, is not a FormatError.
type FormatError struct {
	Offset int64  // bytes read when it was found
	Path   string // the node being read; the root's is empty
	Err    error

	located bool // Offset and Path are set
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("read NAR: offset %d, in %q: %v", e.Offset, e.Path, e.Err)
}

func (e *FormatError) Unwrap() error { return e.Err }

// Is makes the error match store.ErrCorrupt.
func (e *FormatError) Is(target error) bool { return target == store.ErrCorrupt }

// Reader reads one NAR, as archive/tar's Reader reads a tar file: Next goes to the
// next node and Read gives a regular file's contents. The first error stays.
//
// It makes small reads, although it joins those that it safely can: it never reads
// a byte behind the NAR. A source on which each read is a system call is better
// put into a bufio.Reader.
type Reader struct {
	w    *wire.Reader
	err  error
	path []byte
	dirs []openDir
	// remaining counts the unread bytes of the contents, padding not included.
	remaining int64
	size      int64
	state     readerState
	record    *[]byte // if not nil, gets every byte but contents
}

type readerState uint8

const (
	atStart    readerState = iota
	inContents             // of a regular file; padding not read yet
	afterContents
	betweenNodes // the node is complete, what is around it not
	atEnd
)

// openDir is a folder that the Reader is in. The Reader's path starts with the
// folder's own, up to base; path[base:end] is the name of its latest entry.
type openDir struct {
	base, end int
	open      bool // the entry's closing parenthesis has not been read
}

// NewReader returns a Reader of the NAR that starts at r's next byte.
func NewReader(r io.Reader) *Reader { return newReader(wire.NewReader(r)) }

func newReader(w *wire.Reader) *Reader { return &Reader{w: w} }

// Next skips what is left of the current file and returns the next node. After
// the last one, when the NAR is complete, it returns io.EOF.
func (r *Reader) Next() (*Header, error) {
	if r.err != nil {
		return nil, r.err
	}
	h, err := r.next()
	if err != nil && r.state != atEnd {
		err = r.explain(err)
	}
	r.err = err
	return h, err
}

// Read reads from the contents of the current node. It returns io.EOF at their
// end, and at once where the node is not a regular file.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.explain(err)
		r.err = err
	}
	return n, err
}

// read is Read without the explanation of errors.
func (r *Reader) read(p []byte) (int, error) {
	if r.state != inContents {
		return 0, io.EOF
	}
	n := 0
	if r.remaining > 0 {
		var err error
		r.w.Record(nil)
		n, err = r.w.Read(p[:min(int64(len(p)), r.remaining)])
		r.w.Record(r.record)
		r.remaining -= int64(n)
		switch {
		case r.remaining == 0:
		case errors.Is(err, io.EOF):
			return n, io.ErrUnexpectedEOF
		default:
			return n, err
		}
	}
	// The padding is checked before the end is reported, so that a file that was
	// read to its end was all right.
	if err := r.w.Pad(r.size); err != nil {
		return n, err
	}
	r.state = afterContents
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// level returns how many folders the current node is in.
func (r *Reader) level(h *Header) int {
	if h.Kind == Directory {
		return len(r.dirs) - 1
	}
	return len(r.dirs)
}

func (r *Reader) next() (*Header, error) {
	switch r.state {
	case atStart:
		r.w.Promise(24 + 2*wordBytes + minBody)
		if err := r.expect(magic); err != nil {
			return nil, err
		}
		return r.node()
	case inContents:
		if err := r.skip(); err != nil {
			return nil, err
		}
		fallthrough
	case afterContents:
		if err := r.expect(")"); err != nil {
			return nil, err
		}
		r.state = betweenNodes
	}
	for len(r.dirs) > 0 {
		d := &r.dirs[len(r.dirs)-1]
		if d.open {
			d.open = false
			if err := r.expect(")"); err != nil {
				return nil, err
			}
		}
		word, err := r.w.Token(maxToken)
		if err != nil {
			return nil, err
		}
		switch string(word) {
		case "entry":
			return r.entry(d)
		case ")":
			r.leave()
		default:
			return nil, malformed(`found %q instead of "entry" or ")"`, word)
		}
	}
	r.state = atEnd
	return nil, io.EOF
}

// The least number of bytes that may follow the word "type" in a node: "directory"
// with nothing in it.
const minBody = 24 + wordBytes

// closing returns the number of bytes that close all the open folders.
func (r *Reader) closing() int64 { return int64(len(r.dirs)) * 2 * wordBytes }

// entry reads an entry of d up to the type of its node.
func (r *Reader) entry(d *openDir) (*Header, error) {
	r.w.Promise(6*wordBytes + minBody + r.closing())
	if err := r.expect("(", "name"); err != nil {
		return nil, err
	}
	name, err := r.w.Token(maxName)
	if err != nil {
		return nil, err
	}
	if err := checkName(name); err != nil {
		return nil, &FormatError{Err: err}
	}
	if previous := r.path[d.base:d.end]; d.end > d.base && string(name) <= string(previous) {
		if string(name) == string(previous) {
			return nil, malformed("the name %q appears twice", name)
		}
		return nil, malformed("the name %q comes after %q, against the order of bytes", name, previous)
	}
	if d.base+len(name) > maxPath {
		return nil, malformed("a path has %d bytes, more than %d", d.base+len(name), maxPath)
	}
	r.path = append(r.path[:d.base], name...)
	d.end, d.open = len(r.path), true
	r.w.Promise(3*wordBytes + minBody + r.closing())
	if err := r.expect("node"); err != nil {
		return nil, err
	}
	return r.node()
}

// node reads a node up to its contents, or to its end if it has none.
func (r *Reader) node() (*Header, error) {
	if err := r.expect("(", "type"); err != nil {
		return nil, err
	}
	word, err := r.w.Token(maxToken)
	if err != nil {
		return nil, err
	}
	h := &Header{Path: string(r.path)}
	switch string(word) {
	case "regular":
		h.Kind = Regular
		return h, r.regular(h)
	case "symlink":
		h.Kind = Symlink
		return h, r.symlink(h)
	case "directory":
		h.Kind = Directory
		return h, r.enter()
	}
	return nil, malformed("the type %q is unknown", word)
}

func (r *Reader) regular(h *Header) error {
	word, err := r.w.Token(maxToken)
	if err != nil {
		return err
	}
	if string(word) == "executable" {
		h.Executable = true
		if err := r.expect("", "contents"); err != nil {
			return err
		}
	} else if string(word) != "contents" {
		return malformed(`found %q instead of "executable" or "contents"`, word)
	}
	h.Size, err = r.w.Int64(math.MaxInt64 - 8)
	if err != nil {
		return err
	}
	r.w.Promise(h.Size + int64(wire.Padding(h.Size)) + wordBytes + r.closing())
	r.size, r.remaining, r.state = h.Size, h.Size, inContents
	return nil
}

func (r *Reader) symlink(h *Header) error {
	if err := r.expect("target"); err != nil {
		return err
	}
	target, err := r.w.Token(maxPath)
	if err != nil {
		return err
	}
	if err := checkTarget(target); err != nil {
		return &FormatError{Err: err}
	}
	h.Target = string(target)
	r.w.Promise(wordBytes + r.closing())
	r.state = betweenNodes
	return r.expect(")")
}

// enter goes into the folder at the current path.
func (r *Reader) enter() error {
	if len(r.dirs) == maxDepth {
		return malformed("more than %d folders are in one another", maxDepth)
	}
	if len(r.dirs) > 0 {
		r.path = append(r.path, '/')
	}
	r.dirs = append(r.dirs, openDir{base: len(r.path), end: len(r.path)})
	r.w.Promise(wordBytes + 2*wordBytes*int64(len(r.dirs)-1))
	r.state = betweenNodes
	return nil
}

// leave goes back to the folder around the current one.
func (r *Reader) leave() {
	r.dirs = r.dirs[:len(r.dirs)-1]
	if len(r.dirs) == 0 {
		r.path = r.path[:0]
		return
	}
	r.path = r.path[:r.dirs[len(r.dirs)-1].end]
}

// skip reads the rest of the contents.
func (r *Reader) skip() error {
	var buf [4096]byte
	for r.state == inContents {
		if _, err := r.read(buf[:]); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// expect reads the given words.
func (r *Reader) expect(words ...string) error {
	for _, want := range words {
		got, err := r.w.Token(maxToken)
		if err != nil {
			return err
		}
		if string(got) != want {
			return malformed("found %q instead of %q", got, want)
		}
	}
	return nil
}

// explain says where in the NAR an error was found.
func (r *Reader) explain(err error) error {
	var format *FormatError
	var limit *wire.LimitError
	switch {
	case errors.As(err, &format):
		if !format.located { // else it is that of a reader below this one
			format.Offset, format.Path, format.located = r.w.Offset(), string(r.path), true
		}
		return format
	case errors.As(err, &limit), errors.Is(err, wire.ErrPadding):
		return &FormatError{Offset: r.w.Offset(), Path: string(r.path), Err: err, located: true}
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read NAR: offset %d, in %q: %w", r.w.Offset(), r.path, err)
}

// malformed returns a FormatError that does not say where yet.
func malformed(format string, args ...any) error {
	return &FormatError{Err: fmt.Errorf(format, args...)}
}
