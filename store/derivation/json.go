package derivation

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"lighter/store"
)

// Named is a derivation as ParseJSON found it.
type Named struct {
	Name       string     // that its outputs bear, without ".drv"
	Path       store.Path // of the .drv file; zero if the JSON does not say
	Derivation *Derivation
}

// Complete computes the output paths that the JSON left out, checks those that
// it has, and does the same with Path. Then h knows the derivation, so that the
// ones that use it can be completed although it is in no store yet.
func (n *Named) Complete(h *Hasher) error {
	stated := *n.Derivation
	if err := h.Fill(n.Name, n.Derivation); err != nil {
		return err
	}
	for _, o := range stated.Outputs {
		computed, _ := n.Derivation.Output(o.Name)
		if o.Path != "" && o.Path != computed.Path {
			return fmt.Errorf("derivation %s: output %q is said to be %s, but its inputs give %s", n.Name, o.Name, o.Path, computed.Path)
		}
		if v, _ := stated.Getenv(o.Name); v != "" && v != string(computed.Path) {
			return fmt.Errorf("derivation %s: variable %q is said to be %q, but is the output %s", n.Name, o.Name, v, computed.Path)
		}
	}
	path, err := n.Derivation.Path(h.dir, n.Name)
	if err != nil {
		return fmt.Errorf("derivation %s: %w", n.Name, err)
	}
	if n.Path != "" && n.Path != path {
		return fmt.Errorf("derivation %s: is said to be %s, but its contents give %s", n.Name, n.Path, path)
	}
	// The last word has the parser that will read the file.
	if _, err := Parse(h.dir, n.Derivation.Marshal()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	n.Path = path
	return h.Add(path, n.Derivation)
}

// jsonDerivation is a derivation in the JSON of nix derivation show. Its members
// are in the order in which Nix writes them.
type jsonDerivation struct {
	Args      []text                `json:"args"`
	Builder   text                  `json:"builder"`
	Env       map[string]text       `json:"env"`
	EnvBase64 map[string]text       `json:"envBase64,omitempty"`
	InputDrvs map[string]jsonInput  `json:"inputDrvs"`
	InputSrcs []string              `json:"inputSrcs"`
	Name      string                `json:"name"`
	Outputs   map[string]jsonOutput `json:"outputs"`
	System    text                  `json:"system"`
	Version   int                   `json:"version,omitempty"`
}

type jsonOutput struct {
	Hash     string `json:"hash,omitempty"`
	HashAlgo string `json:"hashAlgo,omitempty"`
	Method   string `json:"method,omitempty"`
	Path     string `json:"path,omitempty"`
}

// MarshalJSON writes derivations by path, indented, in the shape of the command
// nix derivation show from Nix 2.18 to 2.31: an object with the members args,
// builder, env, inputDrvs, inputSrcs, name, outputs and system for each. An input
// is an object with outputs and dynamicOutputs (always empty), and the algorithm
// of a recursive hash begins with "r:", as in the .drv file and in Nix before 2.24.
//
// JSON cannot hold bytes that are not UTF-8. A string with such bytes is written
// as {"base64": "…"}, which every JSON tool keeps as it is; a variable with such a
// name is not in env but in a member envBase64, under its name in base64.
func MarshalJSON(derivations map[store.Path]*Derivation) ([]byte, error) {
	shown := make(map[string]jsonDerivation, len(derivations))
	for path, d := range derivations {
		shown[string(path)] = showJSON(NameOf(path), d)
	}
	return encodeJSON(shown, "  ")
}

func showJSON(name string, d *Derivation) jsonDerivation {
	j := jsonDerivation{
		Args:      make([]text, 0, len(d.Args)),
		Builder:   text(d.Builder),
		Env:       make(map[string]text, len(d.Env)),
		EnvBase64: make(map[string]text),
		InputDrvs: make(map[string]jsonInput, len(d.Inputs)),
		InputSrcs: make([]string, 0, len(d.Sources)),
		Name:      name,
		Outputs:   make(map[string]jsonOutput, len(d.Outputs)),
		System:    text(d.System),
	}
	for _, a := range d.Args {
		j.Args = append(j.Args, text(a))
	}
	for _, v := range d.Env {
		if utf8.ValidString(v.Name) {
			j.Env[v.Name] = text(v.Value)
		} else {
			j.EnvBase64[base64.StdEncoding.EncodeToString([]byte(v.Name))] = text(v.Value)
		}
	}
	for _, in := range d.Inputs {
		j.InputDrvs[string(in.Path)] = in.Outputs
	}
	for _, s := range sortedBy(d.Sources, cmp.Compare) {
		j.InputSrcs = append(j.InputSrcs, string(s))
	}
	for _, o := range d.Outputs {
		j.Outputs[o.Name] = jsonOutput{Path: string(o.Path), HashAlgo: o.HashAlgorithm, Hash: o.Hash}
	}
	return j
}

// ParseJSON reads what MarshalJSON writes: an object of derivations by path; or
// one derivation alone, which then has a name. It returns them inputs first.
//
// It also reads inputs that are just a list of outputs (Nix before 2.18) and the
// member method beside an algorithm without "r:" (Nix 2.24 and later), but no JSON
// of version 3 and later, whose paths are not paths. Output paths, and the variables
// that hold them, may be left out or be empty: Complete computes them. Unknown
// and duplicate members are errors, and so is text that JSON readers would change
// silently: bytes that are not UTF-8, and escapes of half a surrogate pair.
func ParseJSON(dir store.Dir, data []byte) ([]Named, error) {
	all, err := parseJSON(dir, data)
	if err != nil {
		return nil, fmt.Errorf("derivation in JSON: %w", err)
	}
	return all, nil
}

func parseJSON(dir store.Dir, data []byte) ([]Named, error) {
	if err := checkJSON(data); err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := decodeJSON(data, &members); err != nil {
		return nil, err
	}
	if _, ok := members["derivations"]; ok {
		return nil, errors.New("member \"derivations\": this is JSON of version 4 or later; want that of Nix 2.18 to 2.31, an object of derivations by full path")
	}
	if _, ok := members["builder"]; ok {
		var j jsonDerivation
		if err := decodeJSON(data, &j); err != nil {
			return nil, err
		}
		n, err := j.named(dir, "")
		return []Named{n}, err
	}
	for _, key := range slices.Sorted(maps.Keys(members)) {
		if _, err := dir.ParsePath(key); err != nil {
			return nil, fmt.Errorf("member %q: want a derivation, which has at least a \"builder\", or an object of derivations by full path", key)
		}
	}
	var shown map[string]jsonDerivation
	if err := decodeJSON(data, &shown); err != nil {
		return nil, err
	}
	all := make(map[store.Path]Named, len(shown))
	for _, key := range slices.Sorted(maps.Keys(shown)) {
		path, err := dir.ParsePath(key)
		if err != nil {
			return nil, err
		}
		j := shown[key]
		if all[path], err = j.named(dir, path); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return inputsFirst(all)
}

// named turns what was decoded into a derivation. The path is zero if the JSON
// does not say it.
func (j *jsonDerivation) named(dir store.Dir, path store.Path) (Named, error) {
	if j.Version > 2 {
		return Named{}, fmt.Errorf("version %d of the JSON; want that of Nix 2.18 to 2.31, which has none", j.Version)
	}
	n := Named{Name: j.Name, Path: path, Derivation: new(Derivation)}
	if path != "" {
		if !path.IsDerivation() {
			return Named{}, errors.New("not the name of a derivation")
		}
		n.Name = NameOf(path)
		if j.Name != "" && j.Name != n.Name {
			return Named{}, fmt.Errorf("its name is said to be %q", j.Name)
		}
	}
	if err := store.CheckName(n.Name + Extension); err != nil || n.Name == "" {
		return Named{}, fmt.Errorf("name %q: want what follows the hash in a store path", n.Name)
	}
	return n, j.fill(dir, n.Derivation)
}

func (j *jsonDerivation) fill(dir store.Dir, d *Derivation) error {
	d.System, d.Builder = string(j.System), string(j.Builder)
	for _, a := range j.Args {
		d.Args = append(d.Args, string(a))
	}
	if err := j.fillEnv(d); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(j.InputDrvs)) {
		path, err := dir.ParsePath(key)
		if err != nil {
			return fmt.Errorf("inputDrvs: %w", err)
		}
		if !path.IsDerivation() {
			return fmt.Errorf("inputDrvs: %s is not a derivation", path)
		}
		d.Inputs = append(d.Inputs, Input{path, slices.Compact(slices.Sorted(slices.Values(j.InputDrvs[key])))})
	}
	for _, s := range j.InputSrcs {
		path, err := dir.ParsePath(s)
		if err != nil {
			return fmt.Errorf("inputSrcs: %w", err)
		}
		d.Sources = append(d.Sources, path)
	}
	slices.Sort(d.Sources)
	d.Sources = slices.Compact(d.Sources)
	for _, name := range slices.Sorted(maps.Keys(j.Outputs)) {
		o, err := j.Outputs[name].output(dir, name)
		if err != nil {
			return fmt.Errorf("output %q: %w", name, err)
		}
		d.Outputs = append(d.Outputs, o)
	}
	return d.checkOutputs()
}

func (j *jsonDerivation) fillEnv(d *Derivation) error {
	for name, value := range j.Env {
		d.Env = append(d.Env, EnvVar{name, string(value)})
	}
	for encoded, value := range j.EnvBase64 {
		name, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return fmt.Errorf("envBase64: %q: %w", encoded, err)
		}
		d.Env = append(d.Env, EnvVar{string(name), string(value)})
	}
	slices.SortFunc(d.Env, compareEnv)
	for i, v := range d.Env {
		if strings.IndexByte(v.Name, 0) >= 0 {
			return fmt.Errorf("variable %q has a NUL", v.Name)
		}
		if i > 0 && v.Name == d.Env[i-1].Name {
			return fmt.Errorf("variable %q occurs twice", v.Name)
		}
	}
	return nil
}

