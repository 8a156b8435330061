package tomlfile

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Place says where one value of a TOML document stands. The TOML library reports
// positions for wrong syntax alone, and most of what a person gets wrong has the
// right syntax, so this scanner finds again what the library has parsed.
type Place struct {
	Key   int // byte offset of its key or table header; of an array's element, its own
	Value int // byte offset of the value
	table map[string]*Place
	Elems []*Place
}

// locate returns the positions of all values of a document that the TOML library
// has accepted. It relies on that: it knows how to skip values, not how to check
// them. On any other text it returns something, and ends.
func locate(doc string) places {
	s := &scanner{doc: doc, places: places{tooDeep: -1, twice: -1}}
	s.root = s.document()
	return s.places
}

// places is where everything in a document stands.
type places struct {
	root *Place
	// tooDeep is the offset of a value that is nested deeper than maxDepth, or -1.
	tooDeep int
	// twice is the offset of a key that stood before, or -1. In a few cases the
	// TOML library does not notice.
	twice int
}

func (s *scanner) document() *Place {
	root := newTable(0)
	current := root
	for {
		s.space()
		start := s.pos
		switch c := s.peek(); {
		case s.pos >= len(s.doc):
			return root
		case c == '[':
			current = s.header(root)
		default:
			s.keyValue(current)
		}
		if s.pos == start {
			s.pos++
		}
	}
}

func newTable(at int) *Place { return &Place{Key: at, Value: at, table: make(map[string]*Place)} }

// keyPart is one part of a dotted key.
type keyPart struct {
	name string
	pos  int
}

// child returns the table below n with that name, making it if it is not there.
// Of an array of tables it is the last one that is meant.
func (n *Place) child(part keyPart) *Place {
	next := n.table[part.name]
	if next == nil {
		next = newTable(part.pos)
		n.put(part.name, next)
	}
	return next.last()
}

func (n *Place) put(name string, value *Place) {
	if n.table == nil {
		n.table = make(map[string]*Place)
	}
	n.table[name] = value
}

func (n *Place) last() *Place {
	if len(n.Elems) > 0 {
		return n.Elems[len(n.Elems)-1]
	}
	return n
}

// At returns the position of a table's entry, or of the table for one that is
// not there.
func (n *Place) At(name string) *Place {
	if found := n.table[name]; found != nil {
		return found
	}
	return &Place{Key: n.Key, Value: n.Value}
}

// Elem returns the position of an array's element, or of the array.
func (n *Place) Elem(i int) *Place {
	if i < len(n.Elems) {
		return n.Elems[i]
	}
	return &Place{Key: n.Key, Value: n.Value}
}

type scanner struct {
	doc   string
	pos   int
	depth int
	places
}

// maxDepth bounds the nesting, by brackets, braces or dotted keys, that the scanner
// follows; a machines file has 2. The TOML library takes quadratic time in it.
const maxDepth = 50

func (s *scanner) peek() byte {
	if s.pos < len(s.doc) {
		return s.doc[s.pos]
	}
	return 0
}

func (s *scanner) has(prefix string) bool { return strings.HasPrefix(s.doc[s.pos:], prefix) }

// space skips blanks, line ends and comments.
func (s *scanner) space() {
	for s.pos < len(s.doc) {
		switch s.doc[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		case '#':
			if i := strings.IndexByte(s.doc[s.pos:], '\n'); i >= 0 {
				s.pos += i
			} else {
				s.pos = len(s.doc)
			}
		default:
			return
		}
	}
}

func (s *scanner) blanks() {
	for c := s.peek(); c == ' ' || c == '\t'; c = s.peek() {
		s.pos++
	}
}

// header reads "[a.b]" or "[[a.b]]" and returns the table that it opens.
func (s *scanner) header(root *Place) *Place {
	start := s.pos
	array := s.has("[[")
	s.pos++
	if array {
		s.pos++
	}
	path := s.keyPath()
	for c := s.peek(); c == ']' || c == ' ' || c == '\t'; c = s.peek() {
		s.pos++
	}
	if len(path) == 0 {
		return root
	}
	table := root
	for _, part := range path[:len(path)-1] {
		table = table.child(part)
	}
	name := path[len(path)-1].name
	if !array {
		table = table.child(keyPart{name: name, pos: start})
		return table
	}
	list := table.table[name]
	if list == nil {
		list = newTable(start)
		table.put(name, list)
	}
	list.Elems = append(list.Elems, newTable(start))
	return list.last()
}

