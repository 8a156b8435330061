package command

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/quantity"
)

type duration time.Duration

// DurationVar defines a flag that holds a length of time: "90s", "2h30m", "30d", "2w".
func DurationVar(fs *pflag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	fs.Var((*duration)(p), name, usage)
}

func (v *duration) Type() string { return "duration" }

func (v *duration) String() string {
	if *v == 0 {
		return ""
	}
	return time.Duration(*v).String()
}

func (v *duration) Set(s string) error {
	d, err := ParseDuration(s)
	if err != nil {
		return err
	}
	*v = duration(d)
	return nil
}

// ParseDuration reads what such a flag takes.
func ParseDuration(s string) (time.Duration, error) {
	d, err := quantity.ParseDuration(s)
	if err != nil {
		err = fmt.Errorf("%q is not a length of time: %w; want one such as 90s, 2h30m, 30d or 2w", s, err)
	}
	return d, err
}

// valueError says what a flag wants in place of a value that it does not take.
func valueError(fs *pflag.FlagSet, err *pflag.InvalidValueError) error {
	wants := map[string]string{
		"int": "want a whole number", "int64": "want a whole number", "uint64": "want a whole number that is not negative",
		"bool": "want true or false", "stringToString": "want NAME=VALUE", "stringToInt": "want NAME=N, N a whole number", "stringSlice": "a quote in it has no other half",
	}
	if want := wants[err.GetFlag().Value.Type()]; want != "" {
		_, sizeErr := quantity.ParseBytes(err.GetValue())
		switch size := sizeFlag(fs); {
		case errors.Is(err, strconv.ErrRange):
			want = "that is too large a number"
		case sizeErr == nil && size != "":
			want += "; for a size there is --" + size
		}
		return fmt.Errorf("%q: %s", err.GetValue(), want)
	}
	return err.Unwrap() // of our own flags, which quote the value themselves
}

// sizeFlag is the name of a flag that takes a size, if there is one.
func sizeFlag(fs *pflag.FlagSet) (name string) {
	fs.VisitAll(func(f *pflag.Flag) {
		if _, ok := f.Value.(*Size); ok {
			name = f.Name
		}
	})
	return name
}

// Size is a flag that holds a number of bytes: "500MiB", "2 GB", "1048576".
type Size int64

func (v *Size) Type() string { return "size" }

func (v *Size) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*v), 10)
}

func (v *Size) Set(s string) error {
	n, err := quantity.ParseBytes(s)
	if err != nil {
		return fmt.Errorf("%q is not a size: %w; want one such as 500MiB or 2GB", s, err)
	}
	*v = Size(n)
	return nil
}
