package scheme

import "slices"

// specialForms evaluate their parts themselves.
var specialForms map[Symbol]func(in *interp, n *node, e *env) (*node, *env, Value)

// otherForms are macros and procedures of Guile that programs use in a call's place and
// that are not here; naming them gives a better message than a variable that is not
// known.
var otherForms = []string{
	"define-syntax", "define-syntax-rule", "let-syntax", "letrec-syntax", "syntax-rules", "syntax-case",
	"define-record-type", "define-record-type*", "case-lambda", "let-values", "let*-values", "define-values", "receive",
	"parameterize", "with-fluids", "delay", "catch", "guard", "with-exception-handler", "dynamic-wind", "include",
	"load", "primitive-load", "eval", "gexp",
}

func init() {
	specialForms = map[Symbol]func(in *interp, n *node, e *env) (*node, *env, Value){
		"quote":        (*interp).quote,
		"quasiquote":   (*interp).quasiquote,
		"if":           (*interp).ifForm,
		"cond":         (*interp).cond,
		"case":         (*interp).caseForm,
		"when":         (*interp).when,
		"unless":       (*interp).when,
		"and":          (*interp).and,
		"or":           (*interp).or,
		"begin":        (*interp).begin,
		"let":          (*interp).let,
		"let*":         (*interp).letStar,
		"letrec":       (*interp).letrec,
		"letrec*":      (*interp).letrec,
		"lambda":       (*interp).lambda,
		"lambda*":      (*interp).lambda,
		"do":           (*interp).do,
		"set!":         (*interp).set,
		"cut":          (*interp).cut,
		"match":        (*interp).match,
		"match-lambda": (*interp).matchLambda,
		"@":            (*interp).module,
		"@@":           (*interp).module,

		"use-modules":         ignored,
		"define-module":       ignored,
		"use-package-modules": ignored,
		"use-service-modules": ignored,
		"export":              ignored,
		"define":              misplaced,
		"define*":             misplaced,
		"define-public":       misplaced,
		"unquote":             misplaced,
		"unquote-splicing":    misplaced,
		"else":                misplaced,
	}
}

// module is (@ MODULE NAME): the name as it is outside of all definitions, whatever the
// module.
func (in *interp) module(n *node, _ *env) (*node, *env, Value) {
	parts := n.parts(2, 2, "(@ MODULE NAME)")
	name := parts[1].symbol()
	p, ok := primitives[name]
	if !ok {
		unsupported(n.at, cutText(string(name))+" of a module")
	}
	return nil, nil, p
}

func ignored(*interp, *node, *env) (*node, *env, Value) { return nil, nil, Unspecified{} }

func misplaced(_ *interp, n *node, _ *env) (*node, *env, Value) {
	fail(n.at, "", "%s has no meaning here", n.list[0].symbol())
	return nil, nil, nil
}

// parts checks how many parts follow the form's name; most < 0 is no limit.
func (n *node) parts(least, most int, form string) []*node {
	parts := n.list[1:]
	if len(parts) < least || most >= 0 && len(parts) > most {
		fail(n.at, "write "+form, "%s is not written so", n.list[0].symbol())
	}
	return parts
}

func (in *interp) quote(n *node, _ *env) (*node, *env, Value) {
	return nil, nil, n.parts(1, 1, "(quote DATUM)")[0].datum()
}

func (in *interp) ifForm(n *node, e *env) (*node, *env, Value) {
	parts := n.parts(2, 3, "(if CONDITION THEN ELSE)")
	if truth(in.eval(parts[0], e)) {
		return parts[1], e, nil
	}
	if len(parts) == 3 {
		return parts[2], e, nil
	}
	return nil, nil, Unspecified{}
}

