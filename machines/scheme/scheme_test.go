package scheme

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// testMachine is like Guix's record of a machine.
var testMachine = &RecordType{Name: "build-machine", Fields: []RecordField{
	{Name: "name", Required: true, Accessor: "build-machine-name"},
	{Name: "port", Accessor: "build-machine-port"},
	{Name: "systems", Accessor: "build-machine-systems"},
	{Name: "user", Required: true, Accessor: "build-machine-user"},
	{Name: "host-key", Required: true, Accessor: "build-machine-host-key"},
	{Name: "features", Accessor: "build-machine-features"},
	{Name: "location", Innate: true},
}}

func testOptions() Options {
	return Options{
		Getenv:  func(name string) (string, bool) { return "/home/alice", name == "HOME" },
		Records: []*RecordType{testMachine},
	}
}

// TestGuileAgrees evaluates expressions of which it is known what Guile makes of them.
func TestGuileAgrees(t *testing.T) {
	text, err := os.ReadFile("testdata/expressions.scm")
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/expressions.golden")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(golden), "\n"), "\n")
	lines := strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(text), "\\\n", "\x00"), "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d expressions, %d values", len(lines), len(want))
	}
	for i, line := range lines {
		line = strings.ReplaceAll(line, "\x00", "\\\n")
		v, _, err := Eval(line, testOptions())
		got := "error"
		if err == nil {
			got = Write(v, 1000)
		}
		if got != want[i] {
			t.Errorf("%s\n got  %s (%v)\n want %s", line, got, err, want[i])
		}
	}
}

