package nar

import (
	"fmt"
	"io"
	"math"
	"strings"

	"lighter/internal/wire"
)

// Writer writes one NAR: WriteHeader starts a node, Write gives a regular file's
// contents, Close completes the NAR. The nodes must come in the order of the
// format, a folder before what is in it and names sorted by bytes; the Writer
// checks that. Output is buffered until Close. The first error stays.
type Writer struct {
	w         *wire.Writer
	err       error
	started   bool
	closed    bool
	inFile    bool
	remaining int64 // of the contents
	size      int64
	path      string // of the latest node
	dirs      []writtenDir
}

// writtenDir is a folder that has been started and not completed.
type writtenDir struct {
	prefix string // its path and a slash; empty for the root
	last   string // the name of its latest entry
}

// NewWriter returns a Writer of one NAR to w.
func NewWriter(w io.Writer) *Writer { return newWriter(wire.NewWriter(w)) }

func newWriter(w *wire.Writer) *Writer { return &Writer{w: w} }

// WriteHeader completes the node before and starts the next one. The Size of a
// regular file must be what will be written to it.
func (w *Writer) WriteHeader(h *Header) error {
	if w.err == nil {
		w.err = w.writeHeader(h)
	}
	return w.err
}

// Write writes contents of the current regular file. More than its Size is an
// error that matches io.ErrShortWrite.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.remaining {
		w.err = w.problem(fmt.Errorf("%d bytes more than the size %d: %w", int64(len(p))-w.remaining, w.size, io.ErrShortWrite))
		return 0, w.err
	}
	n, err := w.w.Write(p)
	w.remaining -= int64(n)
	if err != nil {
		w.err = err
	}
	return n, w.err
}

// Close completes the NAR and writes out what is buffered. It does not close the
// underlying writer.
func (w *Writer) Close() error {
	if w.closed {
		return w.err
	}
	w.closed = true
	if w.err == nil {
		w.err = w.finish()
	}
	return w.err
}

func (w *Writer) finish() error {
	if !w.started {
		return fmt.Errorf("write NAR: nothing was written")
	}
	if err := w.endFile(); err != nil {
		return err
	}
	w.closeDirs(0)
	return w.w.Flush()
}

func (w *Writer) writeHeader(h *Header) error {
	if w.closed {
		return fmt.Errorf("write NAR: %q comes after Close", h.Path)
	}
	if err := w.endFile(); err != nil {
		return err
	}
	w.path = h.Path
	if err := checkHeader(h); err != nil {
		return w.problem(err)
	}
	if err := w.place(h.Path); err != nil {
		return w.problem(err)
	}
	w.started = true
	return w.node(h)
}

func checkHeader(h *Header) error {
	switch h.Kind {
	case Regular:
		if h.Size < 0 || h.Size > math.MaxInt64-8 {
			return fmt.Errorf("the size %d is impossible", h.Size)
		}
		return nil
	case Symlink:
		return checkTarget(h.Target)
	case Directory:
		return nil
	}
	return fmt.Errorf("%s is unknown", h.Kind)
}

// place closes the folders that the path is not in and starts its entry.
func (w *Writer) place(path string) error {
	if path == "" || !w.started {
		if w.started {
			return fmt.Errorf("the root comes a second time")
		}
		if path != "" {
			return fmt.Errorf("the root is missing")
		}
		return w.words(magic)
	}
	if len(path) > maxPath {
		return fmt.Errorf("the path has %d bytes, more than %d", len(path), maxPath)
	}
	slash := strings.LastIndexByte(path, '/')
	prefix, name := path[:slash+1], path[slash+1:]
	if err := checkName(name); err != nil {
		return err
	}
	level := len(w.dirs)
	for level > 0 && w.dirs[level-1].prefix != prefix {
		level--
	}
	if level == 0 {
		return fmt.Errorf("its folder has not been started, or is complete")
	}
	w.closeDirs(level)
	d := &w.dirs[level-1]
	if name <= d.last {
		return fmt.Errorf("it comes after %q, against the order of bytes", prefix+d.last)
	}
	d.last = name
	return w.words("entry", "(", "name", name, "node")
}

// node writes a node up to its contents.
func (w *Writer) node(h *Header) error {
	_ = w.words("(", "type", h.Kind.String()) // the error stays
	switch h.Kind {
	case Regular:
		if h.Executable {
			_ = w.words("executable", "") // the error stays
		}
		_ = w.words("contents") // the error stays
		w.inFile, w.size, w.remaining = true, h.Size, h.Size
		return w.w.Uint64(uint64(h.Size)) //nolint:gosec // G115: checkHeader refuses a negative one
	case Symlink:
		_ = w.words("target", h.Target) // the error stays
		return w.endNode()
	}
	if len(w.dirs) == maxDepth {
		return w.problem(fmt.Errorf("more than %d folders are in one another", maxDepth))
	}
	d := writtenDir{prefix: h.Path}
	if d.prefix != "" {
		d.prefix += "/"
	}
	w.dirs = append(w.dirs, d)
	return nil
}

// endFile completes the current regular file, if there is one.
func (w *Writer) endFile() error {
	if !w.inFile {
		return nil
	}
	if w.remaining > 0 {
		return w.problem(fmt.Errorf("%d bytes of %d are missing: %w", w.remaining, w.size, io.ErrUnexpectedEOF))
	}
	w.inFile = false
	_ = w.w.Pad(w.size) // the error stays
	return w.endNode()
}

// closeDirs completes folders until level of them are left.
func (w *Writer) closeDirs(level int) {
	for len(w.dirs) > level {
		w.dirs = w.dirs[:len(w.dirs)-1]
		_ = w.endNode() // the error stays
	}
}

// endNode completes a node, and the entry that it is in; the root is in none.
func (w *Writer) endNode() error {
	if len(w.dirs) > 0 {
		return w.words(")", ")")
	}
	return w.words(")")
}

func (w *Writer) words(words ...string) error {
	var err error
	for _, word := range words {
		err = w.w.String(word)
	}
	return err
}

func (w *Writer) problem(err error) error { return fmt.Errorf("write NAR: %q: %w", w.path, err) }
