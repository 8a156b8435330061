package catalogue

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"lighter/store"
)

// Package is a package of a revision: a name and a version.
type Package struct {
	Name, Version string
	File          string // where it is defined; empty if that is not known
	Line, Column  int
	// Variants are its derivations, and the errors in place of some, by system and target.
	Variants []Variant

	text [16]byte
}

// Variant is a package for a system, and for a target if it is not empty.
type Variant struct {
	System, Target string
	Derivation     store.Path // empty if there was an error
	Outputs        []Output   // by name
	Replacement    bool       // it takes the place of the package in what depends on that (a graft)
	Error          string     // why there is no derivation
}

// Output is one of a derivation's.
type Output struct {
	Name string
	Path store.Path
}

// Derivation is a package's derivation in a revision.
type Derivation struct {
	Path           store.Path
	Name, Version  string
	System, Target string
}

// Text is what a package says of itself.
type Text struct {
	Synopsis    string   `json:"synopsis,omitempty"`
	Description string   `json:"description,omitempty"`
	HomePage    string   `json:"home-page,omitempty"`
	Licenses    []string `json:"licenses,omitempty"`
}

func compareVariants(a, b Variant) int {
	return cmp.Or(cmp.Compare(a.System, b.System), cmp.Compare(a.Target, b.Target),
		cmp.Compare(a.Derivation, b.Derivation), cmp.Compare(a.Error, b.Error))
}

func appendString[T ~string](to []byte, s T) []byte {
	return append(binary.AppendUvarint(to, uint64(len(s))), s...)
}

// encode returns all of a package but its name and version. Packages that are equal have equal bytes.
func (p *Package) encode(to []byte) []byte {
	to = append(to, p.text[:]...)
	to = appendString(to, p.File)
	to = binary.AppendUvarint(to, uint64(p.Line))   // #nosec G115 -- not negative: see checkPackage
	to = binary.AppendUvarint(to, uint64(p.Column)) // #nosec G115 -- as above
	to = binary.AppendUvarint(to, uint64(len(p.Variants)))
	for i := range p.Variants {
		v := &p.Variants[i]
		to = appendString(appendString(to, v.System), v.Target)
		to = appendString(appendString(to, v.Derivation), v.Error)
		replacement := byte(0)
		if v.Replacement {
			replacement = 1
		}
		to = append(to, replacement)
		to = binary.AppendUvarint(to, uint64(len(v.Outputs)))
		for _, o := range v.Outputs {
			to = appendString(appendString(to, o.Name), o.Path)
		}
	}
	return to
}

// encode returns all of a derivation but its path.
func (d *Derivation) encode(to []byte) []byte {
	return appendString(appendString(appendString(appendString(to, d.Name), d.Version), d.System), d.Target)
}

// decoder reads what encode wrote; bad is set when that can't be.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	head := d.rest[:n]
	d.rest = d.rest[n:]
	return head
}

func (d *decoder) number() uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

// count reads how many of something follow, each of at least one byte.
func (d *decoder) count() int {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.bad = true
		return 0
	}
	return int(n) // #nosec G115 -- no more than len
}

func (d *decoder) string() string { return string(d.bytes(d.number())) }

func (d *decoder) end(key []byte) error {
	if d.bad || len(d.rest) != 0 {
		return corrupt(key)
	}
	return nil
}

func decodePackage(key []byte, id identifier, body []byte) (p Package, err error) {
	d := decoder{rest: body}
	p.Name, p.Version = id.name, id.version
	copy(p.text[:], d.bytes(uint64(len(p.text))))
	p.File = d.string()
	p.Line, p.Column = int(d.number()&(1<<31-1)), int(d.number()&(1<<31-1)) // #nosec G115 -- masked
	p.Variants = make([]Variant, d.count())
	for i := range p.Variants {
		v := &p.Variants[i]
		v.System, v.Target = d.string(), d.string()
		v.Derivation, v.Error = store.Path(d.string()), d.string()
		v.Replacement = string(d.bytes(1)) == "\x01"
		for range d.count() {
			v.Outputs = append(v.Outputs, Output{d.string(), store.Path(d.string())})
		}
	}
	return p, d.end(key)
}

func decodeDerivation(key, path, body []byte) (Derivation, error) {
	d := decoder{rest: body}
	one := Derivation{Path: store.Path(path), Name: d.string(), Version: d.string(), System: d.string(), Target: d.string()}
	return one, d.end(key)
}

// checkWord refuses what can't stand in a key or in a line.
func checkWord(what, text string, most int) error {
	if len(text) > most || slices.ContainsFunc([]byte(text), func(b byte) bool { return b < ' ' || b == 0x7f }) {
		return fmt.Errorf("%w: %s %.80q: want at most %d bytes of text in one line", ErrInvalid, what, text, most)
	}
	return nil
}
