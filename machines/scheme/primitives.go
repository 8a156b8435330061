package scheme

import "slices"

// primitives are the procedures that every program has.
var primitives = make(map[Symbol]Value)

// primitive adds one, for a number of arguments; most < 0 means no limit.
func primitive(name string, least, most int, f func(c *call) Value) {
	primitives[Symbol(name)] = &Procedure{name: name, least: least, most: most, primitive: f}
}

// narrow adds one that takes more arguments in Guile.
func narrow(name string, least, most int, f func(c *call) Value) {
	primitives[Symbol(name)] = &Procedure{name: name, least: least, most: most, narrow: true, primitive: f}
}

func init() {
	definePredicates()
	defineLists()
	defineHigher()
	defineStrings()
	defineNumbers()
}

func definePredicates() {
	is := func(name string, f func(v Value) bool) {
		primitive(name, 1, 1, func(c *call) Value { return f(c.args[0]) })
	}
	is("not", func(v Value) bool { return !truth(v) })
	is("null?", func(v Value) bool { return v == Value(Empty{}) })
	is("pair?", func(v Value) bool { _, ok := v.(*Pair); return ok })
	is("string?", func(v Value) bool { _, ok := v.(*String); return ok })
	is("symbol?", func(v Value) bool { _, ok := v.(Symbol); return ok })
	narrow("eq?", 2, 2, func(c *call) Value { return eqv(c.args[0], c.args[1]) })
	narrow("equal?", 2, 2, func(c *call) Value { return c.in.equal(c.args[0], c.args[1], c.at) })
	primitive("getenv", 1, 1, func(c *call) Value {
		name := c.text(0)
		if c.in.getenv == nil {
			return false
		}
		if v, ok := c.in.getenv(name); ok {
			return c.newString(v)
		}
		return false
	})
	primitive("error", 1, -1, func(c *call) Value {
		p := &printer{limit: 1000}
		p.put(c.displayed(c.args[0]))
		for _, v := range c.args[1:] {
			p.put(" ")
			p.value(v)
		}
		fail(c.at, "", "the program stops with an error: %s", p)
		return nil
	})
}

func defineLists() {
	primitive("list", 0, -1, func(c *call) Value { return c.newList(c.args, Empty{}) })
	primitive("cons", 2, 2, func(c *call) Value { return c.newList(c.args[:1], c.args[1]) })
	for name, path := range map[string]string{
		"car": "a", "cdr": "d", "cadr": "ad", "cddr": "dd", "caddr": "add",
		"first": "a", "second": "ad", "third": "add",
	} {
		primitive(name, 1, 1, func(c *call) Value { return c.part(path) })
	}
	primitive("length", 1, 1, func(c *call) Value { return exact(int64(len(c.list(0)))) })
	primitive("reverse", 1, 1, func(c *call) Value {
		elems := c.list(0)
		slices.Reverse(elems)
		return c.newList(elems, Empty{})
	})
	primitive("append", 0, -1, func(c *call) Value { return c.appended(c.args) })
	narrow("member", 2, 2, func(c *call) Value {
		v := c.args[1]
		for p, ok := v.(*Pair); ok; p, ok = v.(*Pair) {
			if c.in.equal(c.args[0], p.Car, c.at) {
				return p
			}
			v = p.Cdr
		}
		return false
	})
	primitive("assoc-ref", 2, 2, func(c *call) Value {
		for _, v := range c.list(0) {
			p, ok := v.(*Pair)
			if !ok {
				c.wrong(0, "a list of pairs")
			}
			if c.in.equal(p.Car, c.args[1], c.at) {
				return p.Cdr
			}
		}
		return false
	})
}

// part returns what lies at the end of a path as in cadr; its last letter is followed
// first.
func (c *call) part(path string) Value {
	v := c.args[0]
	for _, letter := range slices.Backward([]byte(path)) {
		p, ok := v.(*Pair)
		if !ok {
			c.wrong(0, "a list that is long enough")
		}
		if v = p.Car; letter == 'd' {
			v = p.Cdr
		}
	}
	return v
}

// appended makes one list of lists; the last one may be any value.
func (c *call) appended(lists []Value) Value {
	if len(lists) == 0 {
		return Empty{}
	}
	last := len(lists) - 1
	var all []Value
	for _, l := range lists[:last] {
		elems, ok := List(l)
		if !ok {
			fail(c.at, "", "%s: %s is where a list should be", c.name, kind(l))
		}
		c.in.step(c.at, len(elems))
		all = append(all, elems...)
	}
	return c.newList(all, lists[last])
}

// mapped calls the first argument with the first elements of the lists that are the
// others, then with the second ones, until one of the lists ends.
func (c *call) mapped() []Value {
	var lists [][]Value
	shortest := c.list(1)
	for i := 1; i < len(c.args); i++ {
		elems := c.list(i)
		lists = append(lists, elems)
		if len(elems) < len(shortest) {
			shortest = elems
		}
	}
	results := make([]Value, len(shortest))
	for k := range results {
		c.in.step(c.at, len(lists))
		args := make([]Value, len(lists))
		for j, l := range lists {
			args[j] = l[k]
		}
		results[k] = c.apply(c.args[0], args...)
	}
	return results
}

func defineHigher() {
	primitive("map", 2, -1, func(c *call) Value { return c.newList(c.mapped(), Empty{}) })
	primitive("append-map", 2, -1, func(c *call) Value { return c.appended(c.mapped()) })
	primitive("filter", 2, 2, func(c *call) Value {
		drop := func(v Value) bool { return !truth(c.apply(c.args[0], v)) }
		return c.newList(slices.DeleteFunc(c.list(1), drop), Empty{})
	})
	primitive("apply", 2, -1, func(c *call) Value {
		last := len(c.args) - 1
		return c.apply(c.args[0], append(slices.Clone(c.args[1:last]), c.list(last)...)...)
	})
}
