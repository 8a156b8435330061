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
	if f != 0 && (math.Abs(f) >= 1e21 || math.Abs(f) < 1e-3) {
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

// ratio returns the exact value of a number.
func ratio(v Value) *big.Rat {
	switch x := v.(type) {
	case *big.Rat:
		return x
	case float64:
		return new(big.Rat).SetFloat64(x)
	}
	return nil
}

// operation sets z to what it makes of x and y, and returns z.
type operation func(z, x, y *big.Rat) *big.Rat

// compute returns an exact number if both numbers are exact, and else the float64 that
// is nearest, as the arithmetic of float64 does.
func (c *call) compute(f operation, a, b Value) Value {
	x, isExact := a.(*big.Rat)
	y, bothExact := b.(*big.Rat)
	if isExact && bothExact {
		return c.newNumber(f(new(big.Rat), x, y))
	}
	c.in.step(c.at, 16)
	return c.float(f(new(big.Rat), ratio(c.float(a)), ratio(c.float(b))))
}

// float returns the float64 nearest to a number.
func (c *call) float(v Value) float64 {
	f, _ := Float(v)
	if math.IsInf(f, 0) {
		unsupported(c.at, "an infinite number")
	}
	return f
}

// folded computes from left to right, from start on if there is no argument or one.
func (c *call) folded(start int64, f operation) Value {
	var v Value = exact(start)
	for i := range c.args {
		if x := c.number(i); i == 0 && len(c.args) > 1 {
			v = x
		} else {
			v = c.compute(f, v, x)
		}
	}
	return v
}

// divided is (/ …).
func (c *call) divided() Value {
	quotient := func(z, x, y *big.Rat) *big.Rat {
		if y.Sign() == 0 {
			fail(c.at, "", "%s: division by zero", c.name)
		}
		return z.Quo(x, y)
	}
	return c.folded(1, quotient)
}

func defineNumbers() {
	primitive("+", 0, -1, func(c *call) Value { return c.folded(0, (*big.Rat).Add) })
	primitive("*", 0, -1, func(c *call) Value { return c.folded(1, (*big.Rat).Mul) })
	primitive("-", 1, -1, func(c *call) Value { return c.folded(0, (*big.Rat).Sub) })
	primitive("/", 1, -1, (*call).divided)
	primitive("1+", 1, 1, func(c *call) Value { return c.compute((*big.Rat).Add, c.number(0), exact(1)) })
	primitive("1-", 1, 1, func(c *call) Value { return c.compute((*big.Rat).Sub, c.number(0), exact(1)) })
	for name, order := range map[string]int{"<": -1, "=": 0, ">": 1} {
		narrow(name, 2, 2, func(c *call) Value { return ratio(c.number(0)).Cmp(ratio(c.number(1))) == order })
	}
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
		elems[i] = c.compute((*big.Rat).Add, start, c.compute((*big.Rat).Mul, exact(int64(i)), step))
	}
	return list(elems, Empty{})
}
