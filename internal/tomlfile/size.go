package tomlfile

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizeUnits in the order in which FormatSize tries them. SI units are powers of
// 1000 and those with an i are powers of 1024.
var sizeUnits = []struct {
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
}

// ParseSize reads a number of bytes: "100MiB", "1.5 GB", "4096". Units may be in
// any case; a part of a byte is dropped.
func ParseSize(text string) (int64, error) {
	digits := strings.TrimRightFunc(text, func(r rune) bool {
		return r == ' ' || ('a' <= r && r <= 'z') || ('A' <= r && r <= 'Z')
	})
	unit := strings.TrimSpace(text[len(digits):])
	factor := int64(0)
	for _, u := range sizeUnits {
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
		return 0, fmt.Errorf("%q is no number", digits)
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no number", digits)
	}
	f *= float64(factor)
	if f >= math.MaxInt64 {
		return 0, fmt.Errorf("more than %d bytes", int64(math.MaxInt64))
	}
	return int64(f), nil
}

// FormatSize is the inverse of ParseSize, with the largest unit that leaves a
// whole number.
func FormatSize(n int64) string {
	for _, u := range sizeUnits {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return "0B"
}
