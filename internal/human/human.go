// Package human writes numbers, times and names as people read them, and makes
// text from elsewhere safe to print on a terminal.
//
// Nothing here is meant to be read back by a program; those get JSON.
package human

import (
	"strconv"
	"strings"
	"time"
)

// Ago returns how long before now something was: "3 minutes ago", "just now".
func Ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "never"
	case d < -2*time.Second:
		return "in " + span(-d)
	case d < 2*time.Second:
		return "just now"
	}
	return span(d) + " ago"
}

// ShortAgo returns the same for a column: "30m ago".
func ShortAgo(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "never"
	case d < -2*time.Second:
		return "in " + shortSpan(-d)
	case d < 2*time.Second:
		return "just now"
	}
	return shortSpan(d) + " ago"
}

// shortSpan is the largest unit alone: "3d".
func shortSpan(d time.Duration) string {
	text := span(d)
	number, unit, _ := strings.Cut(text, " ")
	if strings.HasPrefix(unit, "month") {
		return number + "mo"
	}
	return number + unit[:1]
}

func span(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{
		{365 * 24 * time.Hour, "year"},
		{30 * 24 * time.Hour, "month"},
		{24 * time.Hour, "day"},
		{time.Hour, "hour"},
		{time.Minute, "minute"},
	} {
		if d >= unit.length {
			return Count(int(d/unit.length), unit.name)
		}
	}
	return Count(int(d/time.Second), "second")
}

// Count returns a number and what is counted, in the plural where that is right:
// "1 build", "12 builds". Words that end in y get "ies".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if stem, ok := strings.CutSuffix(noun, "y"); ok && stem != "" && !strings.ContainsRune("aeiou", rune(stem[len(stem)-1])) {
		noun = stem + "ies"
	} else {
		noun += "s"
	}
	return Number(n) + " " + noun
}

// Number groups the digits of big numbers: "12,345".
func Number(n int) string {
	s := strconv.Itoa(n)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// Known returns text, or a dash for what is not known.
func Known(is bool, text string) string {
	if is {
		return text
	}
	return "-"
}

// Indent puts a margin before each line of text that is not empty. Empty lines at its ends go.
func Indent(text, margin string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = margin + l
		}
	}
	return strings.Join(lines, "\n")
}
