package scheme

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
)

// interp is one run of a program.
type interp struct {
	globals *env
	records map[Symbol]*RecordType
	getenv  func(string) (string, bool)
	limits  Limits
	steps   int
	bytes   int
	depth   int
}

func newInterp(opts Options) *interp {
	in := &interp{
		globals: &env{values: maps.Clone(primitives)},
		records: make(map[Symbol]*RecordType),
		getenv:  opts.Getenv, limits: opts.Limits.withDefaults(),
	}
	for _, t := range opts.Records {
		in.records[Symbol(t.Name)] = t
		t.define(in.globals.values)
	}
	return in
}

// try runs f, and disregards a failure of it.
func (in *interp) try(f func()) {
	depth := in.depth
	var err error
	defer func() { in.depth = depth }()
	defer recoverFailure("", &err)
	f()
}

// step counts n steps towards the limit.
func (in *interp) step(at, n int) {
	in.steps += n
	if in.steps > in.limits.Steps {
		overLimit(at, "the program does not end within %d steps", in.limits.Steps)
	}
}

// alloc counts n bytes towards the limit.
func (in *interp) alloc(at, n int) {
	in.bytes += n
	if in.bytes > in.limits.Bytes {
		overLimit(at, "the program allocates more than %d bytes of memory", in.limits.Bytes)
	}
}

func (in *interp) enter(at int) {
	in.depth++
	if in.depth > in.limits.Depth {
		overLimit(at, "forms and calls are nested more than %d deep", in.limits.Depth)
	}
}

// The estimated sizes of what is allocated, in bytes.
const (
	pairSize      = 48
	scopeSize     = 64
	namesSize     = 300 // of a scope that has any
	bindingSize   = 100
	procedureSize = 150
	recordSize    = 1500
)

// env is a scope: names with their values, and the scope around it.
type env struct {
	parent *env // nil for the program's outermost scope
	values map[Symbol]Value
}

func (in *interp) scope(parent *env, at int) *env {
	in.alloc(at, scopeSize)
	return &env{parent: parent}
}

// bind gives a name a value, and the name to a procedure that has none.
func (in *interp) bind(e *env, name Symbol, v Value, at int) {
	if p, ok := v.(*Procedure); ok && p.name == "" {
		p.name = string(name)
	}
	if e.values == nil {
		in.alloc(at, namesSize)
		e.values = make(map[Symbol]Value)
	}
	in.alloc(at, bindingSize)
	e.values[name] = v
}

// lookup returns a name's value, or nil.
func (in *interp) lookup(name Symbol, e *env, at int) Value {
	for ; e != nil; e = e.parent {
		in.step(at, 1)
		if v := e.values[name]; v != nil {
			return v
		}
	}
	return nil
}

func (in *interp) variable(name Symbol, e *env, at int) Value {
	v := in.lookup(name, e, at)
	switch {
	case v == Value(undefined{}):
		fail(at, "", "%s is used before it has a value", name)
	case v != nil:
	case specialForms[name] != nil || in.records[name] != nil:
		fail(at, "it stands first in a list: ("+string(name)+" …)", "%s is not a variable", name)
	default:
		panic(&Unsupported{Pos: Pos{Offset: at}, Form: cutText(string(name)), known: in.known})
	}
	return v
}

// known returns all names that have a meaning.
func (in *interp) known() []string {
	var known []string
	for _, names := range []iter.Seq[Symbol]{maps.Keys(in.globals.values), maps.Keys(in.records), maps.Keys(specialForms)} {
		for name := range names {
			known = append(known, string(name))
		}
	}
	slices.Sort(known)
	return known
}

// eval evaluates a form.
func (in *interp) eval(n *node, e *env) Value {
	in.enter(n.at)
	defer func() { in.depth-- }()
	in.step(n.at, 1)
	switch name := n.symbol(); {
	case name != "":
		return in.variable(name, e, n.at)
	case n.atom != nil:
		return n.atom
	case n.tail != nil:
		fail(n.at, "", "a form has no dot")
	case len(n.list) == 0:
		fail(n.at, "write '() for the empty list", "() can't be evaluated")
	}
	name := in.keyword(n, e)
	if t := in.records[name]; t != nil {
		return in.makeRecord(t, n, e)
	}
	if form := specialForms[name]; form != nil {
		return form(in, n, e)
	}
	if slices.Contains(otherForms, string(name)) {
		unsupported(n.at, string(name))
	}
	return in.evalCall(n, e)
}

