package catalogue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/evaluate"
	"lighter/store"
)

// Source says what was evaluated.
type Source struct {
	Repository string // its label, such as "guix": repositories are told apart by it
	URL        string // where it can be got; empty leaves what is known of the repository
	Branch     string
	Commit     string    // 40 or 64 hexadecimal digits
	Date       time.Time // the commit's
}

// Recorded says what a revision changed.
type Recorded struct {
	Revision Revision
	// Packages that the revision before did not have, that it had otherwise, and that are no more.
	New, Changed, Gone int
	// Derivations that the revision before did not have, and those that are no more.
	NewDerivations, GoneDerivations int
}

var commitForm = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// Check returns what is wrong with a source; it matches ErrInvalid.
func (s *Source) Check() error {
	if s.Repository == "" || s.Branch == "" {
		return fmt.Errorf("%w: it wants a repository and a branch", ErrInvalid)
	}
	if !commitForm.MatchString(s.Commit) {
		return fmt.Errorf("%w: commit %.80q: want 40 hexadecimal digits", ErrInvalid, s.Commit)
	}
	if year := s.Date.UTC().Year(); year < 1970 || year > 9999 {
		return fmt.Errorf("%w: date %s: want one from 1970 on", ErrInvalid, s.Date.Format(time.RFC3339))
	}
	return errors.Join(checkWord("repository", s.Repository, maxWord), checkWord("URL", s.URL, maxURL), checkWord("branch", s.Branch, maxWord))
}

// Record adds a revision with its packages, in any order, at the end of its branch. It is there as a whole when Record
// returns nil, and durable; else not at all. A commit that is recorded again is another revision,
// which takes the place of the first for whoever asks for the commit. What the packages can't be matches ErrInvalid,
// and an error of the sequence is returned as it is.
func (c *Catalogue) Record(ctx context.Context, from Source, packages iter.Seq2[*evaluate.Package, error]) (done Recorded, err error) {
	if err := from.Check(); err != nil {
		return done, err
	}
	found := &findings{packages: make(map[identifier]*Package), texts: make(map[[16]byte][]byte), interned: make(map[string]string)}
	lines := 0
	for p, err := range packages {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return done, err
		}
		if lines++; lines > c.opts.maxLines {
			return done, fmt.Errorf("%w: it has more than %d lines", ErrInvalid, c.opts.maxLines)
		}
		if err := found.add(p); err != nil {
			return done, err
		}
	}
	if lines == 0 {
		return done, fmt.Errorf("%w: it has no packages", ErrInvalid)
	}
	err = c.change(ctx, func(v *View, b *pebble.Batch) error {
		done, err = v.record(b, &from, found)
		return err
	})
	if err != nil {
		return Recorded{}, fmt.Errorf("record revision %s: %w", from.Commit, err)
	}
	return done, nil
}

// findings are the packages of a revision that is recorded.
type findings struct {
	packages map[identifier]*Package
	texts    map[[16]byte][]byte
	interned map[string]string // systems, targets, files: few, and in each line
}

func (f *findings) intern(s string) string {
	if known, ok := f.interned[s]; ok {
		return known
	}
	f.interned[s] = strings.Clone(s)
	return f.interned[s]
}

func (f *findings) add(p *evaluate.Package) error {
	v, err := f.variantOf(p)
	if err != nil {
		return err
	}
	said := Text{Synopsis: cut(p.Synopsis, maxText), Description: cut(p.Description, maxText), HomePage: cut(p.HomePage, maxURL)}
	for _, name := range p.Licenses[:min(len(p.Licenses), maxLicenses)] {
		said.Licenses = append(said.Licenses, cut(name, maxWord))
	}
	text, err := json.Marshal(said)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	now := Package{Name: p.Name, Version: p.Version, File: f.intern(cut(p.Location.File, maxURL)), text: [16]byte(sum[:16])}
	now.Line, now.Column = min(max(p.Location.Line, 0), math.MaxInt32), min(max(p.Location.Column, 0), math.MaxInt32)
	id := identifier{p.Name, p.Version}
	known := f.packages[id]
	switch {
	case known == nil:
		known = &now
		f.packages[id] = known
		f.texts[now.text] = text
	case len(known.Variants) == maxVariants:
		return fmt.Errorf("%w: package %s: more than %d derivations", ErrInvalid, id, maxVariants)
	case speaksBefore(v.Replacement, &now, known):
		now.Variants = known.Variants
		*known = now
		f.texts[now.text] = text
	}
	known.Variants = append(known.Variants, v)
	return nil
}

