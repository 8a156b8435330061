package derivation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"lighter/internal/jsonerror"
)

// text is bytes in JSON: a string if they are UTF-8, else an object with their
// base64. NUL, which no string of a derivation can hold, is refused.
type text string

type textBytes struct {
	Base64 []byte `json:"base64"`
}

func (t text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return encodeJSON(string(t), "")
	}
	return encodeJSON(textBytes{[]byte(t)}, "")
}

func (t *text) UnmarshalJSON(data []byte) error {
	switch data[0] {
	case '"':
		if err := json.Unmarshal(data, (*string)(t)); err != nil {
			return err
		}
	case '{':
		var b textBytes
		if err := decodeJSON(data, &b); err != nil {
			return err
		}
		*t = text(b.Base64)
	default:
		return fmt.Errorf("found %s; want a string, or an object with its base64", abbreviate(string(data)))
	}
	if strings.IndexByte(string(*t), 0) >= 0 {
		return fmt.Errorf("the string %q has a NUL", abbreviate(string(*t)))
	}
	return nil
}

// jsonInput has the output names of one input.
type jsonInput []string

type jsonInputObject struct {
	DynamicOutputs map[string]struct{} `json:"dynamicOutputs"`
	Outputs        []string            `json:"outputs"`
}

func (in jsonInput) MarshalJSON() ([]byte, error) {
	names := append([]string{}, in...)
	return encodeJSON(jsonInputObject{map[string]struct{}{}, names}, "")
}

func (in *jsonInput) UnmarshalJSON(data []byte) error {
	if data[0] == '[' {
		return json.Unmarshal(data, (*[]string)(in))
	}
	var object jsonInputObject
	if err := decodeJSON(data, &object); err != nil {
		return err
	}
	if len(object.DynamicOutputs) > 0 {
		return errors.New("dynamicOutputs: Guix has no derivations that are made by derivations")
	}
	*in = object.Outputs
	return nil
}

func encodeJSON(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	err := enc.Encode(v)
	return b.Bytes(), err
}

// decodeJSON reads one value and refuses unknown members.
func decodeJSON(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%s: %w", position(data, syntax.Offset-1), jsonerror.Explain(err))
	case errors.As(err, &kind):
		return fmt.Errorf("%s: %w", position(data, kind.Offset-1), jsonerror.Explain(err))
	}
	return jsonerror.Explain(err)
}

// position says where the byte at offset is, in terms that an editor understands.
// Columns count bytes.
func position(data []byte, offset int64) string {
	before := data[:min(max(offset, 0), int64(len(data)))]
	return fmt.Sprintf("line %d, column %d", 1+bytes.Count(before, []byte("\n")), len(before)-bytes.LastIndexByte(before, '\n'))
}

// checkJSON checks what encoding/json passes over in silence: that nothing
// follows the value, that no member occurs twice, and that text is Unicode.
func checkJSON(data []byte) error {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return fmt.Errorf("%s: the byte %#x is not UTF-8", position(data, int64(i)), data[i])
		}
		i += size
	}
	if err := checkMembers(data); err != nil {
		return err
	}
	return checkSurrogates(data)
}

// checkMembers walks over all members of all objects.
func checkMembers(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	var stack []members
	for {
		token, err := dec.Token()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("%s: %w", position(data, dec.InputOffset()), jsonerror.Explain(err))
		}
		delim, _ := token.(json.Delim)
		if len(stack) > 0 && delim != '}' && delim != ']' {
			if name, twice := stack[len(stack)-1].next(token); twice {
				return fmt.Errorf("%s: the member %q occurs twice", position(data, dec.InputOffset()-1), name)
			}
		}
		switch delim {
		case '{':
			stack = append(stack, members{seen: make(map[string]bool)})
		case '[':
			stack = append(stack, members{})
		case '}', ']':
			stack = stack[:len(stack)-1]
		}
		if len(stack) == 0 {
			return onlySpace(data, dec.InputOffset())
		}
	}
}

// members is what is known of the object or, if seen is nil, list being read.
type members struct {
	seen  map[string]bool
	value bool // the next token starts a value
}

// next takes the token of a name or of the start of a value.
func (m *members) next(token json.Token) (name string, twice bool) {
	if m.seen == nil {
		return "", false
	}
	m.value = !m.value
	if !m.value {
		return "", false
	}
	name, _ = token.(string)
	twice = m.seen[name]
	m.seen[name] = true
	return name, twice
}

func onlySpace(data []byte, offset int64) error {
	if rest := bytes.TrimLeft(data[offset:], " \t\r\n"); len(rest) > 0 {
		return fmt.Errorf("%s: found %q after the end", position(data, int64(len(data)-len(rest))), abbreviate(string(rest)))
	}
	return nil
}

// checkSurrogates refuses \u escapes of one half of a surrogate pair. The data
// must be JSON, in which a backslash occurs in strings only.
func checkSurrogates(data []byte) error {
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		r := escapedRune(data[i:])
		switch {
		case !utf16.IsSurrogate(r):
			i++
		case utf16.DecodeRune(r, escapedRune(data[min(i+6, len(data)):])) == utf8.RuneError:
			return fmt.Errorf("%s: %s is half a surrogate pair", position(data, int64(i)), data[i:i+6])
		default:
			i += 11
		}
	}
	return nil
}

// escapedRune returns the code unit of the \u escape at the start of data, or -1.
func escapedRune(data []byte) rune {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}
