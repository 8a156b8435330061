package machines

import "errors"

var errPending = errors.New("machines: not here yet")

// Load reads and checks a machines file.
func Load(file string) ([]Machine, error) { return nil, errPending }

// ParseTOML reads and checks a machines file's contents; file is for errors.
func ParseTOML(file string, data []byte) ([]Machine, error) { return nil, errPending }

// FormatTOML prints canonical TOML.
func FormatTOML(all []Machine) []byte { return nil }

// Error is one thing wrong in a machines file.
type Error struct {
	File         string
	Line, Column int
	Text         string
	Message      string
	Hint         string
}

func (e *Error) Error() string { return e.Message }

// Errors is all that is wrong in a machines file, in the file's order.
type Errors []*Error

func (e Errors) Error() string { return e[0].Error() }
