package scheme

import (
	"fmt"
	"slices"
)

// interp is one run of a program.
type interp struct {
	globals map[Symbol]Value
	records map[Symbol]*RecordType
	getenv  func(string) (string, bool)
	limits  Limits
	steps   int
	bytes   int
	depth   int
}

func newInterp(opts Options) *interp {
	in := &interp{
		globals: make(map[Symbol]Value, len(primitives)),
		records: make(map[Symbol]*RecordType),
		getenv:  opts.Getenv, limits: opts.Limits.withDefaults(),
	}
	for name, p := range primitives {
		in.globals[name] = p
	}
	for _, t := range opts.Records {
		in.records[Symbol(t.Name)] = t
		t.define(in.globals)
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

// The estimated sizes of what is allocated, in bytes.
const (
	pairSize   = 48
	envSize    = 96
	recordSize = 1500
)

// env is a scope: names and their values, and the scope around it. nil is the
// program's outermost.
type env struct {
	parent *env
	names  []Symbol
	values []Value
}

// find returns where a name's value is, or nil.
func (in *interp) find(name Symbol, e *env, at int) *Value {
	for ; e != nil; e = e.parent {
		in.step(at, 1+len(e.names)/16)
		// The last one counts: a body may define a name again.
		for i := len(e.names) - 1; i >= 0; i-- {
			if e.names[i] == name {
				return &e.values[i]
			}
		}
	}
	return nil
}

func (in *interp) bind(e *env, name Symbol, v Value, at int) {
	in.alloc(at, envSize/2)
	for i, n := range e.names {
		if n == name {
			e.values[i] = v
			return
		}
	}
	e.names, e.values = append(e.names, name), append(e.values, v)
}

func (in *interp) scope(parent *env, at int) *env {
	in.alloc(at, envSize)
	return &env{parent: parent}
}

func (in *interp) variable(name Symbol, e *env, at int) Value {
	v, ok := in.globals[name]
	if local := in.find(name, e, at); local != nil {
		v, ok = *local, true
	}
	if !ok {
		if specialForms[name] != nil || in.records[name] != nil {
			fail(at, "it stands first in a list: ("+string(name)+" …)", "%s is not a variable", name)
		}
		panic(&Unsupported{Pos: Pos{Offset: at}, Form: cutText(string(name)), known: in.known})
	}
	if _, early := v.(undefined); early {
		fail(at, "", "%s is used before it has a value", name)
	}
	return v
}

// isFree reports whether a name has its outermost meaning in the scope.
func (in *interp) isFree(name Symbol, e *env, at int) bool {
	if in.find(name, e, at) != nil {
		return false
	}
	_, redefined := in.globals[name]
	return !redefined
}

// toplevel evaluates a form of the program, or a definition.
func (in *interp) toplevel(n *node) Value {
	if n.isForm("begin") && in.isFree("begin", nil, n.at) {
		var v Value = Unspecified{}
		in.enter(n.at)
		defer func() { in.depth-- }()
		for _, e := range n.list[1:] {
			v = in.toplevel(e)
		}
		return v
	}
	if name, value, ok := in.definition(n, nil); ok {
		v := value(nil)
		named(v, name)
		in.alloc(n.at, envSize)
		in.globals[name] = v
		return Unspecified{}
	}
	return in.eval(n, nil)
}

// named gives a procedure that has no name the one under which it is defined.
func named(v Value, name Symbol) {
	if p, ok := v.(*Procedure); ok && p.name == "" {
		p.name = string(name)
	}
}

func (in *interp) enter(at int) {
	in.depth++
	if in.depth > in.limits.Depth {
		overLimit(at, "forms and calls are nested more than %d deep", in.limits.Depth)
	}
}

// eval evaluates a form.
func (in *interp) eval(n *node, e *env) Value {
	in.enter(n.at)
	defer func() { in.depth-- }()
	for {
		in.step(n.at, 1)
		var v Value
		if n, e, v = in.once(n, e); n == nil {
			return v
		}
	}
}

// once evaluates a form, or returns the form, and its scope, whose value is the same:
// so a loop that calls itself last needs no depth.
func (in *interp) once(n *node, e *env) (*node, *env, Value) {
	if n.atom != nil {
		if name, ok := n.atom.(Symbol); ok {
			return nil, nil, in.variable(name, e, n.at)
		}
		return nil, nil, n.atom
	}
	switch {
	case n.tail != nil:
		fail(n.at, "", "a form has no dot")
	case len(n.list) == 0:
		fail(n.at, "write '() for the empty list", "() can't be evaluated")
	}
	if name := n.list[0].symbol(); name != "" && in.isFree(name, e, n.at) {
		if t := in.records[name]; t != nil {
			return nil, nil, in.makeRecord(t, n, e)
		}
		if form := specialForms[name]; form != nil {
			return form(in, n, e)
		}
		if slices.Contains(otherForms, string(name)) {
			unsupported(n.at, string(name))
		}
	}
	callee := in.eval(n.list[0], e)
	args := make([]Value, 0, len(n.list)-1)
	in.alloc(n.at, 16*len(n.list))
	for _, a := range n.list[1:] {
		args = append(args, in.eval(a, e))
	}
	p, ok := callee.(*Procedure)
	if !ok {
		fail(n.at, "the first thing in a list is called; write (list …) or '(…) for a list", "%s is not a procedure", kind(callee))
	}
	if p.primitive != nil {
		return nil, nil, in.callPrimitive(p, args, n.at)
	}
	inner := in.bindArguments(p, args, n.at)
	return in.body(p.body, inner, p.at)
}

// apply calls a procedure.
func (in *interp) apply(f Value, args []Value, at int) Value {
	p, ok := f.(*Procedure)
	if !ok {
		fail(at, "", "%s is not a procedure", kind(f))
	}
	in.enter(at)
	defer func() { in.depth-- }()
	in.step(at, 1)
	if p.primitive != nil {
		return in.callPrimitive(p, args, at)
	}
	n, e, v := in.body(p.body, in.bindArguments(p, args, at), p.at)
	if n == nil {
		return v
	}
	return in.eval(n, e)
}

func (in *interp) callPrimitive(p *Procedure, args []Value, at int) Value {
	if p.narrow && len(args) > p.most {
		unsupported(at, fmt.Sprintf("%s with %d arguments", p.name, len(args)))
	}
	if len(args) < p.least || p.most >= 0 && len(args) > p.most {
		fail(at, "", "%s takes %s, not %d", p.name, arity(p.least, p.most), len(args))
	}
	return p.primitive(&call{in: in, name: p.name, args: args, at: at})
}

// body evaluates all forms but the last one, with the definitions among them, and
// returns the last one.
func (in *interp) body(forms []*node, e *env, at int) (*node, *env, Value) {
	if len(forms) == 0 {
		fail(at, "", "the form has no body")
	}
	e = in.scope(e, at)
	forms = in.flatten(forms, e)
	for _, n := range forms {
		if name, _, ok := in.definition(n, e); ok {
			in.bind(e, name, undefined{}, n.at)
		}
	}
	for i, n := range forms {
		if name, value, ok := in.definition(n, e); ok {
			v := value(e)
			named(v, name)
			in.bind(e, name, v, n.at)
			if i == len(forms)-1 {
				return nil, nil, Unspecified{}
			}
			continue
		}
		if i == len(forms)-1 {
			return n, e, nil
		}
		in.eval(n, e)
	}
	return nil, nil, Unspecified{}
}

// flatten replaces (begin …) in a body by what is in it if it has definitions.
func (in *interp) flatten(forms []*node, e *env) []*node {
	for i, n := range forms {
		if !n.isForm("begin") || len(n.list) < 2 || !in.isFree("begin", e, n.at) {
			continue
		}
		if _, _, ok := in.definition(n.list[1], e); ok {
			in.step(n.at, len(forms)+len(n.list))
			return in.flatten(slices.Concat(forms[:i], n.list[1:], forms[i+1:]), e)
		}
	}
	return forms
}

// definition returns the name that a form defines, and how its value is found.
func (in *interp) definition(n *node, e *env) (name Symbol, value func(*env) Value, ok bool) {
	if !n.isForm("define") && !n.isForm("define*") && !n.isForm("define-public") ||
		!in.isFree(n.list[0].symbol(), e, n.at) {
		return "", nil, false
	}
	form := n.list[0].symbol()
	if len(n.list) < 2 {
		fail(n.at, "(define NAME VALUE) or (define (NAME ARGUMENT …) BODY …)", "%s without a name", form)
	}
	target := n.list[1]
	if name = target.symbol(); name != "" {
		if len(n.list) > 3 {
			fail(n.list[3].at, "(define NAME VALUE)", "%s of %s has more than one value", form, name)
		}
		if len(n.list) == 2 {
			return name, func(*env) Value { return Unspecified{} }, true
		}
		return name, func(e *env) Value { return in.eval(n.list[2], e) }, true
	}
	if target.atom != nil || len(target.list) == 0 {
		fail(target.at, "(define NAME VALUE) or (define (NAME ARGUMENT …) BODY …)", "%s needs a name", form)
	}
	if name = target.list[0].symbol(); name == "" {
		unsupported(n.at, "a define of a function that returns a function")
	}
	formals := &node{at: target.at, list: target.list[1:], tail: target.tail}
	if len(formals.list) == 0 && formals.tail != nil {
		formals = formals.tail
	}
	return name, func(e *env) Value { return in.closure(n, formals, n.list[2:], e, form == "define*") }, true
}

func (in *interp) closure(n, formals *node, body []*node, e *env, star bool) Value {
	in.alloc(n.at, envSize)
	body = withoutDocstring(body)
	if len(body) == 0 {
		fail(n.at, "", "a function without a body")
	}
	return &Procedure{params: parseParams(formals, star), body: body, env: e, at: n.at}
}

// withoutDocstring drops a string in front of a body.
func withoutDocstring(body []*node) []*node {
	if len(body) > 1 {
		if _, ok := body[0].atom.(*String); ok {
			return body[1:]
		}
	}
	return body
}

// known returns all names that have a meaning.
func (in *interp) known() []string {
	known := make([]string, 0, len(in.globals)+len(in.records)+len(specialForms))
	for s := range in.globals {
		known = append(known, string(s))
	}
	for s := range in.records {
		known = append(known, string(s))
	}
	for s := range specialForms {
		known = append(known, string(s))
	}
	slices.Sort(known)
	return known
}