// keyword returns the name that a list begins with, if it is not that of a variable.
func (in *interp) keyword(n *node, e *env) Symbol {
	if !n.isList() || len(n.list) == 0 {
		return ""
	}
	name := n.list[0].symbol()
	if name == "" || in.lookup(name, e, n.at) != nil {
		return ""
	}
	return name
}

func (in *interp) evalCall(n *node, e *env) Value {
	callee := in.eval(n.list[0], e)
	if _, ok := callee.(*Procedure); !ok {
		fail(n.at, "the first thing in a list is called; write (list …) or '(…) for a list", "%s is not a procedure", kind(callee))
	}
	in.alloc(n.at, 16*len(n.list))
	args := make([]Value, 0, len(n.list)-1)
	for _, a := range n.list[1:] {
		args = append(args, in.eval(a, e))
	}
	return in.apply(callee, args, n.at)
}

// apply calls a procedure.
func (in *interp) apply(f Value, args []Value, at int) Value {
	in.enter(at)
	defer func() { in.depth-- }()
	in.step(at, 1)
	p, ok := f.(*Procedure)
	if !ok {
		fail(at, "", "%s is not a procedure", kind(f))
	}
	switch tooMany := p.most >= 0 && len(args) > p.most; {
	case tooMany && p.narrow:
		unsupported(at, fmt.Sprintf("%s with %d arguments", p.name, len(args)))
	case tooMany || len(args) < p.least:
		fail(at, "", "%s takes %s, not %d", cmp.Or(p.name, "the function"), arity(p.least, p.most), len(args))
	}
	if p.primitive != nil {
		return p.primitive(&call{in: in, name: p.name, args: args, at: at})
	}
	return in.body(p.body, in.bindArguments(p, args, at))
}

// body evaluates the forms of a body, which has one at least, in a scope of their own.
func (in *interp) body(forms []*node, e *env) Value {
	e = in.scope(e, forms[0].at)
	in.declare(forms, e)
	return in.run(forms, e)
}

// declare binds the names that forms define, which have no values yet.
func (in *interp) declare(forms []*node, e *env) {
	for _, n := range forms {
		switch in.keyword(n, e) {
		case "begin":
			in.declare(n.list[1:], e)
		case "define", "define*", "define-public":
			name, _ := n.defined()
			in.bind(e, name, undefined{}, n.at)
		}
	}
}

// run evaluates the forms of a body or of the program, among them definitions. It
// returns the value of the last one.
func (in *interp) run(forms []*node, e *env) Value {
	var v Value = Unspecified{}
	for _, n := range forms {
		switch in.keyword(n, e) {
		case "begin":
			v = in.run(n.list[1:], e)
		case "define", "define*", "define-public":
			in.define(n, e)
			v = Unspecified{}
		default:
			v = in.eval(n, e)
		}
	}
	return v
}

// define evaluates a definition.
func (in *interp) define(n *node, e *env) {
	name, params := n.defined()
	var v Value = Unspecified{}
	switch {
	case params != nil:
		v = in.closure(n, params, n.list[2:], e)
	case len(n.list) > 2:
		v = in.eval(n.list[2], e)
	}
	in.bind(e, name, v, n.at)
}

// defined returns the name that a definition gives a value, and the parameters if the
// value is a function.
func (n *node) defined() (name Symbol, params *node) {
	const value, function = "(define NAME VALUE)", "(define (NAME ARGUMENT …) BODY …)"
	parts := n.parts(1, -1, value+" or "+function)
	target := parts[0]
	name = target.symbol()
	switch {
	case name != "" && len(parts) > 2:
		fail(parts[2].at, value, "the definition of %s has more than one value", name)
	case name != "":
		return name, nil
	case target.atom != nil || len(target.list) == 0:
		fail(target.at, value+" or "+function, "%s needs a name", n.list[0].symbol())
	}
	if name = target.list[0].symbol(); name == "" {
		unsupported(n.at, "a define of a function that returns a function")
	}
	params = &node{at: target.at, list: target.list[1:], tail: target.tail}
	if len(params.list) == 0 && params.tail != nil {
		params = params.tail
	}
	return name, params
}
