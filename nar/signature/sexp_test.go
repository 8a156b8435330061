package signature

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	if err := json.Unmarshal(readTestdata(t, name), v); err != nil {
		t.Fatal(err)
	}
}

// latin1 turns code points into bytes.
func latin1(s string) string {
	var b []byte
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

// TestParse does what libgcrypt did.
func TestParse(t *testing.T) {
	var cases []struct{ Input, Canonical, Advanced, Error string }
	readJSON(t, "sexp/parse.json", &cases)
	if len(cases) != 39 {
		t.Errorf("%d cases, want 39", len(cases))
	}
	for _, tc := range cases {
		t.Run(tc.Input, func(t *testing.T) {
			s, err := ParseSexp([]byte(latin1(tc.Input)))
			if tc.Error != "" {
				checkSyntaxError(t, err, tc.Error)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(latin1(tc.Canonical), string(s.Canonical())); diff != "" {
				t.Errorf("canonical: %s", diff)
			}
			if diff := cmp.Diff(latin1(tc.Advanced), s.Advanced()); diff != "" {
				t.Errorf("advanced: %s", diff)
			}
			for _, text := range []string{s.Advanced(), string(s.Canonical())} {
				again, err := ParseSexp([]byte(text))
				if err != nil {
					t.Fatal(err)
				}
				if !again.Equal(s) {
					t.Errorf("%q reads as %q", text, again.Canonical())
				}
			}
		})
	}
}

// checkSyntaxError compares the kind of an error with libgcrypt's message.
func checkSyntaxError(t *testing.T, err error, libgcrypt string) {
	t.Helper()
	words := map[string]string{
		"Odd hexadecimal numbers in S-expression":  "odd number of hexadecimal digits",
		"Unmatched parentheses in S-expression":    "unmatched parenthesis",
		"Invalid length specifier in S-expression": "invalid length specifier",
		"Bad character in S-expression":            "bad character",
	}
	var syntax *SyntaxError
	if !errors.As(err, &syntax) {
		t.Fatalf("got %v, want a SyntaxError", err)
	}
	if want := words[libgcrypt]; want == "" || !strings.Contains(syntax.Message, want) {
		t.Errorf("got %v where libgcrypt says %q", err, libgcrypt)
	}
}

// TestParseForms has what the file of libgcrypt's answers does not.
func TestParseForms(t *testing.T) {
	for _, tc := range []struct{ input, canonical string }{
		{"", "()"},
		{"(0:)", "(0:)"},
		{`(a 3"abc" 2#4142# 9|QUI=|)`, "(1:a3:abc2:AB2:AB)"},
		{`(a "\b\t\v\n\f\r\"\'\\")`, "(1:a9:\b\t\v\n\f\r\"'\\)"},
		{"(a \"b\\\nc\\\r\nd\\\n\re\")", "(1:a4:bcde)"},
		{"(a b\x00c)", "(1:a3:b\x00c)"},
		{"(a)\x00\x00", "(1:a)"},
		{"((a) b)", "((1:a)1:b)"},
		{strings.Repeat("(", 64) + strings.Repeat(")", 64), strings.Repeat("(", 64) + strings.Repeat(")", 64)},
	} {
		s, err := ParseSexp([]byte(tc.input))
		if err != nil {
			t.Errorf("%q: %v", tc.input, err)
			continue
		}
		if diff := cmp.Diff(tc.canonical, string(s.Canonical())); diff != "" {
			t.Errorf("%q: %s", tc.input, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct {
		input, want string
		offset      int
	}{
		{"(a))", "unmatched parenthesis", 3},
		{"(a 01:b)", "begins with zero", 3},
		{"(a 9:b)", "beyond the end", 5},
		{"(a 99999999999999999999999999:b)", "beyond the end", 30},
		{"(a 4", "invalid length", 4},
		{`(a "b`, "unfinished string", 5},
		{`(a "b\`, "unfinished string", 6},
		{`(a "\q")`, "bad escape", 5},
		{`(a "\x4")`, "hexadecimal escape", 5},
		{`(a "\400")`, "bad escape", 5},
		{"(a #4g#)", "hexadecimal digit", 5},
		{"(a #41", "unfinished hexadecimal", 6},
		{"(a |QUI|)", "base64", 7},
		{"(a |QUI=", "unfinished base64", 8},
		{"(a [b)", "display hint", 5},
		{"(a [(b)])", "display hint", 4},
		{"(a [[b]])", "bracket", 4},
		{"(a b])", "bracket", 4},
		{"[a", "bracket", 2},
		{"(a {b})", "punctuation", 3},
		{"(a & b)", "punctuation", 3},
		{"(a é)", "bad character", 3},
		{strings.Repeat("(", 65), "in one another", 64},
		{strings.Repeat(" ", maxSexp+1), "longer than", maxSexp},
	} {
		_, err := ParseSexp([]byte(tc.input))
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || !strings.Contains(syntax.Message, tc.want) || syntax.Offset != tc.offset {
			t.Errorf("%.20q: got %v, want %q at %d", tc.input, err, tc.want, tc.offset)
		}
	}
}

// TestAtoms checks the form that is chosen for an atom, and that it reads as the
// same bytes again.
func TestAtoms(t *testing.T) {
	for atom, want := range map[string]string{
		"":            `""`,
		"a1-":         "a1-",
		"1a":          `"1a"`,
		"a b":         `"a b"`,
		"\x00a":       "#0061#",
		"\xa1":        "#A1#",
		"a\xa1\xff":   "\"a\xa1\xff\"",
		"a\xa0":       "#61A0#",
		"a\x7f":       "#617F#",
		"a\x1f":       "#611F#",
		"it's":        `"it\'s"`,
		"a\b\v\f\"\\": `"a\b\v\f\"\\"`,
		"a\x00b":      "a\x00b",    // libgcrypt takes NUL for a letter
		"a\x00 b":     `"a\x00 b"`, // and for a character that has an escape
		"NIST P-256":  `"NIST P-256"`,
	} {
		got := newAtom(atom)
		if text := string(appendAtom(nil, got.atom)); text != want {
			t.Errorf("%q: got %s, want %s", atom, text, want)
		}
		list := newList(got)
		again, err := ParseSexp([]byte(list.Advanced()))
		if err != nil || !again.Equal(list) {
			t.Errorf("%q reads as %v, %v", atom, again, err)
		}
	}
}

func FuzzSexp(f *testing.F) {
	var cases []struct{ Input string }
	readJSON(f, "sexp/parse.json", &cases)
	for _, tc := range cases {
		f.Add([]byte(latin1(tc.Input)))
	}
	for _, name := range []string{"acl-two-keys", "acl-five-key-types", "vec-signing-key.sec"} {
		f.Add(readTestdata(f, "keys/"+name))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseSexp(text)
		if err != nil {
			return
		}
		for _, form := range []string{string(s.Canonical()), s.Advanced()} {
			again, err := ParseSexp([]byte(form))
			if err != nil {
				t.Fatalf("%q, written as %q: %v", text, form, err)
			}
			if !again.Equal(s) || again.Advanced() != s.Advanced() {
				t.Fatalf("%q, written as %q, reads as %q", text, form, again.Canonical())
			}
		}
		// None of these may do worse than return an error.
		_, _ = ParsePublicKey(text)
		_, _ = ParsePrivateKey(text)
		if acl, err := ParseACL(text); err == nil {
			if again, err := ParseACL([]byte(acl.String())); err != nil || again.String() != acl.String() {
				t.Fatalf("the ACL %q, written as %q: %v", text, acl, err)
			}
		}
	})
}