// speaksBefore says whether a package of the same name and version is what is told of them, rather than
// the one that is told of now.
func speaksBefore(replacement bool, now, known *Package) bool {
	first := !slices.ContainsFunc(known.Variants, func(v Variant) bool { return !v.Replacement })
	if replacement != first {
		return first
	}
	if now.File != known.File {
		return now.File < known.File
	}
	if now.Line != known.Line {
		return now.Line < known.Line
	}
	return now.Column < known.Column || now.Column == known.Column && bytes.Compare(now.text[:], known.text[:]) < 0
}

func (f *findings) variantOf(p *evaluate.Package) (v Variant, err error) {
	refuse := func(format string, args ...any) (Variant, error) {
		return v, fmt.Errorf("%w: package %.80q %.80q: %s", ErrInvalid, p.Name, p.Version, fmt.Sprintf(format, args...))
	}
	switch {
	case p.Name == "":
		return refuse("it has no name")
	case p.System == "":
		return refuse("it has no system")
	case p.Derivation == "" && p.Error == "":
		return refuse("it has neither a derivation nor an error")
	case p.Derivation != "" && !p.Derivation.IsDerivation():
		return refuse("%.200q is not a derivation", p.Derivation)
	case len(p.Outputs) > maxOutputs:
		return refuse("more than %d outputs", maxOutputs)
	}
	err = errors.Join(checkWord("name", p.Name, maxWord), checkWord("version", p.Version, maxWord),
		checkWord("system", p.System, maxWord), checkWord("target", p.Target, maxWord))
	if err != nil {
		return v, err
	}
	v = Variant{System: f.intern(p.System), Target: f.intern(p.Target), Derivation: p.Derivation, Replacement: p.Replacement}
	if p.Derivation == "" {
		v.Error = cut(p.Error, maxErrorText)
		return v, nil
	}
	if _, err := store.ParsePath(string(p.Derivation)); err != nil {
		return refuse("%v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Outputs)) {
		if _, err := store.ParsePath(string(p.Outputs[name])); err != nil {
			return refuse("output %.80q: %v", name, err)
		}
		if err := checkWord("output", name, maxWord); err != nil {
			return v, err
		}
		v.Outputs = append(v.Outputs, Output{f.intern(name), p.Outputs[name]})
	}
	return v, nil
}

// cut returns the beginning of a text that is too long.
func cut(s string, most int) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}

// record puts a revision into a batch.
func (v *View) record(b *pebble.Batch, from *Source, found *findings) (done Recorded, err error) {
	branch, err := v.openBranch(b, from)
	if err != nil {
		return done, err
	}
	branch.Last++
	r := Revision{
		Branch: branch.ID, Number: branch.Last, Commit: from.Commit, Date: from.Date.UTC(), Packages: len(found.packages),
	}
	derivations := make(map[store.Path]*Derivation)
	found.sort()
	found.count(&r, derivations)
	if done.New, done.Changed, done.Gone, err = v.recordPackages(b, &r, found); err != nil {
		return done, err
	}
	if done.NewDerivations, done.GoneDerivations, err = v.recordDerivations(b, &r, derivations); err != nil {
		return done, err
	}
	done.Revision = r
	return done, errors.Join(
		setJSON(b, keyOf(prefixBranch, branch.ID), branch),
		setJSON(b, keyRevision(r.Branch, r.Number), r),
		b.Set(keyCommit(r.Commit, r.Branch), number(r.Number), nil))
}

// sort puts the derivations of each package in order, and takes away what is said twice.
func (f *findings) sort() {
	for _, p := range f.packages {
		slices.SortFunc(p.Variants, compareVariants)
		p.Variants = slices.CompactFunc(p.Variants, func(a, b Variant) bool { return compareVariants(a, b) == 0 })
	}
}

// count fills the derivations of a revision, and what it says of their number.
func (f *findings) count(r *Revision, derivations map[store.Path]*Derivation) {
	type where struct{ system, target string }
	counts := make(map[where]int)
	for _, id := range f.identifiers() {
		p := f.packages[id]
		for i := range p.Variants {
			v := &p.Variants[i]
			if v.Derivation == "" {
				r.Errors++
				continue
			}
			counts[where{v.System, v.Target}]++
			if derivations[v.Derivation] == nil {
				derivations[v.Derivation] = &Derivation{v.Derivation, p.Name, p.Version, v.System, v.Target}
			}
		}
	}
	for at, n := range counts {
		r.Derivations = append(r.Derivations, Count{at.system, at.target, n})
	}
	slices.SortFunc(r.Derivations, func(a, b Count) int {
		return strings.Compare(a.System+"\x00"+a.Target, b.System+"\x00"+b.Target)
	})
	r.Listed = len(derivations)
}

