package mirrors

import (
	"errors"
	"fmt"
	"strings"
)

// Guix writes the addresses of downloads, and its lists of mirrors, as Scheme. readScheme
// reads as much of it as that takes: lists, strings, symbols (numbers and booleans among
// them), quote and comments. A list is a []any.

// symbol is what is neither a list nor a string.
type symbol string

const (
	maxScheme      = 4 << 20 // bytes
	maxSchemeDepth = 100     // nested lists
)

// readScheme reads the first datum in a text.
func readScheme(text string) (any, error) {
	if len(text) > maxScheme {
		return nil, fmt.Errorf("%d bytes of Scheme, at most %d are read", len(text), maxScheme)
	}
	r := &schemeReader{text: text}
	v, err := r.datum(0)
	if err != nil {
		return nil, fmt.Errorf("offset %d: %w", r.at, err)
	}
	return v, nil
}

type schemeReader struct {
	text string
	at   int
}

var errSchemeEnd = errors.New("the text ends too soon")

// blank skips blanks and comments and reports whether there is more.
func (r *schemeReader) blank() bool {
	for r.at < len(r.text) {
		switch c := r.text[r.at]; {
		case c == ';':
			end := strings.IndexByte(r.text[r.at:], '\n')
			if end < 0 {
				r.at = len(r.text)
				return false
			}
			r.at += end
		case strings.IndexByte(" \t\r\n\f", c) < 0:
			return true
		default:
			r.at++
		}
	}
	return false
}

func (r *schemeReader) datum(depth int) (any, error) {
	if depth > maxSchemeDepth {
		return nil, fmt.Errorf("lists are nested more than %d deep", maxSchemeDepth)
	}
	if !r.blank() {
		return nil, errSchemeEnd
	}
	switch r.text[r.at] {
	case '(':
		r.at++
		return r.list(depth)
	case ')':
		return nil, errors.New("a closing parenthesis closes nothing")
	case '"':
		r.at++
		return r.quoted()
	case '\'':
		r.at++
		v, err := r.datum(depth + 1)
		return []any{symbol("quote"), v}, err
	}
	start := r.at
	for r.at < len(r.text) && strings.IndexByte(" \t\r\n\f()\"';", r.text[r.at]) < 0 {
		r.at++
	}
	return symbol(r.text[start:r.at]), nil
}

func (r *schemeReader) list(depth int) (any, error) {
	list := []any{}
	for {
		if !r.blank() {
			return nil, errSchemeEnd
		}
		if r.text[r.at] == ')' {
			r.at++
			return list, nil
		}
		v, err := r.datum(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
}

func (r *schemeReader) quoted() (any, error) {
	var b strings.Builder
	for ; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; c {
		case '"':
			r.at++
			return b.String(), nil
		case '\\':
			r.at++
			if r.at == len(r.text) {
				return nil, errSchemeEnd
			}
			switch c := r.text[r.at]; c {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'r':
				b.WriteByte('\r')
			case '"', '\\':
				b.WriteByte(c)
			default:
				return nil, fmt.Errorf("the escape \\%c is unknown", c)
			}
		default:
			b.WriteByte(c)
		}
	}
	return nil, errSchemeEnd
}

// schemeStrings returns the strings of a datum that is a string or a list of them.
func schemeStrings(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case []any:
		list := make([]string, 0, len(v))
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, errors.New("something in the list is not a string")
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, errors.New("it is neither a string nor a list of strings")
}