func TestErrors(t *testing.T) {
	manyNames := ""
	for i := range 1000 {
		manyNames += fmt.Sprintf("n%d ", i)
	}
	tests := []struct {
		name, text string
		want       string // the type and the text
	}{
		{"mistake", "\n  (car '())", `*scheme.Error 2:3: car: its argument is (); want a list that is long enough`},
		{"column in characters", `(list "é" (car 5))`, `*scheme.Error 1:11: car: its argument is 5; want a list that is long enough`},
		{"second argument", `(string-append "a" 5)`, `*scheme.Error 1:1: string-append: 5 is where a string should be`},
		{"unknown variable", "(frobnicate)", `*scheme.Unsupported 1:2: frobnicate is not known to lighter's own evaluator of Scheme`},
		{"procedure that is not here", "(fold + 0 '(1 2))", `*scheme.Unsupported 1:2: fold is not known to lighter's own evaluator of Scheme`},
		{"macro", "(define-syntax a b)", `*scheme.Unsupported 1:1: define-syntax is not known to lighter's own evaluator of Scheme`},
		{"other keys", "(lambda* (#:key a #:allow-other-keys) a)", `*scheme.Unsupported 1:19: #:allow-other-keys is not known to lighter's own evaluator of Scheme`},
		{"keys and the rest", "(lambda* (#:key a . rest) a)", `*scheme.Unsupported 1:21: a list of parameters with rest in that place is not known to lighter's own evaluator of Scheme`},
		{"section", "(lambda* (#:optionl a) a)", `*scheme.Error 1:11: #:optionl has no meaning among parameters`},
		{"parameter twice", "(lambda* (a #:key (a 1)) a)", `*scheme.Error 1:19: the parameter a appears twice`},
		{"unknown key", "((lambda* (#:key a) a) #:b 1)", `*scheme.Error 1:1: there is no parameter #:b`},
		{"too many before keys", "((lambda* (a #:key b) a) 1 2)", `*scheme.Error 1:1: 2 is where a keyword argument should be`},
		{"no list to splice", `(quasiquote (1 ,@"kvm"))`, `*scheme.Unsupported 1:16: ,@ with "kvm", which is not a list, is not known to lighter's own evaluator of Scheme`},
		{"infinity", "(* 1e200 1e200)", `*scheme.Unsupported 1:1: an infinite number is not known to lighter's own evaluator of Scheme`},
		{"big and rough", "(- (* " + strings.Repeat("9", 400) + " 1) 1.5)", `*scheme.Unsupported 1:1: an infinite number is not known to lighter's own evaluator of Scheme`},
		{"division", "(/ 1 0.)", `*scheme.Error 1:1: /: division by zero`},
		{"output", `(format #t "x")`, `*scheme.Unsupported 1:1: format with an output other than #f is not known to lighter's own evaluator of Scheme`},
		{"format of a list", `(format #f "~a" '(1))`, `*scheme.Unsupported 1:1: format of (1) is not known to lighter's own evaluator of Scheme`},
		{"format for a reader", `(format #f "~s" "x")`, `*scheme.Unsupported 1:1: format with ~s is not known to lighter's own evaluator of Scheme`},
		{"more arguments than here", `(string-join '("a") "/" 'prefix)`, `*scheme.Unsupported 1:1: string-join with 3 arguments is not known to lighter's own evaluator of Scheme`},
		{"form as variable", "(map cond '())", `*scheme.Error 1:6: cond is not a variable`},
		{"too early", "(let () (define a b) (define b 1) a)", `*scheme.Error 1:19: b is used before it has a value`},
		{"no pattern", "(match 5 ((a b) a))", `*scheme.Error 1:1: no pattern matches 5`},
		{"unclosed", "(list (+ 1 2)", `*scheme.Error 1:1: the bracket "(" is not closed`},
		{"error", `(error "no host:" "a" 'b)`, `*scheme.Error 1:1: the program stops with an error: no host: "a" b`},
		{"else alone", "(else 1)", `*scheme.Error 1:1: else has no meaning here`},
		{"define inside", "(list (define a 1))", `*scheme.Error 1:7: define has no meaning here`},
		{"fields", "(build-machine (nam 1))", `*scheme.Error 1:17: unknown field "nam"`},
		{"steps", "(define l (iota 99)) (map (lambda (x) (map (lambda (y) (length l)) l)) l)", `*scheme.LimitError 1:56: the program does not end within 100000 steps`},
		{"depth", "(define (f) (+ 1 (f))) (f)", `*scheme.LimitError 1:19: forms and calls are nested more than 1000 deep`},
		{"memory", `(define (loop s) (loop (string-append s s))) (loop "a")`, `*scheme.LimitError 1:24: the program allocates more than 3000000 bytes of memory`},
		{"count", "(iota 1000000000000)", `*scheme.LimitError 1:1: iota of 1000000000000`},
		{"quiet count", "(iota 900000)", `*scheme.LimitError 1:1: the program does not end within 100000 steps`},
		{"width", `(format #f "~99999d" 5)`, `*scheme.Unsupported 1:1: format with ~99999d is not known to lighter's own evaluator of Scheme`},
		{"brackets", strings.Repeat("(", 2000), `*scheme.LimitError 1:1001: brackets are nested more than 1000 deep`},
		{"quotes", strings.Repeat("'", 2000) + "a", `*scheme.LimitError 1:1001: brackets are nested more than 1000 deep`},
		{"comments", strings.Repeat("#;", 2000) + "a", `*scheme.LimitError 1:2001: brackets are nested more than 1000 deep`},
		{"words", strings.Repeat("a ", 4000), `*scheme.LimitError 1:6001: more than 3000 words and lists`},
		{
			"parameters", "(map (lambda (x) (lambda (" + manyNames + ") x)) (iota 1000))",
			`*scheme.LimitError 1:18: the program allocates more than 3000000 bytes of memory`,
		},
		{"digits", strings.Repeat("1", 5000), `*scheme.LimitError 1:1: a number of more than 4096 digits`},
		{"growing number", "(define (loop n) (loop (* n n))) (loop 2)", `*scheme.LimitError 1:24: a number of more than 4096 bits`},
		{
			"shared list", "(define (twice l n) (if (= n 0) l (twice (cons l l) (- n 1)))) (equal? (twice '() 60) (twice '() 60))",
			`*scheme.LimitError 1:64: the program does not end within 100000 steps`,
		},
		{
			"shared list printed", "(define (twice l n) (if (= n 0) l (twice (cons l l) (- n 1)))) (+ (twice '() 60))",
			`*scheme.Error 1:64: +: its argument is ` + strings.Repeat("(", 40) + `…; want a number`,
		},
	}
	opts := testOptions()
	opts.Limits = Limits{Steps: 100_000, Bytes: 3_000_000, Depth: 1000, Nodes: 3000}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, _, err := Eval(tt.text, opts)
			if got := fmt.Sprintf("%T %v", err, err); got != tt.want {
				t.Errorf("got  %s (%v)\nwant %s", got, v, tt.want)
			}
		})
	}
}