func (f *findings) identifiers() []identifier {
	return slices.SortedFunc(maps.Keys(f.packages), func(a, b identifier) int {
		return strings.Compare(a.name+"\x00"+a.version, b.name+"\x00"+b.version)
	})
}

// openBranch finds the branch of a revision; it and its repository are made if they are new.
func (v *View) openBranch(b *pebble.Batch, from *Source) (Branch, error) {
	repositories, err := v.Repositories()
	if err != nil {
		return Branch{}, err
	}
	i := slices.IndexFunc(repositories, func(r Repository) bool { return r.Label == from.Repository })
	r := Repository{Label: from.Repository}
	if i >= 0 {
		r = repositories[i]
	} else if len(repositories) == maxRepositories {
		return Branch{}, fmt.Errorf("%w: there are %d repositories already", ErrInvalid, maxRepositories)
	} else {
		r.ID = nextNumber(repositories, func(r Repository) uint32 { return r.ID })
	}
	if from.URL != "" && from.URL != r.URL || i < 0 {
		r.URL = from.URL
		if err := setJSON(b, keyRepository(r.ID), r); err != nil {
			return Branch{}, err
		}
	}
	branches, err := v.allBranches()
	if err != nil {
		return Branch{}, err
	}
	for _, one := range branches {
		if one.Repository == r.ID && one.Name == from.Branch {
			return one, nil
		}
	}
	if len(branches) == maxBranches {
		return Branch{}, fmt.Errorf("%w: there are %d branches already", ErrInvalid, maxBranches)
	}
	return Branch{ID: nextNumber(branches, func(b Branch) uint32 { return b.ID }), Repository: r.ID, Name: from.Branch}, nil
}

func nextNumber[T any](all []T, of func(T) uint32) (next uint32) {
	for _, one := range all {
		next = max(next, of(one))
	}
	return next + 1
}

// recordPackages ends the spans of packages that are gone or changed, and begins those of others.
func (v *View) recordPackages(b *pebble.Batch, r *Revision, found *findings) (added, changed, gone int, err error) {
	same := make(map[identifier]bool)
	err = v.spans(keyOf(prefixPackage, r.Branch), nil, func(key []byte, s span, rest, body []byte) (bool, error) {
		if s.end != open {
			return true, nil
		}
		id, err := identifierOf(key, rest)
		if err != nil {
			return false, err
		}
		now := found.packages[id]
		switch {
		case now == nil:
			gone++
		case bytes.Equal(now.encode(nil), body):
			same[id] = true
			return true, nil
		default:
			changed++
		}
		return true, b.Set(key, append(number(r.Number), body...), nil)
	})
	if err != nil {
		return 0, 0, 0, err
	}
	for _, id := range found.identifiers() {
		if same[id] {
			continue
		}
		added++
		now := found.packages[id]
		if err := errors.Join(v.recordText(b, now.text, found.texts[now.text]), b.Set(keyPackage(r.Branch, id, r.Number), now.encode(number(open)), nil)); err != nil {
			return 0, 0, 0, err
		}
	}
	return added - changed, changed, gone, nil
}

// recordText keeps a text that is new.
func (v *View) recordText(b *pebble.Batch, hash [16]byte, text []byte) error {
	_, closer, err := v.r.Get(keyText(hash))
	switch {
	case err == nil:
		return closer.Close()
	case errors.Is(err, pebble.ErrNotFound):
		return b.Set(keyText(hash), text, nil)
	}
	return err
}

func (v *View) recordDerivations(b *pebble.Batch, r *Revision, now map[store.Path]*Derivation) (added, gone int, err error) {
	err = v.spans(keyOf(prefixDerivation, r.Branch), nil, func(key []byte, s span, rest, body []byte) (bool, error) {
		if s.end != open {
			return true, nil
		}
		one := now[store.Path(rest)]
		if one != nil && bytes.Equal(one.encode(nil), body) {
			delete(now, store.Path(rest))
			return true, nil
		}
		if one == nil {
			gone++
		} else {
			added-- // it is there, for another package
		}
		return true, b.Set(key, append(number(r.Number), body...), nil)
	})
	if err != nil {
		return 0, 0, err
	}
	for path, one := range now {
		added++
		if err := b.Set(keyDerivation(r.Branch, path, r.Number), one.encode(number(open)), nil); err != nil {
			return 0, 0, err
		}
	}
	return added, gone, nil
}
