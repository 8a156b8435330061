package evaluate

import (
	"io"
	"iter"
	"slices"
)

// Change is what became of a package between two evaluations. A new version is a new package, and the old
// one is gone.
type Change string

const (
	New     Change = "new"
	Changed Change = "changed" // another derivation, or none where there was one, or the other way round
	Gone    Change = "gone"
)

// Earlier is an earlier evaluation, to compare one with. It is for one goroutine at a time.
type Earlier struct {
	packages map[key][]*Package // some have the same name and version
	order    []key
	seen     map[key]bool
	spoken   map[Platform]bool // of the later evaluation
}

type key struct {
	name, version string
	platform      Platform
	replacement   bool
}

func keyOf(p *Package) key {
	return key{p.Name, p.Version, Platform{p.System, p.Target}, p.Replacement}
}

// ReadEarlier reads the lines of an earlier evaluation.
func ReadEarlier(r io.Reader) (*Earlier, error) {
	e := &Earlier{packages: make(map[key][]*Package), seen: make(map[key]bool), spoken: make(map[Platform]bool)}
	for p, err := range ReadPackages(r) {
		if err != nil {
			return nil, err
		}
		k := keyOf(p)
		if e.packages[k] == nil {
			e.order = append(e.order, k)
		}
		// All but what says whether it is the same, and what a line of it needs.
		p.Description, p.Synopsis, p.HomePage, p.Licenses = "", "", "", nil
		e.packages[k] = append(e.packages[k], p)
	}
	return e, nil
}

// Compare takes note of a package of the later evaluation and says what it is beside the earlier one: empty
// if it is the same. One that fails as before is the same, whatever its error says.
func (e *Earlier) Compare(p *Package) Change {
	k := keyOf(p)
	e.seen[k], e.spoken[k.platform] = true, true
	before := e.packages[k]
	switch {
	case before == nil:
		return New
	case slices.ContainsFunc(before, func(b *Package) bool { return b.Derivation == p.Derivation }):
		return ""
	}
	return Changed
}

// Gone returns the earlier packages that did not come again, in their order; only those of systems and
// targets for which there was one in the later evaluation.
func (e *Earlier) Gone() iter.Seq[*Package] {
	return func(yield func(*Package) bool) {
		for _, k := range e.order {
			if e.seen[k] || !e.spoken[k.platform] {
				continue
			}
			for _, p := range e.packages[k] {
				if !yield(p) {
					return
				}
			}
		}
	}
}