func (in *interp) cond(n *node, e *env) (*node, *env, Value) {
	for _, clause := range n.parts(1, -1, "(cond (CONDITION VALUE …) … (else VALUE …))") {
		if !clause.isList() || len(clause.list) == 0 {
			fail(clause.at, "write (CONDITION VALUE …) or (else VALUE …)", "this is no clause of cond")
		}
		rest := clause.list[1:]
		if clause.isForm("else") {
			return in.sequence(rest, e)
		}
		v := in.eval(clause.list[0], e)
		switch {
		case !truth(v):
		case len(rest) == 0:
			return nil, nil, v
		case len(rest) == 2 && rest[0].symbol() == "=>":
			return nil, nil, in.apply(in.eval(rest[1], e), []Value{v}, rest[1].at)
		default:
			return in.sequence(rest, e)
		}
	}
	return nil, nil, Unspecified{}
}

// sequence evaluates all forms but the last one.
func (in *interp) sequence(forms []*node, e *env) (*node, *env, Value) {
	if len(forms) == 0 {
		return nil, nil, Unspecified{}
	}
	last := len(forms) - 1
	for _, n := range forms[:last] {
		in.eval(n, e)
	}
	return forms[last], e, nil
}

func (in *interp) caseForm(n *node, e *env) (*node, *env, Value) {
	parts := n.parts(2, -1, "(case KEY ((DATUM …) VALUE …) … (else VALUE …))")
	key := in.eval(parts[0], e)
	for _, clause := range parts[1:] {
		if !clause.isList() || len(clause.list) == 0 {
			fail(clause.at, "write ((DATUM …) VALUE …) or (else VALUE …)", "this is no clause of case")
		}
		matches := clause.isForm("else")
		for _, d := range clause.list[0].list {
			matches = matches || eqv(key, d.datum())
			in.step(d.at, 1)
		}
		if matches {
			if len(clause.list) > 1 && clause.list[1].symbol() == "=>" {
				unsupported(clause.at, "=> in case")
			}
			return in.sequence(clause.list[1:], e)
		}
	}
	return nil, nil, Unspecified{}
}

func (in *interp) when(n *node, e *env) (*node, *env, Value) {
	name := n.list[0].symbol()
	parts := n.parts(1, -1, "("+string(name)+" CONDITION VALUE …)")
	if truth(in.eval(parts[0], e)) == (name == "when") {
		return in.sequence(parts[1:], e)
	}
	return nil, nil, Unspecified{}
}

func (in *interp) and(n *node, e *env) (*node, *env, Value) {
	parts := n.list[1:]
	for i, p := range parts {
		if i == len(parts)-1 {
			return p, e, nil
		}
		if v := in.eval(p, e); !truth(v) {
			return nil, nil, v
		}
	}
	return nil, nil, true
}

func (in *interp) or(n *node, e *env) (*node, *env, Value) {
	parts := n.list[1:]
	for i, p := range parts {
		if i == len(parts)-1 {
			return p, e, nil
		}
		if v := in.eval(p, e); truth(v) {
			return nil, nil, v
		}
	}
	return nil, nil, false
}

func (in *interp) begin(n *node, e *env) (*node, *env, Value) { return in.sequence(n.list[1:], e) }

// binding returns name and value of "(NAME VALUE)".
func binding(n *node) (Symbol, *node) {
	if !n.isList() || len(n.list) != 2 || n.list[0].symbol() == "" {
		fail(n.at, "write (NAME VALUE)", "this gives no name a value")
	}
	return n.list[0].symbol(), n.list[1]
}

const letForm = "(let ((NAME VALUE) …) BODY …)"

func (in *interp) let(n *node, e *env) (*node, *env, Value) {
	parts := n.parts(2, -1, letForm)
	if name := parts[0].symbol(); name != "" {
		return in.namedLet(n, name, e)
	}
	if !parts[0].isList() {
		fail(parts[0].at, "write "+letForm, "let needs a list of names and values")
	}
	inner := in.scope(e, n.at)
	for _, b := range parts[0].list {
		name, value := binding(b)
		if slices.Contains(inner.names, name) {
			fail(b.at, "", "%s gets a value twice", name)
		}
		in.step(b.at, len(inner.names)/16)
		v := in.eval(value, e)
		named(v, name)
		in.bind(inner, name, v, b.at)
	}
	return in.body(parts[1:], inner, n.at)
}

