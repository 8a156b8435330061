package disk

import "testing"

func TestInMap(t *testing.T) {
	for _, test := range []struct {
		text string
		id   uint32
		want bool
	}{
		{"         0          0 4294967295\n", 30001, true},
		{"         0       1000          1\n", 0, true},
		{"         0       1000          1\n", 1, false},
		{"0 1000 1\n1 100000 65536\n", 30001, true},
		{"0 1000 1\n1 100000 65536\n", 65537, false},
		{"", 0, false},
		{"x y z\n", 0, false},
	} {
		if got := inMap(test.text, test.id); got != test.want {
			t.Errorf("inMap(%q, %d) = %v", test.text, test.id, got)
		}
	}
}
