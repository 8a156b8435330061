package settings

import (
	"slices"
	"strings"
	"time"

	"lighter/internal/quantity"
	"lighter/internal/tomlfile"
)

// OptionError returns an error about an option of a built-in hook, or about the hook if
// the option is not there. It is an *Error, with the place in the file that the hook came
// from. The hint says what would be right; it may be empty.
func (h *Hook) OptionError(option, hint, format string, args ...any) error {
	o := h.ReadOptions()
	o.Errorf(option, hint, format, args...)
	return o.d.Errs[0]
}

// ReadOptions returns a reader of a built-in hook's options.
func (h *Hook) ReadOptions() *OptionReader {
	o := &OptionReader{hook: h}
	if p := h.places; p != nil {
		o.d.File, o.d.Doc = p.file, p.doc
		o.hookAt, o.at = p.hook, p.options
		return o
	}
	o.d.File = "hook " + h.Name
	o.hookAt, o.at = new(tomlfile.Place), new(tomlfile.Place)
	return o
}

// OptionReader reads the options of a built-in hook. Its methods return the default for
// an option that is not there, and for one that is wrong, which they report; Err returns
// all that was reported, and reports the options that were not read.
type OptionReader struct {
	d          tomlfile.Decoder
	hook       *Hook
	hookAt, at *tomlfile.Place
	known      []string
}

// get returns an option's value and place. Value is nil if it is not there.
func (o *OptionReader) get(option string) (v any, at *tomlfile.Place) {
	o.known = append(o.known, option)
	return o.hook.Options[option], o.at.At(option)
}

// Text reads a text that is not empty.
func (o *OptionReader) Text(option, otherwise string) string {
	v, at := o.get(option)
	if v == nil {
		return otherwise
	}
	if text, ok := o.d.Text(option, v, at); ok {
		return text
	}
	return otherwise
}

// Choice reads one of several words.
func (o *OptionReader) Choice(option, otherwise string, words ...string) string {
	v, at := o.get(option)
	if v == nil {
		return otherwise
	}
	return o.d.Choice(option, v, at, words)
}

// Integer reads a whole number in a range.
func (o *OptionReader) Integer(option string, otherwise, least, most int) int {
	v, at := o.get(option)
	if v == nil {
		return otherwise
	}
	return o.d.Integer(option, v, at, least, most, "")
}

// Boolean reads true or false.
func (o *OptionReader) Boolean(option string, otherwise bool) bool {
	v, at := o.get(option)
	if v == nil {
		return otherwise
	}
	return o.d.Boolean(option, v, at)
}

// Duration reads a duration, such as "90d", which is 0 or at least the least.
func (o *OptionReader) Duration(option string, otherwise, least time.Duration) time.Duration {
	v, at := o.get(option)
	if v == nil {
		return otherwise
	}
	return o.d.Duration(option, v, at, least, quantity.ExactDuration(max(otherwise, least, time.Second)))
}

// Errorf reports what is wrong with an option, at its value, or at the hook if it is not
// there.
func (o *OptionReader) Errorf(option, hint, format string, args ...any) {
	offset := o.hookAt.Key
	if _, ok := o.hook.Options[option]; ok {
		offset = o.at.At(option).Value
	}
	o.d.Errorf(offset, hint, format, args...)
}

// Err returns all that was reported, as Errors, and options that nothing has read.
func (o *OptionReader) Err() error {
	for option := range o.hook.Options {
		if !slices.Contains(o.known, option) {
			otherwise := "the hook " + o.hook.BuiltIn + " has no options"
			if len(o.known) > 0 {
				otherwise = "the options of " + o.hook.BuiltIn + " are " + strings.Join(o.known, ", ")
			}
			o.d.Errorf(o.at.At(option).Key, tomlfile.NearestHint(option, o.known, otherwise), "unknown option %q", option)
		}
	}
	return o.d.Err()
}
