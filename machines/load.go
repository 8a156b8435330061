package machines

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"lighter/internal/tomlfile"
	"lighter/machines/scheme"
)

// Format is a way in which machines are written in a file.
type Format string

// The formats that can be read.
const (
	TOML Format = "toml" // lighter's own; see [ParseTOML]
	Guix Format = "guix" // Scheme, as in /etc/guix/machines.scm; see [ParseGuix]
	Nix  Format = "nix"  // lines, as in /etc/nix/machines; see [ParseNix]
)

// FormatOf says in which format a file is. The name decides if it ends in ".toml" or
// ".scm", or if it is "machines", which is Nix's. Any other file is in Guix's format if
// the first thing in it that is neither blank nor a line starting with "#" is one of
// ( ' ` ; or starts with "#|"; in Nix's if that line has "://" and no "=" before it; and
// else in TOML.
func FormatOf(file string, data []byte) Format {
	switch {
	case strings.HasSuffix(file, ".toml"):
		return TOML
	case strings.HasSuffix(file, ".scm"):
		return Guix
	case filepath.Base(file) == "machines":
		return Nix
	}
	isNix := func(line string) bool {
		before, _, ok := strings.Cut(line, "://")
		return ok && !strings.Contains(before, "=")
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case strings.IndexByte("('`;", line[0]) >= 0, strings.HasPrefix(line, "#|"), strings.HasPrefix(line, "#;"), strings.HasPrefix(line, "#!"):
			return Guix
		case line[0] == '#':
		case isNix(line):
			return Nix
		default:
			return TOML
		}
	}
	return TOML
}

// Options say how [Read] reads a file. The zero value reads any format and runs no
// program.
type Options struct {
	// Format is the file's format; empty lets FormatOf say.
	Format Format
	// Guix is the name of the guix program, to which a Scheme file is given that is
	// beyond package scheme. It runs the code in the file. Empty: there is none.
	Guix string
	// GuixTimeout bounds that program's time; 0 is DefaultGuixTimeout.
	GuixTimeout time.Duration
}

// DefaultGuixTimeout is the time that "guix repl" gets to evaluate a machines file. It
// starts in less than a second, but compiles what the file loads.
const DefaultGuixTimeout = time.Minute

// Load reads and checks a machines file in any format, and runs no program; see
// [Read]. Its warnings are dropped.
func Load(file string) ([]Machine, error) {
	data, err := tomlfile.ReadFile(file, "machines file")
	if err != nil {
		return nil, err
	}
	all, _, err := parse(file, data, "")
	return all, err
}

// Read reads and checks a machines file. What is wrong in it comes as Errors; a file
// that cannot be read as an *fs.PathError. For a Scheme file beyond package scheme
// the error matches *[scheme.Unsupported], unless the guix program reads it. The
// warnings are what a person should know of a file that is good.
func Read(ctx context.Context, file string, opts Options) (all []Machine, warnings []*Error, err error) {
	data, err := tomlfile.ReadFile(file, "machines file")
	if err != nil {
		return nil, nil, err
	}
	all, warnings, err = parse(file, data, opts.Format)
	if errors.As(err, new(*scheme.Unsupported)) {
		return readWithGuix(ctx, file, data, opts, err)
	}
	return all, warnings, err
}

func parse(file string, data []byte, format Format) (all []Machine, warnings []*Error, err error) {
	if format == "" {
		format = FormatOf(file, data)
	}
	switch format {
	case TOML:
		all, err = ParseTOML(file, data)
		return all, nil, err
	case Nix:
		return ParseNix(file, data)
	case Guix:
		return ParseGuix(file, data)
	}
	return nil, nil, fmt.Errorf("read %s: there is no format %q of machines files", file, format)
}
