package nar

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompare(t *testing.T) {
	tree := func(entries ...string) string {
		nar := encode("(", "type", "directory")
		for i := 0; i < len(entries); i += 2 {
			nar += encode("entry", "(", "name", entries[i], "node") + entries[i+1] + encode(")")
		}
		return nar + encode(")")
	}
	program := encode("(", "type", "regular", "executable", "", "contents", "a", ")")
	link := encode("(", "type", "symlink", "target", "a", ")")
	for _, test := range []struct {
		name, a, b string
		want       []string
	}{
		{"the same", tree("a", file("1"), "b", link), tree("a", file("1"), "b", link), nil},
		{"contents", tree("a", file("1"), "b", file("2")), tree("a", file("1"), "b", file("3")), []string{"b"}},
		{"executable", file("a"), program, []string{"."}},
		{"kind", tree("d", tree("x", file("a"))), tree("d", tree("x", link)), []string{"d/x"}},
		{"in one alone", tree("a", file("")), tree("b", file("")), []string{"a", "b"}},
		{"file and folder", file(""), tree("a", file("")), []string{".", "a"}},
	} {
		for _, swapped := range []bool{false, true} {
			a, b := test.a, test.b
			if swapped {
				a, b = b, a
			}
			got, total, err := Compare(strings.NewReader(encode(magic)+a), strings.NewReader(encode(magic)+b), 10)
			if err != nil || total != len(test.want) {
				t.Fatalf("%s: %d differ, %v", test.name, total, err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.name, diff)
			}
		}
	}
	if got, total, err := Compare(strings.NewReader(encode(magic)+tree("a", file(""), "b", file(""))), strings.NewReader(encode(magic)+tree()), 1); err != nil || total != 2 || len(got) != 1 {
		t.Errorf("with a limit: %q of %d, %v", got, total, err)
	}
	if _, _, err := Compare(strings.NewReader(encode(magic)+file("")), strings.NewReader("x"), 1); err == nil || !strings.Contains(err.Error(), "second NAR") {
		t.Errorf("a bad NAR: %v", err)
	}
}
