package substitute

import (
	"errors"
	"fmt"
	"strings"

	"lighter/store"
)

// ErrNotThere is matched by the error of a server that answered that it does not have an
// item.
var ErrNotThere = errors.New("not there")

// ErrAside is matched by the error of a server that was not asked, since it failed lately.
var ErrAside = errors.New("set aside")

// ServerError says what went wrong with one item on one server.
type ServerError struct {
	Server string // URL
	Path   store.Path
	Err    error
}

func (e *ServerError) Error() string { return fmt.Sprintf("%s: %v", e.Server, e.Err) }
func (e *ServerError) Unwrap() error { return e.Err }

// MissingError says that no server gave an item, and what each of them said.
type MissingError struct {
	Path     store.Path
	NeededBy store.Path // what refers to it; empty for what was asked for
	Tried    []error    // each a *ServerError
}

func (e *MissingError) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Path))
	if e.NeededBy != "" {
		fmt.Fprintf(&b, ", to which %s refers", e.NeededBy)
	}
	b.WriteString(": no substitute: ")
	for i, err := range e.Tried {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(err.Error())
	}
	return b.String()
}

// Unwrap returns what each server said.
func (e *MissingError) Unwrap() []error { return e.Tried }

// Certain reports whether every server has answered that it does not have the item, so that
// there is no use in asking again soon.
func (e *MissingError) Certain() bool {
	for _, err := range e.Tried {
		if !errors.Is(err, ErrNotThere) {
			return false
		}
	}
	return true
}
