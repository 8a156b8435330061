package stream

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestUntil(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	var b strings.Builder
	r, w := ReaderUntil(ctx, strings.NewReader("abc")), WriterUntil(ctx, &b)
	if n, err := io.CopyN(w, r, 2); n != 2 || err != nil || b.String() != "ab" {
		t.Errorf("copied %d bytes, %q, %v", n, b.String(), err)
	}
	stopped := errors.New("stopped")
	cancel(stopped)
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, stopped) {
		t.Errorf("Read: %d, %v", n, err)
	}
	if n, err := w.Write([]byte("c")); n != 0 || !errors.Is(err, stopped) || b.String() != "ab" {
		t.Errorf("Write: %d, %v", n, err)
	}
}

func TestCounter(t *testing.T) {
	c := &Counter{W: iotest.TruncateWriter(io.Discard, 100)}
	for range 3 {
		if _, err := c.Write([]byte("ab")); err != nil {
			t.Fatal(err)
		}
	}
	r, w := io.Pipe()
	r.Close()
	if c.W = w; c.N != 6 {
		t.Errorf("counted %d", c.N)
	}
	if _, err := c.Write([]byte("ab")); err == nil || c.N != 6 {
		t.Errorf("after an error: counted %d, %v", c.N, err)
	}
}

func TestAllowance(t *testing.T) {
	tooMuch, broken := errors.New("too much"), errors.New("broken")
	a := &Allowance{R: io.MultiReader(strings.NewReader("abcdef"), iotest.ErrReader(broken)), Left: 4, TooMuch: tooMuch}
	if text, err := io.ReadAll(a); string(text) != "abcd" || !errors.Is(err, tooMuch) || a.Failed != nil {
		t.Errorf("got %q, %v, %v", text, err, a.Failed)
	}
	a.Left = 4
	if text, err := io.ReadAll(a); string(text) != "ef" || !errors.Is(err, broken) || !errors.Is(a.Failed, broken) {
		t.Errorf("got %q, %v, %v", text, err, a.Failed)
	}
	a = &Allowance{R: strings.NewReader("ab"), Left: 3, TooMuch: tooMuch}
	if text, err := io.ReadAll(a); string(text) != "ab" || err != nil || a.Failed != nil {
		t.Errorf("got %q, %v, %v", text, err, a.Failed)
	}
}

// The end is kept, in whatever pieces it comes.
func TestTail(t *testing.T) {
	for _, test := range []struct {
		pieces []string
		want   string
	}{
		{[]string{""}, ""},
		{[]string{"ab", "cd"}, "abcd"},
		{[]string{"ab", "cde"}, "…bcde"},
		{[]string{"abcdefg"}, "…defg"},
		{[]string{"abc", "defghi"}, "…fghi"},
		{[]string{"a", "b", "c", "d", "e", "fg"}, "…defg"},
		{[]string{"\xff\xfeab"}, "\uFFFDab"},
	} {
		out := &Tail{Max: 4}
		for _, p := range test.pieces {
			if n, err := out.Write([]byte(p)); n != len(p) || err != nil {
				t.Errorf("Write: %d, %v", n, err)
			}
		}
		if got := out.String(); got != test.want {
			t.Errorf("%q: got %q, want %q", test.pieces, got, test.want)
		}
	}
}
