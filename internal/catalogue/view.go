package catalogue

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/store"
)

// Repository is where branches come from.
type Repository struct {
	ID    uint32 `json:"-"`
	Label string `json:"label"`
	URL   string `json:"url,omitempty"`
}

// Branch is one of a repository's.
type Branch struct {
	ID         uint32 `json:"-"`
	Repository uint32 `json:"repository"`
	Name       string `json:"name"`
	Last       uint64 `json:"last"` // the number of its newest revision
}

// Revision is a commit whose packages were recorded.
type Revision struct {
	Branch      uint32    `json:"-"`
	Number      uint64    `json:"-"` // of its branch's revisions, in the order in which they were recorded
	Commit      string    `json:"commit"`
	Date        time.Time `json:"date"` // the commit's, UTC
	Packages    int       `json:"packages"`
	Derivations []Count   `json:"derivations,omitempty"` // by system and target
	Listed      int       `json:"listed"`                // different derivations
	Errors      int       `json:"errors,omitempty"`      // derivations that could not be made
}

// Count says how many derivations there are for a system and a target.
type Count struct {
	System string `json:"system"`
	Target string `json:"target,omitempty"`
	N      int    `json:"n"`
}

// View is the catalogue as it was at one moment. It must be closed, soon: the catalogue can't be
// closed before, and what is dropped keeps its room. It is for one goroutine at a time.
type View struct {
	c       *Catalogue
	r       pebble.Reader
	release func() error
}

// View returns a view of the catalogue as it is now.
func (c *Catalogue) View() (*View, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	s := c.db.NewSnapshot()
	return &View{c: c, r: s, release: func() error {
		defer c.use.RUnlock()
		return s.Close()
	}}, nil
}

// Close gives the view's things back; afterwards it must not be used. Closing it again does nothing.
func (v *View) Close() error {
	release := v.release
	v.release = nil
	if release == nil {
		return nil
	}
	return release()
}

// State returns a value that differs for any two states of any two catalogues.
func (v *View) State() (string, error) {
	n, err := v.changes()
	return fmt.Sprintf("%x-%d", v.c.identity, n), err
}

func (v *View) changes() (uint64, error) {
	value, err := get(v.r, keyMeta("changes"))
	if err != nil || len(value) != 8 {
		return 0, errors.Join(corrupt(keyMeta("changes")), err)
	}
	return binary.BigEndian.Uint64(value), nil
}

// scan calls fn for each key with a prefix, from the first that is not before a given one, until fn
// returns false. Keys and values are good until it returns.
func (v *View) scan(prefix, from []byte, fn func(key, value []byte) (bool, error)) (err error) {
	if from == nil {
		from = prefix
	}
	iter, err := v.r.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for iter.First(); iter.Valid(); iter.Next() {
		value, err := iter.ValueAndErr()
		if err != nil {
			return err
		}
		if more, err := fn(iter.Key(), value); err != nil || !more {
			return err
		}
	}
	return iter.Error()
}

// spans is scan for the keys of packages and derivations.
func (v *View) spans(prefix, from []byte, fn func(key []byte, s span, rest, body []byte) (bool, error)) error {
	return v.scan(prefix, from, func(key, value []byte) (bool, error) {
		s, rest, body, err := spanOf(key, value)
		if err != nil {
			return false, err
		}
		return fn(key, s, rest, body)
	})
}

// Repositories returns all repositories, by number.
func (v *View) Repositories() (all []Repository, err error) {
	err = v.scan([]byte{prefixRepository}, nil, func(key, value []byte) (bool, error) {
		if len(key) != 5 {
			return false, corrupt(key)
		}
		r := Repository{ID: binary.BigEndian.Uint32(key[1:])}
		all = append(all, r)
		return true, decodeJSON(key, value, &all[len(all)-1])
	})
	return all, err
}

