package scheme

import (
	"math/big"
	"strings"
)

// Value is what a program computes with: a bool, a *big.Rat (an exact number), a
// float64, a *String, [Symbol], [Keyword], *[Pair], [Empty], *[Procedure], *[Record] or
// [Unspecified]. Values are not changed once made.
type Value any

// String is a string.
type String struct {
	Text string
	// At is the byte offset of the literal in the program's text; -1 for a string
	// that was computed.
	At int
}

// Symbol is a name.
type Symbol string

// Keyword is "#:name", without the "#:".
type Keyword string

// Pair is a cell of a list.
type Pair struct{ Car, Cdr Value }

// Empty is the empty list.
type Empty struct{}

// Unspecified is the value of what has none, such as a definition.
type Unspecified struct{}

// Procedure is something that can be called.
type Procedure struct {
	name        string // "" for a function without
	least, most int    // arguments; most < 0 means no limit
	narrow      bool   // Guile's takes more arguments than most
	// Either a primitive…
	primitive func(c *call) Value
	// …or a function of the program.
	params []param
	kinds  map[Symbol]paramKind // of params
	body   []*node
	env    *env
}

// undefined is the value of a variable whose definition is not evaluated yet.
type undefined struct{}

// List returns the elements of a proper list, or ok false.
func List(v Value) (elems []Value, ok bool) {
	for {
		switch p := v.(type) {
		case Empty:
			return elems, true
		case *Pair:
			elems = append(elems, p.Car)
			v = p.Cdr
		default:
			return nil, false
		}
	}
}

func list(elems []Value, tail Value) Value {
	for i := len(elems) - 1; i >= 0; i-- {
		tail = &Pair{elems[i], tail}
	}
	return tail
}

// truth reports whether a condition holds: only #f does not.
func truth(v Value) bool { return v != Value(false) }

// Write returns a value as Guile's write prints it, cut after about limit bytes with
// "…".
func Write(v Value, limit int) string {
	p := &printer{limit: limit}
	p.value(v)
	return p.String()
}

// printer writes values; what is longer than the limit is cut.
type printer struct {
	strings.Builder
	limit int
	cut   bool
}

func (p *printer) put(text string) {
	switch {
	case p.cut:
	case p.Len()+len(text) > p.limit:
		p.cut = true
		p.WriteString(strings.ToValidUTF8(text[:p.limit-p.Len()], "") + "…")
	default:
		p.WriteString(text)
	}
}

func (p *printer) value(v Value) {
	if p.cut {
		return
	}
	switch v := v.(type) {
	case bool:
		p.put(map[bool]string{true: "#t", false: "#f"}[v])
	case *big.Rat:
		p.put(v.RatString())
	case float64:
		p.put(floatText(v))
	case *String:
		p.put(`"` + stringEscaper.Replace(v.Text) + `"`)
	case Symbol:
		p.put(string(v))
	case Keyword:
		p.put("#:" + string(v))
	case Empty:
		p.put("()")
	case *Pair:
		p.pair(v)
	case *Procedure:
		p.put("#<procedure " + v.name + ">")
	case *Record:
		p.put("#<" + v.Type.Name + ">")
	case Unspecified, undefined:
		p.put("#<unspecified>")
	}
}

// pair writes a list. Lists in each other are no deeper than the limit, as each has a
// bracket.
func (p *printer) pair(v *Pair) {
	p.put("(")
	p.value(v.Car)
	rest := v.Cdr
	for next, ok := rest.(*Pair); ok && !p.cut; next, ok = rest.(*Pair) {
		p.put(" ")
		p.value(next.Car)
		rest = next.Cdr
	}
	if rest != Value(Empty{}) && !p.cut {
		p.put(" . ")
		p.value(rest)
	}
	p.put(")")
}

var stringEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`, "\a", `\a`,
	"\b", `\b`, "\v", `\v`, "\f", `\f`, "\x00", `\x00`)

// kind says what a value is, for messages: "the number 3", "a procedure".
func kind(v Value) string {
	switch v := v.(type) {
	case *Procedure:
		return "a procedure"
	case *Record:
		return "a " + v.Type.Name
	case Unspecified, undefined:
		return "nothing"
	}
	return Write(v, 40)
}
