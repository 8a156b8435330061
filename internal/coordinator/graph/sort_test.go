package graph

import (
	"iter"
	"slices"
	"testing"
)

func TestCircleIsFoundOut(t *testing.T) {
	needs := map[string][]string{"a": {"b"}, "b": {"c", "d"}, "c": {"b"}}
	all := func(node string) iter.Seq[string] { return slices.Values(needs[node]) }
	sorted, circular := Sort([]string{"a", "b", "c", "d"}, all)
	if !slices.Equal(sorted, []string{"a"}) || len(circular) != 3 {
		t.Errorf("got %q sorted and %q circular, want a and the three others", sorted, circular)
	}
	delete(needs, "c")
	if sorted, circular := Sort([]string{"d", "c", "b", "a"}, all); len(sorted) != 4 || len(circular) != 0 || sorted[0] != "a" || sorted[1] != "b" {
		t.Errorf("got %q sorted and %q circular, want 4 in order", sorted, circular)
	}
}
