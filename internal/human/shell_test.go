package human_test

import (
	"testing"

	"lighter/internal/human"
)

func TestShellWord(t *testing.T) {
	for text, want := range map[string]string{
		"u@h": "u@h", "/a b/c": "'/a b/c'", "it's": `'it'\''s'`, "[h]:22": "'[h]:22'",
	} {
		if got := human.ShellWord(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
