package tomlfile

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	tests := []struct {
		text string
		want int64
		good bool
	}{
		{"0", 0, true},
		{"4096", 4096, true},
		{"100MiB", 100 << 20, true},
		{"1.5 GB", 1500000000, true},
		{"1.5gib", 3 << 29, true},
		{"2 kb", 2000, true},
		{"10B", 10, true},
		{"9223372036854775807", 1<<63 - 1, true},
		{"8191PiB", 8191 << 50, true},
		{"8192PiB", 0, false},
		{"9223372036854775808", 0, false},
		{"9007199254740993", 9007199254740993, true}, // no float in between
		{"", 0, false},
		{"MiB", 0, false},
		{"-1", 0, false},
		{"1e3", 0, false},
		{"1.2.3", 0, false},
		{".", 0, false},
		{"0x10", 0, false},
		{"10 Mbit", 0, false},
		{"10 M", 0, false},
		{"NaN", 0, false},
	}
	for _, tt := range tests {
		got, err := ParseSize(tt.text)
		if (err == nil) != tt.good || got != tt.want {
			t.Errorf("%q: got %d, %v", tt.text, got, err)
		}
		if !tt.good {
			continue
		}
		if again, err := ParseSize(FormatSize(got)); err != nil || again != got {
			t.Errorf("%q: %s reads as %d, %v", tt.text, FormatSize(got), again, err)
		}
	}
}

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

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	tests := []struct {
		text string
		want time.Duration
		says string // empty: it is good
	}{
		{"0", 0, ""},
		{"0s", 0, ""},
		{"90s", 90 * time.Second, ""},
		{"1h30m", 90 * time.Minute, ""},
		{"2w1d", 15 * day, ""},
		{"1.5d", 36 * time.Hour, ""},
		{"1m500ms", time.Minute + time.Second/2, ""},
		{"1.0009ms", time.Millisecond, ""},
		{"15250w", 15250 * 7 * day, ""},
		{"", 0, "empty"},
		{"90", 0, "90 has no unit"},
		{"h", 0, `"h" is no number`},
		{"-1h", 0, `"-1h" is no number`},
		{"1 h", 0, "blank"},
		{"1h 30m", 0, "blank"},
		{"30m1h", 0, `"h" stands after a shorter unit`},
		{"1h1h", 0, "or twice"},
		{"1.2.3h", 0, `"1.2.3" is no number`},
		{"1min", 0, `unknown unit "min"`},
		{"1M", 0, "1 has no unit"},
		{"15251w", 0, "more than 292 years"},
		{"15250w300d", 0, "more than 292 years"},
		{"99999999999999999999h", 0, "more than 292 years"},
		{"9999999.9h", 0, "more than 292 years"},
	}
	for _, tt := range tests {
		got, err := ParseDuration(tt.text)
		if tt.says != "" {
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q: got %s, %v; want an error with %q", tt.text, got, err, tt.says)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%q: got %s, %v; want %s", tt.text, got, err, tt.want)
		}
		if again, err := ParseDuration(FormatDuration(got)); err != nil || again != got {
			t.Errorf("%q: %s reads as %s, %v", tt.text, FormatDuration(got), again, err)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for length, want := range map[time.Duration]string{
		0: "0s", time.Minute: "1m", 90 * time.Minute: "1h30m", 14 * 24 * time.Hour: "2w", 90 * 24 * time.Hour: "90d",
		time.Millisecond: "1ms", math.MaxInt64: "106751d23h47m16s854ms",
	} {
		if got := FormatDuration(length); got != want {
			t.Errorf("%d: got %s; want %s", length, got, want)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, text := range []string{"1h30m", "1.5d", "2w", "", "1h1h", "1e9s", "١h"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseDuration(text)
		if err != nil {
			return
		}
		if again, err := ParseDuration(FormatDuration(got)); got < 0 || err != nil || again != got {
			t.Errorf("%q is %d, which is written %s and read as %d, %v", text, got, FormatDuration(got), again, err)
		}
	})
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
		"http://a b":                "is no URL",
		"http://a:port":             "is no URL",
	} {
		if got := urlProblem(text); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q; want %q", text, got, want)
		}
	}
}
