package scheme

import (
	"fmt"
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
	// Accessor is the name of the procedure that returns the field, "" for none. For a
	// field that was not given, it is an [*Unsupported].
	Accessor string
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
	procedure := func(name string, f func(c *call) Value) {
		globals[Symbol(name)] = &Procedure{name: name, least: 1, most: 1, primitive: f}
	}
	procedure(t.Name+"?", func(c *call) Value {
		r, ok := c.args[0].(*Record)
		return ok && r.Type == t
	})
	for _, f := range t.Fields {
		if f.Accessor == "" {
			continue
		}
		procedure(f.Accessor, func(c *call) Value {
			r, ok := c.args[0].(*Record)
			if !ok || r.Type != t {
				c.wrong(0, "a "+t.Name)
			}
			given, ok := r.Fields[f.Name]
			if !ok {
				unsupported(c.at, f.Accessor+" of a record without "+f.Name)
			}
			return given.Value
		})
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
	given := t.checkFields(specs)
	if inherited == nil {
		t.checkRequired(n, given)
	}
	for _, s := range specs {
		v := in.setField(r, s, e)
		e = in.scope(e, s.at)
		in.bind(e, s.list[0].symbol(), v, s.at)
	}
	if inherited != nil {
		in.inherit(r, inherited, e)
	}
	return r
}

// setField evaluates (FIELD VALUE) and sets the field.
func (in *interp) setField(r *Record, spec *node, e *env) Value {
	name, value := spec.list[0], spec.list[1]
	v := in.eval(value, e)
	r.Fields[string(name.symbol())] = Field{Value: v, Name: name.at, At: value.at, Given: true}
	return v
}

// inherit sets the fields that are not set to those of the record that a form evaluates to.
func (in *interp) inherit(r *Record, form *node, e *env) {
	from, ok := in.eval(form, e).(*Record)
	if !ok || from.Type != r.Type {
		fail(form.at, "", "what %s inherits from is not a %s", r.Type.Name, r.Type.Name)
	}
	for name, f := range from.Fields {
		if _, set := r.Fields[name]; !set && !r.Type.field(name).Innate {
			f.Given = false
			r.Fields[name] = f
		}
	}
}

// checkFields checks what can be checked before evaluation, as Guix's macro does. It
// returns the names of the fields.
func (t *RecordType) checkFields(specs []*node) map[string]bool {
	given := make(map[string]bool)
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
		case given[name]:
			fail(s.list[0].at, "leave one of them out", "the field %s appears twice", name)
		}
		given[name] = true
	}
	return given
}

func (t *RecordType) checkRequired(n *node, given map[string]bool) {
	var missing, wanted []string
	for _, f := range t.Fields {
		if f.Required && !given[f.Name] {
			missing = append(missing, f.Name)
			wanted = append(wanted, "("+f.Name+" …)")
		}
	}
	if len(missing) > 0 {
		fail(n.at, "add "+strings.Join(wanted, ", "), "the %s has no %s", t.Name, strings.Join(missing, ", no "))
	}
}

// salvage appends a record for each form below n that makes one.
func (in *interp) salvage(n *node, all []*Record, most int) []*Record {
	if len(all) >= most || len(n.list) == 0 {
		return all
	}
	if t := in.records[n.list[0].symbol()]; t != nil {
		return append(all, in.salvageRecord(t, n))
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
		in.try(func() {
			switch name := s.list[0].symbol(); {
			case name == "inherit":
				in.inherit(r, s.list[1], in.globals)
			case t.field(string(name)) != nil:
				in.setField(r, s, in.globals)
			}
		})
	}
	return r
}
