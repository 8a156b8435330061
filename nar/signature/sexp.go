// Package signature reads, makes and checks the signatures of Guix: keys,
// signatures and access control lists (ACLs) are s-expressions in the forms that
// libgcrypt reads and writes.
//
// Guix signs with ECDSA on the group of Ed25519, with the nonce of RFC 6979; this is
// not the Ed25519 signature scheme, although the keys look alike. Only such keys
// sign here. Signatures by RSA keys and by ECDSA keys on the curves of NIST are
// verified as well.
//
// An archive is accepted if [ACL.Check] says so.
package signature

import (
	"bytes"
	"strconv"
)

// Sexp is an s-expression: an atom, which is a byte string, or a list. Whether an
// atom was written as a token, a string, in hexadecimal or in base64 is not kept:
// it carries no meaning. A Sexp is not changed after it was made.
type Sexp struct {
	atom []byte
	list []*Sexp
	kind sexpKind
}

type sexpKind uint8

const (
	isAtom sexpKind = iota
	isList
	isSequence // several lists in one text, which libgcrypt takes as one expression
)

// newList returns a list of the items.
func newList(items ...*Sexp) *Sexp { return &Sexp{kind: isList, list: items} }

// newAtom returns an atom of the bytes, which it keeps.
func newAtom[B string | []byte](b B) *Sexp { return &Sexp{atom: []byte(b)} }

// pair returns the list (NAME VALUE).
func pair[B string | []byte](name string, value B) *Sexp {
	return newList(newAtom(name), newAtom(value))
}

// Equal reports whether both have the same structure and bytes.
func (s *Sexp) Equal(other *Sexp) bool { return bytes.Equal(s.Canonical(), other.Canonical()) }

// Canonical returns the canonical transport form: no blanks, and every atom as its
// length, a colon and its bytes. Equal s-expressions have equal canonical forms.
func (s *Sexp) Canonical() []byte { return s.appendCanonical(nil) }

func (s *Sexp) appendCanonical(b []byte) []byte {
	if s.kind == isAtom {
		b = strconv.AppendInt(b, int64(len(s.atom)), 10)
		b = append(b, ':')
		return append(b, s.atom...)
	}
	if s.kind == isList {
		b = append(b, '(')
	}
	for _, item := range s.list {
		b = item.appendCanonical(b)
	}
	if s.kind == isList {
		b = append(b, ')')
	}
	return b
}

// Advanced returns the form for people, byte for byte as libgcrypt prints it,
// with its line ends and its blanks (gcry_sexp_sprint with GCRYSEXP_FMT_ADVANCED).
// It is not always UTF-8: some bytes stand as they are.
func (s *Sexp) Advanced() string {
	var p printer
	p.print(s)
	return string(append(p.b, '\n'))
}

// printer prints the advanced form. What libgcrypt puts between two parts depends
// on which they are, so the latest part is remembered.
type printer struct {
	b      []byte
	indent int
	closed bool // the latest part was a closing parenthesis
	data   bool // the latest part was an atom
}

func (p *printer) print(s *Sexp) {
	switch s.kind {
	case isAtom:
		if p.closed {
			p.newLine()
		}
		if p.data {
			p.b = append(p.b, ' ')
		}
		p.b = appendAtom(p.b, s.atom)
		p.closed, p.data = false, true
	case isSequence:
		for _, item := range s.list {
			p.print(item)
		}
	case isList:
		if p.data {
			p.b = append(p.b, ' ')
		}
		if p.indent > 0 {
			p.newLine()
		}
		p.b = append(p.b, '(')
		p.indent++
		p.closed, p.data = false, false
		for _, item := range s.list {
			p.print(item)
		}
		if p.closed {
			p.newLine()
		}
		p.b = append(p.b, ')')
		p.indent--
		p.closed, p.data = true, false
	}
}

func (p *printer) newLine() {
	p.b = append(p.b, '\n')
	for range p.indent {
		p.b = append(p.b, ' ')
	}
}

// appendAtom writes an atom in the form that libgcrypt chooses from its bytes
// alone (suitable_encoding): a token, a string, or hexadecimal digits in upper case.
func appendAtom(b, atom []byte) []byte {
	switch {
	case isToken(atom):
		return append(b, atom...)
	case isText(atom):
		return appendString(b, atom)
	}
	const digits = "0123456789ABCDEF"
	b = append(b, '#')
	for _, c := range atom {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return append(b, '#')
}

func isToken(atom []byte) bool {
	if len(atom) == 0 || atom[0] == 0 || isDigit(atom[0]) {
		return false
	}
	for _, c := range atom {
		if !isTokenByte(c) {
			return false
		}
	}
	return true
}

// isTokenByte reports whether the byte may be in a token. libgcrypt looks it up
// with strchr, which finds the NUL at the end of its list too, so that it takes NUL
// for a letter; it does so in reading and in writing.
func isTokenByte(c byte) bool {
	switch c {
	case '-', '.', '/', '_', ':', '*', '+', '=', 0:
		return true
	}
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || isDigit(c)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isText reports whether libgcrypt writes the atom as a string. A first byte with
// its top bit set would be a negative number, and one that is 0 looks binary. NUL
// elsewhere passes, for the reason that isTokenByte gives.
func isText(atom []byte) bool {
	if len(atom) == 0 {
		return true
	}
	if atom[0] == 0 || atom[0] >= 0x80 {
		return false
	}
	for _, c := range atom {
		if isControl(c) && c != 0 && escapeOf(c) == 0 {
			return false
		}
	}
	return true
}

// isControl reports whether the byte is a control character or a blank of Latin-1.
func isControl(c byte) bool { return c < 0x20 || (0x7f <= c && c <= 0xa0) }

func appendString(b, atom []byte) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	for _, c := range atom {
		switch e := escapeOf(c); {
		case e != 0:
			b = append(b, '\\', e)
		case isControl(c):
			b = append(b, '\\', 'x', digits[c>>4], digits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// escapeOf returns the letter that stands behind a backslash for the byte, or 0.
func escapeOf(c byte) byte {
	switch c {
	case '\b':
		return 'b'
	case '\t':
		return 't'
	case '\v':
		return 'v'
	case '\n':
		return 'n'
	case '\f':
		return 'f'
	case '\r':
		return 'r'
	case '"', '\'', '\\':
		return c
	}
	return 0
}

// find returns the first list, from the left and the outside, whose first item is
// the atom name (gcry_sexp_find_token), or nil.
func (s *Sexp) find(name string) *Sexp {
	if s.kind == isList && len(s.list) > 0 && s.list[0].is(name) {
		return s
	}
	for _, item := range s.list {
		if found := item.find(name); found != nil {
			return found
		}
	}
	return nil
}

// is reports whether s is the atom name.
func (s *Sexp) is(name string) bool { return s.kind == isAtom && string(s.atom) == name }

// head returns the atom that a list starts with, or "".
func (s *Sexp) head() string {
	if s.kind != isList || len(s.list) == 0 || s.list[0].kind != isAtom {
		return ""
	}
	return string(s.list[0].atom)
}

// value returns V of the first list (NAME V) among the items of s. That there is
// none, or one of another shape, is not ok.
func (s *Sexp) value(name string) (v []byte, ok bool) {
	for _, item := range s.list {
		if item.head() == name {
			if len(item.list) != 2 || item.list[1].kind != isAtom {
				return nil, false
			}
			return item.list[1].atom, true
		}
	}
	return nil, false
}
