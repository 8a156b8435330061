package compare

import (
	"slices"
	"testing"
)

func TestEnumerate(t *testing.T) {
	for want, names := range map[string][]string{"a": {"a"}, "a and b": {"b", "a"}, "a, b and c": {"c", "a", "b"}} {
		if got := enumerate(names); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestListed has names that a terminal and JSON would make the same.
func TestListed(t *testing.T) {
	got := listed("out", []string{".", "a\xff", "a\xfe", `a\xff`, "a\uFFFD", "b\n", `b\n`}, 9)
	want := []string{"out", `out/a\xff`, `out/a\xfe`, `out/a\\xff`, "out/a\uFFFD", `out/b\n`, `out/b\\n`, "and 2 more"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
