package derivation

import (
	"cmp"
	"slices"
	"strings"

	"lighter/store"
)

// Marshal returns the text of the .drv file, as unparseDerivation in libstore and
// write-derivation in (guix derivations) write it. Lists are written sorted.
func (d *Derivation) Marshal() []byte { return d.marshal(d.inputs()) }

// input is an Input as it is written: in a .drv file its key is a path, in the
// text that is hashed for output paths it is a hash.
type input struct {
	key     string
	outputs []string
}

// inputs returns the inputs by path.
func (d *Derivation) inputs() []input {
	inputs := make([]input, 0, len(d.Inputs))
	for _, in := range sortedBy(d.Inputs, compareInputs) {
		inputs = append(inputs, input{string(in.Path), in.Outputs})
	}
	return inputs
}

func (d *Derivation) marshal(inputs []input) []byte {
	w := &writer{buf: make([]byte, 0, 4096)}
	w.raw("Derive(")
	list(w, sortedBy(d.Outputs, compareOutputs), func(o Output) {
		w.tuple(o.Name, string(o.Path), o.HashAlgorithm, o.Hash)
	})
	w.raw(",")
	list(w, inputs, func(in input) {
		w.raw("(")
		w.str(in.key)
		w.raw(",")
		list(w, sortedBy(in.outputs, strings.Compare), w.str)
		w.raw(")")
	})
	w.raw(",")
	list(w, sortedBy(d.Sources, cmp.Compare), func(p store.Path) { w.str(string(p)) })
	w.raw(",")
	w.str(d.System)
	w.raw(",")
	w.str(d.Builder)
	w.raw(",")
	list(w, d.Args, w.str)
	w.raw(",")
	list(w, sortedBy(d.Env, compareEnv), func(v EnvVar) { w.tuple(v.Name, v.Value) })
	w.raw(")")
	return w.buf
}

func compareOutputs(a, b Output) int { return cmp.Compare(a.Name, b.Name) }
func compareInputs(a, b Input) int   { return cmp.Compare(a.Path, b.Path) }
func compareEnv(a, b EnvVar) int     { return cmp.Compare(a.Name, b.Name) }

// sortedBy returns s itself if it is sorted, else a sorted copy.
func sortedBy[T any](s []T, compare func(a, b T) int) []T {
	if slices.IsSortedFunc(s, compare) {
		return s
	}
	return slices.SortedFunc(slices.Values(s), compare)
}

type writer struct{ buf []byte }

func list[T any](w *writer, items []T, write func(T)) {
	w.raw("[")
	for i, item := range items {
		if i > 0 {
			w.raw(",")
		}
		write(item)
	}
	w.raw("]")
}

func (w *writer) tuple(strs ...string) {
	w.raw("(")
	for i, s := range strs {
		if i > 0 {
			w.raw(",")
		}
		w.str(s)
	}
	w.raw(")")
}

func (w *writer) str(s string) {
	w.raw(`"`)
	for len(s) > 0 {
		i := strings.IndexAny(s, "\"\\\n\r\t")
		if i < 0 {
			w.raw(s)
			break
		}
		w.raw(s[:i])
		switch s[i] {
		case '\n':
			w.raw(`\n`)
		case '\r':
			w.raw(`\r`)
		case '\t':
			w.raw(`\t`)
		default:
			w.buf = append(w.buf, '\\', s[i])
		}
		s = s[i+1:]
	}
	w.raw(`"`)
}

func (w *writer) raw(s string) { w.buf = append(w.buf, s...) }
