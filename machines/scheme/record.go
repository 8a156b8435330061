package scheme

import (
	"fmt"
	"slices"
	"strings"
)

// RecordType is a type in the manner of Guix's define-record-type*: a form NAME in
// which each field stands as (FIELD VALUE), a predicate NAME?, and accessors.
type RecordType struct {
	Name   string
	Fields []RecordField
}

// RecordField is a field of a [RecordType].
type RecordField struct {
	Name string
	// Required says that a record without it is a mistake. What stands for a field
	// that is not required and not given is the caller's business.
	Required bool
	// Accessor is the name of the procedure that returns the field, "" for none.
	Accessor string
	// Default is what the accessor returns for a field that is not given; with nil that
	// is an [*Unsupported].
	Default Value
	// Innate says that (inherit RECORD) does not take the field over.
	Innate bool
}

// Record is a record.
type Record struct {
	Type   *RecordType
	At     int              // byte offset of the form that made it
	Fields map[string]Field // those that were given or inherited
}

// Field is a field's value, and where it was given.
type Field struct {
	Value Value
	Name  int  // byte offset of the field's name
	At    int  // byte offset of the form that the value came from
	Given bool // in the record's own form, not inherited
}

func (t *RecordType) field(name string) *RecordField {
	for i := range t.Fields {
		if t.Fields[i].Name == name {
			return &t.Fields[i]
		}
	}
	return nil
}

func (t *RecordType) fieldNames() []string {
	names := make([]string, len(t.Fields))
	for i, f := range t.Fields {
		names[i] = f.Name
	}
	return names
}

// define adds the predicate and the accessors.
func (t *RecordType) define(globals map[Symbol]Value) {
	predicate := t.Name + "?"
	globals[Symbol(predicate)] = &Procedure{name: predicate, least: 1, most: 1, primitive: func(c *call) Value {
		r, ok := c.args[0].(*Record)
		return ok && r.Type == t
	}}
	for _, f := range t.Fields {
		if f.Accessor == "" {
			continue
		}
		globals[Symbol(f.Accessor)] = &Procedure{name: f.Accessor, least: 1, most: 1, primitive: func(c *call) Value {
			r, ok := c.args[0].(*Record)
			if !ok || r.Type != t {
				c.wrong(0, "a "+t.Name)
			}
			switch given, ok := r.Fields[f.Name]; {
			case ok:
				return given.Value
			case f.Default != nil:
				return f.Default
			}
			unsupported(c.at, f.Accessor+" of a record without "+f.Name)
			return nil
		}}
	}
}

// makeRecord evaluates (NAME [(inherit RECORD)] (FIELD VALUE) …). As in Guix, a value
// can name the fields before it.
func (in *interp) makeRecord(t *RecordType, n *node, e *env) Value {
	in.alloc(n.at, recordSize)
	r := &Record{Type: t, At: n.at, Fields: make(map[string]Field)}
	specs := n.list[1:]
	var inherited *node
	if len(specs) > 0 && specs[0].isForm("inherit") && len(specs[0].list) == 2 {
		inherited, specs = specs[0].list[1], specs[1:]
	}
	t.checkFields(n, specs, inherited != nil)
	for _, s := range specs {
		name := s.list[0].symbol()
		v := in.eval(s.list[1], e)
		e = in.scope(e, s.at)
		in.bind(e, name, v, s.at)
		r.Fields[string(name)] = Field{Value: v, Name: s.list[0].at, At: s.list[1].at, Given: true}
	}
	if inherited != nil {
		from, ok := in.eval(inherited, e).(*Record)
		if !ok || from.Type != t {
			fail(inherited.at, "", "what %s inherits from is not a %s", t.Name, t.Name)
		}
		for name, f := range from.Fields {
			if _, given := r.Fields[name]; !given && !t.field(name).Innate {
				f.Given = false
				r.Fields[name] = f
			}
		}
	}
	return r
}

// checkFields checks what can be checked before evaluation, as Guix's macro does.
func (t *RecordType) checkFields(n *node, specs []*node, inherits bool) {
	seen := make(map[string]*node)
	for _, s := range specs {
		if !s.isList() || len(s.list) != 2 || s.list[0].symbol() == "" {
			fail(s.at, "write (FIELD VALUE)", "a %s has fields, each with one value; this is not one", t.Name)
		}
		name := string(s.list[0].symbol())
		switch {
		case name == "inherit":
			fail(s.at, "it comes before all fields", "inherit comes only once and first in a %s", t.Name)
		case t.field(name) == nil:
			panic(&Error{
				Pos:     Pos{Offset: s.list[0].at},
				Message: fmt.Sprintf("unknown field %q", cutText(name)),
				Hint:    "the fields are " + strings.Join(t.fieldNames(), ", "),
				Word:    name, Known: t.fieldNames(),
			})
		case seen[name] != nil:
			fail(s.list[0].at, "leave one of them out", "the field %s appears twice", name)
		}
		seen[name] = s
	}
	if inherits {
		return
	}
	var missing []string
	for _, f := range t.Fields {
		if f.Required && seen[f.Name] == nil {
			missing = append(missing, f.Name)
		}
	}
	if len(missing) > 0 {
		hints := make([]string, len(missing))
		for i, name := range missing {
			hints[i] = "(" + name + " …)"
		}
		fail(n.at, "add "+strings.Join(hints, ", "), "the %s has no %s", t.Name, strings.Join(missing, ", no "))
	}
}

// salvage appends a record for each form below n that makes one.
func (in *interp) salvage(n *node, all []*Record, most int) []*Record {
	if len(all) >= most {
		return all
	}
	if len(n.list) > 0 {
		if t := in.records[n.list[0].symbol()]; t != nil {
			return append(all, in.salvageRecord(t, n))
		}
	}
	for _, e := range n.list {
		all = in.salvage(e, all, most)
	}
	return all
}

func (in *interp) salvageRecord(t *RecordType, n *node) *Record {
	r := &Record{Type: t, At: n.at, Fields: make(map[string]Field)}
	for _, s := range n.list[1:] {
		if !s.isList() || len(s.list) != 2 {
			continue
		}
		name := string(s.list[0].symbol())
		if name == "inherit" {
			in.try(func() {
				if from, ok := in.eval(s.list[1], in.globals).(*Record); ok {
					for name, f := range from.Fields {
						r.Fields[name] = f
					}
				}
			})
		}
		if !slices.Contains(t.fieldNames(), name) {
			continue
		}
		in.try(func() {
			v := in.eval(s.list[1], in.globals)
			r.Fields[name] = Field{Value: v, Name: s.list[0].at, At: s.list[1].at, Given: true}
		})
	}
	return r
}
