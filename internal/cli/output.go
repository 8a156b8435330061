package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"lighter/internal/cli/command"
)

// writeJSON writes one value, indented.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// showEach gets a value for each argument, and writes it: as JSON on a line of its own, or with
// text, and an empty line in between.
func showEach[T any](inv *command.Invocation, asJSON bool, get func(arg string) (T, error), text func(T) error) error {
	for i, arg := range inv.Args {
		v, err := get(arg)
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSONLine(inv.Out, v)
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

// writeJSONLine writes one value on a line of its own.
func writeJSONLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
