package logview

import (
	"bytes"
	"fmt"
	"html"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestRender(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"plain":            {"hello, wörld", "hello, wörld"},
		"markup":           {"<script>alert('1')</script> & \"x\"", "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &#34;x&#34;"},
		"colour":           {"a\x1b[31mred\x1b[0mb", `a<span class="f1">red</span>b`},
		"bold and bright":  {"\x1b[1;92mgood\x1b[m.", `<span class="f10 bold">good</span>.`},
		"256 colours":      {"\x1b[38;5;196mx\x1b[48;5;21my", `<span class="f9">x</span><span class="on b4">y</span>`},
		"true colour":      {"\x1b[38;2;250;5;5mx\x1b[39my", `<span class="f9">x</span>y`},
		"colons":           {"\x1b[38:5:2mx", `<span class="f2">x</span>`},
		"black on black":   {"\x1b[30;40mx", `<span class="on b0">x</span>`},
		"flipped":          {"\x1b[7mx\x1b[31my\x1b[27mz", `<span class="flip">x</span><span class="on b1">y</span><span class="f1">z</span>`},
		"concealed":        {"\x1b[8mx", "x"},
		"not a number":     {"\x1b[38;5;999mx\x1b[>4;1mx", "xx"},
		"cursor and title": {"a\x1b[2J\x1b[10A\x1b]0;t\x07b", "ab"},
		"links and images": {"\x1b]8;;http://evil/\x1b\\x\x1b]8;;\x1b\\\x1b]1338;url=http://evil/x.png\x07", "x"},
		"cut sequence":     {"x\x1b[12", `x<i>\x1b</i>[12`},
		"only an ESC":      {"\x1b", `<i>\x1b</i>`},
		"progress":         {"10%\r20%\r100% done\r", "100% done"},
		"control":          {"a\x07\x00b\u009bc\x7f", `a<i>\x07</i><i>\x00</i>b<i>\u009b</i>c<i>\x7f</i>`},
		"bidi":             {"a\u202eb\u2066c", `a<i>\u202e</i>b<i>\u2066</i>c`},
		"not UTF-8":        {"a\xff\xc3", `a<i>\xff</i><i>\xc3</i>`},
		"tab":              {"a\tb", "a\tb"},
		"too long":         {strings.Repeat("x", maxLine+1), strings.Repeat("x", maxLine) + "<i> … 1 more byte</i>"},
		"cut in a letter":  {strings.Repeat("x", maxLine-1) + "äö", strings.Repeat("x", maxLine-1) + "<i> … 4 more bytes</i>"},
	} {
		got, n := Render(Split([]byte(c.in), 0, 7, true, 9), false)
		want := `<span id="L7" class="open"><a href="#L7" tabindex="-1">7</a>` + c.want + "\n</span>"
		if string(got) != want || n != 1 {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

// TestRenderIsBounded has lines that become much longer.
func TestRenderIsBounded(t *testing.T) {
	line := strings.Repeat("\x1b[1;3;4;9;101mx", maxLine/13) + "\n"
	lines := Split([]byte(strings.Repeat(line, 30)), 0, 1, true, 1<<20)
	first, n := Render(lines, false)
	if len(first) > MaxHTML || n == 0 || n == len(lines) || !strings.HasPrefix(string(first), `<span id="L1">`) {
		t.Errorf("the first ones: %d bytes, %d lines", len(first), n)
	}
	last, n := Render(lines, true)
	if len(last) > MaxHTML || n == 0 || n == len(lines) || !strings.Contains(string(last), `id="L30"`) || !strings.HasPrefix(string(last), fmt.Sprintf(`<span id="L%d">`, 31-n)) {
		t.Errorf("the last ones: %d bytes, %d lines, %.40s", len(last), n, last)
	}
}

var spans = regexp.MustCompile(`<span id="L[0-9]+"( class="open")?>|<a href="#L[0-9]+" tabindex="-1">|</a>|<span class="[a-z0-9 ]+">|</span>|</?i>`)

func FuzzRender(f *testing.F) {
	f.Add([]byte("<b onclick=x>\x1b[31;1mred\x1b[38;5;1m\xff\u202e\r\n\x1b]8;;x\x07\n"))
	f.Add([]byte("\x1b[\x1b[m\x1b]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines := Split(text, 10, 3, false, 1<<20)
		offset := int64(10)
		for i := range lines {
			if lines[i].Offset != offset || lines[i].Number != 3+i {
				t.Fatalf("line %d is at %d, want %d", lines[i].Number, lines[i].Offset, offset)
			}
			offset = lines[i].End()
			for _, r := range lines[i].Plain() {
				if unicode.IsControl(r) {
					t.Fatalf("%q in the text of %q", r, text)
				}
			}
		}
		if offset != 10+int64(len(text)) {
			t.Fatalf("it ends at %d of %d", offset, 10+len(text))
		}
		FirstError(lines)
		got, n := Render(lines, len(text)%2 == 0)
		if n > len(lines) || n == 0 && len(lines) > 0 || len(got) > MaxHTML+64<<10 {
			t.Fatalf("%d of %d lines, %d bytes", n, len(lines), len(got))
		}
		if open, closed := strings.Count(string(got), "<span"), strings.Count(string(got), "</span>"); open != closed || !utf8.ValidString(string(got)) {
			t.Fatalf("%d <span>, %d </span>: %q", open, closed, got)
		}
		rest := spans.ReplaceAllString(string(got), "")
		if strings.ContainsAny(rest, "<>\"'") {
			t.Fatalf("markup in %q", rest)
		}
		for _, r := range html.UnescapeString(rest) {
			if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
				t.Fatalf("%q in %q", r, rest)
			}
		}
	})
}

func TestFirstError(t *testing.T) {
	for name, c := range map[string]struct{ log, want string }{
		"compiler": {`starting phase 'configure'
checking for x... cat: foo: No such file or directory
error: this is of another phase
phase 'configure' succeeded after 1.0 seconds
starting phase 'build'
gcc -Werror -c a.c
a.c:3:1: warning: unused
b.c:12:3: error: expected ';' before '}' token
make[1]: *** [Makefile:5: b.o] Error 1
make: *** [Makefile:2: all] Error 2
error: in phase 'build': uncaught exception:
%exception #<&invoke-error program: "make">
phase 'build' failed after 3.0 seconds
command "make" failed with status 2`, "b.c:12:3: error: expected ';' before '}' token"},
		"colours":     {"starting phase 'build'\n\x1b[1mx.c:1:2: \x1b[31merror: \x1b[mno\nmake: *** [x] Error 1\nphase 'build' failed after 1 seconds", "x.c:1:2: error: no"},
		"rust":        {"   Compiling x\nerror[E0308]: mismatched types\n --> src/x.rs", "error[E0308]: mismatched types"},
		"tests":       {"starting phase `check'\nPASS: a\nFAIL: b\n# FAIL:  1\nmake: *** [check] Error 2\nphase `check' failed after 2.0 seconds", "FAIL: b"},
		"python":      {"running\nTraceback (most recent call last):\n  File \"x\"\nValueError: no", "Traceback (most recent call last):"},
		"only make":   {"starting phase 'install'\ninstall -d x\nmake: *** [install] Error 1\nphase 'install' failed after 0.1 seconds", "make: *** [install] Error 1"},
		"only phase":  {"starting phase 'unpack'\nwords\nphase 'unpack' failed after 0.1 seconds\nmore", "phase 'unpack' failed after 0.1 seconds"},
		"nothing":     {"one\ntwo\n\n", "two"},
		"not there":   {"sh: frobnicate: command not found\nbye", "sh: frobnicate: command not found"},
		"-Werror":     {"gcc -Werror=x -c a.c\nboom", "boom"},
		"empty":       {"\n\n", ""},
		"cut in it":   {"b.c:1:1: error: no\nphase 'build' failed after 3.0 seconds", "b.c:1:1: error: no"},
		"tests named": {"starting phase 'check'\ntest error handling ... ok\n0 errors: none\n--- FAIL: TestX (0.00s)\nphase 'check' failed after 1 seconds", "--- FAIL: TestX (0.00s)"},
	} {
		lines := Split([]byte(c.log), 0, 1, true, 1<<20)
		got := ""
		if i := FirstError(lines); i >= 0 {
			got = lines[i].Plain()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestPart pages through logs of all kinds, forwards and backwards, and jumps to lines.
func TestPart(t *testing.T) {
	var many, long strings.Builder
	for n := range 5000 {
		fmt.Fprintf(&many, "line %d %s\n", n+1, strings.Repeat("x", n%200))
	}
	long.WriteString("first\n" + strings.Repeat("y", 3*Block+5) + "\nafter\n")
	for range 3000 {
		long.WriteString("\n")
	}
	long.WriteString("no line end")
	for name, text := range map[string]string{
		"empty": "", "one": "one\n", "open": "one", "many": many.String(), "long": long.String(), "block": strings.Repeat("z", Block-1) + "\n" + strings.Repeat("z", Block) + "\n\n",
		"only line ends": strings.Repeat("\n", 3*Block),
	} {
		x := &Index{}
		for rest := text; rest != ""; {
			n := min(len(rest), 777)
			x.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		read := func(from, to int64) ([]byte, error) {
			if to-from > 2*Block+MaxBytes {
				t.Fatalf("%s: reads %d bytes", name, to-from)
			}
			return []byte(text[from:to]), nil
		}
		numbers := make([]int, len(text)+1) // of the line at each offset
		for i := range numbers {
			numbers[i] = 1
			if i > 0 {
				numbers[i] = numbers[i-1] + strings.Count(text[i-1:i], "\n")
			}
		}
		part := func(want Want) *Part {
			t.Helper()
			p, err := x.Part(want, false, read)
			if err != nil {
				t.Fatal(err)
			}
			size := 0
			for i := range p.Lines {
				l := &p.Lines[i]
				size += len(l.Text)
				if wantNumber := numbers[l.Offset]; l.Number != wantNumber || !strings.HasPrefix(text[l.Offset:], string(l.Text)) {
					t.Fatalf("%s: line %d at %d, want %d", name, l.Number, l.Offset, wantNumber)
				}
				if atStart := l.Offset == 0 || text[l.Offset-1] == '\n'; atStart == l.Continued {
					t.Fatalf("%s: line %d: continued %t", name, l.Number, l.Continued)
				}
			}
			if len(p.Lines) > MaxLines || size > MaxBytes && len(p.Lines) > 1 {
				t.Fatalf("%s: %d lines, %d bytes", name, len(p.Lines), size)
			}
			return p
		}
		var forwards bytes.Buffer
		for at := int64(0); ; {
			p := part(Want{From: &at})
			if p.Start != at && len(p.Lines) > 0 {
				t.Fatalf("%s: from %d it begins at %d", name, at, p.Start)
			}
			forwards.WriteString(text[at:p.Next])
			if p.Last {
				break
			}
			if p.Next <= at {
				t.Fatalf("%s: stays at %d", name, at)
			}
			at = p.Next
		}
		if forwards.String() != text {
			t.Errorf("%s: forwards it has %d bytes of %d", name, forwards.Len(), len(text))
		}
		p := part(Want{})
		backwards := text[p.Start:]
		for p.Start > 0 {
			before := p.Start
			if p = part(Want{Before: before}); p.Start >= before || p.Next != before {
				t.Fatalf("%s: before %d it is from %d to %d", name, before, p.Start, p.Next)
			}
			backwards = text[p.Start:before] + backwards
		}
		if backwards != text {
			t.Errorf("%s: backwards it has %d bytes of %d", name, len(backwards), len(text))
		}
		lines := strings.Count(text, "\n") + 1
		for _, number := range []int{1, 2, 3, 21, 600, lines - 1, lines, lines + 5} {
			if number < 1 {
				continue
			}
			p := part(Want{Line: number})
			found := text == ""
			for i := range p.Lines {
				found = found || p.Lines[i].Number == number
			}
			there := number < lines || number == lines && !strings.HasSuffix(text, "\n")
			if there && !found {
				t.Errorf("%s: line %d is not in its part", name, number)
			}
		}
	}
}

// TestPartOfGrowing shows a line again that was not complete.
func TestPartOfGrowing(t *testing.T) {
	text := "one\ntw"
	x := &Index{}
	read := func(from, to int64) ([]byte, error) { return []byte(text[from:to]), nil }
	x.Write([]byte(text))
	p, _ := x.Part(Want{}, true, read)
	if len(p.Lines) != 2 || !p.Lines[1].Open || p.Next != 4 || !p.Last {
		t.Errorf("got %+v", p)
	}
	text += "o\nthree\n"
	x.Write([]byte("o\nthree\n"))
	p, _ = x.Part(Want{From: &p.Next}, true, read)
	if len(p.Lines) != 2 || string(p.Lines[0].Text) != "two" || p.Lines[0].Number != 2 || p.Lines[1].Open || p.Next != int64(len(text)) {
		t.Errorf("got %+v", p)
	}
	p, _ = x.Part(Want{From: &p.Next}, true, read)
	if len(p.Lines) != 0 || p.Next != int64(len(text)) || !p.Last {
		t.Errorf("got %+v", p)
	}
	p, _ = x.Part(Want{}, true, read)
	p.Keep(1, true)
	if len(p.Lines) != 1 || string(p.Lines[0].Text) != "three" || p.Start != 8 {
		t.Errorf("got %+v", p)
	}
	p, _ = x.Part(Want{}, true, read)
	p.Keep(1, false)
	if len(p.Lines) != 1 || p.Next != 4 || p.Last {
		t.Errorf("got %+v", p)
	}
}
