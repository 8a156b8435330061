package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/quantity"
)

// durationValue is a flag that holds a length of time: "90s", "2h30m", "30d", "2w".
type durationValue time.Duration

// durationFlag defines such a flag.
func durationFlag(fs *pflag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	fs.Var((*durationValue)(p), name, usage)
}

func (v *durationValue) Type() string { return "duration" }

func (v *durationValue) String() string {
	if *v == 0 {
		return ""
	}
	return time.Duration(*v).String()
}

func (v *durationValue) Set(s string) error {
	d, err := parseDuration(s)
	if err != nil {
		return err
	}
	*v = durationValue(d)
	return nil
}

func parseDuration(s string) (time.Duration, error) {
	d, err := quantity.ParseDuration(s)
	if err != nil {
		err = fmt.Errorf("%q is not a length of time: %w; want one such as 90s, 2h30m, 30d or 2w", s, err)
	}
	return d, err
}

// sizeValue is a flag that holds a number of bytes: "500MiB", "2 GB", "1048576".
type sizeValue int64

func (v *sizeValue) Type() string { return "size" }

func (v *sizeValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*v), 10)
}

func (v *sizeValue) Set(s string) error {
	n, err := quantity.ParseBytes(s)
	if err != nil {
		return fmt.Errorf("%q is not a size: %w; want one such as 500MiB or 2GB", s, err)
	}
	*v = sizeValue(n)
	return nil
}

// writeJSON writes one value, indented.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// showEach gets a value for each argument, and writes it: as JSON on a line of its own, or with
// text, and an empty line in between.
func showEach[T any](inv *invocation, asJSON bool, get func(arg string) (T, error), text func(T) error) error {
	for i, arg := range inv.args {
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
