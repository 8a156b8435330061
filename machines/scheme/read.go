package scheme

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// node is a piece of the program's text: an atom or a list.
type node struct {
	at   int   // byte offset
	atom Value // nil for a list
	list []*node
	tail *node // what stands after a dot
	data Value // of a list: what datum returned before, or nil
}

// datum returns what (quote N) evaluates to, which is always the same.
func (n *node) datum() Value {
	switch {
	case n.atom != nil:
		return n.atom
	case n.data != nil:
		return n.data
	}
	elems := make([]Value, len(n.list))
	for i, e := range n.list {
		elems[i] = e.datum()
	}
	var tail Value = Empty{}
	if n.tail != nil {
		tail = n.tail.datum()
	}
	n.data = list(elems, tail)
	return n.data
}

// symbol returns the name that an atom is, or "".
func (n *node) symbol() Symbol {
	s, _ := n.atom.(Symbol)
	return s
}

// isList reports whether the node is a proper list.
func (n *node) isList() bool { return n.atom == nil && n.tail == nil }

// isForm reports whether the node is a list that starts with a name.
func (n *node) isForm(name Symbol) bool {
	return n.isList() && len(n.list) > 0 && n.list[0].symbol() == name
}

// maxNesting bounds the brackets in each other in the text.
const maxNesting = 1000

// maxSymbol bounds the length of a symbol, in bytes.
const maxSymbol = 10_000

// read returns the forms of a program.
func read(text string, limits Limits) []*node {
	r := &reader{text: text, most: limits.withDefaults().Nodes}
	if strings.HasPrefix(text, "\ufeff") {
		r.pos = len("\ufeff")
	}
	for i, char := range text {
		if char == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD") {
			fail(i, "save the file as UTF-8", "the file is not in UTF-8")
		}
	}
	var forms []*node
	for {
		r.space()
		if r.pos >= len(r.text) {
			return forms
		}
		forms = append(forms, r.node())
	}
}

type reader struct {
	text  string
	pos   int
	depth int
	nodes int
	most  int
}

func (r *reader) has(prefix string) bool { return strings.HasPrefix(r.text[r.pos:], prefix) }

func (r *reader) peek() byte {
	if r.pos < len(r.text) {
		return r.text[r.pos]
	}
	return 0
}

// space skips blanks and comments of all kinds.
func (r *reader) space() {
	for r.pos < len(r.text) {
		switch c := r.text[r.pos]; {
		case c == ';':
			line, _, _ := strings.Cut(r.text[r.pos:], "\n")
			r.pos += len(line)
		case r.has("#|"):
			r.skipBlock()
		case r.has("#;"):
			r.after("#;")
		case r.has("#!"):
			r.skipScript()
		case c == ' ' || '\t' <= c && c <= '\r':
			r.pos++
		default:
			return
		}
	}
}

// skipBlock skips "#|…|#", which nests.
func (r *reader) skipBlock() {
	start, depth := r.pos, 0
	for r.pos < len(r.text) {
		switch {
		case r.has("#|"):
			depth++
			r.pos += 2
		case r.has("|#"):
			depth--
			r.pos += 2
			if depth == 0 {
				return
			}
		default:
			r.pos++
		}
	}
	fail(start, "it ends with |#; each #| inside needs a |# of its own", "a comment that starts with #| does not end")
}

// skipScript skips "#!…!#", with which a program starts that the kernel runs. Other
// words after "#!" change how Guile reads.
func (r *reader) skipScript() {
	start := r.pos
	if token := r.token(); len(token) > 2 && token[2] != '/' {
		unsupported(start, cutText(token))
	}
	i := strings.Index(r.text[start+2:], "!#")
	if i < 0 {
		fail(start, "it ends with !#", "a comment that starts with #! does not end")
	}
	r.pos = start + 2 + i + 2
}

func (r *reader) enter() {
	r.depth++
	if r.depth > maxNesting {
		overLimit(r.pos, "brackets are nested more than %d deep", maxNesting)
	}
}

// node reads what stands at pos, which is no space.
func (r *reader) node() *node {
	if r.nodes++; r.nodes > r.most {
		overLimit(r.pos, "more than %d words and lists", r.most)
	}
	n := &node{at: r.pos}
	switch c := r.text[r.pos]; c {
	case '(':
		r.list(n, ')')
	case '[':
		r.list(n, ']')
	case ')', ']':
		fail(r.pos, "an opening bracket is missing before it, or this one is too many", "%q closes nothing that is open", string(c))
	case '"':
		n.atom = r.string()
	case '\'', '`', ',':
		r.prefixed(n)
	default:
		n.atom = r.word()
	}
	return n
}