func TestNumbersAreComparedExactly(t *testing.T) {
	for _, text := range []string{"(> 9007199254740993 9007199254740992.)", "(> 9007199254740993 9007199254740992)", "(> 1/3 .3333)", "(= 1/2 .5)"} {
		if v, _, err := Eval(text, Options{}); v != Value(true) || err != nil {
			t.Errorf("%s: got %v, %v", text, v, err)
		}
	}
}

func TestNamesThatAreKnown(t *testing.T) {
	_, _, err := Eval("(string-apend)", testOptions())
	var absent *Unsupported
	if !errors.As(err, &absent) || !slices.Contains(absent.Known(), "string-append") || !slices.Contains(absent.Known(), "build-machine") {
		t.Errorf("got %#v", err)
	}
	_, _, err = Eval("(build-machine (nmae 1))", testOptions())
	var wrong *Error
	if !errors.As(err, &wrong) || wrong.Word != "nmae" || !slices.Contains(wrong.Known, "name") {
		t.Errorf("got %#v", err)
	}
}

func TestLastForm(t *testing.T) {
	for text, want := range map[string]int{"": 0, "  ; nothing": 0, "1 2": 2, "(define a 1)\na ": 13} {
		if _, at, err := Eval(text, Options{}); at != want || err != nil {
			t.Errorf("%q: got %d, %v; want %d", text, at, err, want)
		}
	}
}

func TestSalvage(t *testing.T) {
	const text = `(define key "k") (define wrong (car '()))
(define base (build-machine (name "base") (user "u") (host-key key)))
(frobnicate (list (build-machine (inherit base) (name (hostname)) (port 7) (colour "red") (odd)))
  (build-machine))`
	all := Salvage(text, testOptions(), 10)
	if len(all) != 3 {
		t.Fatalf("got %d records", len(all))
	}
	m := all[1].Fields
	if len(m) != 4 || Write(m["port"].Value, 9) != "7" || Write(m["user"].Value, 9) != `"u"` || Write(m["name"].Value, 9) != `"base"` {
		t.Errorf("got %v", m)
	}
	if n := len(Salvage(text, testOptions(), 2)); n != 2 {
		t.Errorf("got %d records of at most 2", n)
	}
	if all := Salvage(`(build-machine (name "a)`, testOptions(), 9); all != nil {
		t.Errorf("got %v from what is not Scheme", all)
	}
}

func TestRead(t *testing.T) {
	data, err := Read("(a . (b c)) 'd\n(1 \"two\")", Limits{})
	var got []string
	for _, v := range data {
		got = append(got, Write(v, 100))
	}
	if want := `(a b c) (quote d) (1 "two")`; err != nil || strings.Join(got, " ") != want {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestWriteIsCut(t *testing.T) {
	v, _, err := Eval(`(list "ééééééééé" 1)`, Options{})
	if got := Write(v, 6); err != nil || got != `("éé…` {
		t.Errorf("got %s, %v", got, err)
	}
}
