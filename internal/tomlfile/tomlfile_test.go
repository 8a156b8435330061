package tomlfile

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"name", "host", "systems", "private-key", "host-key", "parallel-builds", "features", "overload-threshold"}
	for word, want := range map[string]string{
		"sytems": "systems", "private_key": "private-key", "paralell-builds": "parallel-builds",
		"hostkey": "host-key", "nmae": "name", "overload": "", "compression": "", "x": "", "": "",
		"features-mandatory-and-so-on-for-a-very-long-time-" + strings.Repeat("x", 100): "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func TestLongLineIsCut(t *testing.T) {
	e := &Error{File: "f", Line: 1, Column: 301, Text: strings.Repeat("a", 300) + "X\x1b" + strings.Repeat("b", 300), Message: "m"}
	lines := strings.Split(e.Error(), "\n")
	text, caret := []rune(lines[1]), []rune(lines[2])
	if text[len(caret)-1] != 'X' {
		t.Errorf("the caret is not under the place:\n%s", e)
	}
	if len(text) > 140 || strings.Contains(lines[1], "\x1b") {
		t.Errorf("the line is not cut, or not printable: %q", lines[1])
	}
}

func TestURLProblem(t *testing.T) {
	for text, want := range map[string]string{
		"https://ci.guix.gnu.org":   "",
		"http://10.0.0.1:8080/path": "",
		"http://[2001:db8::1]:80":   "",
		"file:///srv/publish":       "",
		"file://srv/publish":        "three slashes",
		"file:srv":                  "three slashes",
		"ftp://a.example":           "does not start",
		"ci.guix.gnu.org":           "does not start",
		"https://":                  "has no host",
		"https://:80":               "has no host",
		"http://a b":                "is not a URL",
		"http://a:port":             "is not a URL",
	} {
		if got := urlProblem(text); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q; want %q", text, got, want)
		}
	}
}
