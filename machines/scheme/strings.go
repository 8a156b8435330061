package scheme

import (
	"cmp"
	"math/big"
	"regexp"
	"strconv"
	"strings"
)

func defineStrings() {
	primitive("string-append", 0, -1, func(c *call) Value { return c.joined(c.args, "") })
	narrow("string-join", 1, 2, func(c *call) Value {
		delimiter := " "
		if c.has(1) {
			delimiter = c.text(1)
		}
		return c.joined(c.list(0), delimiter)
	})
	primitive("string-null?", 1, 1, func(c *call) Value { return c.text(0) == "" })
	narrow("string=?", 2, 2, func(c *call) Value { return c.text(0) == c.text(1) })
	narrow("string-prefix?", 2, 2, func(c *call) Value { return strings.HasPrefix(c.text(1), c.text(0)) })
	narrow("string-suffix?", 2, 2, func(c *call) Value { return strings.HasSuffix(c.text(1), c.text(0)) })
	primitive("symbol->string", 1, 1, func(c *call) Value {
		return c.newString(string(argument[Symbol](c, 0, "a symbol")))
	})
	primitive("format", 2, -1, (*call).format)
}

// joined makes one string of strings.
func (c *call) joined(elems []Value, delimiter string) Value {
	texts := make([]string, len(elems))
	for i, v := range elems {
		s, ok := v.(*String)
		if !ok {
			fail(c.at, "", "%s: %s is where a string should be", c.name, kind(v))
		}
		c.in.alloc(c.at, len(s.Text)+len(delimiter))
		texts[i] = s.Text
	}
	return c.newString(strings.Join(texts, delimiter))
}

// directive is what comes after a "~": a width, a padding character, and a letter.
var directive = regexp.MustCompile(`^(?i:(\d{1,3})(?:,'(.))?d|[ad~%])`)

// format is (format #f TEMPLATE ARGUMENT …) with ~a, ~d, a width and a padding
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
			return c.newString(b.String())
		}
		c.in.step(c.at, 16)
		d := directive.FindStringSubmatch(after)
		if d == nil {
			unsupported(c.at, "format with ~"+cutText(after))
		}
		template = after[len(d[0]):]
		switch d[0] {
		case "~":
			b.WriteString("~")
			continue
		case "%":
			b.WriteString("\n")
			continue
		}
		if len(args) == 0 {
			fail(c.at, "", "format: there are fewer arguments than the template needs")
		}
		b.WriteString(c.formatted(args[0], d))
		args = args[1:]
	}
}

// formatted returns an argument as the directive wants it.
func (c *call) formatted(v Value, directive []string) string {
	if strings.EqualFold(directive[0], "a") {
		text := c.displayed(v)
		c.in.alloc(c.at, len(text))
		return text
	}
	n, ok := v.(*big.Rat)
	if !ok || !n.IsInt() {
		fail(c.at, "", "format: ~d of %s; want a whole number", kind(v))
	}
	width, _ := strconv.Atoi(directive[1])
	text := n.Num().String()
	text = strings.Repeat(cmp.Or(directive[2], " "), max(width-len(text), 0)) + text
	c.in.alloc(c.at, len(text))
	return text
}

// displayed returns an atom as display prints it.
func (c *call) displayed(v Value) string {
	switch v := v.(type) {
	case *String:
		return v.Text
	case Symbol:
		return string(v)
	case *big.Rat, float64, bool:
		return Write(v, 2*maxBits)
	}
	unsupported(c.at, c.name+" of "+kind(v))
	return ""
}
