package testkit

import "testing"

func TestGates(t *testing.T) {
	t.Setenv("CI", "")
	for name, want := range map[string]bool{"sh": true, "no-such-program": false} {
		if have, err := HaveCommand(name); have != want || err != nil {
			t.Errorf("%s: got %t, %v", name, have, err)
		}
	}
	t.Setenv("CI", "true")
	if have, err := HaveCommand("sh"); !have || err != nil {
		t.Errorf("in CI: got %t, %v", have, err)
	}
	if _, err := HaveCommand("no-such-program"); err == nil {
		t.Error("in CI, a program that is missing is no error")
	}
}
