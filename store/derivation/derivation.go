// Package derivation reads, writes and checks derivations: the .drv files of
// Guix, which say how to build one or more outputs from inputs.
//
// [Parse] and [Derivation.Marshal] are exact inverses: what Parse accepts,
// Marshal writes byte for byte. All text is bytes, not necessarily UTF-8. A
// [Hasher] computes what guix-daemon computes: the names of outputs, from a graph
// of derivations. [MarshalJSON] and [ParseJSON] are for people and scripts.
//
// The package does no I/O; who calls it says where derivations come from.
package derivation

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"lighter/store"
)

// Extension ends the names of derivations.
const Extension = ".drv"

// Derivation is what a .drv file holds. Its name is not in it, but in its path.
// The lists that Guix keeps sorted are sorted in what Parse returns; Marshal
// sorts where a hand-made value is not.
type Derivation struct {
	Outputs []Output     // by name
	Inputs  []Input      // by path
	Sources []store.Path // inputs that are not derivations; sorted
	System  string       // such as "x86_64-linux"
	Builder string       // a file in an input, or "builtin:…"
	Args    []string     // of the builder, in order
	Env     []EnvVar     // by name
}

// Output is one store item that a derivation makes.
type Output struct {
	Name string
	Path store.Path // zero before Fill
	// HashAlgorithm and Hash are set only for the output of a fixed-output
	// derivation: the name of the hash algorithm, after "r:" if the hash is of the
	// NAR and not of the one file, and the hash in lower-case base16.
	HashAlgorithm string
	Hash          string
}

// Input is a derivation whose outputs the builder may see.
type Input struct {
	Path    store.Path // of the .drv
	Outputs []string   // sorted names
}

// EnvVar is a variable of the builder's environment, or an option (see
// RequiredFeatures and the methods after it): Guix keeps both in one list.
type EnvVar struct{ Name, Value string }

// NameOf returns the name that the outputs of the derivation at path bear:
// "hello-2.12" for "/gnu/store/…-hello-2.12.drv".
func NameOf(path store.Path) string { return strings.TrimSuffix(path.Name(), Extension) }

// Output returns the output with the given name.
func (d *Derivation) Output(name string) (Output, bool) {
	for _, o := range d.Outputs {
		if o.Name == name {
			return o, true
		}
	}
	return Output{}, false
}

// OutputPaths returns the path of each output by name, in a new map.
func (d *Derivation) OutputPaths() map[string]store.Path {
	paths := make(map[string]store.Path, len(d.Outputs))
	for _, o := range d.Outputs {
		paths[o.Name] = o.Path
	}
	return paths
}

// Getenv returns the value of an environment variable or option.
func (d *Derivation) Getenv(name string) (string, bool) {
	for _, v := range d.Env {
		if v.Name == name {
			return v.Value, true
		}
	}
	return "", false
}

// References returns what the .drv file refers to as a store item: the .drv files
// of its inputs and its sources, sorted, in a new slice. Its outputs are not among
// them, since they need not exist.
func (d *Derivation) References() []store.Path {
	refs := make([]store.Path, 0, len(d.Inputs)+len(d.Sources))
	for _, in := range d.Inputs {
		refs = append(refs, in.Path)
	}
	refs = append(refs, d.Sources...)
	slices.Sort(refs)
	return slices.Compact(refs)
}

// FixedOutput returns the one output of a fixed-output derivation, whose contents
// are known by their hash before it is built (isFixedOutputDrv in libstore).
func (d *Derivation) FixedOutput() (Output, bool) {
	if len(d.Outputs) == 1 && d.Outputs[0].Name == "out" && d.Outputs[0].Hash != "" {
		return d.Outputs[0], true
	}
	return Output{}, false
}

// hashSizes has the size in bytes of the hashes that guix-daemon knows.
var hashSizes = map[string]int{
	"md5":         16,
	"sha1":        20,
	"sha256":      32,
	"sha512":      64,
	"sha3-256":    32,
	"sha3-512":    64,
	"blake2s-256": 32,
}

// FixedHash takes the hash of a fixed output apart: the algorithm is one of md5,
// sha1, sha256, sha512, sha3-256, sha3-512 and blake2s-256, and digest its raw
// bytes; recursive says that the hash is of the NAR, not of the one file.
func (o Output) FixedHash() (algorithm string, recursive bool, digest []byte, err error) {
	algorithm, recursive = strings.CutPrefix(o.HashAlgorithm, "r:")
	size, known := hashSizes[algorithm]
	if !known {
		return "", false, nil, fmt.Errorf("output %q: unknown hash algorithm %q", o.Name, o.HashAlgorithm)
	}
	digest, err = hex.DecodeString(o.Hash)
	if err != nil || len(digest) != size || strings.ToLower(o.Hash) != o.Hash {
		return "", false, nil, fmt.Errorf("output %q: hash %q: want %d digits of lower-case base16 for %s",
			o.Name, o.Hash, hex.EncodedLen(size), algorithm)
	}
	return algorithm, recursive, digest, nil
}

// checkOutputs checks what Parse and ParseJSON demand of the outputs together:
// there is one, and where one has a hash it is the only one and named "out".
func (d *Derivation) checkOutputs() error {
	if len(d.Outputs) == 0 {
		return fmt.Errorf("no outputs")
	}
	for _, o := range d.Outputs {
		if err := store.CheckName(o.Name); err != nil {
			return fmt.Errorf("output %q: %w", o.Name, err)
		}
		if o.Hash == "" && o.HashAlgorithm == "" {
			continue
		}
		if len(d.Outputs) > 1 || o.Name != "out" {
			return fmt.Errorf("output %q has a hash, but a fixed-output derivation has one output, named \"out\"", o.Name)
		}
		if _, _, _, err := o.FixedHash(); err != nil {
			return err
		}
	}
	return nil
}
