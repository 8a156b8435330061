package scheme

import (
	"math"
	"math/big"
)

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

// compare returns -1, 0 or 1; ordered is false if one of them is no number.
func compare(a, b Value) (order int, ordered bool) {
	x, ok := a.(*big.Rat)
	y, both := b.(*big.Rat)
	if ok && both {
		return x.Cmp(y), true
	}
	f, _ := Float(a)
	g, _ := Float(b)
	switch {
	case f < g:
		return -1, true
	case f > g:
		return 1, true
	}
	return 0, f == g
}

func defineNumbers() {
	fold := func(name string, start int64, f func(c *call, a, b Value) Value) {
		primitive(name, 0, -1, func(c *call) Value {
			var v Value = exact(start)
			for i := range c.args {
				v = f(c, v, c.number(i))
			}
			return v
		})
	}
	fold("+", 0, (*call).add)
	fold("*", 1, (*call).multiply)
	from := func(name string, start int64, f func(c *call, a, b Value) Value) {
		primitive(name, 1, -1, func(c *call) Value {
			v := c.number(0)
			if len(c.args) == 1 {
				return f(c, exact(start), v)
			}
			for i := 1; i < len(c.args); i++ {
				v = f(c, v, c.number(i))
			}
			return v
		})
	}
	from("-", 0, (*call).subtract)
	from("/", 1, (*call).divide)
	primitive("1+", 1, 1, func(c *call) Value { return c.add(c.number(0), one) })
	primitive("1-", 1, 1, func(c *call) Value { return c.subtract(c.number(0), one) })

	for name, holds := range map[string]func(order int) bool{
		"=":  func(o int) bool { return o == 0 },
		"<":  func(o int) bool { return o < 0 },
		">":  func(o int) bool { return o > 0 },
		"<=": func(o int) bool { return o <= 0 },
		">=": func(o int) bool { return o >= 0 },
	} {
		primitive(name, 0, -1, func(c *call) Value {
			result := true
			for i := range c.args {
				c.number(i)
				if i > 0 {
					order, ordered := compare(c.args[i-1], c.args[i])
					result = result && ordered && holds(order)
				}
			}
			return result
		})
	}
	extreme := func(name string, sign int) {
		primitive(name, 1, -1, func(c *call) Value {
			v := c.number(0)
			_, inexact := v.(float64)
			for i := 1; i < len(c.args); i++ {
				n := c.number(i)
				if _, ok := n.(float64); ok {
					inexact = true
				}
				if order, _ := compare(n, v); order == sign {
					v = n
				}
			}
			if inexact {
				v, _ = Float(v)
			}
			return v
		})
	}
	extreme("max", 1)
	extreme("min", -1)

	division := func(f func(z, x, y *big.Int) *big.Int) func(c *call) Value {
		return func(c *call) Value {
			if c.integer(1).Sign() == 0 {
				fail(c.at, "", "%s: division by zero", c.name)
			}
			return c.newNumber(new(big.Rat).SetInt(f(new(big.Int), c.integer(0), c.integer(1))))
		}
	}
	primitive("quotient", 2, 2, division((*big.Int).Quo))
	primitive("remainder", 2, 2, division((*big.Int).Rem))
	primitive("modulo", 2, 2, division(func(z, x, y *big.Int) *big.Int {
		if z.Rem(x, y); z.Sign() != 0 && z.Sign() != y.Sign() {
			z.Add(z, y)
		}
		return z
	}))
	primitive("abs", 1, 1, func(c *call) Value {
		if n, ok := c.number(0).(*big.Rat); ok {
			return new(big.Rat).Abs(n)
		}
		f, _ := Float(c.args[0])
		return math.Abs(f)
	})
	primitive("expt", 2, 2, func(c *call) Value {
		base, ok := c.number(0).(*big.Rat)
		exponent, both := c.number(1).(*big.Rat)
		if !ok || !both || !exponent.IsInt() {
			f, _ := Float(c.args[0])
			g, _ := Float(c.args[1])
			return math.Pow(f, g)
		}
		var v Value = exact(1)
		n := exponent.Num()
		if n.BitLen() > 13 {
			overLimit(c.at, "expt with an exponent of %s", kind(exponent))
		}
		for range new(big.Int).Abs(n).Int64() {
			c.in.step(c.at, 1)
			v = c.multiply(v, base)
		}
		if n.Sign() < 0 {
			return c.divide(exact(1), v)
		}
		return v
	})
	defineRounding()
	defineNumberPredicates()
}