func (s *scanner) keyValue(table *Place) {
	path := s.keyPath()
	s.blanks()
	if s.peek() != '=' || len(path) == 0 {
		return
	}
	s.pos++
	s.blanks()
	s.depth += len(path) - 1
	value := s.value()
	s.depth -= len(path) - 1
	for _, part := range path[:len(path)-1] {
		table = table.child(part)
	}
	last := path[len(path)-1]
	value.Key = path[0].pos
	if table.table[last.name] != nil && s.twice < 0 {
		s.twice = value.Key
	}
	table.put(last.name, value)
}

func (s *scanner) keyPath() []keyPart {
	var path []keyPart
	for {
		s.blanks()
		start := s.pos
		switch s.peek() {
		case '"':
			s.skipString()
			path = append(path, keyPart{unquote(s.doc[start:s.pos]), start})
		case '\'':
			s.skipString()
			path = append(path, keyPart{strings.Trim(s.doc[start:s.pos], "'"), start})
		default:
			for strings.IndexByte(" \t\r\n.=]#,{}['\"", s.peek()) < 0 && s.pos < len(s.doc) {
				s.pos++
			}
			if s.pos == start {
				return path
			}
			path = append(path, keyPart{s.doc[start:s.pos], start})
		}
		s.blanks()
		if s.peek() != '.' {
			return path
		}
		if len(path) == maxDepth && s.tooDeep < 0 {
			s.tooDeep = path[0].pos
		}
		s.pos++
	}
}

func (s *scanner) value() *Place {
	n := &Place{Key: s.pos, Value: s.pos}
	s.depth++
	defer func() { s.depth-- }()
	if s.depth > maxDepth && s.tooDeep < 0 {
		s.tooDeep = s.pos
	}
	switch c := s.peek(); {
	case c == '"' || c == '\'':
		s.skipString()
	case c == '[' && s.depth <= maxDepth:
		s.list(']', func() { n.Elems = append(n.Elems, s.value()) })
	case c == '{' && s.depth <= maxDepth:
		n.table = make(map[string]*Place)
		s.list('}', func() { s.keyValue(n) })
	default:
		for strings.IndexByte(",]}#\r\n", s.peek()) < 0 && s.pos < len(s.doc) {
			s.pos++
		}
	}
	return n
}

// list reads what stands between brackets, separated by commas.
func (s *scanner) list(end byte, element func()) {
	s.pos++
	for s.pos < len(s.doc) {
		s.space()
		start := s.pos
		switch s.peek() {
		case end:
			s.pos++
			return
		case ',':
			s.pos++
		default:
			element()
			if s.pos == start {
				return
			}
		}
	}
}

// skipString skips a string of any of the four kinds.
func (s *scanner) skipString() {
	quote := s.doc[s.pos : s.pos+1]
	triple := strings.Repeat(quote, 3)
	if s.has(triple) {
		s.pos += 3
		s.skipUntil(triple, quote == `"`)
		// Up to two quotes may stand directly before the closing three.
		for i := 0; i < 2 && s.has(quote); i++ {
			s.pos++
		}
		return
	}
	s.pos++
	s.skipUntil(quote, quote == `"`)
}

func (s *scanner) skipUntil(end string, escapes bool) {
	for s.pos < len(s.doc) {
		switch {
		case s.has(end):
			s.pos += len(end)
			return
		case escapes && s.doc[s.pos] == '\\':
			s.pos += 2
		default:
			s.pos++
		}
	}
	s.pos = len(s.doc)
}

// unquote reads a basic string of TOML on one line, with its quotes.
func unquote(quoted string) string {
	text := strings.TrimSuffix(strings.TrimPrefix(quoted, `"`), `"`)
	var b strings.Builder
	for len(text) > 0 {
		if text[0] != '\\' || len(text) < 2 {
			b.WriteByte(text[0])
			text = text[1:]
			continue
		}
		escape := text[1]
		text = text[2:]
		digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[escape]
		switch i := strings.IndexByte(`btnfre"\`, escape); {
		case digits > 0 && digits <= len(text):
			if code, err := strconv.ParseUint(text[:digits], 16, 31); err == nil {
				b.WriteString(string(rune(min(code, utf8.MaxRune+1)))) // #nosec G115 -- bounded by MaxRune
			}
			text = text[digits:]
		case i >= 0:
			b.WriteByte("\b\t\n\f\r\x1b\"\\"[i])
		}
	}
	return b.String()
}
