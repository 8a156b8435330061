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
	primitive("list?", 1, 1, func(c *call) Value {
		elems, ok := List(c.args[0])
		c.in.step(c.at, len(elems))
		return ok
	})
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
		message := ""
		for i, a := range c.args {
			p := printer{limit: 200, quote: i > 0}
			p.value(a, 0)
			if i > 0 {
				message += " "
			}
			message += p.String()
		}
		fail(c.at, "", "the program stops with an error: %s", message)
		return nil
	})
}

func defineLists() {
	primitive("list", 0, -1, func(c *call) Value { return c.newList(c.args) })
	primitive("cons", 2, 2, func(c *call) Value { return c.newTail(c.args[:1], c.args[1]) })
	primitive("cons*", 1, -1, func(c *call) Value {
		last := len(c.args) - 1
		return c.newTail(c.args[:last], c.args[last])
	})
	for _, path := range []string{"a", "d", "ad", "dd", "add", "ddd"} {
		primitive("c"+path+"r", 1, 1, func(c *call) Value {
			v := c.args[0]
			for _, step := range slices.Backward([]byte(path)) {
				p, ok := v.(*Pair)
				if !ok {
					c.wrong(0, "a list that is long enough")
				}
				if v = p.Car; step == 'd' {
					v = p.Cdr
				}
			}
			return v
		})
	}
	for i, name := range []string{"first", "second", "third", "fourth", "fifth"} {
		primitive(name, 1, 1, func(c *call) Value { return c.list0(i + 1)[i] })
	}
	primitive("last", 1, 1, func(c *call) Value { return c.list0(1)[len(c.list(0))-1] })
	primitive("length", 1, 1, func(c *call) Value { return exact(int64(len(c.list(0)))) })
	primitive("reverse", 1, 1, func(c *call) Value {
		elems := c.list(0)
		slices.Reverse(elems)
		return c.newList(elems)
	})
	primitive("append", 0, -1, func(c *call) Value {
		if len(c.args) == 0 {
			return Empty{}
		}
		var all []Value
		last := len(c.args) - 1
		for i := range last {
			all = append(all, c.list(i)...)
		}
		return c.newTail(all, c.args[last])
	})
	primitive("concatenate", 1, 1, func(c *call) Value { return c.concatenated(c.list(0)) })
	narrow("member", 2, 2, func(c *call) Value {
		for v := c.args[1]; ; {
			p, ok := v.(*Pair)
			if !ok {
				return false
			}
			if c.in.equal(c.args[0], p.Car, c.at) {
				return p
			}
			v = p.Cdr
		}
	})
	for name, same := range map[string]func(c *call, a, b Value) bool{
		"assoc-ref": func(c *call, a, b Value) bool { return c.in.equal(a, b, c.at) },
		"assq-ref":  func(_ *call, a, b Value) bool { return eqv(a, b) },
	} {
		primitive(name, 2, 2, func(c *call) Value {
			for _, v := range c.list(0) {
				p, ok := v.(*Pair)
				if !ok {
					c.wrong(0, "a list of pairs")
				}
				if same(c, c.args[1], p.Car) {
					return p.Cdr
				}
			}
			return false
		})
	}
	narrow("delete", 2, 2, func(c *call) Value {
		return c.newList(slices.DeleteFunc(c.list(1), func(v Value) bool { return c.in.equal(c.args[0], v, c.at) }))
	})
}

// list0 returns the elements of the first argument, which has at least that many.
func (c *call) list0(least int) []Value {
	elems := c.list(0)
	if len(elems) < least {
		c.wrong(0, "a list that is long enough")
	}
	return elems
}

func (c *call) concatenated(lists []Value) Value {
	var all []Value
	for _, l := range lists {
		elems, ok := List(l)
		if !ok {
			fail(c.at, "", "%s: %s is where a list should be", c.name, kind(l))
		}
		c.in.step(c.at, len(elems))
		all = append(all, elems...)
	}
	return c.newList(all)
}

// mapped calls a function with the first elements of the lists from argument i on, then
// with the second ones, until one of the lists ends.
func (c *call) mapped(f Value, i int) []Value {
	lists := make([][]Value, 0, len(c.args)-i)
	shortest := -1
	for ; i < len(c.args); i++ {
		elems := c.list(i)
		lists = append(lists, elems)
		if shortest < 0 || len(elems) < shortest {
			shortest = len(elems)
		}
	}
	var all []Value
	for k := range max(shortest, 0) {
		c.in.step(c.at, len(lists))
		args := make([]Value, len(lists))
		for j, l := range lists {
			args[j] = l[k]
		}
		all = append(all, c.apply(f, args...))
	}
	return all
}

func defineHigher() {
	primitive("map", 2, -1, func(c *call) Value { return c.newList(c.mapped(c.args[0], 1)) })
	primitive("for-each", 2, -1, func(c *call) Value {
		c.mapped(c.args[0], 1)
		return Unspecified{}
	})
	primitive("append-map", 2, -1, func(c *call) Value { return c.concatenated(c.mapped(c.args[0], 1)) })
	primitive("filter-map", 2, -1, func(c *call) Value {
		return c.newList(slices.DeleteFunc(c.mapped(c.args[0], 1), func(v Value) bool { return !truth(v) }))
	})
	for name, drop := range map[string]bool{"filter": false, "remove": true} {
		primitive(name, 2, 2, func(c *call) Value {
			return c.newList(slices.DeleteFunc(c.list(1), func(v Value) bool { return truth(c.apply(c.args[0], v)) == drop }))
		})
	}
	narrow("fold", 3, 3, func(c *call) Value {
		v := c.args[1]
		for _, x := range c.list(2) {
			v = c.apply(c.args[0], x, v)
		}
		return v
	})
	primitive("apply", 2, -1, func(c *call) Value {
		last := len(c.args) - 1
		return c.apply(c.args[0], append(slices.Clone(c.args[1:last]), c.list(last)...)...)
	})
}
