package quantity

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseBytes(t *testing.T) {
	tests := []struct {
		text string
		want int64
		good bool
	}{
		{"0", 0, true},
		{"4096", 4096, true},
		{"100MiB", 100 << 20, true},
		{"1.5 GB", 1500000000, true},
		{"1.5gib", 3 << 29, true},
		{"2 kb", 2000, true},
		{"10B", 10, true},
		{"9223372036854775807", 1<<63 - 1, true},
		{"8191PiB", 8191 << 50, true},
		{"8192PiB", 0, false},
		{"9223372036854775808", 0, false},
		{"9007199254740993", 9007199254740993, true}, // no float in between
		{"", 0, false},
		{"MiB", 0, false},
		{"-1", 0, false},
		{"1e3", 0, false},
		{"1.2.3", 0, false},
		{".", 0, false},
		{"0x10", 0, false},
		{"10 Mbit", 0, false},
		{"10 M", 10 << 20, true},
		{"64k", 64 << 10, true},
		{"NaN", 0, false},
	}
	for _, tt := range tests {
		got, err := ParseBytes(tt.text)
		if (err == nil) != tt.good || got != tt.want {
			t.Errorf("%q: got %d, %v", tt.text, got, err)
		}
		if !tt.good {
			continue
		}
		if again, err := ParseBytes(ExactBytes(got)); err != nil || again != got {
			t.Errorf("%q: %s reads as %d, %v", tt.text, ExactBytes(got), again, err)
		}
	}
}

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	tests := []struct {
		text string
		want time.Duration
		says string // empty: it is good
	}{
		{"0", 0, ""},
		{"0s", 0, ""},
		{"90s", 90 * time.Second, ""},
		{"1h30m", 90 * time.Minute, ""},
		{"2w1d", 15 * day, ""},
		{"1.5d", 36 * time.Hour, ""},
		{"1m500ms", time.Minute + time.Second/2, ""},
		{"1.0009ms", time.Millisecond, ""},
		{"15250w", 15250 * 7 * day, ""},
		{"", 0, "empty"},
		{"90", 0, "90 has no unit"},
		{"h", 0, `"h" is not a number`},
		{"-1h", 0, `"-1h" is not a number`},
		{"1 h", 0, "space"},
		{"1h 30m", 0, "space"},
		{"30m1h", 0, `"h" comes after a shorter unit`},
		{"1h1h", 0, "or twice"},
		{"1.2.3h", 0, `"1.2.3" is not a number`},
		{"1min", 0, `unknown unit "min"`},
		{"1M", 0, "1 has no unit"},
		{"15251w", 0, "more than 292 years"},
		{"15250w300d", 0, "more than 292 years"},
		{"99999999999999999999h", 0, "more than 292 years"},
		{"9999999.9h", 0, "more than 292 years"},
	}
	for _, tt := range tests {
		got, err := ParseDuration(tt.text)
		if tt.says != "" {
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q: got %s, %v; want an error with %q", tt.text, got, err, tt.says)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%q: got %s, %v; want %s", tt.text, got, err, tt.want)
		}
		if again, err := ParseDuration(ExactDuration(got)); err != nil || again != got {
			t.Errorf("%q: %s reads as %s, %v", tt.text, ExactDuration(got), again, err)
		}
	}
}

func TestExactDuration(t *testing.T) {
	for length, want := range map[time.Duration]string{
		0: "0s", time.Minute: "1m", 90 * time.Minute: "1h30m", 14 * 24 * time.Hour: "2w", 90 * 24 * time.Hour: "90d",
		time.Millisecond: "1ms", math.MaxInt64: "106751d23h47m16s854ms",
	} {
		if got := ExactDuration(length); got != want {
			t.Errorf("%d: got %s; want %s", length, got, want)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, text := range []string{"1h30m", "1.5d", "2w", "", "1h1h", "1e9s", "١h"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseDuration(text)
		if err != nil {
			return
		}
		if again, err := ParseDuration(ExactDuration(got)); got < 0 || err != nil || again != got {
			t.Errorf("%q is %d, which is written %s and read as %d, %v", text, got, ExactDuration(got), again, err)
		}
	})
}

func TestBytes(t *testing.T) {
	for want, n := range map[string]int64{
		"0 B":      0,
		"1023 B":   1023,
		"1.00 KiB": 1024,
		"1.50 KiB": 1536,
		"12.3 MiB": 12_900_000,
		"1.00 MiB": 1<<20 - 1,
		"512 MiB":  512 << 20,
		"8.00 EiB": 1<<63 - 1,
		"-2 B":     -2,
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestBytesOf(t *testing.T) {
	for want, got := range map[string]string{
		"0 of 1023 B":      BytesOf(0, 1023),
		"0.50 of 3.40 MiB": BytesOf(1<<19, 3_565_158),
		"0.00 of 1.00 GiB": BytesOf(100, 1<<30),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0ms":   0,
		"430ms": 430 * time.Millisecond,
		"1.0s":  999900 * time.Microsecond,
		"4.2s":  4200 * time.Millisecond,
		"10s":   9970 * time.Millisecond,
		"1m00s": 59700 * time.Millisecond,
		"1m23s": 83 * time.Second,
		"2h05m": 2*time.Hour + 5*time.Minute,
		"3d04h": 76 * time.Hour,
		"-1.0s": -time.Second,
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestElapsedNeverHasAFraction(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s":    -time.Second,
		"4s":    4900 * time.Millisecond,
		"9s":    9999 * time.Millisecond,
		"59s":   59999 * time.Millisecond,
		"1m00s": time.Minute,
	} {
		if got := Elapsed(d); got != want {
			t.Errorf("Elapsed(%v) = %q, want %q", d, got, want)
		}
	}
}
