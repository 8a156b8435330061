package quantity

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

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

// durationUnits in their order in a text, the longest first.
var durationUnits = []struct {
	name   string
	length time.Duration
}{
	{"w", 7 * 24 * time.Hour},
	{"d", 24 * time.Hour},
	{"h", time.Hour},
	{"m", time.Minute},
	{"s", time.Second},
	{"ms", time.Millisecond},
}

// ParseDuration reads numbers with units, the longest first: "90s", "1h30m", "1.5d", "2w".
// A day has 24 hours. "0" needs no unit. Parts of a millisecond are dropped.
func ParseDuration(text string) (time.Duration, error) {
	if text == "0" {
		return 0, nil
	}
	if text == "" {
		return 0, errors.New("it is empty")
	}
	if strings.ContainsAny(text, " \t") {
		return 0, errors.New("it has a space in it")
	}
	var total time.Duration
	for rest, next := text, 0; rest != ""; {
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789."))]
		rest = rest[len(digits):]
		name := rest[:len(rest)-len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyzµ"))]
		rest = rest[len(name):]
		switch {
		case digits == "":
			return 0, fmt.Errorf("%q is not a number", name+rest)
		case name == "":
			return 0, fmt.Errorf("%s has no unit", digits)
		}
		i := next
		for i < len(durationUnits) && durationUnits[i].name != name {
			i++
		}
		if i == len(durationUnits) {
			return 0, unitProblem(name)
		}
		length, err := times(digits, durationUnits[i].length)
		if err != nil {
			return 0, err
		}
		if total > math.MaxInt64-length {
			return 0, errTooLong
		}
		total, next = total+length, i+1
	}
	return total.Truncate(time.Millisecond), nil
}

var errTooLong = errors.New("more than 292 years")

func unitProblem(name string) error {
	for _, u := range durationUnits {
		if u.name == name {
			return fmt.Errorf("%q comes after a shorter unit, or twice", name)
		}
	}
	return fmt.Errorf("unknown unit %q", name)
}

// times multiplies a unit.
func times(digits string, unit time.Duration) (time.Duration, error) {
	if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
		if n > math.MaxInt64/int64(unit) {
			return 0, errTooLong
		}
		return time.Duration(n) * unit, nil
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		if strings.Trim(digits, "0123456789") == "" {
			return 0, errTooLong
		}
		return 0, fmt.Errorf("%q is not a number", digits)
	}
	if f *= float64(unit); f >= math.MaxInt64 {
		return 0, errTooLong
	}
	return time.Duration(f), nil
}

// ExactDuration is the inverse of ParseDuration, for durations of 0 or more; parts below
// a millisecond are dropped.
func ExactDuration(length time.Duration) string {
	var b strings.Builder
	for _, u := range durationUnits {
		if u.name == "w" && length%u.length != 0 {
			continue // "10d" rather than "1w3d"
		}
		if n := length / u.length; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			length %= u.length
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}