func (j jsonOutput) output(dir store.Dir, name string) (Output, error) {
	o := Output{Name: name, HashAlgorithm: j.HashAlgo, Hash: j.Hash}
	switch {
	case j.Method == "", j.Method == "flat" && !strings.HasPrefix(j.HashAlgo, "r:"):
	case j.Method == "nar" && j.HashAlgo != "":
		o.HashAlgorithm = "r:" + strings.TrimPrefix(j.HashAlgo, "r:")
	default:
		return Output{}, fmt.Errorf("method %q with hashAlgo %q; want \"flat\" or \"nar\" with the name of an algorithm", j.Method, j.HashAlgo)
	}
	if j.Path == "" {
		return o, nil
	}
	var err error
	o.Path, err = dir.ParsePath(j.Path)
	return o, err
}

// inputsFirst orders derivations so that each comes after its inputs among them.
func inputsFirst(all map[store.Path]Named) ([]Named, error) {
	infos := make([]*store.Info, 0, len(all))
	for path, n := range all {
		infos = append(infos, &store.Info{Path: path, References: n.Derivation.References()})
		if slices.Contains(infos[len(infos)-1].References, path) {
			return nil, fmt.Errorf("%s is its own input", path)
		}
	}
	infos, err := store.SortInfos(infos)
	if err != nil {
		return nil, err
	}
	sorted := make([]Named, 0, len(infos))
	for _, info := range infos {
		sorted = append(sorted, all[info.Path])
	}
	return sorted, nil
}
