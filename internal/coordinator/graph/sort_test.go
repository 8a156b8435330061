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

func TestReached(t *testing.T) {
	next := map[string][]string{"a": {"b", "c"}, "b": {"d"}, "c": {"d", "a"}, "d": {"e", "b"}, "x": {"a"}}
	all := func(node string) iter.Seq[string] { return slices.Values(next[node]) }
	if got := slices.Collect(Reached("a", all)); !slices.Equal(got, []string{"b", "c", "d", "e"}) {
		t.Errorf("got %q", got)
	}
	for node := range Reached("a", all) { // which may be left early
		if node == "c" {
			break
		}
	}
}

func TestOutermost(t *testing.T) {
	next := map[string][]string{"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": {"e"}, "x": {"e"}}
	all := func(node string) iter.Seq[string] { return slices.Values(next[node]) }
	for _, tt := range []struct{ from, want []string }{
		{[]string{"a", "x"}, []string{"e", "d", "b", "c"}},
		{[]string{"b", "a"}, []string{"e", "d", "b", "c"}}, // b is reached from a, too
		{[]string{"e"}, nil},
	} {
		if got := slices.Collect(Outermost(tt.from, all)); !slices.Equal(got, tt.want) {
			t.Errorf("from %q: %q, want %q", tt.from, got, tt.want)
		}
	}
	for range Outermost([]string{"a"}, all) { // which may be left early
		break
	}
}
