package tomlfile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is one thing wrong in a file.
type Error struct {
	File    string
	Line    int    // from 1
	Column  int    // from 1, in characters
	Text    string // the line
	Message string // what is wrong
	Hint    string // what would be right; may be empty
	// Err is what it comes from, for errors.As; may be nil.
	Err error
}

// Error returns several lines: "file:line:column: message", the line's text with a
// caret under the place, and the hint.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
	if text, caret := e.excerpt(); text != "" {
		fmt.Fprintf(&b, "\n    %s\n    %s", text, caret)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "\n    %s", e.Hint)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// The part of a long line (a host key has hundreds of characters) that is shown
// around the place.
const (
	excerptBefore = 60
	excerptAfter  = 60
)

// excerpt returns the line, cut and made printable, and below it the caret.
func (e *Error) excerpt() (text, caret string) {
	line := []rune(e.Text)
	at := min(max(e.Column-1, 0), len(line))
	first, last := 0, len(line)
	if at > excerptBefore+excerptAfter/2 {
		first = at - excerptBefore
		text = "…"
	}
	caret = strings.Repeat(" ", len([]rune(text)))
	if last > at+excerptAfter+excerptBefore {
		last = at + excerptAfter
	}
	for i, r := range line[first:last] {
		blank := ' '
		switch {
		case r == '\t':
			blank = '\t'
		case !unicode.IsPrint(r):
			r = utf8.RuneError
		}
		text += string(r)
		if first+i < at {
			caret += string(blank)
		}
	}
	if last < len(line) {
		text += "…"
	}
	return text, caret + "^"
}

// Errors is all that is wrong in a file, in the order of the file; there
// is at least one.
type Errors []*Error

// Error returns the texts of all, one after the other.
func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap lets errors.As find the first *Error.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, err := range e {
		all[i] = err
	}
	return all
}

// Reporter collects the errors of one document.
type Reporter struct {
	File     string
	Doc      string
	Errs     Errors
	Warnings []*Error
	starts   []int // of the document's lines, found when the first place is asked for
}

// Warnf reports what a person should know of a document that is good.
func (r *Reporter) Warnf(offset int, hint, format string, args ...any) {
	line, column, text := r.Position(offset)
	r.Warnings = append(r.Warnings, &Error{
		File: r.File, Line: line, Column: column, Text: text,
		Message: fmt.Sprintf(format, args...), Hint: hint,
	})
}

// Errorf reports what is wrong at a byte offset, and what would be right.
func (r *Reporter) Errorf(offset int, hint, format string, args ...any) {
	line, column, text := r.Position(offset)
	r.Errs = append(r.Errs, &Error{
		File: r.File, Line: line, Column: column, Text: text,
		Message: fmt.Sprintf(format, args...), Hint: hint,
	})
}

// Err returns all that was reported, sorted by position.
func (r *Reporter) Err() error {
	if len(r.Errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.Errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return r.Errs
}

// Position converts a byte offset to a line and a column, both from 1.
func (r *Reporter) Position(offset int) (line, column int, text string) {
	if r.starts == nil {
		r.starts = []int{0}
		for i := range len(r.Doc) {
			if r.Doc[i] == '\n' {
				r.starts = append(r.starts, i+1)
			}
		}
	}
	offset = min(max(offset, 0), len(r.Doc))
	line, found := slices.BinarySearch(r.starts, offset)
	if !found {
		line--
	}
	start := r.starts[line]
	text, _, _ = strings.Cut(r.Doc[start:], "\n")
	return line + 1, utf8.RuneCountInString(r.Doc[start:offset]) + 1, strings.TrimSuffix(text, "\r")
}
