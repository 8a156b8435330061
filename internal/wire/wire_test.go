package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// encoded is an integer and a string as the worker protocol has them on the wire.
const encoded = "\x01\x02\x00\x00\x00\x00\x00\x00" + "\x03\x00\x00\x00\x00\x00\x00\x00abc\x00\x00\x00\x00\x00"

func TestWriter(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, err := range []error{w.Uint64(0x201), w.String("abc")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if b.Len() != 0 {
		t.Errorf("%d bytes were written before Flush", b.Len())
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(encoded, b.String()); diff != "" {
		t.Error(diff)
	}
	if w.Offset() != int64(len(encoded)) {
		t.Errorf("Offset: got %d, want %d", w.Offset(), len(encoded))
	}
}

func TestRoundTrip(t *testing.T) {
	texts := []string{"", "a", "1234567", "12345678", "123456789", strings.Repeat("x", 63), strings.Repeat("y", 64<<10), strings.Repeat("z", 100_001)}
	for _, size := range []int{0, 100, writerSize} {
		var b bytes.Buffer
		w := NewWriterSize(&b, size)
		for _, s := range texts {
			_ = w.String(s)
			_ = w.Bytes([]byte(s))
		}
		_ = w.Strings(texts)
		_ = w.Bool(true)
		_ = w.Bool(false)
		_ = w.Uint64(math.MaxUint64)
		_, _ = w.Write(bytes.Repeat([]byte("raw"), 10_000))
		_ = w.Pad(30_000)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if w.Offset() != int64(b.Len()) {
			t.Errorf("Offset: got %d, want %d", w.Offset(), b.Len())
		}
		checkRead(t, NewReader(bytes.NewReader(b.Bytes())), texts)
		checkRead(t, NewReader(iotest.OneByteReader(bytes.NewReader(b.Bytes()))), texts)
		promising := NewReader(iotest.HalfReader(bytes.NewReader(b.Bytes())))
		promising.Promise(math.MaxInt64)
		checkRead(t, promising, texts)
	}
}

func checkRead(t *testing.T, r *Reader, texts []string) {
	t.Helper()
	const limit = 200_000
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("offset %d: %v", r.Offset(), err)
		}
	}
	for _, want := range texts {
		got, err := r.String(limit)
		must(err)
		b, err := r.Token(limit)
		must(err)
		if got != want || string(b) != want {
			t.Fatalf("got %d and %d bytes, want %d", len(got), len(b), len(want))
		}
	}
	list, err := r.Strings(len(texts), limit)
	must(err)
	if diff := cmp.Diff(texts, list); diff != "" {
		t.Error(diff)
	}
	for _, want := range []bool{true, false} {
		got, err := r.Bool()
		must(err)
		if got != want {
			t.Errorf("Bool: got %v, want %v", got, want)
		}
	}
	n, err := r.Uint64()
	must(err)
	if n != math.MaxUint64 {
		t.Errorf("Uint64: got %d", n)
	}
	raw := make([]byte, 30_000)
	_, err = io.ReadFull(r, raw)
	must(err)
	if !bytes.Equal(raw, bytes.Repeat([]byte("raw"), 10_000)) {
		t.Error("raw bytes differ")
	}
	must(r.Pad(30_000))
	if _, err := r.Uint64(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: got %v, want io.EOF", err)
	}
}

func TestReaderRefuses(t *testing.T) {
	word := func(n byte) string { return string([]byte{n, 0, 0, 0, 0, 0, 0, 0}) }
	read := map[string]func(*Reader) error{
		"string":  func(r *Reader) error { _, err := r.String(100); return err },
		"strings": func(r *Reader) error { _, err := r.Strings(2, 100); return err },
		"long":    func(r *Reader) error { _, err := r.String(math.MaxInt32); return err },
		"bool":    func(r *Reader) error { _, err := r.Bool(); return err },
		"uint32":  func(r *Reader) error { _, err := r.Uint32(); return err },
		"int64":   func(r *Reader) error { _, err := r.Int64(math.MaxInt64); return err },
		"pad":     func(r *Reader) error { return r.Pad(5) },
	}
	limit := new(LimitError)
	for _, tc := range []struct {
		name, read, input string
		want              error // LimitError stands for any
	}{
		{"nothing", "string", "", io.EOF},
		{"half a length", "string", "\x01\x00", io.ErrUnexpectedEOF},
		{"no data", "string", word(1), io.ErrUnexpectedEOF},
		{"no padding", "string", word(1) + "a", io.ErrUnexpectedEOF},
		{"padding", "string", word(1) + "a\x00\x00\x00\x00\x00\x00\x01", ErrPadding},
		{"padding of raw bytes", "pad", "\x00\x01\x00", ErrPadding},
		{"no padding of raw bytes", "pad", "", io.ErrUnexpectedEOF},
		{"length", "string", word(101) + strings.Repeat("a", 104), limit},
		{"all ones", "string", strings.Repeat("\xff", 8), limit},
		{"claimed length", "long", "\x00\x00\x00\x7f\x00\x00\x00\x00abc", io.ErrUnexpectedEOF},
		{"count", "strings", word(3), limit},
		{"end in a list", "strings", word(2) + word(0), io.ErrUnexpectedEOF},
		{"bool", "bool", word(2), limit},
		{"uint32", "uint32", "\x00\x00\x00\x00\x01\x00\x00\x00", limit},
		{"negative", "int64", strings.Repeat("\xff", 8), limit},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := read[tc.read](NewReader(strings.NewReader(tc.input)))
			if errors.As(tc.want, &limit) {
				if !errors.As(err, &limit) {
					t.Fatalf("got %v, want a LimitError", err)
				}
				return
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// TestReaderReadsNoMore checks that nothing is consumed that was neither asked for
// nor promised.
func TestReaderReadsNoMore(t *testing.T) {
	src := strings.NewReader(encoded + encoded + "rest")
	r := NewReader(src)
	if _, err := r.Uint64(); err != nil {
		t.Fatal(err)
	}
	if got, want := src.Len(), 2*len(encoded)+4-8; got != want {
		t.Fatalf("after the integer %d bytes are left, want %d", got, want)
	}
	r.Promise(16 + int64(len(encoded)))
	for range 2 {
		if _, err := r.String(10); err != nil {
			t.Fatal(err)
		}
		if src.Len() != len("rest") {
			t.Fatalf("%d bytes are left, want those that were not promised", src.Len())
		}
		_, _ = r.Uint64()
	}
}

func TestRecord(t *testing.T) {
	r := NewReader(strings.NewReader(encoded + encoded))
	var got []byte
	_, _ = r.Uint64()
	r.Record(&got)
	_, _ = r.String(10)
	_, _ = r.Read(make([]byte, 8))
	r.Record(nil)
	_, _ = r.String(10)
	if want := encoded[8:] + encoded[:8]; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWriterKeepsError(t *testing.T) {
	broken := errors.New("broken")
	w := NewWriterSize(writerFunc(func([]byte) (int, error) { return 0, broken }), 64)
	for range 20 {
		_ = w.String("something")
	}
	_, _ = w.Write(make([]byte, 1000))
	if err := w.Flush(); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if _, err := w.Room(10); !errors.Is(err, broken) {
		t.Errorf("Room: got %v, want %v", err, broken)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func BenchmarkToken(b *testing.B) {
	text := bytes.Repeat([]byte(encoded[8:]), 1000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		r := NewReader(bytes.NewReader(text))
		for range 1000 {
			if _, err := r.Token(10); err != nil {
				b.Fatal(err)
			}
		}
	}
}
