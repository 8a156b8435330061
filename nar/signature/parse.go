package signature

import (
	"bytes"
	"encoding/base64"
	"fmt"
)

// Limits on s-expressions. An ACL is the largest that there is in practice.
const (
	maxSexp  = 1 << 20 // bytes
	maxDepth = 64      // lists in one another
)

// SyntaxError is the error about text that is not an s-expression.
type SyntaxError struct {
	Offset  int // of the byte at which it was noticed
	Message string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("s-expression: offset %d: %s", e.Offset, e.Message)
}

// ParseSexp reads an s-expression in the advanced or the canonical form, or in any
// mixture of them, as libgcrypt does: atoms are tokens, "strings", #hexadecimal#,
// |base64| or LENGTH:bytes, with a [display hint] before them or not. Atoms outside
// any list are ignored; text without a list is the empty list.
func ParseSexp(text []byte) (*Sexp, error) {
	if len(text) > maxSexp {
		return nil, &SyntaxError{Offset: maxSexp, Message: fmt.Sprintf("the text is longer than %d bytes", maxSexp)}
	}
	p := &parser{text: bytes.Clone(text)} // the atoms are parts of it
	lists, err := p.parse()
	if err != nil {
		return nil, err
	}
	switch len(lists) {
	case 0:
		return newList(), nil
	case 1:
		return lists[0], nil
	}
	return &Sexp{kind: isSequence, list: lists}, nil
}

type parser struct {
	text []byte
	pos  int
	hint bool // inside [ ]
}

// parse returns the lists of the text.
func (p *parser) parse() ([]*Sexp, error) {
	top := &Sexp{kind: isSequence}
	stack := []*Sexp{top}
	for p.pos < len(p.text) {
		in := stack[len(stack)-1]
		switch c := p.text[p.pos]; c {
		case ' ', '\t', '\v', '\n', '\f', '\r':
			p.pos++
		case '(':
			if p.hint {
				return nil, p.problem("a list in a display hint")
			}
			if len(stack) > maxDepth {
				return nil, p.problem("more than %d lists are in one another", maxDepth)
			}
			list := newList()
			in.list = append(in.list, list)
			stack = append(stack, list)
			p.pos++
		case ')':
			if p.hint {
				return nil, p.problem("a list ends in a display hint")
			}
			if len(stack) == 1 {
				return nil, p.problem("unmatched parenthesis")
			}
			stack = stack[:len(stack)-1]
			p.pos++
		case '[', ']':
			if p.hint == (c == '[') {
				return nil, p.problem("unmatched bracket")
			}
			p.hint = !p.hint
			p.pos++
		default:
			atom, err := p.atom()
			if err != nil {
				return nil, err
			}
			if in != top {
				in.list = append(in.list, newAtom(atom))
			}
		}
	}
	if len(stack) > 1 {
		return nil, p.problem("unmatched parenthesis")
	}
	if p.hint {
		return nil, p.problem("unmatched bracket")
	}
	return top.list, nil
}

// atom reads one atom of whatever form.
func (p *parser) atom() ([]byte, error) {
	switch c := p.text[p.pos]; {
	case c == '"':
		return p.quoted()
	case c == '#':
		return p.hexadecimal()
	case c == '|':
		return p.base64()
	case isDigit(c):
		return p.counted()
	case isTokenByte(c):
		start := p.pos
		for p.pos < len(p.text) && isTokenByte(p.text[p.pos]) {
			p.pos++
		}
		return p.text[start:p.pos:p.pos], nil
	case c == '{' || c == '}' || c == '&' || c == '\\':
		return nil, p.problem("unexpected reserved punctuation %q", c)
	default:
		return nil, p.problem("bad character %q", c)
	}
}

