package buildlog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"lighter/hooks/prunelogs"
)

func TestLogIsCompressedAndRead(t *testing.T) {
	f, err := OpenFolder(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("all work and no play\n", 1000)
	l := f.Open("abcd", 2)
	l.Write([]byte(text[:100]))
	l.Finish()
	l = f.Open("abcd", 2) // after a restart
	if l.Size() != 100 {
		t.Errorf("it goes on at %d, want 100", l.Size())
	}
	l.Write([]byte(text[100:]))
	l.Finish()
	if _, err := os.Stat(f.File("abcd", 2) + ".gz"); err != nil {
		t.Error(err)
	}
	for _, offset := range []int{0, 100, len(text) - 1, len(text), len(text) + 10} {
		var b bytes.Buffer
		if err := f.CopyTo(t.Context(), &b, "abcd", 2, int64(offset), true, nil); err != nil || b.String() != text[min(offset, len(text)):] {
			t.Errorf("from %d: %d bytes, %v", offset, b.Len(), err)
		}
	}
	if err := f.CopyTo(t.Context(), &bytes.Buffer{}, "abcd", 1, 0, true, nil); !errors.Is(err, ErrNoLog) {
		t.Errorf("log of another attempt: %v", err)
	}
}

func TestLogIsCut(t *testing.T) {
	const limit = 8 << 10
	f, err := OpenFolder(t.TempDir(), limit)
	if err != nil {
		t.Fatal(err)
	}
	l := f.Open("abcd", 1)
	text := strings.Repeat("much output\n", 1000)
	l.Write([]byte(text[:5000]))
	// A coordinator that takes the attempt up goes on where the file ends.
	l = f.Open("abcd", 1)
	if l.Size() != 5000 {
		t.Errorf("it goes on at %d", l.Size())
	}
	l.Write([]byte(text[5000:]))
	l.Write([]byte("THE REAL ERROR\n"))
	if n := int64(len(text) + 15); l.Size() != n {
		t.Errorf("taken %d, want %d", l.Size(), n)
	}
	l.Finish()
	var b bytes.Buffer
	if err := f.CopyTo(t.Context(), &b, "abcd", 1, 0, false, nil); err != nil || b.Len() > limit || !strings.HasPrefix(b.String(), "much output\n") ||
		!strings.Contains(b.String(), "bytes of the log are missing here: no more than 8192 are kept\n") || !strings.HasSuffix(b.String(), "output\nTHE REAL ERROR\n") {
		t.Errorf("got %q, %v", b.String(), err)
	}
}

func TestLogIsFollowed(t *testing.T) {
	f, err := OpenFolder(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	l := f.Open("abcd", 1)
	r := make(chan string, 1)
	go func() {
		var b bytes.Buffer
		err := f.CopyTo(context.Background(), &b, "abcd", 1, 0, true, nil)
		r <- b.String() + errorText(err)
	}()
	for _, word := range []string{"one ", "two ", "three"} {
		l.Write([]byte(word))
	}
	l.Finish()
	if got := <-r; got != "one two three" {
		t.Errorf("got %q", got)
	}
}

// TestPrunedLog: a log that prune-logs has compressed is read as any other.
func TestPrunedLog(t *testing.T) {
	dir := t.TempDir()
	f, err := OpenFolder(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	l := f.Open("abcd", 1)
	text := strings.Repeat("a line of a log\n", 1000)
	l.Write([]byte(text))
	l.Finish()
	old := time.Now().Add(-2 * prunelogs.MinAge)
	if err := os.Chtimes(l.name+".gz", old, old); err != nil {
		t.Fatal(err)
	}
	p, err := prunelogs.New(prunelogs.Options{Dir: dir, OlderThan: prunelogs.MinAge, Compress: "zstd"})
	if err != nil {
		t.Fatal(err)
	}
	if output, err := p.Run(t.Context(), nil); err != nil {
		t.Fatal(output, err)
	}
	if _, err := os.Stat(l.name + ".zst"); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int64{0, 100, 16000, 20000} {
		var b bytes.Buffer
		err := f.CopyTo(t.Context(), &b, "abcd", 1, offset, false, nil)
		if want := text[min(offset, 16000):]; err != nil || b.String() != want {
			t.Errorf("from %d: %d bytes, %v", offset, b.Len(), err)
		}
	}
	f.Remove("abcd", 1)
	if err := f.CopyTo(t.Context(), io.Discard, "abcd", 1, 0, false, nil); !errors.Is(err, ErrNoLog) {
		t.Errorf("removed: %v", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
