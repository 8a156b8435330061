// Package evaluate finds out which derivations the packages of a Guix have: it runs the real guix with a
// script of ours, or any other program that prints the same lines, and reads what comes.
//
// It keeps nothing and knows no coordinator. What such a program prints is not trusted: lines are bounded,
// and names are checked, before anything is made of them.
package evaluate

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"unicode"
	"unicode/utf8"

	"lighter/internal/human"
	"lighter/internal/jsonerror"
	"lighter/store"
)

// Package is one package as it is for one system, or cross-built from a system for a target.
type Package struct {
	Name       string                `json:"name"`
	Version    string                `json:"version"`
	System     string                `json:"system"`               // such as "x86_64-linux"
	Target     string                `json:"target,omitempty"`     // such as "aarch64-linux-gnu", of a cross-build
	Derivation store.Path            `json:"derivation,omitempty"` // empty where Error says why
	Outputs    map[string]store.Path `json:"outputs,omitempty"`    // by name: "out", "doc"

	Location    Location `json:"location,omitzero"`
	Synopsis    string   `json:"synopsis,omitempty"`
	Description string   `json:"description,omitempty"` // Texinfo
	HomePage    string   `json:"home-page,omitempty"`
	Licenses    []string `json:"licenses,omitempty"`
	// Replacement says that this is what another package of the same name is replaced by in grafts.
	Replacement bool `json:"replacement,omitempty"`
	// Error says why there is no derivation: the package's own code failed.
	Error string `json:"error,omitempty"`
}

// Location is where a package is defined.
type Location struct {
	File   string `json:"file"` // below its channel: "gnu/packages/base.scm"
	Line   int    `json:"line"` // from 1; 0 where it is not known
	Column int    `json:"column,omitempty"`
}

// Limits on what a line may have, in bytes where nothing else is said.
const (
	MaxLine     = 1 << 20
	maxWord     = 255       // of a name, a version, a system, a target, an output's name
	maxText     = 256 << 10 // of an error, a description
	maxOutputs  = 1000      // of a package; icedove-l10n has one for each language. The same for licenses
	maxPackages = 5_000_000 // of one text; all of Guix for all systems has about 200,000
)

// ReadPackages returns the packages of JSON lines, in their order. Empty lines count and are passed over.
// It ends with the first line that is wrong; the error names it, and is a *human.InputError. An error of
// the reader comes as it is, with the number of the line.
func ReadPackages(r io.Reader) iter.Seq2[*Package, error] {
	return func(yield func(*Package, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(make([]byte, 0, 64<<10), MaxLine)
		number, packages := 0, 0
		for lines.Scan() {
			number++
			text := bytes.TrimSpace(lines.Bytes())
			if len(text) == 0 {
				continue
			}
			p, err := ParsePackage(text)
			if packages++; packages > maxPackages {
				err = fmt.Errorf("there are more than %d packages", maxPackages)
			}
			if err != nil {
				yield(nil, &human.InputError{Err: fmt.Errorf("line %d: %w", number, err)})
				return
			}
			if !yield(p, nil) {
				return
			}
		}
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(nil, &human.InputError{Err: fmt.Errorf("line %d has more than %d bytes", number+1, MaxLine)})
		case err != nil:
			yield(nil, fmt.Errorf("line %d: %w", number+1, err))
		}
	}
}

// ParsePackage reads one line. Fields that it does not know are passed over, so that lines may have more.
func ParsePackage(line []byte) (*Package, error) {
	p := new(Package)
	if err := json.Unmarshal(line, p); err != nil {
		return nil, jsonerror.Explain(err)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

// check says what is wrong with a package.
func (p *Package) check() error {
	if err := cmp.Or(word("name", p.Name, true), word("version", p.Version, false),
		word("system", p.System, true), word("target", p.Target, false)); err != nil {
		return err
	}
	switch {
	case p.Derivation == "" && p.Error == "":
		return fmt.Errorf("%s has neither a derivation nor an error", p.Name)
	case p.Derivation != "" && p.Error != "":
		return fmt.Errorf("%s has a derivation and an error: want one of them", p.Name)
	case p.Derivation != "" && !p.Derivation.IsDerivation():
		return fmt.Errorf("%s: %s is no derivation: want a name that ends in .drv", p.Name, p.Derivation)
	case p.Location.Line < 0 || p.Location.Column < 0:
		return fmt.Errorf("%s: its location has a negative number", p.Name)
	case len(p.Outputs) > maxOutputs || len(p.Licenses) > maxOutputs:
		return fmt.Errorf("%s has more than %d outputs or licenses", p.Name, maxOutputs)
	}
	for name, path := range p.Outputs {
		if err := word("outputs", name, true); err != nil {
			return err
		}
		if path == "" {
			return fmt.Errorf("%s: the output %q has no path", p.Name, name)
		}
	}
	for _, text := range append([]string{p.Synopsis, p.Description, p.HomePage, p.Error, p.Location.File}, p.Licenses...) {
		if len(text) > maxText {
			return fmt.Errorf("%s has a text of more than %d bytes", p.Name, maxText)
		}
	}
	return nil
}

// word checks what is one word: it may stand in tables, in keys and in addresses.
func word(field, s string, needed bool) error {
	if s == "" && needed {
		return fmt.Errorf("%q is missing", field)
	}
	if len(s) > maxWord {
		return fmt.Errorf("%q has %d bytes, more than %d", field, len(s), maxWord)
	}
	for _, r := range s {
		if r == utf8.RuneError || human.Dangerous(r) || unicode.IsSpace(r) || r == '/' {
			return fmt.Errorf("%q: %q has the forbidden character %q", field, s, r)
		}
	}
	return nil
}