func defineRounding() {
	for name, f := range map[string]func(float64) float64{
		"floor": math.Floor, "ceiling": math.Ceil, "truncate": math.Trunc, "round": math.RoundToEven,
	} {
		primitive(name, 1, 1, func(c *call) Value {
			if n, ok := c.number(0).(*big.Rat); ok {
				return c.newNumber(new(big.Rat).SetInt(roundExactly(n, name)))
			}
			x, _ := Float(c.args[0])
			return f(x)
		})
	}
	primitive("exact->inexact", 1, 1, func(c *call) Value {
		f, _ := Float(c.number(0))
		return f
	})
	primitive("inexact->exact", 1, 1, func(c *call) Value {
		f, ok := c.number(0).(float64)
		if !ok {
			return c.args[0]
		}
		r := new(big.Rat).SetFloat64(f)
		if r == nil {
			c.wrong(0, "a finite number")
		}
		return c.newNumber(r)
	})
	primitive("number->string", 1, 2, func(c *call) Value {
		radix := 10
		if c.has(1) {
			radix = max(c.index(1, 36), 2)
		}
		if _, inexact := c.number(0).(float64); inexact && radix != 10 {
			unsupported(c.at, "number->string of an inexact number with a radix")
		}
		return c.newString(numberText(c.args[0], radix))
	})
	primitive("string->number", 1, 2, func(c *call) Value {
		radix := 10
		if c.has(1) {
			radix = max(c.index(1, 36), 2)
		}
		n, isComplex := parseNumber(c.text(0), radix)
		switch {
		case isComplex:
			unsupported(c.at, "a complex number")
		case n == nil:
			return false
		}
		return n
	})
}

func roundExactly(n *big.Rat, how string) *big.Int {
	two := big.NewInt(2)
	quotient, remainder := new(big.Int).DivMod(n.Num(), n.Denom(), new(big.Int)) // floor
	switch how {
	case "ceiling":
		if remainder.Sign() != 0 {
			quotient.Add(quotient, big.NewInt(1))
		}
	case "truncate":
		return new(big.Int).Quo(n.Num(), n.Denom())
	case "round":
		up := new(big.Int).Mul(remainder, two).Cmp(n.Denom())
		if up > 0 || up == 0 && quotient.Bit(0) == 1 {
			quotient.Add(quotient, big.NewInt(1))
		}
	}
	return quotient
}

func defineNumberPredicates() {
	isNumber := func(v Value) bool { _, ok := Float(v); return ok }
	for _, name := range []string{"number?", "real?", "complex?"} {
		primitive(name, 1, 1, func(c *call) Value { return isNumber(c.args[0]) })
	}
	isInteger := func(v Value) bool {
		switch n := v.(type) {
		case *big.Rat:
			return n.IsInt()
		case float64:
			return n == math.Trunc(n) && !math.IsInf(n, 0)
		}
		return false
	}
	primitive("integer?", 1, 1, func(c *call) Value { return isInteger(c.args[0]) })
	primitive("exact-integer?", 1, 1, func(c *call) Value {
		n, ok := c.args[0].(*big.Rat)
		return ok && n.IsInt()
	})
	primitive("exact?", 1, 1, func(c *call) Value { _, ok := c.number(0).(*big.Rat); return ok })
	primitive("inexact?", 1, 1, func(c *call) Value { _, ok := c.number(0).(float64); return ok })
	primitive("even?", 1, 1, func(c *call) Value { return c.integer(0).Bit(0) == 0 })
	primitive("odd?", 1, 1, func(c *call) Value { return c.integer(0).Bit(0) == 1 })
	for name, sign := range map[string]int{"zero?": 0, "positive?": 1, "negative?": -1} {
		primitive(name, 1, 1, func(c *call) Value {
			order, ordered := compare(c.number(0), exact(0))
			return ordered && order == sign
		})
	}
}
