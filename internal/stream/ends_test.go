package stream

import (
	"fmt"
	"strings"
	"testing"
)

func TestEnds(t *testing.T) {
	line := func(n int) string { return fmt.Sprintf("line %d of much output\n", n) }
	var whole strings.Builder
	for n := range 20_000 {
		whole.WriteString(line(n))
	}
	text := whole.String() + "THE REAL ERROR\n"
	for _, piece := range []int{1, 7, 1000, 1 << 20} {
		e := NewEnds(4 << 10)
		var got strings.Builder
		for rest := text; rest != ""; {
			n := min(piece, len(rest))
			got.Write(e.Next([]byte(rest[:n])))
			rest = rest[n:]
		}
		if most := 3 * 1024; cap(e.kept) > 4*most {
			t.Errorf("in pieces of %d: %d bytes are in memory", piece, cap(e.kept))
		}
		got.Write(e.Rest())
		if n := got.Len(); n > 4<<10 || n < 3<<10 {
			t.Errorf("in pieces of %d: %d bytes", piece, n)
		}
		if !strings.HasPrefix(got.String(), line(0)+line(1)) || !strings.HasSuffix(got.String(), line(19_999)+"THE REAL ERROR\n") {
			t.Errorf("in pieces of %d: got %s", piece, got.String())
		}
		before, after, ok := strings.Cut(got.String(), "lighter: ")
		var missing int
		if _, err := fmt.Sscanf(after, "%d bytes of the log are missing here: no more than 4096 are kept\n", &missing); !ok || err != nil || !strings.HasSuffix(before, "\n") {
			t.Fatalf("in pieces of %d: no line says what is missing: %v, %q", piece, err, after)
		}
		_, end, _ := strings.Cut(after, "\n")
		if kept := len(strings.TrimSuffix(before, "\n")) + len(end); kept+missing != len(text) && kept+1+missing != len(text) {
			t.Errorf("in pieces of %d: %d bytes are there and %d missing, of %d", piece, kept, missing, len(text))
		}
	}
	// What is short enough is whole.
	for _, n := range []int{0, 1, 2944, 2945, 3968} {
		e := NewEnds(4 << 10)
		got := string(e.Next([]byte(text[:n])))
		if got += string(e.Rest()); got != text[:n] {
			t.Errorf("%d bytes: got %d", n, len(got))
		}
	}
	// A limit smaller than the line.
	e := NewEnds(10)
	if got := string(e.Next([]byte("a\nb\nc\nd\n"))) + string(e.Rest()); !strings.HasPrefix(got, "lighter: ") {
		t.Errorf("got %q", got)
	}
}
