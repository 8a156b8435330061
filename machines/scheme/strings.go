package scheme

import (
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

func defineStrings() {
	primitive("string-append", 0, -1, func(c *call) Value {
		var b strings.Builder
		for i := range c.args {
			text := c.text(i)
			c.in.alloc(c.at, len(text))
			b.WriteString(text)
		}
		return c.newString(b.String())
	})
	primitive("string-concatenate", 1, 1, func(c *call) Value { return c.newString(c.joined(c.list(0), "")) })
	primitive("string-join", 1, 3, func(c *call) Value {
		delimiter, grammar := " ", Symbol("infix")
		if c.has(1) {
			delimiter = c.text(1)
		}
		if c.has(2) {
			grammar = c.symbol(2)
		}
		elems := c.list(0)
		text := c.joined(elems, delimiter)
		switch grammar {
		case "infix":
		case "strict-infix":
			if len(elems) == 0 {
				c.wrong(0, "a list with something in it")
			}
		case "prefix":
			if len(elems) > 0 {
				text = delimiter + text
			}
		case "suffix":
			if len(elems) > 0 {
				text += delimiter
			}
		default:
			c.wrong(2, "infix, strict-infix, prefix or suffix")
		}
		return c.newString(text)
	})
	primitive("string", 0, -1, func(c *call) Value {
		var b strings.Builder
		for i := range c.args {
			b.WriteRune(c.char(i))
		}
		return c.newString(b.String())
	})
	primitive("make-string", 1, 2, func(c *call) Value {
		fill := ' '
		if c.has(1) {
			fill = c.char(1)
		}
		return c.newString(strings.Repeat(string(fill), c.count(0)))
	})
	primitive("string-length", 1, 1, func(c *call) Value { return exact(int64(utf8.RuneCountInString(c.text(0)))) })
	primitive("string-ref", 2, 2, func(c *call) Value {
		runes := c.runes(0)
		if len(runes) == 0 {
			c.wrong(0, "a string with something in it")
		}
		return Char(runes[c.index(1, len(runes)-1)])
	})
	primitive("string->list", 1, 1, func(c *call) Value {
		var elems []Value
		for _, r := range c.text(0) {
			elems = append(elems, Char(r))
		}
		return c.newList(elems)
	})
	primitive("list->string", 1, 1, func(c *call) Value {
		var b strings.Builder
		for _, v := range c.list(0) {
			char, ok := v.(Char)
			if !ok {
				c.wrong(0, "a list of characters")
			}
			b.WriteRune(rune(char))
		}
		return c.newString(b.String())
	})
	primitive("substring", 2, 3, func(c *call) Value {
		runes := c.runes(0)
		end := len(runes)
		if c.has(2) {
			end = c.index(2, len(runes))
		}
		return c.newString(string(runes[c.index(1, end):end]))
	})
	primitive("string-take", 2, 2, func(c *call) Value {
		runes := c.runes(0)
		return c.newString(string(runes[:c.index(1, len(runes))]))
	})
	primitive("string-drop", 2, 2, func(c *call) Value {
		runes := c.runes(0)
		return c.newString(string(runes[c.index(1, len(runes)):]))
	})
	for name, f := range map[string]func(string) string{
		"string-upcase": strings.ToUpper, "string-downcase": strings.ToLower, "string-copy": strings.Clone,
	} {
		primitive(name, 1, 1, func(c *call) Value { return c.newString(f(c.text(0))) })
	}
	for name, f := range map[string]func(string, func(rune) bool) string{
		"string-trim": strings.TrimLeftFunc, "string-trim-right": strings.TrimRightFunc, "string-trim-both": strings.TrimFunc,
	} {
		primitive(name, 1, 2, func(c *call) Value {
			if !c.has(1) {
				return c.newString(f(c.text(0), unicode.IsSpace))
			}
			char := c.char(1)
			return c.newString(f(c.text(0), func(r rune) bool { return r == char }))
		})
	}
	primitive("string-split", 2, 2, func(c *call) Value {
		var elems []Value
		for part := range strings.SplitSeq(c.text(0), string(c.char(1))) {
			elems = append(elems, c.newString(part))
		}
		return c.newList(elems)
	})
	defineStringPredicates()
	definePadding()
	primitive("symbol->string", 1, 1, func(c *call) Value { return c.newString(string(c.symbol(0))) })
	primitive("string->symbol", 1, 1, func(c *call) Value { return c.newSymbol(c.text(0)) })
	primitive("symbol-append", 0, -1, func(c *call) Value {
		text := ""
		for i := range c.args {
			text += string(c.symbol(i))
			c.in.alloc(c.at, len(text))
		}
		return c.newSymbol(text)
	})
	primitive("keyword->symbol", 1, 1, func(c *call) Value {
		k, ok := c.args[0].(Keyword)
		if !ok {
			c.wrong(0, "a keyword")
		}
		return Symbol(k)
	})
	primitive("symbol->keyword", 1, 1, func(c *call) Value { return Keyword(c.symbol(0)) })
	primitive("char->integer", 1, 1, func(c *call) Value { return exact(int64(c.char(0))) })
	primitive("integer->char", 1, 1, func(c *call) Value {
		code := rune(c.index(0, unicode.MaxRune)) // #nosec G115 -- bounded
		if !utf8.ValidRune(code) {
			c.wrong(0, "the code of a character")
		}
		return Char(code)
	})
	primitive("format", 2, -1, (*call).format)
	primitive("simple-format", 2, -1, (*call).format)
	primitive("object->string", 1, 1, func(c *call) Value { return c.newString(c.printed(c.args[0], true)) })
}

func defineStringPredicates() {
	for name, holds := range map[string]func(order int) bool{
		"string=?":  func(o int) bool { return o == 0 },
		"string<?":  func(o int) bool { return o < 0 },
		"string>?":  func(o int) bool { return o > 0 },
		"string<=?": func(o int) bool { return o <= 0 },
		"string>=?": func(o int) bool { return o >= 0 },
	} {
		primitive(name, 0, -1, func(c *call) Value {
			result := true
			for i := range c.args {
				c.text(i)
				result = result && (i == 0 || holds(strings.Compare(c.text(i-1), c.text(i))))
			}
			return result
		})
	}
	primitive("string-null?", 1, 1, func(c *call) Value { return c.text(0) == "" })
	primitive("string-prefix?", 2, 2, func(c *call) Value { return strings.HasPrefix(c.text(1), c.text(0)) })
	primitive("string-suffix?", 2, 2, func(c *call) Value { return strings.HasSuffix(c.text(1), c.text(0)) })
	primitive("string-contains", 2, 2, func(c *call) Value {
		i := strings.Index(c.text(0), c.text(1))
		if i < 0 {
			return false
		}
		return exact(int64(utf8.RuneCountInString(c.text(0)[:i])))
	})
	primitive("string-index", 2, 2, func(c *call) Value {
		i := strings.IndexRune(c.text(0), c.char(1))
		if i < 0 {
			return false
		}
		return exact(int64(utf8.RuneCountInString(c.text(0)[:i])))
	})
	primitive("char=?", 2, 2, func(c *call) Value { return c.char(0) == c.char(1) })
	primitive("char-numeric?", 1, 1, func(c *call) Value { return unicode.IsDigit(c.char(0)) })
	primitive("char-alphabetic?", 1, 1, func(c *call) Value { return unicode.IsLetter(c.char(0)) })
}

// definePadding adds string-pad, which cuts what is too long, as SRFI-13 says.
func definePadding() {
	pad := func(name string, left bool) {
		primitive(name, 2, 3, func(c *call) Value {
			runes, width, fill := c.runes(0), c.count(1), ' '
			if c.has(2) {
				fill = c.char(2)
			}
			padding := strings.Repeat(string(fill), max(width-len(runes), 0))
			surplus := max(len(runes)-width, 0)
			if left {
				return c.newString(padding + string(runes[surplus:]))
			}
			return c.newString(string(runes[:len(runes)-surplus]) + padding)
		})
	}
	pad("string-pad", true)
	pad("string-pad-right", false)
}

func (c *call) runes(i int) []rune {
	text := c.text(i)
	c.in.alloc(c.at, 4*len(text))
	return []rune(text)
}

func (c *call) char(i int) rune {
	char, ok := c.args[i].(Char)
	if !ok {
		c.wrong(i, "a character")
	}
	return rune(char)
}

func (c *call) joined(elems []Value, delimiter string) string {
	texts := make([]string, len(elems))
	for i, v := range elems {
		s, ok := v.(*String)
		if !ok {
			c.wrong(0, "a list of strings")
		}
		c.in.alloc(c.at, len(s.Text)+len(delimiter))
		texts[i] = s.Text
	}
	return strings.Join(texts, delimiter)
}

// printed returns a value as write or display print it.
func (c *call) printed(v Value, quote bool) string {
	const longest = 1 << 16
	p := &printer{limit: longest, quote: quote}
	p.value(v, 0)
	if p.cut {
		overLimit(c.at, "%s of more than %d bytes", c.name, longest)
	}
	c.in.alloc(c.at, p.Len())
	return p.String()
}

// format is (format #f TEMPLATE ARGUMENT …) with ~a ~s ~d ~x ~o ~b, a width and a
// padding character before these, ~%, ~& and ~~.
func (c *call) format() Value {
	if truth(c.args[0]) {
		unsupported(c.at, "format with an output other than #f")
	}
	template, args := c.text(1), c.args[2:]
	var b strings.Builder
	for {
		before, after, found := strings.Cut(template, "~")
		b.WriteString(before)
		if !found {
			break
		}
		d := c.directive(after)
		template = d.rest
		switch {
		case strings.ContainsRune("~%&", d.letter):
			b.WriteString(map[rune]string{'~': "~", '%': "\n", '&': "\n"}[d.letter])
		case len(args) == 0:
			fail(c.at, "", "format: there are fewer arguments than the template needs")
		default:
			text := c.formatted(d, args[0])
			c.in.alloc(c.at, len(text))
			b.WriteString(text)
			args = args[1:]
		}
	}
	return c.newString(b.String())
}

// directive is a "~WIDTH,'PADa" of format.
type directive struct {
	letter rune
	width  int
	pad    string
	rest   string // what follows in the template
}

func (c *call) directive(text string) directive {
	d := directive{pad: " "}
	digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
	if digits > 0 {
		width, err := strconv.Atoi(text[:digits])
		if err != nil || width > 1000 {
			overLimit(c.at, "format with a width of %s", cutText(text[:digits]))
		}
		d.width = width
	}
	text = text[digits:]
	if rest, ok := strings.CutPrefix(text, ",'"); ok {
		_, size := utf8.DecodeRuneInString(rest)
		d.pad, text = rest[:size], rest[size:]
	}
	letter, size := utf8.DecodeRuneInString(text)
	d.letter, d.rest = unicode.ToLower(letter), text[size:]
	if size == 0 || !strings.ContainsRune("asdxob~%&", d.letter) || d.pad != " " && strings.ContainsRune("as", d.letter) {
		unsupported(c.at, "format with ~"+cutText(text))
	}
	return d
}

func (c *call) formatted(d directive, v Value) string {
	radix := map[rune]int{'d': 10, 'x': 16, 'o': 8, 'b': 2}[d.letter]
	if radix == 0 {
		text := c.printed(v, d.letter == 's')
		return text + strings.Repeat(" ", max(d.width-utf8.RuneCountInString(text), 0))
	}
	n, ok := v.(*big.Rat)
	if !ok || !n.IsInt() {
		fail(c.at, "", "format: ~%c of %s; want a whole number", d.letter, kind(v))
	}
	text := n.Num().Text(radix)
	return strings.Repeat(d.pad, max(d.width-utf8.RuneCountInString(text), 0)) + text
}
