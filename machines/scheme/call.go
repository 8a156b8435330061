package scheme

import (
	"fmt"
	"math/big"
)

// call is one call of a primitive.
type call struct {
	in   *interp
	name string
	args []Value
	at   int // byte offset of the call
}

// wrong stops the program because an argument is of the wrong kind.
func (c *call) wrong(i int, want string) {
	which := "its argument"
	if len(c.args) > 1 {
		which = fmt.Sprintf("argument %d", i+1)
	}
	fail(c.at, "", "%s: %s is %s; want %s", c.name, which, kind(c.args[i]), want)
}

func (c *call) has(i int) bool { return i < len(c.args) }

// argument returns an argument of one type; want names it.
func argument[T Value](c *call, i int, want string) T {
	v, ok := c.args[i].(T)
	if !ok {
		c.wrong(i, want)
	}
	return v
}

func (c *call) list(i int) []Value {
	elems, ok := List(c.args[i])
	if !ok {
		c.wrong(i, "a list")
	}
	c.in.step(c.at, len(elems))
	return elems
}

func (c *call) text(i int) string {
	text := argument[*String](c, i, "a string").Text
	c.in.step(c.at, len(text)/64)
	return text
}

func (c *call) number(i int) Value {
	switch c.args[i].(type) {
	case *big.Rat, float64:
		return c.args[i]
	}
	c.wrong(i, "a number")
	return nil
}

// count returns a number of things to make.
func (c *call) count(i int) int {
	r, ok := c.args[i].(*big.Rat)
	if !ok || !r.IsInt() || r.Sign() < 0 {
		c.wrong(i, "a whole number that is not negative")
	}
	n := r.Num()
	if !n.IsInt64() || n.Int64() > int64(c.in.limits.Bytes) {
		overLimit(c.at, "%s of %s", c.name, kind(c.args[i]))
	}
	c.in.step(c.at, int(n.Int64()))
	c.in.alloc(c.at, pairSize*int(n.Int64()))
	return int(n.Int64())
}

func (c *call) apply(f Value, args ...Value) Value { return c.in.apply(f, args, c.at) }

// newList makes a list; its tail is Empty but for lists with a dot.
func (c *call) newList(elems []Value, tail Value) Value {
	c.in.step(c.at, len(elems))
	c.in.alloc(c.at, pairSize*len(elems))
	return list(elems, tail)
}

// newString makes a string.
func (c *call) newString(text string) Value {
	c.in.alloc(c.at, 48+len(text))
	return &String{Text: text, At: -1}
}

// newNumber bounds the size of an exact number.
func (c *call) newNumber(r *big.Rat) Value {
	if r.Num().BitLen() > maxBits || r.Denom().BitLen() > maxBits {
		overLimit(c.at, "a number of more than %d bits", maxBits)
	}
	c.in.step(c.at, (r.Num().BitLen()+r.Denom().BitLen())/16)
	c.in.alloc(c.at, 64+(r.Num().BitLen()+r.Denom().BitLen())/8)
	return r
}

// eqv is Scheme's eqv?; strings and lists are the same only if they are one.
func eqv(a, b Value) bool {
	x, ok := a.(*big.Rat)
	y, both := b.(*big.Rat)
	return a == b || ok && both && x.Cmp(y) == 0
}

// equal is Scheme's equal?.
func (in *interp) equal(a, b Value, at int) bool {
	in.enter(at)
	defer func() { in.depth-- }()
	for {
		in.step(at, 1)
		x, ok := a.(*Pair)
		y, both := b.(*Pair)
		switch {
		case !ok || !both:
			s, isString := a.(*String)
			t, areStrings := b.(*String)
			return eqv(a, b) || isString && areStrings && s.Text == t.Text
		case x == y:
			return true
		case !in.equal(x.Car, y.Car, at):
			return false
		}
		a, b = x.Cdr, y.Cdr
	}
}
