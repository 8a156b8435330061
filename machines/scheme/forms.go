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
	"load", "primitive-load", "eval", "gexp", "case", "letrec", "letrec*", "do", "set!", "cut",
}

func init() {
	specialForms = map[Symbol]func(in *interp, n *node, e *env) (*node, *env, Value){
		"quote":        (*interp).quote,
		"quasiquote":   (*interp).quasiquote,
		"if":           (*interp).ifForm,
		"cond":         (*interp).cond,
		"when":         (*interp).when,
		"unless":       (*interp).when,
		"and":          (*interp).and,
		"or":           (*interp).or,
		"begin":        (*interp).begin,
		"let":          (*interp).let,
		"let*":         (*interp).letStar,
		"lambda":       (*interp).lambda,
		"lambda*":      (*interp).lambda,
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

// parts checks how many parts follow the form's name; most < 0 means no limit.
func (n *node) parts(least, most int, form string) []*node {
	parts := n.list[1:]
	if len(parts) < least || most >= 0 && len(parts) > most {
		fail(n.at, "write "+form, "%s is not written like this", n.list[0].symbol())
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
			fail(clause.at, "write (CONDITION VALUE …) or (else VALUE …)", "this is not a clause of cond")
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
	if parts[0].symbol() != "" {
		unsupported(n.at, "a let with a name")
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

func (in *interp) lambda(n *node, e *env) (*node, *env, Value) {
	parts := n.parts(2, -1, "(lambda (ARGUMENT …) BODY …)")
	return nil, nil, in.closure(n, parts[0], parts[1:], e, n.list[0].symbol() == "lambda*")
}

func (in *interp) quasiquote(n *node, e *env) (*node, *env, Value) {
	return nil, nil, in.quasi(n.parts(1, 1, "(quasiquote DATUM)")[0], e)
}

// quasi returns a datum in which what is unquoted is evaluated.
func (in *interp) quasi(n *node, e *env) Value {
	in.step(n.at, 1)
	in.enter(n.at)
	defer func() { in.depth-- }()
	if n.atom != nil {
		return n.atom
	}
	if n.tail == nil && len(n.list) == 2 {
		switch n.list[0].symbol() {
		case "unquote":
			return in.eval(n.list[1], e)
		case "quasiquote":
			unsupported(n.at, "a quasiquote in another one")
		}
	}
	elems := n.list
	var tail Value = Empty{}
	if n.tail != nil {
		tail = in.quasi(n.tail, e)
	}
	// `(a . ,b) was read as (a unquote b).
	if i := len(elems) - 2; i > 0 && elems[i].symbol() == "unquote" {
		tail = in.eval(elems[i+1], e)
		elems = elems[:i]
	}
	var values []Value
	for i, x := range elems {
		if !x.isForm("unquote-splicing") || len(x.list) != 2 {
			values = append(values, in.quasi(x, e))
			continue
		}
		v := in.eval(x.list[1], e)
		spliced, ok := List(v)
		switch {
		case ok:
			in.step(x.at, len(spliced))
			values = append(values, spliced...)
		case i == len(elems)-1 && tail == Value(Empty{}):
			tail = v
		default:
			fail(x.list[1].at, "", "%s is not a list that ,@ could put in", kind(v))
		}
	}
	in.alloc(n.at, pairSize*len(values))
	return list(values, tail)
}
