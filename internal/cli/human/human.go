// Package human writes numbers, times and names as people read them, and makes
// text from elsewhere safe to print on a terminal.
//
// Nothing here is meant to be read back by a program; those get JSON.
package human

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bytes returns a size with three digits and a binary unit: "512 B", "1.21 MiB".
func Bytes(n int64) string {
	if n < 0 {
		return "-" + Bytes(-max(n, -1<<62))
	}
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, unit := float64(n), -1
	for value >= 1023.5 && unit+1 < len(units) {
		value /= 1024
		unit++
	}
	return threeDigits(value) + " " + string(units[unit]) + "iB"
}

// BytesOf returns a part of a size and the whole in the unit of the whole:
// "0.50 of 3.40 MiB".
func BytesOf(n, total int64) string {
	value, whole := float64(n), float64(total)
	if total < 1024 {
		return fmt.Sprintf("%d of %d B", n, total)
	}
	unit := -1
	for whole >= 1023.5 && unit+1 < len(units) {
		value, whole = value/1024, whole/1024
		unit++
	}
	return threeDigits(value) + " of " + threeDigits(whole) + " " + string(units[unit]) + "iB"
}

const units = "KMGTPE"

func threeDigits(v float64) string {
	switch {
	case v < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// Rate returns bytes per second: "12.3 MiB/s".
func Rate(bytesPerSecond float64) string {
	if bytesPerSecond > 1<<62 || bytesPerSecond != bytesPerSecond {
		return "? B/s"
	}
	return Bytes(int64(max(bytesPerSecond, 0))) + "/s"
}

// Duration returns a length of time with its two greatest units: "430ms",
// "4.2s", "1m23s", "2h05m", "3d04h".
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-max(d, -1<<62))
	}
	switch {
	case d < 999500*time.Microsecond:
		return fmt.Sprintf("%dms", (d + 500*time.Microsecond).Milliseconds())
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/(24*3600), s/3600%24)
}

// Elapsed is Duration for something that goes on: it never has a fraction, so
// that it does not flicker.
func Elapsed(d time.Duration) string {
	d = max(d, 0).Truncate(time.Second)
	if d < 10*time.Second {
		return fmt.Sprintf("%ds", int(d.Seconds()))
	}
	return Duration(d)
}

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
