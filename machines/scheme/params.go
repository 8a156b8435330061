package scheme

import (
	"fmt"
	"slices"
)

// params are the parameters of a function.
type params struct {
	required []Symbol
	optional []optional
	keys     []optional
	isKeys   bool
	allow    bool   // #:allow-other-keys
	rest     Symbol // "" for none
}

type optional struct {
	name  Symbol
	value *node // nil: #f
}

// parseParams reads "(a b #:optional (c 1) #:key d . rest)" or one name for all.
func parseParams(n *node, star bool) *params {
	p := &params{}
	if name := n.symbol(); name != "" {
		p.rest = name
		return p
	}
	if n.atom != nil {
		fail(n.at, "", "want a list of parameters, not %s", kind(n.atom))
	}
	const (
		required = iota
		optionals
		keys
		rest
	)
	state := required
	for _, e := range n.list {
		if k, ok := e.atom.(Keyword); ok && star {
			switch k {
			case "optional":
				state = optionals
			case "key":
				state, p.isKeys = keys, true
			case "allow-other-keys":
				p.allow = true
			case "rest":
				state = rest
			default:
				fail(e.at, "#:optional, #:key, #:allow-other-keys or #:rest", "#:%s has no meaning among parameters", k)
			}
			continue
		}
		switch state {
		case required:
			p.required = append(p.required, p.name(e))
		case optionals:
			p.optional = append(p.optional, p.withDefault(e))
		case keys:
			p.keys = append(p.keys, p.withDefault(e))
		case rest:
			p.rest = p.name(e)
		}
	}
	if n.tail != nil {
		p.rest = p.name(n.tail)
	}
	return p
}

func (p *params) name(n *node) Symbol {
	name := n.symbol()
	if name == "" {
		fail(n.at, "", "a parameter is a name")
	}
	if slices.Contains(p.required, name) {
		fail(n.at, "", "the parameter %s appears twice", name)
	}
	return name
}

func (p *params) withDefault(n *node) optional {
	if n.isList() && len(n.list) == 2 {
		return optional{p.name(n.list[0]), n.list[1]}
	}
	return optional{p.name(n), nil}
}

func (p *params) arity() string {
	most := len(p.required) + len(p.optional)
	if p.rest != "" || p.isKeys {
		most = -1
	}
	return arity(len(p.required), most)
}

func arity(least, most int) string {
	count := func(n int) string {
		if n == 1 {
			return "1 argument"
		}
		return fmt.Sprintf("%d arguments", n)
	}
	switch {
	case most < 0 && least == 0:
		return "any number of arguments"
	case most < 0:
		return "at least " + count(least)
	case least == most:
		return count(least)
	}
	return fmt.Sprintf("%d to %s", least, count(most))
}

// bindArguments makes the scope in which a closure's body is evaluated.
func (in *interp) bindArguments(f *Procedure, args []Value, at int) *env {
	p := f.params
	given := len(args)
	e := in.scope(f.env, at)
	wrong := func() {
		name := f.name
		if name == "" {
			name = "the function"
		}
		fail(at, "", "%s takes %s, not %d", name, p.arity(), given)
	}
	if len(args) < len(p.required) {
		wrong()
	}
	in.alloc(at, envSize*(len(p.required)+len(p.optional)+len(p.keys)))
	for i, name := range p.required {
		e.names, e.values = append(e.names, name), append(e.values, args[i])
	}
	args = args[len(p.required):]
	for _, o := range p.optional {
		_, isKeyword := first(args).(Keyword)
		switch {
		case len(args) > 0 && (!p.isKeys || !isKeyword):
			in.bind(e, o.name, args[0], at)
			args = args[1:]
		default:
			in.bind(e, o.name, in.defaultValue(o, e), at)
		}
	}
	switch {
	case p.isKeys:
		in.bindKeys(p, args, e, at)
	case len(args) > 0 && p.rest == "":
		wrong()
	}
	if p.rest != "" {
		in.alloc(at, pairSize*len(args))
		in.bind(e, p.rest, list(args, Empty{}), at)
	}
	return e
}

func first(args []Value) Value {
	if len(args) == 0 {
		return nil
	}
	return args[0]
}

func (in *interp) defaultValue(o optional, e *env) Value {
	if o.value == nil {
		return false
	}
	return in.eval(o.value, e)
}

func (in *interp) bindKeys(p *params, args []Value, e *env, at int) {
	found := make(map[Symbol]Value)
	for i := 0; i < len(args); {
		k, ok := args[i].(Keyword)
		switch {
		case !ok && p.rest != "":
			i++
			continue
		case !ok:
			fail(at, "", "%s is where a keyword argument should be", kind(args[i]))
		case i+1 == len(args):
			fail(at, "", "no value comes after #:%s", k)
		}
		known := slices.ContainsFunc(p.keys, func(o optional) bool { return o.name == Symbol(k) })
		if !known && !p.allow {
			fail(at, "", "there is no parameter #:%s", k)
		}
		found[Symbol(k)] = args[i+1]
		i += 2
	}
	for _, o := range p.keys {
		v, ok := found[o.name]
		if !ok {
			v = in.defaultValue(o, e)
		}
		in.bind(e, o.name, v, at)
	}
}
