package scheme

// match is (match VALUE (PATTERN BODY …) …) of (ice-9 match), with patterns that are
// names, _, constants, quoted data, and lists, with a tail or without.
func (in *interp) match(n *node, e *env) Value {
	parts := n.parts(2, -1, "(match VALUE (PATTERN BODY …) …)")
	return in.matchClauses(parts[1:], in.eval(parts[0], e), e, n.at)
}

// matchLambda is (match-lambda (PATTERN BODY …) …).
func (in *interp) matchLambda(n *node, e *env) Value {
	clauses := n.parts(1, -1, "(match-lambda (PATTERN BODY …) …)")
	in.alloc(n.at, procedureSize)
	return &Procedure{name: "match-lambda", least: 1, most: 1, primitive: func(c *call) Value {
		return in.matchClauses(clauses, c.args[0], e, c.at)
	}}
}

func (in *interp) matchClauses(clauses []*node, v Value, e *env, at int) Value {
	for _, c := range clauses {
		if !c.isList() || len(c.list) < 2 {
			fail(c.at, "write (PATTERN BODY …)", "this is not a clause of match")
		}
		inner := in.scope(e, c.at)
		if !in.matches(c.list[0], v, inner) {
			continue
		}
		if c.list[1].isForm("=>") {
			unsupported(c.at, "=> in match")
		}
		return in.body(c.list[1:], inner)
	}
	fail(at, "", "no pattern matches %s", kind(v))
	return nil
}

// matches reports whether a pattern fits, and binds its names in e.
func (in *interp) matches(p *node, v Value, e *env) bool {
	in.enter(p.at)
	defer func() { in.depth-- }()
	in.step(p.at, 1)
	switch name := p.symbol(); {
	case name == "_":
		return true
	case name == "..." || name == "___" || name == "..1":
		unsupported(p.at, string(name)+" here in a pattern of match")
	case name != "":
		in.bind(e, name, v, p.at)
		return true
	case p.atom != nil:
		return in.equal(p.atom, v, p.at)
	}
	if len(p.list) > 0 {
		switch head := p.list[0].symbol(); head {
		case "quote":
			return len(p.list) == 2 && in.equal(p.list[1].datum(), v, p.at)
		case "?", "and", "or", "not", "=", "$", "@", "quasiquote", "set!", "get!":
			unsupported(p.at, "("+string(head)+" …) in a pattern of match")
		}
	}
	for _, x := range p.list {
		pair, ok := v.(*Pair)
		if !ok || !in.matches(x, pair.Car, e) {
			return false
		}
		v = pair.Cdr
	}
	if p.tail != nil {
		return in.matches(p.tail, v, e)
	}
	return v == Value(Empty{})
}
