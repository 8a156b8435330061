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
	sign, digits := "", text
	if text != "" && (text[0] == '+' || text[0] == '-') {
		sign, digits = text[:1], text[1:]
	}
	numerator, denominator, isFraction := strings.Cut(digits, "/")
	if n := parseNatural(numerator, radix); n != nil {
		r := new(big.Rat).SetInt(n)
		if isFraction {
			d := parseNatural(denominator, radix)
			if d == nil || d.Sign() == 0 {
				return nil
			}
			r.SetFrac(n, d)
		}
		if sign == "-" {
			r.Neg(r)
		}
		return r
	}
	if isFraction || radix != 10 || strings.Trim(digits, "0123456789.eE+-") != "" || !strings.ContainsAny(digits, "0123456789") {
		return nil
	}
	if strings.Trim(digits, "0123456789") == "" {
		return nil // it is too long to be exact
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil { // too big, which Guile refuses too
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

// numberText writes a number as Guile's number->string does.
func numberText(v Value) string {
	switch x := v.(type) {
	case *big.Rat:
		return x.RatString()
	case float64:
		return floatText(x)
	}
	return ""
}

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

func defineNumbers() {
	// fold computes from left to right, from start on where it takes no or one number.
	fold := func(name string, least int, start int64, f func(c *call, a, b Value) Value) {
		primitive(name, least, -1, func(c *call) Value {
			var v Value = exact(start)
			from := 0
			if len(c.args) > 1 {
				v, from = c.number(0), 1
			}
			for i := from; i < len(c.args); i++ {
				v = f(c, v, c.number(i))
			}
			return v
		})
	}
	fold("+", 0, 0, (*call).add)
	fold("*", 0, 1, (*call).multiply)
	fold("-", 1, 0, (*call).subtract)
	fold("/", 1, 1, (*call).divide)
	primitive("1+", 1, 1, func(c *call) Value { return c.add(c.number(0), exact(1)) })
	primitive("1-", 1, 1, func(c *call) Value { return c.subtract(c.number(0), exact(1)) })

	for name, holds := range map[string]func(x, y float64) bool{
		"=": func(x, y float64) bool { return x == y },
		"<": func(x, y float64) bool { return x < y },
		">": func(x, y float64) bool { return x > y },
	} {
		narrow(name, 2, 2, func(c *call) Value {
			x, _ := Float(c.number(0))
			y, _ := Float(c.number(1))
			return holds(x, y)
		})
	}
	primitive("number?", 1, 1, func(c *call) Value { _, ok := Float(c.args[0]); return ok })
	narrow("number->string", 1, 1, func(c *call) Value { return c.newString(numberText(c.number(0))) })
	primitive("iota", 1, 3, func(c *call) Value {
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
	})
}