// Repository returns a repository; one that is not there matches ErrNotFound.
func (v *View) Repository(id uint32) (Repository, error) {
	r := Repository{ID: id}
	if err := getJSON(v.r, keyRepository(id), &r); err != nil {
		return r, fmt.Errorf("repository %d: %w", id, err)
	}
	return r, nil
}

func (v *View) allBranches() (all []Branch, err error) {
	err = v.scan([]byte{prefixBranch}, nil, func(key, value []byte) (bool, error) {
		if len(key) != 5 {
			return false, corrupt(key)
		}
		all = append(all, Branch{ID: binary.BigEndian.Uint32(key[1:])})
		return true, decodeJSON(key, value, &all[len(all)-1])
	})
	return all, err
}

// Branches returns the branches of a repository, in the order in which they were found.
func (v *View) Branches(repository uint32) (some []Branch, err error) {
	all, err := v.allBranches()
	for _, b := range all {
		if b.Repository == repository {
			some = append(some, b)
		}
	}
	return some, err
}

// Branch returns a branch of a repository; one that is not there matches ErrNotFound.
func (v *View) Branch(repository uint32, name string) (Branch, error) {
	all, err := v.Branches(repository)
	if err != nil {
		return Branch{}, err
	}
	for _, b := range all {
		if b.Name == name {
			return b, nil
		}
	}
	return Branch{}, fmt.Errorf("branch %q of repository %d: %w", name, repository, ErrNotFound)
}

