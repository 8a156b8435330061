package scheme

// specialForms evaluate their parts themselves.
var specialForms map[Symbol]specialForm

type specialForm func(in *interp, n *node, e *env) Value

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
	specialForms = map[Symbol]specialForm{
		"quote":        (*interp).quote,
		"quasiquote":   (*interp).quasiquote,
		"if":           (*interp).ifForm,
		"cond":         (*interp).cond,
		"when":         (*interp).when,
		"unless":       (*interp).when,
		"and":          (*interp).and,
		"or":           (*interp).and,
		"begin":        (*interp).begin,
		"let":          (*interp).let,
		"let*":         (*interp).let,
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
func (in *interp) module(n *node, _ *env) Value {
	parts := n.parts(2, 2, "(@ MODULE NAME)")
	name := parts[1].symbol()
	p, ok := primitives[name]
	if !ok {
		unsupported(n.at, cutText(string(name))+" of a module")
	}
	return p
}

func ignored(*interp, *node, *env) Value { return Unspecified{} }

func misplaced(_ *interp, n *node, _ *env) Value {
	fail(n.at, "", "%s has no meaning here", n.list[0].symbol())
	return nil
}

// parts checks how many parts follow the form's name; most < 0 means no limit.
func (n *node) parts(least, most int, form string) []*node {
	parts := n.list[1:]
	if len(parts) < least || most >= 0 && len(parts) > most {
		fail(n.at, "write "+form, "%s is not written like this", n.list[0].symbol())
	}
	return parts
}

func (in *interp) quote(n *node, _ *env) Value { return n.parts(1, 1, "(quote DATUM)")[0].datum() }

func (in *interp) ifForm(n *node, e *env) Value {
	parts := n.parts(2, 3, "(if CONDITION THEN ELSE)")
	switch {
	case truth(in.eval(parts[0], e)):
		return in.eval(parts[1], e)
	case len(parts) == 3:
		return in.eval(parts[2], e)
	}
	return Unspecified{}
}

func (in *interp) cond(n *node, e *env) Value {
	for _, clause := range n.parts(1, -1, "(cond (CONDITION VALUE …) … (else VALUE …))") {
		if !clause.isList() || len(clause.list) == 0 {
			fail(clause.at, "write (CONDITION VALUE …) or (else VALUE …)", "this is not a clause of cond")
		}
		then := clause.list[1:]
		if clause.isForm("else") {
			return in.sequence(then, e)
		}
		v := in.eval(clause.list[0], e)
		switch {
		case !truth(v):
		case len(then) == 0:
			return v
		case len(then) == 2 && then[0].symbol() == "=>":
			return in.apply(in.eval(then[1], e), []Value{v}, then[1].at)
		default:
			return in.sequence(then, e)
		}
	}
	return Unspecified{}
}

// sequence evaluates forms, and returns the value of the last one.
func (in *interp) sequence(forms []*node, e *env) Value {
	var v Value = Unspecified{}
	for _, n := range forms {
		v = in.eval(n, e)
	}
	return v
}

// when is (when …) or (unless …).
func (in *interp) when(n *node, e *env) Value {
	name := n.list[0].symbol()
	parts := n.parts(1, -1, "("+string(name)+" CONDITION VALUE …)")
	if truth(in.eval(parts[0], e)) == (name == "when") {
		return in.sequence(parts[1:], e)
	}
	return Unspecified{}
}

// and is (and …) or (or …), which ends at the first value that decides.
func (in *interp) and(n *node, e *env) Value {
	isAnd := n.list[0].symbol() == "and"
	var v Value = isAnd
	for _, p := range n.list[1:] {
		if v = in.eval(p, e); truth(v) != isAnd {
			break
		}
	}
	return v
}

func (in *interp) begin(n *node, e *env) Value { return in.sequence(n.list[1:], e) }

// let is (let …) or (let* …), in which a value sees the names before it.
func (in *interp) let(n *node, e *env) Value {
	name := n.list[0].symbol()
	form := "(" + string(name) + " ((NAME VALUE) …) BODY …)"
	parts := n.parts(2, -1, form)
	switch {
	case parts[0].symbol() != "":
		unsupported(n.at, "a let with a name")
	case !parts[0].isList():
		fail(parts[0].at, "write "+form, "%s needs a list of names and values", name)
	}
	inner := in.scope(e, n.at)
	for _, b := range parts[0].list {
		if !b.isList() || len(b.list) != 2 || b.list[0].symbol() == "" {
			fail(b.at, "write (NAME VALUE)", "this gives no name a value")
		}
		bound := b.list[0].symbol()
		v := in.eval(b.list[1], e)
		switch {
		case name == "let*":
			inner = in.scope(e, b.at)
			e = inner
		case inner.values[bound] != nil:
			fail(b.at, "", "%s gets a value twice", bound)
		}
		in.bind(inner, bound, v, b.at)
	}
	return in.body(parts[1:], inner)
}

func (in *interp) lambda(n *node, e *env) Value {
	parts := n.parts(2, -1, "(lambda (ARGUMENT …) BODY …)")
	return in.closure(n, parts[0], parts[1:], e)
}

func (in *interp) quasiquote(n *node, e *env) Value {
	return in.quasi(n.parts(1, 1, "(quasiquote DATUM)")[0], e)
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
	// `(a . ,b) was read as (a unquote b).
	if i := len(elems) - 2; i > 0 && elems[i].symbol() == "unquote" {
		tail = in.eval(elems[i+1], e)
		elems = elems[:i]
	} else if n.tail != nil {
		tail = in.quasi(n.tail, e)
	}
	var values []Value
	for _, x := range elems {
		if x.isForm("unquote-splicing") && len(x.list) == 2 {
			values = append(values, in.spliced(x, e)...)
		} else {
			values = append(values, in.quasi(x, e))
		}
	}
	in.alloc(n.at, pairSize*len(values))
	return list(values, tail)
}

// spliced returns the elements of the list that ",@FORM" puts into another one.
func (in *interp) spliced(n *node, e *env) []Value {
	v := in.eval(n.list[1], e)
	elems, ok := List(v)
	if !ok {
		unsupported(n.at, ",@ with "+kind(v)+", which is not a list,")
	}
	in.step(n.at, len(elems))
	return elems
}