func (in *interp) namedLet(n *node, name Symbol, e *env) (*node, *env, Value) {
	parts := n.parts(3, -1, "(let NAME ((VARIABLE VALUE) …) BODY …)")
	if !parts[1].isList() {
		fail(parts[1].at, "write (let NAME ((VARIABLE VALUE) …) BODY …)", "let needs a list of names and values")
	}
	loop := in.scope(e, n.at)
	formals := &node{at: parts[1].at, list: []*node{}}
	var args []Value
	for _, b := range parts[1].list {
		_, value := binding(b)
		formals.list = append(formals.list, b.list[0])
		args = append(args, in.eval(value, e))
	}
	f := in.closure(n, formals, parts[2:], loop, false).(*Procedure)
	f.name = string(name)
	in.bind(loop, name, f, n.at)
	return in.body(f.body, in.bindArguments(f, args, n.at), n.at)
}

func (in *interp) letStar(n *node, e *env) (*node, *env, Value) {
	parts := n.parts(2, -1, "(let* ((NAME VALUE) …) BODY …)")
	if !parts[0].isList() {
		fail(parts[0].at, "write (let* ((NAME VALUE) …) BODY …)", "let* needs a list of names and values")
	}
	for _, b := range parts[0].list {
		name, value := binding(b)
		v := in.eval(value, e)
		named(v, name)
		e = in.scope(e, b.at)
		in.bind(e, name, v, b.at)
	}
	return in.body(parts[1:], e, n.at)
}

func (in *interp) letrec(n *node, e *env) (*node, *env, Value) {
	parts := n.parts(2, -1, "(letrec ((NAME VALUE) …) BODY …)")
	if !parts[0].isList() {
		fail(parts[0].at, "write (letrec ((NAME VALUE) …) BODY …)", "letrec needs a list of names and values")
	}
	inner := in.scope(e, n.at)
	for _, b := range parts[0].list {
		name, _ := binding(b)
		in.bind(inner, name, undefined{}, b.at)
	}
	for _, b := range parts[0].list {
		name, value := binding(b)
		v := in.eval(value, inner)
		named(v, name)
		in.bind(inner, name, v, b.at)
	}
	return in.body(parts[1:], inner, n.at)
}

func (in *interp) lambda(n *node, e *env) (*node, *env, Value) {
	parts := n.parts(2, -1, "(lambda (ARGUMENT …) BODY …)")
	return nil, nil, in.closure(n, parts[0], parts[1:], e, n.list[0].symbol() == "lambda*")
}

// do is (do ((VARIABLE INIT STEP) …) (TEST VALUE …) BODY …).
func (in *interp) do(n *node, e *env) (*node, *env, Value) {
	const form = "(do ((VARIABLE INIT STEP) …) (TEST VALUE …) BODY …)"
	parts := n.parts(2, -1, form)
	if !parts[0].isList() || !parts[1].isList() || len(parts[1].list) == 0 {
		fail(n.at, "write "+form, "do is not written so")
	}
	vars := parts[0].list
	scope := in.scope(e, n.at)
	for _, v := range vars {
		if !v.isList() || len(v.list) < 2 || len(v.list) > 3 || v.list[0].symbol() == "" {
			fail(v.at, "write (VARIABLE INIT STEP)", "this is no variable of do")
		}
		in.bind(scope, v.list[0].symbol(), in.eval(v.list[1], e), v.at)
	}
	for !truth(in.eval(parts[1].list[0], scope)) {
		for _, b := range parts[2:] {
			in.eval(b, scope)
		}
		next := in.scope(e, n.at)
		for i, v := range vars {
			value := scope.values[min(i, len(scope.values)-1)]
			if len(v.list) == 3 {
				value = in.eval(v.list[2], scope)
			}
			in.bind(next, v.list[0].symbol(), value, v.at)
		}
		scope = next
	}
	return in.sequence(parts[1].list[1:], scope)
}

