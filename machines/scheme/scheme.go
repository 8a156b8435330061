// Package scheme evaluates the part of Guile's Scheme in which people write
// declarations: lists, strings, numbers, definitions, functions over lists, and
// records in the manner of Guix's define-record-type*.
//
// [Eval] runs a program and returns the value of its last form. A program has no
// effects: it sees the variables of the environment that the caller lets it see, and
// nothing else. Time, memory and nesting are bounded, so that a hostile or looping
// program ends in a [*LimitError]. What Guile has and this package has not ends in
// an [*Unsupported], on which a caller may turn to the real thing; what Guile refuses
// as well in an [*Error].
//
// What is there is what such files are made of: quote and quasiquote, define, define*,
// lambda, lambda*, let, let*, if, cond, when, unless, and, or, begin, match and
// match-lambda with patterns of lists and constants; numbers, strings, symbols, keywords
// and lists, with the procedures over them that are in this package's tables; format
// with ~a and ~d. use-modules and define-module are read and have no effect: all names
// are always there. For the rest, from loops and characters to macros, there is Guile.
//
// Compared with: Guile 3.0.11, module/ice-9/read.scm for the syntax, and Guix 1.5.0,
// guix/records.scm for records.
package scheme

import (
	"cmp"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Options say what a program may see and use. The zero value gives it nothing, within
// the default limits.
type Options struct {
	// Getenv answers (getenv NAME); nil means that no variable is set.
	Getenv func(name string) (value string, ok bool)
	// Records are the types of which the program can make records.
	Records []*RecordType
	// Limits bound what the program uses.
	Limits Limits
}

// Limits bound a program. A field that is 0 stands for its default.
type Limits struct {
	Steps int // evaluations, calls and elements looked at; 10 million
	Bytes int // estimated memory that is allocated, freed or not; 128 MiB
	Depth int // of forms and calls in each other; 20,000
	Nodes int // atoms and lists in the text; 500,000
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Steps: cmp.Or(l.Steps, 10_000_000), Bytes: cmp.Or(l.Bytes, 128<<20),
		Depth: cmp.Or(l.Depth, 20_000), Nodes: cmp.Or(l.Nodes, 500_000),
	}
}

// Pos is a place in the program's text.
type Pos struct {
	Offset int // in bytes, from 0
	Line   int // from 1
	Column int // in characters, from 1
}

func position(text string, offset int) Pos {
	offset = min(max(offset, 0), len(text))
	before := text[:offset]
	start := strings.LastIndexByte(before, '\n') + 1
	return Pos{
		Offset: offset, Line: strings.Count(before, "\n") + 1,
		Column: utf8.RuneCountInString(before[start:]) + 1,
	}
}

// Error is a mistake in the program, at which Guile stops too.
type Error struct {
	Pos
	Message string
	Hint    string // what would be right; may be empty
	// Word is a name that is not known where it stands, and Known are those that are;
	// empty for other mistakes. One of Known may be what was meant.
	Word  string
	Known []string
}

// Error returns "line:column: message".
func (e *Error) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Message) }

// Unsupported says that the program uses something that this package does not have.
// Guile may have it.
type Unsupported struct {
	Pos
	Form  string          // the name of the form or variable, or a piece of syntax
	known func() []string // nil if Form is not the name of a variable
}

// Error returns "line:column: FORM is not known to lighter's own evaluator".
func (e *Unsupported) Error() string {
	return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Message())
}

// Message returns what Error returns, without the position.
func (e *Unsupported) Message() string {
	return fmt.Sprintf("%s is not known to lighter's own evaluator of Scheme", e.Form)
}

// Known returns the names that are here, if Form is the name of a variable. One of them
// may be what was meant.
func (e *Unsupported) Known() []string {
	if e.known == nil {
		return nil
	}
	return e.known()
}

// LimitError says that the program needs more than its [Limits].
type LimitError struct {
	Pos
	Limit string // what there is too much of, with its limit
}

// Error returns "line:column: LIMIT".
func (e *LimitError) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Limit) }

// Eval reads the program and evaluates its forms one after the other. It returns the
// value of the last one and the byte offset where that form stands; for a program
// without any, [Unspecified] and 0. Its errors are *Error, *Unsupported or *LimitError.
func Eval(text string, opts Options) (value Value, at int, err error) {
	defer recoverFailure(text, &err)
	forms := read(text, opts.Limits)
	in := newInterp(opts)
	if len(forms) > 0 {
		at = forms[len(forms)-1].at
	}
	return in.run(forms, in.globals), at, nil
}

// Read returns the data in a text, without evaluating anything. Its errors are those
// of [Eval].
func Read(text string, limits Limits) (data []Value, err error) {
	defer recoverFailure(text, &err)
	for _, n := range read(text, limits) {
		data = append(data, n.datum())
	}
	return data, nil
}

// Salvage returns, for each of the first forms of the program that make a record,
// wherever they stand, a record with those fields whose values can be found without
// what is around the form. It is for showing a person what could be read of a program
// that Eval could not evaluate. It never fails: of a text that is not Scheme it returns
// nothing. It stops after most records.
func Salvage(text string, opts Options, most int) (all []*Record) {
	var err error
	defer recoverFailure(text, &err)
	forms := read(text, opts.Limits)
	in := newInterp(opts)
	for _, n := range forms {
		if n.isForm("define") {
			in.try(func() { in.define(n, in.globals) })
		}
	}
	for _, n := range forms {
		all = in.salvage(n, all, most)
	}
	return all
}

// failure is an *Error, *Unsupported or *LimitError on its way up to the exported
// function, as a panic. Of its place it has the offset only.
type failure interface {
	error
	pos() *Pos
}

func (p *Pos) pos() *Pos { return p }

// recoverFailure turns a failure into an error with line and column.
func recoverFailure(text string, err *error) {
	switch f := recover().(type) {
	case nil:
	case failure:
		*f.pos() = position(text, f.pos().Offset)
		*err = f
	default:
		panic(f)
	}
}

// fail stops the program with a mistake at an offset.
func fail(offset int, hint, format string, args ...any) {
	panic(&Error{Pos: Pos{Offset: offset}, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// unsupported stops the program with something that is not here.
func unsupported(offset int, form string) {
	panic(&Unsupported{Pos: Pos{Offset: offset}, Form: form})
}

func overLimit(offset int, format string, args ...any) {
	panic(&LimitError{Pos: Pos{Offset: offset}, Limit: fmt.Sprintf(format, args...)})
}