func (r *reader) list(n *node, end byte) {
	r.enter()
	open := string(r.text[r.pos])
	r.pos++
	n.list = []*node{}
	for {
		r.space()
		switch c := r.peek(); {
		case r.pos >= len(r.text):
			fail(n.at, fmt.Sprintf("%q is missing", string(end)), "the bracket %q is not closed", open)
		case c == end:
			r.pos++
			r.depth--
			return
		case c == ')' || c == ']':
			line := position(r.text, n.at).Line
			fail(r.pos, fmt.Sprintf("want %q", string(end)), "%q does not close the bracket %q of line %d", string(c), open, line)
		case c == '.' && r.token() == "." && len(n.list) > 0:
			r.pos++
			r.dotted(n, end)
		default:
			n.list = append(n.list, r.node())
		}
	}
}

func (r *reader) dotted(n *node, end byte) {
	dot := r.pos - 1
	r.space()
	if r.pos >= len(r.text) || r.peek() == end {
		fail(dot, "", "nothing comes after the dot")
	}
	tail := r.node()
	r.space()
	if r.peek() != end {
		fail(r.pos, "", "more than one value comes after the dot")
	}
	if tail.atom != nil {
		n.tail = tail
		return
	}
	// (a . (b c)) is (a b c).
	n.list = append(n.list, tail.list...)
	n.tail = tail.tail
}

// prefixes stand before a datum, each for a list that begins with a name.
var prefixes = []struct {
	text string
	name Symbol
}{{"'", "quote"}, {"`", "quasiquote"}, {",@", "unquote-splicing"}, {",", "unquote"}}

func (r *reader) prefixed(n *node) {
	for _, prefix := range prefixes {
		if r.has(prefix.text) {
			n.list = []*node{{at: n.at, atom: prefix.name}, r.after(prefix.text)}
			return
		}
	}
}

// after reads the datum after a prefix that stands at pos.
func (r *reader) after(prefix string) *node {
	start := r.pos
	r.enter()
	r.pos += len(prefix)
	r.space()
	if r.pos >= len(r.text) {
		fail(start, "", "nothing comes after %s", prefix)
	}
	n := r.node()
	r.depth--
	return n
}

// token returns the text up to the next delimiter; it does not move.
func (r *reader) token() string {
	rest := r.text[r.pos:]
	if i := strings.IndexAny(rest, "()[];\" \t\n\r\f"); i >= 0 {
		return rest[:i]
	}
	return rest
}

// word reads a number, a symbol, or what starts with "#".
func (r *reader) word() Value {
	start := r.pos
	token := r.token()
	if len(token) > maxSymbol {
		overLimit(start, "a word of more than %d bytes", maxSymbol)
	}
	r.pos += len(token)
	name, isKeyword := strings.CutPrefix(token, "#:")
	number := parseNumber(token)
	switch lower := strings.ToLower(token); {
	case number != nil:
		return number
	case isKeyword && name == "":
		fail(start, "", "no name comes after #:")
	case isKeyword:
		return Keyword(name)
	case lower == "#t" || lower == "#true":
		return true
	case lower == "#f" || lower == "#false":
		return false
	case token[0] == '#':
		unsupported(start, "the syntax "+cutText(token))
	case strings.Trim(token, "0123456789") == "":
		overLimit(start, "a number of more than %d digits", maxBits)
	}
	return Symbol(token)
}

// cutText shortens what a message quotes.
func cutText(text string) string {
	const longest = 40
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "…"
}

// string reads a string; it starts at pos.
func (r *reader) string() Value {
	start := r.pos
	r.pos++
	var b strings.Builder
	for r.pos < len(r.text) {
		switch c := r.text[r.pos]; c {
		case '"':
			r.pos++
			return &String{Text: b.String(), At: start}
		case '\\':
			r.escape(&b)
		default:
			b.WriteByte(c)
			r.pos++
		}
	}
	fail(start, `it ends with "; a " inside is written \"`, "a string does not end")
	return nil
}

// escapes are the letters after a backslash, and after them what each stands for.
const escapes, escaped = `|\("0fnrtavb`, "|\\(\"\x00\f\n\r\t\a\v\b"

func (r *reader) escape(b *strings.Builder) {
	start := r.pos
	if r.pos+1 >= len(r.text) {
		r.pos = len(r.text)
		return
	}
	c := r.text[r.pos+1]
	r.pos += 2
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 6}[c]
	switch i := strings.IndexByte(escapes, c); {
	case c == '\n':
	case digits > 0:
		b.WriteRune(r.hexEscape(start, digits))
	case i >= 0:
		b.WriteByte(escaped[i])
	default:
		char, _ := utf8.DecodeRuneInString(r.text[start+1:])
		fail(start, `write \\ for a backslash`, `\%s has no meaning in a string`, cutText(string(char)))
	}
}

func (r *reader) hexEscape(start, digits int) rune {
	end := min(r.pos+digits, len(r.text))
	code, err := strconv.ParseUint(r.text[r.pos:end], 16, 32)
	if err != nil || end-r.pos < digits {
		fail(start, `\xHH, \uHHHH or \UHHHHHH`, "an escape of a character needs %d hexadecimal digits here", digits)
	}
	r.pos = end
	char := rune(code) // #nosec G115 -- at most 6 digits
	if !utf8.ValidRune(char) {
		fail(start, "", "there is no character %#x", code)
	}
	return char
}
