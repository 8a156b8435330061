package scheme

import (
	"fmt"
	"slices"
	"strings"
)

// param is a parameter of a function.
type param struct {
	name  Symbol
	kind  paramKind
	value *node // the default of an optional one or of a key; nil: #f
}

// paramKind is a kind of parameters, in the order in which they stand. A function has
// either keys or a rest.
type paramKind int

const (
	required paramKind = iota
	optional
	key
	rest
)

// paramSections are the keywords before parameters of each kind but required.
var paramSections = map[Keyword]paramKind{"optional": optional, "key": key, "rest": rest}

// closure makes a function, with the parameters and the body that stand in a form.
func (in *interp) closure(form, params *node, body []*node, e *env) Value {
	in.step(form.at, len(params.list))
	in.alloc(form.at, procedureSize+bindingSize*len(params.list))
	if len(body) > 1 {
		if _, isDocstring := body[0].atom.(*String); isDocstring {
			body = body[1:]
		}
	}
	if len(body) == 0 {
		fail(form.at, "", "a function without a body")
	}
	f := &Procedure{kinds: make(map[Symbol]paramKind), body: body, env: e}
	f.setParams(params, strings.HasSuffix(string(form.list[0].symbol()), "*"))
	return f
}

// setParams reads "(a b #:optional (c 1) #:key d)", "(a . rest)" or one name for all.
// Only the parameters of a function with a star have sections.
func (f *Procedure) setParams(n *node, star bool) {
	switch {
	case n.symbol() != "":
		f.addParam(n, rest)
	case n.atom != nil:
		fail(n.at, "", "want a list of parameters, not %s", kind(n.atom))
	}
	section := required
	for _, p := range n.list {
		k, isKeyword := p.atom.(Keyword)
		switch {
		case !isKeyword || !star:
			f.addParam(p, section)
		case k == "allow-other-keys":
			unsupported(p.at, "#:"+string(k))
		case paramSections[k] == 0:
			fail(p.at, "#:optional, #:key or #:rest", "#:%s has no meaning among parameters", k)
		default:
			section = paramSections[k]
		}
	}
	if n.tail != nil {
		f.addParam(n.tail, rest)
	}
}

func (f *Procedure) addParam(n *node, kind paramKind) {
	p := param{name: n.symbol(), kind: kind}
	if n.isList() && len(n.list) == 2 && (kind == optional || kind == key) {
		p.name, p.value = n.list[0].symbol(), n.list[1]
	}
	last := required
	if len(f.params) > 0 {
		last = f.params[len(f.params)-1].kind
	}
	_, isThere := f.kinds[p.name]
	switch {
	case p.name == "":
		fail(n.at, "", "a parameter is a name")
	case isThere:
		fail(n.at, "", "the parameter %s appears twice", p.name)
	case kind < last || kind == rest && last >= key:
		unsupported(n.at, "a list of parameters with "+string(p.name)+" in that place")
	}
	f.params = append(f.params, p)
	f.kinds[p.name] = kind
	switch kind {
	case required:
		f.least++
		f.most++
	case optional:
		f.most++
	case key, rest:
		f.most = -1
	}
}

// arity says how many arguments a procedure takes.
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

// bindArguments makes the scope in which a function's body is evaluated.
func (in *interp) bindArguments(f *Procedure, args []Value, at int) *env {
	e := in.scope(f.env, at)
	args, keyed := f.splitKeys(args, at)
	for _, p := range f.params {
		var v Value
		switch {
		case p.kind == rest:
			in.alloc(at, pairSize*len(args))
			v = list(args, Empty{})
		case p.kind == key:
			v = keyed[p.name]
		case len(args) > 0:
			v, args = args[0], args[1:]
		}
		switch {
		case v != nil:
		case p.value != nil:
			v = in.eval(p.value, e)
		default:
			v = false
		}
		in.bind(e, p.name, v, at)
	}
	return e
}

// splitKeys separates arguments by position from those by keyword. For a function
// without keys, all are by position.
func (f *Procedure) splitKeys(args []Value, at int) (byPosition []Value, keyed map[Symbol]Value) {
	places := slices.IndexFunc(f.params, func(p param) bool { return p.kind == key })
	if places < 0 {
		return args, nil
	}
	n := f.least
	for n < min(places, len(args)) && !isKeyword(args[n]) {
		n++
	}
	keyed = make(map[Symbol]Value)
	for left := args[n:]; len(left) > 0; left = left[2:] {
		k, ok := left[0].(Keyword)
		switch {
		case !ok:
			fail(at, "", "%s is where a keyword argument should be", kind(left[0]))
		case f.kinds[Symbol(k)] != key:
			fail(at, "", "there is no parameter #:%s", k)
		case len(left) == 1:
			fail(at, "", "no value comes after #:%s", k)
		}
		keyed[Symbol(k)] = left[1]
	}
	return args[:n], keyed
}

func isKeyword(v Value) bool {
	_, ok := v.(Keyword)
	return ok
}
