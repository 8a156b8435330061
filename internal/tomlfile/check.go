package tomlfile

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"lighter/internal/quantity"
)

// UnknownKey reports a key that means nothing. The hint is the nearest known one, or
// otherwise if none is near.
func (d *Decoder) UnknownKey(key string, offset int, known []string, otherwise string) {
	d.Errorf(offset, NearestHint(key, known, otherwise), "unknown key %q", key)
}

// NearestHint is a hint that asks whether the nearest known word was meant, or otherwise
// if none is near.
func NearestHint(word string, known []string, otherwise string) string {
	if near := Nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return otherwise
}

// CheckKeys reports the keys of a table that are not known.
func (d *Decoder) CheckKeys(table map[string]any, at *Place, known []string) {
	for key := range table {
		if !slices.Contains(known, key) {
			d.UnknownKey(key, at.At(key).Key, known, "the keys are "+strings.Join(known, ", "))
		}
	}
}

// Text accepts a text that is not empty and has no control characters.
func (d *Decoder) Text(key string, v any, at *Place) (string, bool) {
	text, ok := v.(string)
	if !ok {
		d.WrongType(key, v, at, "a string", d.Example(key, `"…"`))
		return "", false
	}
	return text, d.checkText(key, text, at)
}

func (d *Decoder) checkText(key, text string, at *Place) bool {
	switch {
	case strings.TrimSpace(text) == "":
		d.Errorf(at.Value, "give it a value, or leave the line out", "%s is empty", key)
		return false
	case strings.ContainsFunc(text, isControl):
		d.Errorf(at.Value, "", "%s has a control character", key)
		return false
	}
	return true
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// Texts accepts a list of texts, each once, and returns their places too.
func (d *Decoder) Texts(key string, v any, at *Place, hint string) (texts []string, places []*Place) {
	return d.texts(key, v, at, hint, true)
}

// Words accepts a list of texts such as a command's words: some may be the same, or empty,
// or have several lines.
func (d *Decoder) Words(key string, v any, at *Place, hint string) []string {
	texts, _ := d.texts(key, v, at, hint, false)
	return texts
}

func (d *Decoder) texts(key string, v any, at *Place, hint string, asSet bool) (texts []string, places []*Place) {
	list, ok := v.([]any)
	if !ok {
		d.WrongType(key, v, at, "a list of strings", hint)
		return nil, nil
	}
	there := make(map[string]bool)
	for i, elem := range list {
		place := at.Elem(i)
		text, ok := elem.(string)
		switch {
		case !ok:
			d.Errorf(place.Value, hint, "%s has %s in its list; want strings", key, d.KindOf(elem))
		case asSet && strings.TrimSpace(text) == "":
			d.Errorf(place.Value, "leave it out", "%s has an empty string", key)
		case asSet && strings.ContainsFunc(text, isControl), strings.ContainsRune(text, 0):
			d.Errorf(place.Value, "", "%s has a control character", key)
		case asSet && there[text]:
			d.Errorf(place.Value, "leave it out", "%s has %q twice", key, text)
		default:
			there[text] = true
			texts, places = append(texts, text), append(places, place)
		}
	}
	return texts, places
}

// Choice accepts one of several words.
func (d *Decoder) Choice(key string, v any, at *Place, words []string) string {
	word, ok := d.Text(key, v, at)
	if ok && !slices.Contains(words, word) {
		d.Errorf(at.Value, NearestHint(word, words, "want one of "+quotedWords(words)), "unknown %s %q", key, word)
	}
	return word
}

func quotedWords(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = Quote(word)
	}
	return strings.Join(quoted, ", ")
}

// Integer accepts a whole number in the given range.
func (d *Decoder) Integer(key string, v any, at *Place, least, most int, hint string) int {
	n, ok := v.(int64)
	switch {
	case !ok:
		d.WrongType(key, v, at, "a whole number", hint)
	case n < int64(least) || n > int64(most):
		d.Errorf(at.Value, hint, "%s is %d; want a number from %d to %d", key, n, least, most)
		n = int64(least)
	}
	return int(n)
}

