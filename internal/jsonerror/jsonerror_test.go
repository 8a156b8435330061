package jsonerror

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	for text, want := range map[string]string{
		`x`:                `found 'x', want a value: text in quotes, a number, true, false, null, [ or {`,
		`{oops}`:           `found 'o', want a name in quotes`,
		`{"n" 1}`:          `found '1', want a colon`,
		`{"n":1 "b":2}`:    `found '"', want a comma or }`,
		`{"l":["a" 2]}`:    `found '2', want a comma or ]`,
		`{"n":1}}`:         `found '}', want the end`,
		`nul `:             `found ' ', want true, false or null`,
		`{"s":"\x"}`:       `found 'x', want one of " \ / b f n r t u after the backslash`,
		`{"s":"\u00g0"}`:   `found 'g', want four hexadecimal digits`,
		"{\"s\":\"a\nb\"}": `found '\n', want no control character in quotes; a line's end is \n there`,
		`{"n":1.x}`:        `found 'x', want a number such as 10 or 1.5`,
		`{"n":-}`:          `found '}', want a number such as 10 or 1.5`,
		`{"n":1ex}`:        `found 'x', want a number such as 10 or 1.5`,
		`{"n":1`:           `the JSON ends too early`,
		`{"n":"a"}`:        `"n": found text, want a whole number`,
		`{"n":1.5}`:        `"n": found a number, want a whole number that is not too large`,
		`{"s":1}`:          `"s": found a number, want text in quotes`,
		`{"s":[]}`:         `"s": found a list, want text in quotes`,
		`{"l":"a"}`:        `"l": found text, want a list in [ ]`,
		`{"m":true}`:       `"m": found true or false, want an object in { }`,
		`{"f":{}}`:         `"f": found an object, want a number`,
		`{"b":1}`:          `"b": found a number, want true or false`,
		`[]`:               `found a list, want an object in { }`,
	} {
		var v struct {
			N int               `json:"n"`
			S string            `json:"s"`
			L []string          `json:"l"`
			M map[string]string `json:"m"`
			F float64           `json:"f"`
			B bool              `json:"b"`
		}
		err := Explain(json.Unmarshal([]byte(text), &v))
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	d := json.NewDecoder(strings.NewReader(`{"arg":1}`))
	d.DisallowUnknownFields()
	if err := Explain(d.Decode(new(struct{}))); err == nil || err.Error() != `unknown field "arg"` {
		t.Error(err)
	}
	if other := errors.New("other"); !errors.Is(Explain(other), other) || Explain(nil) != nil {
		t.Error("others change")
	}
}