func (in *interp) set(n *node, e *env) (*node, *env, Value) {
	parts := n.parts(2, 2, "(set! NAME VALUE)")
	name := parts[0].symbol()
	if name == "" {
		unsupported(n.at, "set! of something that is no variable")
	}
	v := in.eval(parts[1], e)
	if place := in.find(name, e, n.at); place != nil {
		*place = v
		return nil, nil, Unspecified{}
	}
	in.variable(name, nil, parts[0].at)
	in.globals[name] = v
	return nil, nil, Unspecified{}
}

// cut is SRFI-26's: a call with some arguments left open as <>.
func (in *interp) cut(n *node, e *env) (*node, *env, Value) {
	parts := n.parts(1, -1, "(cut PROCEDURE ARGUMENT …)")
	values := make([]Value, len(parts))
	var open []int
	rest := false
	for i, p := range parts {
		switch p.symbol() {
		case "<>":
			open = append(open, i)
		case "<...>":
			if i != len(parts)-1 {
				fail(p.at, "", "<...> stands last in cut")
			}
			rest, values = true, values[:i]
		default:
			values[i] = in.eval(p, e)
		}
	}
	most := len(open)
	if rest {
		most = -1
	}
	return nil, nil, &Procedure{name: "cut", least: len(open), most: most, primitive: func(c *call) Value {
		in.alloc(c.at, 16*(len(values)+len(c.args)))
		all := append([]Value(nil), values...)
		for i, slot := range open {
			all[slot] = c.args[i]
		}
		all = append(all, c.args[len(open):]...)
		return in.apply(all[0], all[1:], c.at)
	}}
}

func (in *interp) quasiquote(n *node, e *env) (*node, *env, Value) {
	return nil, nil, in.quasi(n.parts(1, 1, "(quasiquote DATUM)")[0], e, 1)
}

// quasi returns a datum in which what is unquoted at depth 1 is evaluated.
func (in *interp) quasi(n *node, e *env, depth int) Value {
	in.step(n.at, 1)
	in.enter(n.at)
	defer func() { in.depth-- }()
	if n.atom != nil {
		return n.atom
	}
	if !n.vector && n.tail == nil && len(n.list) == 2 {
		switch n.list[0].symbol() {
		case "unquote":
			if depth == 1 {
				return in.eval(n.list[1], e)
			}
			return in.requote(n, e, depth-1)
		case "quasiquote":
			return in.requote(n, e, depth+1)
		}
	}
	elems := n.list
	var tail Value = Empty{}
	if n.tail != nil {
		tail = in.quasi(n.tail, e, depth)
	}
	// `(a . ,b) was read as (a unquote b).
	if i := len(elems) - 2; i > 0 && !n.vector && elems[i].symbol() == "unquote" && depth == 1 {
		tail = in.eval(elems[i+1], e)
		elems = elems[:i]
	}
	var values []Value
	for i, x := range elems {
		if !x.isForm("unquote-splicing") || len(x.list) != 2 || depth != 1 {
			values = append(values, in.quasi(x, e, depth))
			continue
		}
		v := in.eval(x.list[1], e)
		spliced, ok := List(v)
		switch {
		case ok:
			in.step(x.at, len(spliced))
			values = append(values, spliced...)
		case i == len(elems)-1 && tail == Value(Empty{}) && !n.vector:
			tail = v
		default:
			fail(x.list[1].at, "", "%s is no list that ,@ could put in", kind(v))
		}
	}
	in.alloc(n.at, pairSize*len(values))
	if n.vector {
		return &Vector{values}
	}
	return list(values, tail)
}

// requote returns a quotation within a quotation.
func (in *interp) requote(n *node, e *env, depth int) Value {
	return list([]Value{n.list[0].atom, in.quasi(n.list[1], e, depth)}, Empty{})
}
