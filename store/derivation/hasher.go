package derivation

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"

	"lighter/store"
)

// Resolver returns the derivation whose .drv file has the given path. The result
// is not changed.
type Resolver func(store.Path) (*Derivation, error)

// Hasher computes the names of outputs. It remembers one hash for each derivation
// that it has met, so that a graph is read once; it may be used from several
// goroutines, and for any number of graphs of one store.
type Hasher struct {
	dir     store.Dir
	resolve Resolver

	mu     sync.Mutex
	modulo map[store.Path]store.Hash
}

// NewHasher returns a Hasher that gets inputs from resolve. It is not called
// again for an input whose hash is known.
func NewHasher(dir store.Dir, resolve Resolver) *Hasher {
	return &Hasher{dir: dir, resolve: resolve, modulo: make(map[store.Path]store.Hash)}
}

// Masked returns the hash from which the output paths of d are made: that of its
// text with hashes for inputs and without its own output paths.
func (h *Hasher) Masked(d *Derivation) (store.Hash, error) {
	return h.hash(d, true, make(open))
}

// OutputPaths computes the path of each output of d, by name. The derivation's
// own name is name, without ".drv".
func (h *Hasher) OutputPaths(name string, d *Derivation) (map[string]store.Path, error) {
	if err := d.checkOutputs(); err != nil {
		return nil, fmt.Errorf("derivation %s: %w", name, err)
	}
	paths, err := h.outputPaths(name, d)
	if err != nil {
		return nil, fmt.Errorf("derivation %s: %w", name, err)
	}
	return paths, nil
}

func (h *Hasher) outputPaths(name string, d *Derivation) (map[string]store.Path, error) {
	if out, ok := d.FixedOutput(); ok {
		algorithm, recursive, digest, err := out.FixedHash()
		if err != nil {
			return nil, err
		}
		path, err := h.dir.FixedOutputPath(name, recursive, algorithm, digest)
		return map[string]store.Path{"out": path}, err
	}
	masked, err := h.Masked(d)
	if err != nil {
		return nil, err
	}
	paths := make(map[string]store.Path, len(d.Outputs))
	for _, o := range d.Outputs {
		full := name
		if o.Name != "out" {
			full += "-" + o.Name
		}
		path, err := h.dir.MakePath("output:"+o.Name, masked, full)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", o.Name, err)
		}
		paths[o.Name] = path
	}
	return paths, nil
}

// Fill computes the output paths of d and writes them into its outputs and its
// environment, and sorts both. On error d is as it was.
func (h *Hasher) Fill(name string, d *Derivation) error {
	paths, err := h.OutputPaths(name, d)
	if err != nil {
		return err
	}
	d.Outputs = slices.Clone(d.Outputs)
	d.Env = slices.Clone(d.Env)
	for i := range d.Outputs {
		o := &d.Outputs[i]
		o.Path = paths[o.Name]
		d.setenv(o.Name, string(o.Path))
	}
	slices.SortFunc(d.Outputs, compareOutputs)
	slices.SortFunc(d.Env, compareEnv)
	return nil
}

func (d *Derivation) setenv(name, value string) {
	for i := range d.Env {
		if d.Env[i].Name == name {
			d.Env[i].Value = value
			return
		}
	}
	d.Env = append(d.Env, EnvVar{name, value})
}

// Check computes the output paths of d and compares them with those in it, as
// guix-daemon does before it accepts a .drv file (checkDerivation in libstore).
func (h *Hasher) Check(name string, d *Derivation) error {
	paths, err := h.OutputPaths(name, d)
	if err != nil {
		return err
	}
	for _, o := range d.Outputs {
		want := paths[o.Name]
		if o.Path != want {
			return fmt.Errorf("derivation %s: output %q has the path %q, but its inputs give %s", name, o.Name, o.Path, want)
		}
		if got, ok := d.Getenv(o.Name); !ok || got != string(want) {
			return fmt.Errorf("derivation %s: the variable of output %q is %q, want %s", name, o.Name, got, want)
		}
	}
	return nil
}

// open has the derivations whose hash is being computed in one call.
type open map[store.Path]bool

// moduloOf returns the hash that stands for the derivation at path in the texts of
// its users: "modulo fixed outputs", so that all derivations that fetch the same
// contents count as one (hashDerivationModulo in libstore). The outputs that the
// derivation names are believed.
func (h *Hasher) moduloOf(path store.Path, open open) (store.Hash, error) {
	h.mu.Lock()
	hash, known := h.modulo[path]
	h.mu.Unlock()
	if known {
		return hash, nil
	}
	if open[path] {
		return store.Hash{}, fmt.Errorf("derivation %s is its own input", path)
	}
	open[path] = true
	defer delete(open, path)
	d, err := h.resolve(path)
	if err != nil {
		return store.Hash{}, err
	}
	return h.add(path, d, open)
}

// Add tells h of a derivation, so that h need not resolve it.
func (h *Hasher) Add(path store.Path, d *Derivation) error {
	_, err := h.add(path, d, open{path: true})
	return err
}

func (h *Hasher) add(path store.Path, d *Derivation, open open) (hash store.Hash, err error) {
	if out, fixed := d.FixedOutput(); fixed {
		hash = sha256.Sum256([]byte(strings.Join([]string{"fixed", "out", out.HashAlgorithm, out.Hash, string(out.Path)}, ":")))
	} else if hash, err = h.hash(d, false, open); err != nil {
		return store.Hash{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.modulo[path] = hash
	return hash, nil
}

// hash returns the hash of the text of d with hashes in the place of its inputs
// and, if mask is set, nothing in the place of its output paths.
func (h *Hasher) hash(d *Derivation, mask bool, open open) (store.Hash, error) {
	inputs, err := h.inputs(d, open)
	if err != nil {
		return store.Hash{}, err
	}
	masked := *d
	if mask {
		masked.Outputs = slices.Clone(d.Outputs)
		masked.Env = slices.Clone(d.Env)
		for i := range masked.Outputs {
			masked.Outputs[i].Path = ""
			masked.setenv(masked.Outputs[i].Name, "")
		}
	}
	return sha256.Sum256(masked.marshal(inputs)), nil
}

// inputs returns the inputs of d by hash. Of several with one hash the last by
// path counts, as in libstore.
func (h *Hasher) inputs(d *Derivation, open open) ([]input, error) {
	inputs := d.inputs()
	for i := range inputs {
		hash, err := h.moduloOf(store.Path(inputs[i].key), open)
		if err != nil {
			return nil, err
		}
		inputs[i].key = hash.Base16()
	}
	slices.Reverse(inputs)
	slices.SortStableFunc(inputs, func(a, b input) int { return cmp.Compare(a.key, b.key) })
	return slices.CompactFunc(inputs, func(a, b input) bool { return a.key == b.key }), nil
}

// Fill is Hasher.Fill with a Hasher of its own.
func (d *Derivation) Fill(dir store.Dir, name string, resolve func(store.Path) (*Derivation, error)) error {
	return NewHasher(dir, resolve).Fill(name, d)
}

// Check is Hasher.Check with a Hasher of its own.
func (d *Derivation) Check(dir store.Dir, name string, resolve func(store.Path) (*Derivation, error)) error {
	return NewHasher(dir, resolve).Check(name, d)
}

// Path returns the path of the .drv file itself, whose name is name and ".drv".
func (d *Derivation) Path(dir store.Dir, name string) (store.Path, error) {
	return dir.TextPath(name+Extension, d.Marshal(), d.References())
}
