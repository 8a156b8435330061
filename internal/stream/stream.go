// Package stream has readers and writers that stand between others.
package stream

import (
	"context"
	"errors"
	"io"
	"strings"
)

// ReaderUntil returns a reader that ends with the context, and with its cause.
func ReaderUntil(ctx context.Context, r io.Reader) io.Reader { return reader{ctx, r} }

type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// WriterUntil returns a writer that ends with the context, and with its cause.
func WriterUntil(ctx context.Context, w io.Writer) io.Writer { return writer{ctx, w} }

type writer struct {
	ctx context.Context
	w   io.Writer
}

func (w writer) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.w.Write(p)
}

// Counter counts what passes through it.
type Counter struct {
	W io.Writer
	N int64 // bytes that W took
}

// Write writes to W.
func (c *Counter) Write(p []byte) (int, error) {
	n, err := c.W.Write(p)
	c.N += int64(n)
	return n, err
}

// Allowance is a reader that ends when more is read than is granted. A decoder has a whole
// value in memory before it says anything: who sets Left before each bounds all of them.
type Allowance struct {
	R       io.Reader
	Left    int64 // bytes
	TooMuch error // when they are used up
	Failed  error // of R, other than io.EOF
}

// Read reads from R.
func (a *Allowance) Read(p []byte) (int, error) {
	if a.Left <= 0 {
		return 0, a.TooMuch
	}
	n, err := a.R.Read(p[:min(int64(len(p)), a.Left)])
	a.Left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		a.Failed = err
	}
	return n, err
}

// Tail keeps the end of what is written to it.
type Tail struct {
	Max  int // bytes
	Kept []byte
	lost bool
}

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	n := len(p)
	if n > t.Max {
		p, t.lost = p[n-t.Max:], true
	}
	if over := len(t.Kept) + len(p) - t.Max; over > 0 {
		t.Kept, t.lost = append(t.Kept[:0], t.Kept[over:]...), true
	}
	t.Kept = append(t.Kept, p...)
	return n, nil
}

// String says when the beginning is missing. It is valid UTF-8.
func (t *Tail) String() string {
	text := strings.ToValidUTF8(string(t.Kept), "\uFFFD")
	if t.lost {
		return "…" + text
	}
	return text
}
