package buildlog

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"lighter/internal/api"
)

// TestReader reads logs however they are kept, from everywhere.
func TestReader(t *testing.T) {
	f, err := OpenFolder(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for n := range 500 {
		fmt.Fprintf(&text, "line %d of %x\n", n, n*n*n)
	}
	want := []byte(text.String())
	b := &api.Build{Request: api.Request{ID: "00ab"}, State: api.Failed, Attempt: 9}
	write := func(attempt int, suffix string, pack func(io.Writer) io.WriteCloser) {
		l := f.Open(b.ID, attempt)
		l.Write([]byte("x"))
		l.Finish()
		os.Remove(f.File(b.ID, attempt))
		var packed bytes.Buffer
		z := pack(&packed)
		z.Write(want)
		z.Close()
		if err := os.WriteFile(f.File(b.ID, attempt)+suffix, packed.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(1, "", func(w io.Writer) io.WriteCloser { return nopCloser{w} })
	write(2, ".gz", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	write(3, ".zst", func(w io.Writer) io.WriteCloser {
		z, _ := zstd.NewWriter(w)
		return z
	})
	write(4, ".zst", func(w io.Writer) io.WriteCloser { return &whole{w: w} })
	for attempt := 1; attempt <= 4; attempt++ {
		r, err := f.ReadOf(b, Name{b.ID, attempt})
		if err != nil {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
		if r.Growing || r.Name != (Name{b.ID, attempt}) {
			t.Errorf("attempt %d: %+v", attempt, r)
		}
		if err := iotest.TestReader(r, want); err != nil {
			t.Errorf("attempt %d: %v", attempt, err)
		}
		for _, offset := range []int64{9000, 10, int64(len(want)) - 1, 0, int64(len(want)), 1 << 40} {
			got := make([]byte, 100)
			r.Seek(offset, io.SeekStart)
			n, _ := io.ReadFull(r, got)
			rest := want[min(offset, int64(len(want))):]
			if !bytes.Equal(got[:n], rest[:min(100, len(rest))]) {
				t.Errorf("attempt %d: from %d: %q", attempt, offset, got[:n])
			}
		}
		r.Close()
	}
	if _, err := f.ReadOf(b, Name{b.ID, 8}); !errors.Is(err, ErrNoLog) {
		t.Errorf("of one that is not there: %v", err)
	}
	if _, err := f.ReadOf(b, Name{}); !errors.Is(err, ErrNoLog) {
		t.Errorf("of no attempt: %v", err)
	}
}

// whole compresses all at once, so that the header has the size.
type whole struct {
	w io.Writer
	bytes.Buffer
}

func (o *whole) Close() error {
	z, _ := zstd.NewWriter(nil)
	_, err := o.w.Write(z.EncodeAll(o.Bytes(), nil))
	return err
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// TestReaderOfGrowing has logs that are being written, and one of an attempt that is taken up after a restart.
func TestReaderOfGrowing(t *testing.T) {
	f, err := OpenFolder(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	b := &api.Build{Request: api.Request{ID: "00ab"}, State: api.Building, Attempt: 1}
	read := func(want string, growing bool) {
		t.Helper()
		r, err := f.ReadOf(b, Name{b.ID, 1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got, err := io.ReadAll(r); err != nil || string(got) != want || r.Growing != growing {
			t.Errorf("got %q, %v, growing %t; want %q", got, err, r.Growing, want)
		}
	}
	l := f.Open(b.ID, 1)
	read("", true)
	l.Write([]byte("a\n"))
	read("a\n", true)
	l.Finish()
	read("a\n", true) // its attempt goes on
	b.State = api.Failed
	read("a\n", false)
}

// TestReaderOfBroken has compressed logs that can't be read.
func TestReaderOfBroken(t *testing.T) {
	f, err := OpenFolder(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	b := &api.Build{Request: api.Request{ID: "00ab"}, State: api.Failed, Attempt: 1}
	l := f.Open(b.ID, 1)
	l.Write(bytes.Repeat([]byte("all work and no play\n"), 1000))
	l.Finish()
	name := f.File(b.ID, 1) + ".gz"
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string][]byte{
		"empty": {}, "cut header": good[:3], "only a header": good[:10], "another size": append(bytes.Clone(good[:len(good)-4]), 1, 2, 3, 0), "cut": append(bytes.Clone(good[:40]), good[len(good)-4:]...),
	} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := f.ReadOf(b, Name{b.ID, 1})
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			r.Close()
		}
		if err == nil || errors.Is(err, ErrNoLog) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
