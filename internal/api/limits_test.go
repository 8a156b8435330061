package api

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCut(t *testing.T) {
	for _, test := range []struct {
		name, text string
		limit      int
		want       string
	}{
		{"empty", "", 40, ""},
		{"fits", strings.Repeat("x", 40), 40, strings.Repeat("x", 40)},
		{"too long", strings.Repeat("x", 41), 40, strings.Repeat("x", 21) + "… (20 more bytes)"},
		{"again", strings.Repeat("x", 22) + "… (19 more bytes)", 42, strings.Repeat("x", 22) + "… (19 more bytes)"},
		{"between letters", strings.Repeat("ä", 30), 41, strings.Repeat("ä", 11) + "… (38 more bytes)"},
		{"no UTF-8", strings.Repeat("\x80", 100), 40, "… (100 more bytes)"},
	} {
		got := Cut(test.text, test.limit)
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		if len(got) > test.limit || utf8.ValidString(test.text) && !utf8.ValidString(got) {
			t.Errorf("%s: %d bytes of %d: %q", test.name, len(got), test.limit, got)
		}
	}
}

func TestShorten(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	f := &Failure{Message: long, Culprit: CulpritMachine}
	many := slices.Repeat([]string{strings.Repeat("y", 1000)}, 100)
	results := []CheckResult{{Machine: "m1"}, {Machine: "m2", Failure: f, Differs: many}}
	b := Build{Reason: long, Failure: f, Results: results}
	b.Shorten()
	for name, got := range map[string]struct {
		text  string
		limit int
	}{
		"reason": {b.Reason, MaxReason}, "failure": {b.Failure.Message, MaxMessage}, "result": {b.Results[1].Failure.Message, MaxMessage},
	} {
		if len(got.text) > got.limit || !strings.HasSuffix(got.text, "more bytes)") {
			t.Errorf("%s: %d bytes, limit %d", name, len(got.text), got.limit)
		}
	}
	if got := b.Results[1].Differs; len(got) != 5 || got[4] != "and 96 more" {
		t.Errorf("differs: %d, the last %q", len(got), got[len(got)-1])
	}
	if len(results[1].Differs) != 100 || f.Message != long || results[1].Failure != f || b.Failure.Culprit != CulpritMachine {
		t.Error("what the build pointed to has changed")
	}
	e := Event{Reason: long, Failure: f}
	if e.Shorten(); len(e.Reason) > MaxReason || len(e.Failure.Message) > MaxMessage {
		t.Errorf("event: %d, %d bytes", len(e.Reason), len(e.Failure.Message))
	}
	short := Event{Reason: "y", Failure: &Failure{Message: "z"}}
	before := short
	if short.Shorten(); short != before {
		t.Error("a short one has changed")
	}
}
