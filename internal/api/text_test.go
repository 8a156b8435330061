package api

import (
	"strings"
	"testing"
)

func TestCheckText(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"plain", "the disk was full: ärgerlich, 火", ""},
		{"as long as may be", strings.Repeat("x", 100), ""},
		{"too long", strings.Repeat("x", 101), "reason has 101 bytes, at most 100 are taken"},
		{"newline", "a\nb", `reason "\nb" has a control character; want one line of plain text`},
		{"escape", "\x1b[2J", `reason "\x1b[2J" has a control character; want one line of plain text`},
		{"C1", "a\u009b2J", `reason "\u009b2J" has a control character; want one line of plain text`},
		{"DEL", "a\x7f", `reason "\x7f" has a control character; want one line of plain text`},
		{"NUL", "a\x00", `reason "\x00" has a control character; want one line of plain text`},
		{"half a character", "a\xc3", `reason "a\xc3" is not UTF-8`},
	} {
		got := ""
		if err := CheckText("reason", test.text, 100); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
