// Package quantity writes numbers of bytes and lengths of time, for people and to be read
// back, and reads what people write.
package quantity

import (
	"fmt"
	"math"
	"strconv"
	"strings"
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

// byteUnits in the order in which ExactBytes tries them. SI units are powers of 1000, those
// with an i are powers of 1024, and so is a letter alone, as in coreutils.
var byteUnits = []struct {
	name  string
	bytes int64
}{
	{"PiB", 1 << 50},
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"PB", 1e15},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"B", 1},
	{"P", 1 << 50},
	{"T", 1 << 40},
	{"G", 1 << 30},
	{"M", 1 << 20},
	{"K", 1 << 10},
}

// ParseBytes reads a number of bytes: "100MiB", "1.5 GB", "64M", "4096". Units may be in
// any case; a part of a byte is dropped.
func ParseBytes(text string) (int64, error) {
	digits := strings.TrimRightFunc(text, func(r rune) bool {
		return r == ' ' || ('a' <= r && r <= 'z') || ('A' <= r && r <= 'Z')
	})
	unit := strings.TrimSpace(text[len(digits):])
	factor := int64(0)
	for _, u := range byteUnits {
		if strings.EqualFold(unit, u.name) || unit == "" && u.bytes == 1 {
			factor = u.bytes
		}
	}
	if factor == 0 {
		return 0, fmt.Errorf("unknown unit %q", unit)
	}
	if n, err := strconv.ParseInt(digits, 10, 64); err == nil && n >= 0 && n <= math.MaxInt64/factor {
		return n * factor, nil
	}
	if digits == "" || strings.Trim(digits, "0123456789.") != "" {
		return 0, fmt.Errorf("%q is not a number", digits)
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", digits)
	}
	f *= float64(factor)
	if f >= math.MaxInt64 {
		return 0, fmt.Errorf("more than %d bytes", int64(math.MaxInt64))
	}
	return int64(f), nil
}

// ExactBytes is the inverse of ParseBytes, with the largest unit that leaves a
// whole number.
func ExactBytes(n int64) string {
	for _, u := range byteUnits {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return "0B"
}
