package compare

import "testing"

func TestEnumerate(t *testing.T) {
	for want, names := range map[string][]string{"a": {"a"}, "a and b": {"b", "a"}, "a, b and c": {"c", "a", "b"}} {
		if got := enumerate(names); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
