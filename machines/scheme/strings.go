package scheme

import (
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

func defineStrings() {
	primitive("string-append", 0, -1, func(c *call) Value { return c.newString(c.joined(c.args, "")) })
	narrow("string-join", 1, 2, func(c *call) Value {
		delimiter := " "
		if c.has(1) {
			delimiter = c.text(1)
		}
		return c.newString(c.joined(c.list(0), delimiter))
	})
	for name, f := range map[string]func(string) string{
		"string-upcase": strings.ToUpper, "string-downcase": strings.ToLower, "string-trim-both": strings.TrimSpace,
	} {
		narrow(name, 1, 1, func(c *call) Value { return c.newString(f(c.text(0))) })
	}
	primitive("string-null?", 1, 1, func(c *call) Value { return c.text(0) == "" })
	narrow("string=?", 2, 2, func(c *call) Value { return c.text(0) == c.text(1) })
	narrow("string-prefix?", 2, 2, func(c *call) Value { return strings.HasPrefix(c.text(1), c.text(0)) })
	narrow("string-suffix?", 2, 2, func(c *call) Value { return strings.HasSuffix(c.text(1), c.text(0)) })
	primitive("symbol->string", 1, 1, func(c *call) Value {
		s, ok := c.args[0].(Symbol)
		if !ok {
			c.wrong(0, "a symbol")
		}
		return c.newString(string(s))
	})
	primitive("format", 2, -1, (*call).format)
}

// joined returns the text of strings, one after the other.
func (c *call) joined(elems []Value, delimiter string) string {
	texts := make([]string, len(elems))
	for i, v := range elems {
		s, ok := v.(*String)
		if !ok {
			fail(c.at, "", "%s: %s is where a string should be", c.name, kind(v))
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

// format is (format #f TEMPLATE ARGUMENT …) with ~a, ~s, ~d, a width and a padding
// character before ~d as in "~2,'0d", ~% and ~~.
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
		case d.letter == '~':
			b.WriteString("~")
		case d.letter == '%':
			b.WriteString("\n")
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

// directive is a "~WIDTH,'PADd" of format.
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
	after := text[digits:]
	if rest, ok := strings.CutPrefix(after, ",'"); ok {
		_, size := utf8.DecodeRuneInString(rest)
		d.pad, after = rest[:size], rest[size:]
	}
	letter, size := utf8.DecodeRuneInString(after)
	d.letter, d.rest = unicode.ToLower(letter), after[size:]
	if size == 0 || !strings.ContainsRune("asd~%", d.letter) || len(after) < len(text) && d.letter != 'd' {
		unsupported(c.at, "format with ~"+cutText(text))
	}
	return d
}

func (c *call) formatted(d directive, v Value) string {
	if d.letter != 'd' {
		return c.printed(v, d.letter == 's')
	}
	n, ok := v.(*big.Rat)
	if !ok || !n.IsInt() {
		fail(c.at, "", "format: ~%c of %s; want a whole number", d.letter, kind(v))
	}
	text := n.Num().String()
	return strings.Repeat(d.pad, max(d.width-utf8.RuneCountInString(text), 0)) + text
}
