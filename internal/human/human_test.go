package human_test

import (
	"testing"
	"time"

	"lighter/internal/human"
)

func TestLogColours(t *testing.T) {
	for in, want := range map[string]string{
		"plain\n":                   "plain\n",
		"\x1b[31mred\x1b[0m\r\n":    "\x1b[31mred\x1b[0m\r\n\x1b[0m",
		"\x1b[2Ja\x1b]0;t\x07b\x07": `ab\x07`,
		"\x1b[31":                   `\x1b[31`,
	} {
		if got := human.LogColours(in); got != want {
			t.Errorf("LogColours(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for want, before := range map[string]time.Duration{
		"just now":      time.Second,
		"1 minute ago":  70 * time.Second,
		"3 minutes ago": 200 * time.Second,
		"2 days ago":    50 * time.Hour,
		"in 30 seconds": -30 * time.Second,
	} {
		if got := human.Ago(now.Add(-before), now); got != want {
			t.Errorf("Ago(%v) = %q, want %q", before, got, want)
		}
	}
	if got := human.Ago(time.Time{}, now); got != "never" {
		t.Errorf("Ago(zero) = %q", got)
	}
}

func TestCount(t *testing.T) {
	for want, got := range map[string]string{
		"1 build":      human.Count(1, "build"),
		"0 builds":     human.Count(0, "build"),
		"12,345 items": human.Count(12345, "item"),
		"2 entries":    human.Count(2, "entry"),
		"3 days":       human.Count(3, "day"),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"plain":         {"hello, wörld", "hello, wörld"},
		"escape":        {"a\x1b[2Jb", `a\x1b[2Jb`},
		"line ends":     {"a\r\nb\tc", `a\r\nb\tc`},
		"C1":            {"a\u009bb", `a\u009bb`},
		"not UTF-8":     {"a\xffb", `a\xffb`},
		"bidi override": {"a\u202eb", `a\u202eb`},
		"delete":        {"a\x7f", `a\x7f`},
	} {
		if got := human.Printable(c.in); got != c.want {
			t.Errorf("%s: Printable(%q) = %q, want %q", name, c.in, got, c.want)
		}
	}
	if got := human.PrintableText("a\n\tb\x07"); got != "a\n\tb\\x07" {
		t.Errorf("PrintableText = %q", got)
	}
}

func TestLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "",
		"one\n":                        "one",
		"its last lines were:\noops\n": "its last lines were: oops",
		" a \n\n b\r\nc":               "a | b | c",
		"a\x1b\nb":                     `a\x1b | b`,
	} {
		if got := human.Line(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestLogLine(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"colours":       {"\x1b[1;31merror:\x1b[0m no", "error: no"},
		"progress":      {"10%\r20%\r100% done\r\n", "100% done"},
		"title":         {"\x1b]0;title\x07text", "text"},
		"charset":       {"\x1b(Bx", "x"},
		"link":          {"\x1b]8;;http://x\x1b\\text\x1b]8;;\x07", "text"},
		"cut sequence":  {"x\x1b[12", `x\x1b[12`},
		"tab":           {"a\tb", "a    b"},
		"reset":         {"\x1bcboo", `\x1bcboo`},
		"open OSC":      {"\x1b]0;title", `\x1b]0;title`},
		"only an ESC":   {"\x1b", `\x1b`},
		"nested escape": {"\x1b[\x1b[31mx", `\x1b[x`},
	} {
		if got := human.LogLine(c.in); got != c.want {
			t.Errorf("%s: LogLine(%q) = %q, want %q", name, c.in, got, c.want)
		}
	}
}

func TestTruncate(t *testing.T) {
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{
		{"hello", 5, "hello"},
		{"hello", 4, "hel…"},
		{"hello", 1, "…"},
		{"hello", 0, ""},
		{"日本語", 5, "日本…"},
		{"日本語", 4, "日…"},
	} {
		if got := human.Truncate(c.in, c.width); got != c.want {
			t.Errorf("Truncate(%q, %d) = %q, want %q", c.in, c.width, got, c.want)
		}
	}
	if got, want := human.TruncateMiddle("abcdefghij-1.2.3", 9), "abcd….2.3"; got != want {
		t.Errorf("TruncateMiddle = %q, want %q", got, want)
	}
	if got := human.Pad("日", 4); got != "日  " {
		t.Errorf("Pad = %q", got)
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[2J\xff\u202e")
	f.Add("\x1b]0;x\x07")
	f.Fuzz(func(t *testing.T, s string) {
		for _, got := range []string{human.Printable(s), human.LogLine(s)} {
			for _, r := range got {
				if r < 0x20 || r == 0x7f || 0x80 <= r && r < 0xa0 || r == 0xfffd && got == s {
					t.Fatalf("%q became %q", s, got)
				}
			}
		}
	})
}

func TestFileName(t *testing.T) {
	seen := make(map[string]string)
	for _, name := range []string{"plain", "a\xff", "a\xfe", `a\xff`, `a\\xff`, "a\uFFFD", "a\n", `a\n`, "\u202e", `\u202e`} {
		shown := human.FileName(name)
		if other, ok := seen[shown]; ok {
			t.Errorf("%q and %q are both shown as %s", name, other, shown)
		}
		seen[shown] = name
	}
	if seen["plain"] != "plain" || seen[`a\xff`] != "a\xff" || seen[`a\\n`] != `a\n` {
		t.Errorf("got %q", seen)
	}
}

func TestValidText(t *testing.T) {
	if got := human.ValidText("a\xff\xfe\x1b\n\uFFFDé"); got != `a\xff\xfe`+"\x1b\n\uFFFDé" {
		t.Errorf("got %q", got)
	}
}
