package base

import (
	"encoding/json"
	"fmt"
	"io"

	"lighter/internal/cli/command"
)

// WriteJSON writes one value, indented.
func WriteJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// ShowEach gets a value for each argument, and writes it: as JSON on a line of its own, or with
// text, and an empty line in between.
func ShowEach[T any](inv *command.Invocation, asJSON bool, get func(arg string) (T, error), text func(T) error) error {
	for i, arg := range inv.Args {
		v, err := get(arg)
		if err != nil {
			return err
		}
		if asJSON {
			err = WriteJSONLine(inv.Out, v)
		} else {
			if i > 0 {
				fmt.Fprintln(inv.Out)
			}
			err = text(v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// WriteJSONLine writes one value on a line of its own.
func WriteJSONLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
