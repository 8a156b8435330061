package scheme

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// maxBits bounds the numerator and the denominator of an exact number.
const maxBits = 4096

func exact(n int64) *big.Rat { return big.NewRat(n, 1) }

// parseNumber reads a real number as Guile writes it: "2", "-3/4", "2.", ".5", "1e3",
// "#x16". It returns nil for what is none.
func parseNumber(text string) Value {
	radix := 10
	if len(text) > 2 && text[0] == '#' {
		radix = map[byte]int{'x': 16, 'd': 10, 'o': 8, 'b': 2}[text[1]|0x20]
		text = text[2:]
	}
	digits := strings.TrimPrefix(strings.TrimPrefix(text, "-"), "+")
	if len(text)-len(digits) > 1 {
		return nil
	}
	numerator, denominator, isFraction := strings.Cut(digits, "/")
	if !isFraction {
		denominator = "1"
	}
	n, d := parseNatural(numerator, radix), parseNatural(denominator, radix)
	switch {
	case n != nil && d != nil && d.Sign() > 0:
		r := new(big.Rat).SetFrac(n, d)
		if text[0] == '-' {
			r.Neg(r)
		}
		return r
	case radix != 10 || strings.Trim(digits, "0123456789.eE+-") != "" || !strings.ContainsAny(digits, ".eE"):
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil { // it is none, or too big, which Guile refuses too
		return nil
	}
	return f
}

func parseNatural(digits string, radix int) *big.Int {
	if digits == "" || len(digits) > maxBits || radix == 0 || strings.ContainsAny(digits, "+-_") {
		return nil
	}
	n, ok := new(big.Int).SetString(digits, radix)
	if !ok {
		return nil
	}
	return n
}

// floatText writes a number as Guile does.
func floatText(f float64) string {
	switch {
	case math.IsNaN(f):
		return "+nan.0"
	case math.IsInf(f, 0):
		return map[bool]string{true: "+inf.0", false: "-inf.0"}[f > 0]
	case f != 0 && (math.Abs(f) >= 1e21 || math.Abs(f) < 1e-3):
		mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
		if !strings.Contains(mantissa, ".") {
			mantissa += ".0"
		}
		return mantissa + "e" + strings.TrimPrefix(exponent[:1], "+") + strings.TrimLeft(exponent, "+-0")
	}
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}

// Float returns a number as the nearest float64, or ok false for what is not a number.
func Float(v Value) (f float64, ok bool) {
	switch x := v.(type) {
	case *big.Rat:
		f, _ = x.Float64()
		return f, true
	case float64:
		return x, true
	}
	return 0, false
}

// combine computes exactly if both numbers are exact.
func (c *call) combine(a, b Value, exactly func(z, x, y *big.Rat) *big.Rat, roughly func(x, y float64) float64) Value {
	x, ok := a.(*big.Rat)
	y, both := b.(*big.Rat)
	if ok && both {
		return c.newNumber(exactly(new(big.Rat), x, y))
	}
	f, _ := Float(a)
	g, _ := Float(b)
	return roughly(f, g)
}

func (c *call) add(a, b Value) Value {
	return c.combine(a, b, (*big.Rat).Add, func(x, y float64) float64 { return x + y })
}

func (c *call) multiply(a, b Value) Value {
	return c.combine(a, b, (*big.Rat).Mul, func(x, y float64) float64 { return x * y })
}

func (c *call) subtract(a, b Value) Value {
	return c.combine(a, b, (*big.Rat).Sub, func(x, y float64) float64 { return x - y })
}

func (c *call) divide(a, b Value) Value {
	if d, ok := b.(*big.Rat); ok && d.Sign() == 0 {
		fail(c.at, "", "%s: division by zero", c.name)
	}
	return c.combine(a, b, (*big.Rat).Quo, func(x, y float64) float64 { return x / y })
}

// folded computes from left to right, from start on if there is no argument or one.
func (c *call) folded(start int64, f func(c *call, a, b Value) Value) Value {
	var v Value = exact(start)
	for i := range c.args {
		if x := c.number(i); i == 0 && len(c.args) > 1 {
			v = x
		} else {
			v = f(c, v, x)
		}
	}
	return v
}

func defineNumbers() {
	primitive("+", 0, -1, func(c *call) Value { return c.folded(0, (*call).add) })
	primitive("*", 0, -1, func(c *call) Value { return c.folded(1, (*call).multiply) })
	primitive("-", 1, -1, func(c *call) Value { return c.folded(0, (*call).subtract) })
	primitive("/", 1, -1, func(c *call) Value { return c.folded(1, (*call).divide) })
	primitive("1+", 1, 1, func(c *call) Value { return c.add(c.number(0), exact(1)) })
	primitive("1-", 1, 1, func(c *call) Value { return c.subtract(c.number(0), exact(1)) })
	// compare adds a comparison that depends on the difference of two numbers.
	compare := func(name string, holds func(difference float64) bool) {
		narrow(name, 2, 2, func(c *call) Value {
			difference, _ := Float(c.subtract(c.number(0), c.number(1)))
			return holds(difference)
		})
	}
	compare("=", func(difference float64) bool { return difference == 0 })
	compare("<", func(difference float64) bool { return difference < 0 })
	compare(">", func(difference float64) bool { return difference > 0 })
	primitive("number?", 1, 1, func(c *call) Value { _, ok := Float(c.args[0]); return ok })
	narrow("number->string", 1, 1, func(c *call) Value { return c.newString(c.displayed(c.number(0))) })
	primitive("iota", 1, 3, (*call).iota)
}

// iota is (iota COUNT), (iota COUNT START) or (iota COUNT START STEP).
func (c *call) iota() Value {
	elems := make([]Value, c.count(0))
	var start, step Value = exact(0), exact(1)
	if c.has(1) {
		start = c.number(1)
	}
	if c.has(2) {
		step = c.number(2)
	}
	for i := range elems {
		elems[i] = c.add(start, c.multiply(exact(int64(i)), step))
	}
	return list(elems, Empty{})
}
