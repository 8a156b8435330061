// Package jsonerror says in a person's words what is wrong with JSON that somebody wrote, where
// encoding/json speaks of Go.
package jsonerror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// Explain returns an error of encoding/json in plain words; other errors stay as they are.
// Where in the text it is, the caller knows.
func Explain(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON ends too early")
	case errors.As(err, &syntax):
		return errors.New(syntaxText(syntax.Error()))
	case errors.As(err, &kind):
		found, _, _ := strings.Cut(kind.Value, " ") // "number 1.5"
		if article, ok := articles[found]; ok {
			found = article
		}
		text := fmt.Sprintf("found %s, want %s", found, kindText(kind))
		if kind.Field != "" {
			text = fmt.Sprintf("%q: %s", kind.Field, text)
		}
		return errors.New(text)
	}
	if text, ok := strings.CutPrefix(fmt.Sprint(err), "json: "); err != nil && ok {
		return errors.New(text)
	}
	return err
}

// ExplainInto is Explain for what was read into a pointer to a struct: of a field that is not known it also
// asks whether the nearest one was meant, if there is such a one.
func ExplainInto(err error, into any, nearest func(word string, known []string) string) error {
	err = Explain(err)
	if err == nil {
		return nil
	}
	quoted, unknown := strings.CutPrefix(err.Error(), "unknown field ")
	word, quoteErr := strconv.Unquote(quoted)
	if !unknown || quoteErr != nil {
		return err
	}
	var known []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(into).Elem()) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && name != "-" {
			known = append(known, name)
		}
	}
	if near := nearest(word, known); near != "" {
		return fmt.Errorf("%w; did you mean %q?", err, near)
	}
	return err
}

var articles = map[string]string{"string": "text", "number": "a number", "bool": "true or false", "array": "a list", "object": "an object"}

// kindText is what the field takes.
func kindText(err *json.UnmarshalTypeError) string {
	switch err.Type.Kind() {
	case reflect.String:
		return "text in quotes"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list in [ ]"
	case reflect.Struct, reflect.Map:
		return "an object in { }"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	if strings.HasPrefix(err.Value, "number ") {
		return "a whole number that is not too large"
	}
	return "a whole number"
}

// places are what encoding/json says of where a character can't be.
var places = []struct{ said, want string }{
	{"looking for beginning of value", "a value: text in quotes, a number, true, false, null, [ or {"},
	{"looking for beginning of object key string", "a name in quotes"},
	{"after object key:value pair", "a comma or }"},
	{"after object key", "a colon"},
	{"after array element", "a comma or ]"},
	{"after top-level value", "the end"},
	{"in literal", "true, false or null"},
	{"in string escape code", `one of " \ / b f n r t u after the backslash`},
	{`in \u hexadecimal character escape`, "four hexadecimal digits"},
	{"in string literal", "no control character in quotes; a line's end is \\n there"},
	{"numeric literal", "a number such as 10 or 1.5"},
	{"exponent of numeric literal", "a number such as 10 or 1.5"},
}

// syntaxText puts the text of a syntax error into plain words.
func syntaxText(said string) string {
	rest, ok := strings.CutPrefix(said, "invalid character ")
	if !ok {
		if strings.HasPrefix(said, "unexpected end") {
			return "the JSON ends too early"
		}
		return said
	}
	found, err := strconv.QuotedPrefix(rest)
	for _, p := range places {
		if err == nil && strings.Contains(rest, p.said) {
			return "found " + found + ", want " + p.want
		}
	}
	return said
}