// counted reads LENGTH:bytes, and also an atom in quotes with its length in front,
// which is ignored as libgcrypt does.
func (p *parser) counted() ([]byte, error) {
	if p.text[p.pos] == '0' && (p.pos+1 == len(p.text) || p.text[p.pos+1] != ':') {
		return nil, p.problem("a length begins with zero")
	}
	n := 0
	for ; p.pos < len(p.text) && isDigit(p.text[p.pos]); p.pos++ {
		n = min(10*n+int(p.text[p.pos]-'0'), maxSexp+1)
	}
	if p.pos == len(p.text) {
		return nil, p.problem("invalid length specifier")
	}
	switch p.text[p.pos] {
	case '"':
		return p.quoted()
	case '#':
		return p.hexadecimal()
	case '|':
		return p.base64()
	case ':':
		p.pos++
		if n > len(p.text)-p.pos {
			return nil, p.problem("a length is beyond the end")
		}
		p.pos += n
		return p.text[p.pos-n : p.pos : p.pos], nil
	}
	return nil, p.problem("invalid length specifier")
}

func (p *parser) hexadecimal() ([]byte, error) {
	atom := []byte{}
	digits, value := 0, byte(0)
	for p.pos++; p.pos < len(p.text); p.pos++ {
		c := p.text[p.pos]
		if c == '#' {
			if digits%2 != 0 {
				return nil, p.problem("odd number of hexadecimal digits")
			}
			p.pos++
			return atom, nil
		}
		if isBlank(c) {
			continue
		}
		d, ok := hexDigit(c)
		if !ok {
			return nil, p.problem("bad hexadecimal digit %q", c)
		}
		value = value<<4 | d
		if digits++; digits%2 == 0 {
			atom = append(atom, value)
		}
	}
	return nil, p.problem("unfinished hexadecimal digits")
}

func (p *parser) base64() ([]byte, error) {
	start := p.pos + 1
	for p.pos++; p.pos < len(p.text); p.pos++ {
		if p.text[p.pos] == '|' {
			atom, err := base64.StdEncoding.Strict().DecodeString(string(p.text[start:p.pos]))
			if err != nil {
				return nil, p.problem("%v", err)
			}
			p.pos++
			return atom, nil
		}
	}
	return nil, p.problem("unfinished base64")
}

func (p *parser) quoted() ([]byte, error) {
	atom := []byte{}
	for p.pos++; p.pos < len(p.text); p.pos++ {
		switch c := p.text[p.pos]; c {
		case '"':
			p.pos++
			return atom, nil
		case '\\':
			p.pos++
			var err error
			if atom, err = p.escape(atom); err != nil {
				return nil, err
			}
		default:
			atom = append(atom, c)
		}
	}
	return nil, p.problem("unfinished string")
}

// escape reads what follows a backslash, up to its last byte.
func (p *parser) escape(atom []byte) ([]byte, error) {
	rest := p.text[p.pos:]
	if len(rest) == 0 {
		return nil, p.problem("unfinished string")
	}
	switch c := rest[0]; c {
	case 'b':
		return append(atom, '\b'), nil
	case 't':
		return append(atom, '\t'), nil
	case 'v':
		return append(atom, '\v'), nil
	case 'n':
		return append(atom, '\n'), nil
	case 'f':
		return append(atom, '\f'), nil
	case 'r':
		return append(atom, '\r'), nil
	case '"', '\'', '\\':
		return append(atom, c), nil
	case 'x':
		if len(rest) > 2 {
			high, ok1 := hexDigit(rest[1])
			low, ok2 := hexDigit(rest[2])
			if ok1 && ok2 {
				p.pos += 2
				return append(atom, high<<4|low), nil
			}
		}
		return nil, p.problem("bad hexadecimal escape")
	case '\r', '\n': // a line end that is continued, of one or of two bytes
		if len(rest) > 1 && rest[1] != c && (rest[1] == '\r' || rest[1] == '\n') {
			p.pos++
		}
		return atom, nil
	}
	if len(rest) > 2 && '0' <= rest[0] && rest[0] <= '3' && isOctal(rest[1]) && isOctal(rest[2]) {
		p.pos += 2
		return append(atom, (rest[0]-'0')<<6|(rest[1]-'0')<<3|(rest[2]-'0')), nil
	}
	return nil, p.problem("bad escape \\%q", rest[0])
}

func isOctal(c byte) bool { return '0' <= c && c <= '7' }

func isBlank(c byte) bool {
	switch c {
	case ' ', '\t', '\v', '\n', '\f', '\r':
		return true
	}
	return false
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func (p *parser) problem(format string, args ...any) error {
	return &SyntaxError{Offset: p.pos, Message: fmt.Sprintf(format, args...)}
}
