package human_test

import (
	"testing"
	"time"

	"lighter/internal/human"
)

func TestParseTime(t *testing.T) {
	zone := time.FixedZone("UTC+2", 2*3600)
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, zone) // a Friday
	at := func(month time.Month, day, hour, minute int) time.Time {
		return time.Date(2026, month, day, hour, minute, 0, 0, zone)
	}
	for in, want := range map[string]time.Time{
		"2h":                   at(11, 20, 10, 0),
		"2h ago":               at(11, 20, 10, 0),
		"1d12h":                at(11, 19, 0, 0),
		"0s":                   now,
		"now":                  now,
		"today":                at(11, 20, 0, 0),
		"Yesterday":            at(11, 19, 0, 0),
		"monday":               at(11, 16, 0, 0),
		"fri":                  at(11, 20, 0, 0),
		"saturday":             at(11, 14, 0, 0),
		"11:30":                at(11, 20, 11, 30),
		"14:30":                at(11, 19, 14, 30),
		"2026-11-01":           at(11, 1, 0, 0),
		"2026-11-01 14:30":     at(11, 1, 14, 30),
		"2026-11-01T14:30":     at(11, 1, 14, 30),
		"2026-11-01T14:30:00Z": at(11, 1, 16, 30),
	} {
		got, err := human.ParseTime(in, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("ParseTime(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "soon", "25:00", "2026-13-01", "-2h", "tomorrow", "mo"} {
		if got, err := human.ParseTime(in, now); err == nil {
			t.Errorf("ParseTime(%q) = %v", in, got)
		}
	}
}
