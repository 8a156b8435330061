package scheme

import (
	"math/big"
	"slices"
)

// primitives are the procedures that every program has.
var primitives = make(map[Symbol]*Procedure)

// primitive adds one, for a number of arguments; most < 0 is no limit.
func primitive(name string, least, most int, f func(c *call) Value) {
	primitives[Symbol(name)] = &Procedure{name: name, least: least, most: most, primitive: f}
}

func init() {
	definePredicates()
	defineLists()
	defineSearches()
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
	primitive("list?", 1, 1, func(c *call) Value {
		elems, ok := List(c.args[0])
		c.in.step(c.at, len(elems))
		return ok
	})
	is("string?", func(v Value) bool { _, ok := v.(*String); return ok })
	is("symbol?", func(v Value) bool { _, ok := v.(Symbol); return ok })
	is("keyword?", func(v Value) bool { _, ok := v.(Keyword); return ok })
	is("char?", func(v Value) bool { _, ok := v.(Char); return ok })
	is("boolean?", func(v Value) bool { _, ok := v.(bool); return ok })
	is("procedure?", func(v Value) bool { _, ok := v.(*Procedure); return ok })
	is("vector?", func(v Value) bool { _, ok := v.(*Vector); return ok })
	same := func(c *call) Value {
		for i := 1; i < len(c.args); i++ {
			if !eqv(c.args[i-1], c.args[i]) {
				return false
			}
		}
		return true
	}
	primitive("eq?", 0, -1, same)
	primitive("eqv?", 0, -1, same)
	primitive("equal?", 0, -1, func(c *call) Value {
		for i := 1; i < len(c.args); i++ {
			if !c.in.equal(c.args[i-1], c.args[i], c.at) {
				return false
			}
		}
		return true
	})
	primitive("getenv", 1, 1, func(c *call) Value {
		if c.in.getenv == nil {
			return false
		}
		if v, ok := c.in.getenv(c.text(0)); ok {
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
	consStar := func(c *call) Value {
		last := len(c.args) - 1
		return c.newTail(c.args[:last], c.args[last])
	}
	primitive("cons*", 1, -1, consStar)
	for _, path := range []string{
		"a", "d", "aa", "ad", "da", "dd", "aaa", "aad", "ada", "add", "daa", "dad", "dda", "ddd", "addd", "dddd",
	} {
		primitive("c"+path+"r", 1, 1, func(c *call) Value {
			v := c.args[0]
			for i := len(path) - 1; i >= 0; i-- {
				p, ok := v.(*Pair)
				if !ok {
					c.wrong(0, "a list that is long enough")
				}
				if v = p.Car; path[i] == 'd' {
					v = p.Cdr
				}
			}
			return v
		})
	}
	for i, name := range []string{"first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"} {
		primitive(name, 1, 1, func(c *call) Value { return c.ref(c.args[0], i) })
	}
	primitive("list-ref", 2, 2, func(c *call) Value { return c.ref(c.args[0], c.index(1, 1<<30)) })
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
	primitive("concatenate", 1, 1, func(c *call) Value {
		var all []Value
		for _, l := range c.list(0) {
			elems, ok := List(l)
			if !ok {
				c.wrong(0, "a list of lists")
			}
			c.in.step(c.at, len(elems))
			all = append(all, elems...)
		}
		return c.newList(all)
	})
	tail := func(c *call) Value { // (list-tail L N), (drop L N)
		v := c.args[0]
		for range c.index(1, 1<<30) {
			c.in.step(c.at, 1)
			p, ok := v.(*Pair)
			if !ok {
				c.wrong(0, "a list that is long enough")
			}
			v = p.Cdr
		}
		return v
	}
	primitive("list-tail", 2, 2, tail)
	primitive("drop", 2, 2, tail)
	head := func(c *call) Value { // (list-head L N), (take L N)
		elems := c.list(0)
		return c.newList(elems[:c.index(1, len(elems))])
	}
	primitive("list-head", 2, 2, head)
	primitive("take", 2, 2, head)
	primitive("list-copy", 1, 1, func(c *call) Value { return c.newList(c.list(0)) })
	primitive("make-list", 1, 2, func(c *call) Value {
		elems := make([]Value, c.count(0))
		for i := range elems {
			if elems[i] = Value(Unspecified{}); c.has(1) {
				elems[i] = c.args[1]
			}
		}
		return list(elems, Empty{})
	})
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
	primitive("vector", 0, -1, func(c *call) Value {
		c.newList(c.args) // for the limits
		return &Vector{c.args}
	})
	primitive("vector->list", 1, 1, func(c *call) Value { return c.newList(c.vector(0)) })
	primitive("list->vector", 1, 1, func(c *call) Value { return &Vector{c.list(0)} })
	primitive("vector-length", 1, 1, func(c *call) Value { return exact(int64(len(c.vector(0)))) })
	primitive("vector-ref", 2, 2, func(c *call) Value {
		elems := c.vector(0)
		if len(elems) == 0 {
			c.wrong(0, "a vector with something in it")
		}
		return elems[c.index(1, len(elems)-1)]
	})
}

func (c *call) vector(i int) []Value {
	v, ok := c.args[i].(*Vector)
	if !ok {
		c.wrong(i, "a vector")
	}
	return v.Elems
}

// list0 returns the elements of the first argument, which are at least so many.
func (c *call) list0(least int) []Value {
	elems := c.list(0)
	if len(elems) < least {
		c.wrong(0, "a list that is long enough")
	}
	return elems
}

func (c *call) ref(v Value, i int) Value {
	for ; ; i-- {
		c.in.step(c.at, 1)
		p, ok := v.(*Pair)
		if !ok {
			c.wrong(0, "a list that is long enough")
		}
		if i == 0 {
			return p.Car
		}
		v = p.Cdr
	}
}

// same compares as eq?, eqv? or equal?.
func (c *call) same(how string, a, b Value) bool {
	if how == "equal" {
		return c.in.equal(a, b, c.at)
	}
	c.in.step(c.at, 1)
	return eqv(a, b)
}

func defineSearches() {
	for suffix, how := range map[string]string{"q": "eq", "v": "eqv", "": "equal"} {
		member, assoc := "mem"+suffix, "ass"+suffix
		if suffix == "" {
			member, assoc = "member", "assoc"
		}
		primitive(member, 2, 2, func(c *call) Value {
			for v := c.args[1]; ; {
				p, ok := v.(*Pair)
				if !ok {
					return false
				}
				if c.same(how, c.args[0], p.Car) {
					return p
				}
				v = p.Cdr
			}
		})
		primitive(assoc, 2, 2, func(c *call) Value { return c.assoc(how, c.args[0], 1) })
	}
	for name, how := range map[string]string{"assoc-ref": "equal", "assv-ref": "eqv", "assq-ref": "eq"} {
		primitive(name, 2, 2, func(c *call) Value {
			if p, ok := c.assoc(how, c.args[1], 0).(*Pair); ok {
				return p.Cdr
			}
			return false
		})
	}
	primitive("delete", 2, 2, func(c *call) Value {
		return c.newList(slices.DeleteFunc(c.list(1), func(v Value) bool { return c.in.equal(c.args[0], v, c.at) }))
	})
	primitive("delete-duplicates", 1, 1, func(c *call) Value {
		var kept []Value
		for _, v := range c.list(0) {
			if !slices.ContainsFunc(kept, func(k Value) bool { return c.in.equal(k, v, c.at) }) {
				kept = append(kept, v)
			}
		}
		return c.newList(kept)
	})
}

func (c *call) assoc(how string, key Value, i int) Value {
	for _, v := range c.list(i) {
		p, ok := v.(*Pair)
		if !ok {
			c.wrong(i, "a list of pairs")
		}
		if c.same(how, key, p.Car) {
			return p
		}
	}
	return false
}

// each calls f with the first elements of the lists from argument i on, then with the
// second ones, until one of the lists ends or f returns false.
func (c *call) each(i int, f func(args []Value) bool) {
	lists := make([][]Value, 0, len(c.args)-i)
	shortest := -1
	for ; i < len(c.args); i++ {
		elems := c.list(i)
		lists = append(lists, elems)
		if shortest < 0 || len(elems) < shortest {
			shortest = len(elems)
		}
	}
	for k := range max(shortest, 0) {
		c.in.step(c.at, len(lists))
		args := make([]Value, len(lists), len(lists)+1)
		for j, l := range lists {
			args[j] = l[k]
		}
		if !f(args) {
			return
		}
	}
}

func (c *call) mapped(f Value, from int) []Value {
	var all []Value
	c.each(from, func(args []Value) bool {
		all = append(all, c.apply(f, args...))
		return true
	})
	return all
}

func defineHigher() {
	mapped := func(c *call) Value { return c.newList(c.mapped(c.args[0], 1)) }
	primitive("map", 2, -1, mapped)
	primitive("map-in-order", 2, -1, mapped)
	primitive("for-each", 2, -1, func(c *call) Value {
		c.mapped(c.args[0], 1)
		return Unspecified{}
	})
	primitive("append-map", 2, -1, func(c *call) Value {
		var all []Value
		for _, v := range c.mapped(c.args[0], 1) {
			elems, ok := List(v)
			if !ok {
				fail(c.at, "", "append-map: the function returned %s; want a list", kind(v))
			}
			c.in.step(c.at, len(elems))
			all = append(all, elems...)
		}
		return c.newList(all)
	})
	primitive("filter-map", 2, -1, func(c *call) Value {
		return c.newList(slices.DeleteFunc(c.mapped(c.args[0], 1), func(v Value) bool { return !truth(v) }))
	})
	primitive("filter", 2, 2, func(c *call) Value {
		return c.newList(slices.DeleteFunc(c.list(1), func(v Value) bool { return !truth(c.apply(c.args[0], v)) }))
	})
	primitive("remove", 2, 2, func(c *call) Value {
		return c.newList(slices.DeleteFunc(c.list(1), func(v Value) bool { return truth(c.apply(c.args[0], v)) }))
	})
	primitive("find", 2, 2, func(c *call) Value {
		for _, v := range c.list(1) {
			if truth(c.apply(c.args[0], v)) {
				return v
			}
		}
		return false
	})
	primitive("any", 2, -1, func(c *call) Value {
		var found Value = false
		c.each(1, func(args []Value) bool {
			found = c.apply(c.args[0], args...)
			return !truth(found)
		})
		return found
	})
	primitive("every", 2, -1, func(c *call) Value {
		var last Value = true
		c.each(1, func(args []Value) bool {
			last = c.apply(c.args[0], args...)
			return truth(last)
		})
		return last
	})
	fold := func(c *call) Value {
		v := c.args[1]
		c.each(2, func(args []Value) bool {
			v = c.apply(c.args[0], append(args, v)...)
			return true
		})
		return v
	}
	primitive("fold", 3, -1, fold)
	primitive("fold-right", 3, 3, func(c *call) Value {
		v := c.args[1]
		for _, x := range slices.Backward(c.list(2)) {
			v = c.apply(c.args[0], x, v)
		}
		return v
	})
	primitive("reduce", 3, 3, func(c *call) Value {
		elems := c.list(2)
		if len(elems) == 0 {
			return c.args[1]
		}
		v := elems[0]
		for _, x := range elems[1:] {
			v = c.apply(c.args[0], x, v)
		}
		return v
	})
	primitive("apply", 2, -1, func(c *call) Value {
		last := len(c.args) - 1
		return c.apply(c.args[0], append(slices.Clone(c.args[1:last]), c.list(last)...)...)
	})
	primitive("list-tabulate", 2, 2, func(c *call) Value {
		elems := make([]Value, c.count(0))
		for i := range elems {
			elems[i] = c.apply(c.args[1], exact(int64(i)))
		}
		return list(elems, Empty{})
	})
	primitive("zip", 1, -1, func(c *call) Value {
		var all []Value
		c.each(0, func(args []Value) bool {
			all = append(all, c.newList(args))
			return true
		})
		return c.newList(all)
	})
	primitive("identity", 1, 1, func(c *call) Value { return c.args[0] })
	primitive("const", 1, 1, func(c *call) Value {
		v := c.args[0]
		return &Procedure{name: "const", most: -1, primitive: func(*call) Value { return v }}
	})
	primitive("and=>", 2, 2, func(c *call) Value {
		if !truth(c.args[0]) {
			return false
		}
		return c.apply(c.args[1], c.args[0])
	})
	primitive("compose", 1, -1, func(c *call) Value {
		all := c.args
		return &Procedure{name: "compose", most: -1, primitive: func(c *call) Value {
			last := len(all) - 1
			v := c.apply(all[last], c.args...)
			for _, f := range slices.Backward(all[:last]) {
				v = c.apply(f, v)
			}
			return v
		}}
	})
	primitive("sort", 2, 2, func(c *call) Value {
		elems := c.list(0)
		slices.SortStableFunc(elems, func(a, b Value) int {
			switch {
			case truth(c.apply(c.args[1], a, b)):
				return -1
			case truth(c.apply(c.args[1], b, a)):
				return 1
			}
			return 0
		})
		return c.newList(elems)
	})
}

var one = big.NewRat(1, 1)