// Number accepts both 2 and 2.0; ok is false for anything else.
func Number(v any) (n float64, ok bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, !math.IsNaN(v)
	}
	return 0, false
}

// Boolean accepts true and false.
func (d *Decoder) Boolean(key string, v any, at *Place) bool {
	b, ok := v.(bool)
	if !ok {
		d.WrongType(key, v, at, d.FormatBoolean(true)+" or "+d.FormatBoolean(false), d.Example(key, d.FormatBoolean(true)))
	}
	return b
}

// Percent accepts a number above 0 and up to 100, or false or 0 for none.
func (d *Decoder) Percent(key string, v any, at *Place, hint string) float64 {
	if off, ok := v.(bool); ok && !off {
		return 0
	}
	percent, ok := Number(v)
	switch {
	case !ok:
		d.WrongType(key, v, at, "a percentage, or "+d.FormatBoolean(false), hint)
	case !(percent >= 0 && percent <= 100): // also refuses NaN
		d.Errorf(at.Value, hint, "%s is %v; want a percentage from 0 to 100, or %s", key, v, d.FormatBoolean(false))
		return 0
	}
	return percent
}

// Size accepts a number of bytes of 0 or more, or a text such as "100MiB", of which the
// example is one.
func (d *Decoder) Size(key string, v any, at *Place, example string) int64 {
	hint := d.Example(key, Quote(example)) + "; the units are B, kB, KiB, MB, MiB, GB, GiB, TB, TiB, PB, PiB"
	switch v := v.(type) {
	case int64:
		if v < 0 {
			d.Errorf(at.Value, hint, "%s is %d; want 0 or more", key, v)
		}
		return v
	case string:
		size, err := quantity.ParseBytes(v)
		if err != nil {
			d.Errorf(at.Value, hint, "%s is %q, which is not a size: %v", key, v, err)
		}
		return size
	}
	d.WrongType(key, v, at, "a size", hint)
	return 0
}

// Duration accepts a text such as "90s", "1h30m" or "2w", of which the example is one,
// and 0. What is neither 0 nor at least the least is an error.
func (d *Decoder) Duration(key string, v any, at *Place, least time.Duration, example string) time.Duration {
	hint := d.Example(key, Quote(example)) + "; the units are w, d, h, m, s, ms, as in \"1h30m\""
	var length time.Duration
	switch v := v.(type) {
	case int64:
		if v != 0 {
			d.Errorf(at.Value, hint, "%s is %d without a unit", key, v)
		}
		return 0
	case string:
		var err error
		if length, err = quantity.ParseDuration(v); err != nil {
			d.Errorf(at.Value, hint, "%s is %q, which is not a duration: %v", key, v, err)
			return 0
		}
	default:
		d.WrongType(key, v, at, "a duration", hint)
		return 0
	}
	if length != 0 && length < least {
		d.Errorf(at.Value, hint, "%s is %q; want %s or more", key, v, quantity.ExactDuration(least))
		return 0
	}
	return length
}

// URLs accepts a list of addresses of web servers, or of folders as file:///….
func (d *Decoder) URLs(key string, v any, at *Place, hint string) []string {
	texts, places := d.Texts(key, v, at, hint)
	for i, text := range texts {
		if problem := urlProblem(text); problem != "" {
			d.Errorf(places[i].Value, hint, "%s: %q %s", key, text, problem)
		}
	}
	return texts
}

// CheckURL says what is wrong with an address of which URLs accepts lists.
func CheckURL(text string) error {
	if problem := urlProblem(text); problem != "" {
		return fmt.Errorf("%q %s", text, problem)
	}
	return nil
}

func urlProblem(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || strings.ContainsRune(text, ' '):
		return "is not a URL"
	case u.Scheme == "file" && (u.Host != "" || !path.IsAbs(u.Path)):
		return "names no folder: three slashes stand before its name, as in file:///srv/store"
	case u.Scheme == "file":
		return ""
	case u.Scheme != "http" && u.Scheme != "https":
		return "does not start with https://, http:// or file://"
	case u.Hostname() == "":
		return "has no host"
	}
	return ""
}

