package unable

import (
	"slices"
	"testing"
)

func TestReasons(t *testing.T) {
	var l List
	if l.Has("alpha") || l.Reasons() != nil {
		t.Errorf("an empty list has %q", l.Reasons())
	}
	for _, r := range [][2]string{{"alpha", "no sh"}, {"beta", "wrong system"}, {"gamma", "no sh"}, {"beta", "no sh"}} {
		l.Add(r[0], r[1])
	}
	if got, want := l.Reasons(), []string{"alpha, gamma, beta: no sh"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !l.Has("beta") || l.Has("delta") {
		t.Error("it does not know who can't")
	}
}
