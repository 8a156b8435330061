package scheme

import (
	"math/big"
	"strings"
)

// Value is what a program computes with: a bool, a *big.Rat (an exact number), a
// float64, a *String, [Symbol], [Keyword], *[Pair], [Empty], *[Procedure], *[Record] or [Unspecified]. Values are not changed once made.
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
	keys   map[Symbol]bool // the parameters that are keys
	body   []*node
	env    *env
	at     int // byte offset of its form
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
	p := &printer{limit: limit, quote: true}
	p.value(v, 0)
	return p.String()
}

// printer writes values; what is longer than the limit is cut.
type printer struct {
	strings.Builder
	limit int
	quote bool // as write does, not display
	cut   bool
}

func (p *printer) put(text string) {
	switch {
	case p.cut:
	case p.Len()+len(text) > p.limit:
		p.cut = true
		text = text[:p.limit-p.Len()]
		p.WriteString(strings.ToValidUTF8(text, "") + "…")
	default:
		p.WriteString(text)
	}
}

func (p *printer) value(v Value, depth int) {
	if depth > 1000 {
		p.put("…")
		p.cut = true
	}
	if p.cut {
		return
	}
	switch v := v.(type) {
	case bool:
		p.put(map[bool]string{true: "#t", false: "#f"}[v])
	case *big.Rat, float64:
		p.put(numberText(v))
	case *String:
		p.string(v.Text)
	case Symbol:
		p.symbol(string(v))
	case Keyword:
		p.put("#:" + string(v))
	case Empty:
		p.put("()")
	case *Pair:
		p.pair(v, depth)
	case *Procedure:
		p.put("#<procedure " + v.name + ">")
	case *Record:
		p.put("#<" + v.Type.Name + ">")
	case Unspecified:
		p.put("#<unspecified>")
	case undefined:
		p.put("#<undefined>")
	}
}

func (p *printer) pair(v *Pair, depth int) {
	p.put("(")
	p.value(v.Car, depth+1)
	for rest := v.Cdr; !p.cut; {
		next, ok := rest.(*Pair)
		if !ok {
			if rest != Value(Empty{}) {
				p.put(" . ")
				p.value(rest, depth+1)
			}
			break
		}
		p.put(" ")
		p.value(next.Car, depth+1)
		rest = next.Cdr
	}
	p.put(")")
}

// symbol writes a name; one that would be read as something else, as "#{…}#".
func (p *printer) symbol(name string) {
	if p.quote && (name == "" || strings.ContainsAny(name, "()[]{};\"'`, \t\n\r\f") || '0' <= name[0] && name[0] <= '9' || name[0] == '#') {
		name = "#{" + name + "}#"
	}
	p.put(name)
}

func (p *printer) string(text string) {
	if !p.quote {
		p.put(text)
		return
	}
	p.put(`"` + stringEscaper.Replace(text) + `"`)
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
