package tomlfile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Quote writes a basic string of TOML.
func Quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// QuoteList writes a list of basic strings of TOML.
func QuoteList(texts []string) string {
	quoted := slices.Clone(texts)
	for i, text := range quoted {
		quoted[i] = Quote(text)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// FormatTable writes an inline table, sorted by key, whose values format writes.
func FormatTable[V any](table map[string]V, format func(V) string) string {
	if len(table) == 0 {
		return "{}"
	}
	entries := make([]string, 0, len(table))
	for _, key := range slices.Sorted(maps.Keys(table)) {
		entries = append(entries, formatKey(key)+" = "+format(table[key]))
	}
	return "{ " + strings.Join(entries, ", ") + " }"
}

// formatKey writes a key, in quotes if need be.
func formatKey(key string) string {
	const bare = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
	if key == "" || strings.Trim(key, bare) != "" {
		return Quote(key)
	}
	return key
}

// FormatFloat writes a float, which in TOML needs a fraction or an exponent.
func FormatFloat(f float64) string {
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}
