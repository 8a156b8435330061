package api

import "testing"

func TestUUID(t *testing.T) {
	const good = "01234567-89ab-4def-8123-456789abcdef"
	if !IsUUID(good) {
		t.Errorf("%s is none", good)
	}
	for _, id := range []string{
		"", good[1:], good + "0", "0123456789ab4def8123456789abcdef", "01234567-89ab-4def-8123-456789ABCDEF",
		"01234567089ab-4def-8123-456789abcdef", "01234567-89ab-4def-8123-45678-abcdef", "0123456g-89ab-4def-8123-456789abcdef",
		"{1234567-89ab-4def-8123-456789abcde}",
	} {
		if IsUUID(id) {
			t.Errorf("%q is one", id)
		}
	}
}