// maxTag bounds the name and the value of a tag, in bytes.
const maxTag = 1000

// Tags accepts a table of texts that are not empty. A name is not empty and has no "=",
// because NAME=VALUE is how tags are written elsewhere.
func (d *Decoder) Tags(key string, v any, at *Place) map[string]string {
	return d.tags(key, v, at, false)
}

// AnyTags is Tags for a filter, where an empty text stands for any.
func (d *Decoder) AnyTags(key string, v any, at *Place) map[string]string {
	return d.tags(key, v, at, true)
}

func (d *Decoder) tags(key string, v any, at *Place, orEmpty bool) map[string]string {
	hint := d.Example(key, `{ rack = "b3", owner = "alice" }`)
	table, ok := v.(map[string]any)
	if !ok {
		d.WrongType(key, v, at, "a table of strings", hint)
		return nil
	}
	tags := make(map[string]string, len(table))
	for _, name := range slices.Sorted(maps.Keys(table)) {
		place := at.At(name)
		value, ok := table[name].(string)
		switch {
		case !ok:
			d.Errorf(place.Value, hint, "the tag %q is %s; want a string", name, d.KindOf(table[name]))
		case strings.TrimSpace(name) == "" || strings.ContainsRune(name, '=') || strings.ContainsFunc(name, isControl):
			d.Errorf(place.Key, "a tag's name is not empty, and has no = in it", "%q cannot be a tag's name", name)
		case len(name) > maxTag || len(value) > maxTag:
			d.Errorf(place.Key, "", "the tag %q has more than %d bytes", cut(name), maxTag)
		case value == "" && orEmpty, d.checkText("the tag "+Quote(name), value, place):
			tags[name] = value
		}
	}
	if len(tags) == 0 {
		return nil
	}
	return tags
}

// cut shortens a long name for an error.
func cut(name string) string {
	const most = 40
	if len(name) <= most {
		return name
	}
	return strings.ToValidUTF8(name[:most], "") + "…"
}

// Path refuses names of files that depend on where one stands, unless otherwiseGood.
func (d *Decoder) Path(key, name string, at *Place, otherwiseGood bool, hint string) {
	clean := path.IsAbs(name) && (path.Clean(name) == name || path.Clean(name)+"/" == name)
	if !clean && !otherwiseGood {
		d.Errorf(at.Value, hint, "%s: %q is not an absolute file name without . and .. in it", key, name)
	}
}

// WrongType reports a value of another type than wanted.
func (d *Decoder) WrongType(key string, v any, at *Place, want, hint string) {
	d.Errorf(at.Value, hint, "%s is %s; want %s", key, d.KindOf(v), want)
}

// KindOf says what kind of value v is, as the document's syntax calls it.
func (d *Decoder) KindOf(v any) string {
	if b, ok := v.(bool); ok {
		return d.FormatBoolean(b)
	}
	return TypeName(v)
}

// OtherValue is a value that TOML does not have, such as a symbol: what it is.
type OtherValue string

// TypeName says what kind of value v is.
func TypeName(v any) string {
	switch v := v.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		if math.IsNaN(v) {
			return "not a number"
		}
		return "a number with a fraction"
	case bool:
		return fmt.Sprint(v)
	case []any, []string:
		return "a list"
	case []map[string]any:
		return "a list of tables"
	case map[string]any:
		return "a table"
	case OtherValue:
		return string(v)
	}
	return "a date or time"
}

// Tables accepts both [[key]] and key = [{…}].
func Tables(v any) ([]map[string]any, bool) {
	switch v := v.(type) {
	case []map[string]any:
		return v, true
	case []any:
		tables := make([]map[string]any, len(v))
		for i, elem := range v {
			table, ok := elem.(map[string]any)
			if !ok {
				return nil, false
			}
			tables[i] = table
		}
		return tables, true
	}
	return nil, false
}