// Revisions returns the revisions of a branch, the newest first. Of a commit that was recorded
// several times it has the last.
func (v *View) Revisions(b Branch) iter.Seq2[Revision, error] {
	return func(yield func(Revision, error) bool) {
		prefix := keyOf(prefixRevision, b.ID)
		iter, err := v.r.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
		if err != nil {
			yield(Revision{}, err)
			return
		}
		defer iter.Close()
		for ok := iter.Last(); ok; ok = iter.Prev() {
			r, err := decodeRevision(iter.Key(), iter.Value())
			last := r.Number
			if err == nil {
				last, err = v.numberOf(r.Commit, b.ID)
			}
			if last != r.Number && err == nil {
				continue
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
		if err := iter.Error(); err != nil {
			yield(Revision{}, err)
		}
	}
}

func decodeRevision(key, value []byte) (r Revision, err error) {
	if len(key) != 1+4+8 {
		return r, corrupt(key)
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return r, fmt.Errorf("%w: %w", corrupt(key), err)
	}
	r.Branch, r.Number = binary.BigEndian.Uint32(key[1:]), binary.BigEndian.Uint64(key[5:])
	return r, nil
}

// numberOf returns the number that a commit has on a branch.
func (v *View) numberOf(commit string, branch uint32) (uint64, error) {
	key := keyCommit(commit, branch)
	value, err := get(v.r, key)
	if err != nil || len(value) != 8 {
		return 0, errors.Join(corrupt(key), err)
	}
	return binary.BigEndian.Uint64(value), nil
}

// Newest returns the newest revision of a branch; if it has none, the error matches ErrNotFound.
func (v *View) Newest(b Branch) (Revision, error) {
	for r, err := range v.Revisions(b) {
		return r, err
	}
	return Revision{}, fmt.Errorf("a revision of branch %q: %w", b.Name, ErrNotFound)
}

// Revision returns the revision of a commit: of the branch that was first known, if several have it. A
// commit that is not there matches ErrNotFound.
func (v *View) Revision(commit string) (r Revision, err error) {
	if !commitForm.MatchString(commit) {
		return r, fmt.Errorf("revision %.80q: %w", commit, ErrNotFound)
	}
	var at []byte
	err = v.scan(prefixOfCommit(commit), nil, func(key, value []byte) (bool, error) {
		if len(value) != 8 {
			return false, corrupt(key)
		}
		at = append(append([]byte{prefixRevision}, key[len(key)-4:]...), value...)
		return false, nil
	})
	switch {
	case err != nil:
		return r, err
	case at == nil:
		return r, fmt.Errorf("revision %s: %w", commit, ErrNotFound)
	}
	value, err := get(v.r, at)
	if err != nil {
		return r, fmt.Errorf("%w: %w", corrupt(at), err)
	}
	return decodeRevision(at, value)
}

// numbered returns the revision of a branch that has a number or, if that was dropped, the one that follows.
func (v *View) numbered(branch uint32, n uint64) (r Revision, err error) {
	err = v.scan(keyOf(prefixRevision, branch), keyRevision(branch, n), func(key, value []byte) (bool, error) {
		r, err = decodeRevision(key, value)
		return false, err
	})
	return r, err
}

// Packages returns a revision's packages by name and version, those whose names come after a given one.
func (v *View) Packages(r Revision, afterName string) iter.Seq2[Package, error] {
	prefix := keyOf(prefixPackage, r.Branch)
	from := prefix
	if afterName != "" {
		from = after(prefixOfName(r.Branch, afterName))
	}
	return v.packages(prefix, from, r.Number)
}

// Versions returns the packages of a revision that have a name, by version.
func (v *View) Versions(r Revision, name string) iter.Seq2[Package, error] {
	prefix := prefixOfName(r.Branch, name)
	return v.packages(prefix, prefix, r.Number)
}

func (v *View) packages(prefix, from []byte, n uint64) iter.Seq2[Package, error] {
	return func(yield func(Package, error) bool) {
		err := v.spans(prefix, from, func(key []byte, s span, rest, body []byte) (bool, error) {
			if !s.has(n) {
				return true, nil
			}
			id, err := identifierOf(key, rest)
			if err != nil {
				return false, err
			}
			p, err := decodePackage(key, id, body)
			return err == nil && yield(p, nil), err
		})
		if err != nil {
			yield(Package{}, err)
		}
	}
}

// Text returns what a package says of itself.
func (v *View) Text(p Package) (t Text, err error) {
	if err := getJSON(v.r, keyText(p.text), &t); err != nil {
		return t, fmt.Errorf("text of %s: %w", identifier{p.Name, p.Version}, err)
	}
	return t, nil
}

// Derivations returns the derivations of a revision's packages by their paths, those after a given path.
func (v *View) Derivations(r Revision, afterPath store.Path) iter.Seq2[Derivation, error] {
	prefix := keyOf(prefixDerivation, r.Branch)
	from := prefix
	if afterPath != "" {
		from = append(append(keyOf(prefixDerivation, r.Branch), afterPath...), 1)
	}
	return func(yield func(Derivation, error) bool) {
		err := v.spans(prefix, from, func(key []byte, s span, rest, body []byte) (bool, error) {
			if !s.has(r.Number) {
				return true, nil
			}
			d, err := decodeDerivation(key, rest, body)
			return err == nil && yield(d, nil), err
		})
		if err != nil {
			yield(Derivation{}, err)
		}
	}
}

// Period is a package as it was in successive revisions of a branch.
type Period struct {
	Package
	First, Last Revision // of those that are still kept
}

// History returns how a package was on a branch, by version and then by time.
func (v *View) History(b Branch, name string) iter.Seq2[Period, error] {
	return func(yield func(Period, error) bool) {
		known := make(map[uint64]Revision) // successive periods have few ends
		find := func(n uint64) (Revision, error) {
			if r, ok := known[n]; ok {
				return r, nil
			}
			r, err := v.numbered(b.ID, n)
			known[n] = r
			return r, err
		}
		err := v.spans(prefixOfName(b.ID, name), nil, func(key []byte, s span, rest, body []byte) (more bool, err error) {
			id, err := identifierOf(key, rest)
			if err != nil {
				return false, err
			}
			var p Period
			if p.Package, err = decodePackage(key, id, body); err != nil {
				return false, err
			}
			p.First, err = find(s.first)
			if err == nil {
				p.Last, err = find(min(b.Last, s.end-1))
			}
			return err == nil && yield(p, nil), err
		})
		if err != nil {
			yield(Period{}, err)
		}
	}
}
