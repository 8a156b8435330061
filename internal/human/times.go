package human

import (
	"fmt"
	"strings"
	"time"

	"lighter/internal/quantity"
)

// Stamp returns a time to the second, in the reader's time zone:
// "2026-11-20 14:30:05".
func Stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}

// timeLayouts are the forms of a date, perhaps with a time, that ParseTime reads in the
// time zone of now.
var timeLayouts = []string{
	time.DateOnly, "2006-01-02 15:04", time.DateTime, "2006-01-02T15:04", "2006-01-02T15:04:05",
}

// ParseTime reads a time as a person writes it: a length of time before now ("2h", "3d"),
// "now", "today", "yesterday", the name of a weekday (the start of the last one, which
// may be today), a time of day (the last one: "14:30" in the morning is yesterday's), or
// a date with or without a time, in now's time zone unless it says another.
func ParseTime(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	today := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	switch word := strings.ToLower(strings.TrimSuffix(s, " ago")); word {
	case "now":
		return now, nil
	case "today":
		return today, nil
	case "yesterday":
		return today.AddDate(0, 0, -1), nil
	default:
		if day, ok := weekday(word); ok {
			return today.AddDate(0, 0, -(int(now.Weekday()-day)+7)%7), nil
		}
		if d, err := quantity.ParseDuration(word); err == nil {
			return now.Add(-d), nil
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
			if t.After(now) {
				t = t.AddDate(0, 0, -1)
			}
			return t, nil
		}
	}
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time; want one such as 2h (ago), yesterday, monday, 14:30, 2026-11-20 or \"2026-11-20 14:30\"", s)
}

// weekday returns the day that a word of at least three letters names.
func weekday(word string) (time.Weekday, bool) {
	for day := time.Sunday; day <= time.Saturday; day++ {
		if len(word) >= 3 && strings.HasPrefix(strings.ToLower(day.String()), word) {
			return day, true
		}
	}
	return 0, false
}
