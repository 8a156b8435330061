package catalogue

import (
	"bytes"
	"fmt"
)

// Check reads the whole catalogue, and returns what of it contradicts itself: at most 100 such findings.
// The error is one of reading.
func (c *Catalogue) Check() (problems []string, err error) {
	v, err := c.View()
	if err != nil {
		return nil, err
	}
	defer v.Close()
	k := &checker{v: v, used: make(map[[16]byte]bool)}
	branches, err := v.allBranches()
	if err != nil {
		return nil, err
	}
	for _, b := range branches {
		if err := k.branch(b); err != nil {
			return k.problems, err
		}
	}
	err = v.scan([]byte{prefixText}, nil, func(key, _ []byte) (bool, error) {
		if len(key) != 17 {
			return false, corrupt(key)
		}
		delete(k.used, [16]byte(key[1:]))
		return true, nil
	})
	for hash := range k.used {
		k.report("text %x is missing", hash)
	}
	return k.problems, err
}

type checker struct {
	v        *View
	used     map[[16]byte]bool
	problems []string
}

func (k *checker) report(format string, args ...any) {
	if len(k.problems) < 100 {
		k.problems = append(k.problems, fmt.Sprintf(format, args...))
	}
}

// branch compares what revisions say of themselves with the spans that have them.
func (k *checker) branch(b Branch) error {
	packages, err := k.counts(b, prefixPackage)
	if err != nil {
		return err
	}
	derivations, err := k.counts(b, prefixDerivation)
	if err != nil {
		return err
	}
	return k.v.scan(keyOf(prefixRevision, b.ID), nil, func(key, value []byte) (bool, error) {
		r, err := decodeRevision(key, value)
		if err != nil {
			return false, err
		}
		if n := packages(r.Number); n != r.Packages {
			k.report("revision %s of branch %q has %d packages, and says that it has %d", r.Commit, b.Name, n, r.Packages)
		}
		if n := derivations(r.Number); n != r.Listed {
			k.report("revision %s of branch %q has %d derivations, and says that it has %d", r.Commit, b.Name, n, r.Listed)
		}
		return true, nil
	})
}

// counts reads all spans of a kind, and returns a function that tells how many have a revision; it must be
// asked of revisions in ascending order.
func (k *checker) counts(b Branch, prefix byte) (func(n uint64) int, error) {
	steps := make(map[uint64]int)
	var before []byte
	var ended uint64
	err := k.v.spans(keyOf(prefix, b.ID), nil, func(key []byte, s span, rest, body []byte) (bool, error) {
		if bytes.Equal(rest, before) && s.first < ended {
			k.report("%q of branch %q begins in %d, before it ends", rest, b.Name, s.first)
		}
		before, ended = append(before[:0], rest...), s.end
		if s.first > b.Last || s.end != open && s.end > b.Last {
			k.report("%q of branch %q is in revisions that there are not", rest, b.Name)
		}
		steps[s.first]++
		steps[s.end]--
		if prefix == prefixDerivation {
			_, err := decodeDerivation(key, rest, body)
			return true, err
		}
		id, err := identifierOf(key, rest)
		if err != nil {
			return false, err
		}
		p, err := decodePackage(key, id, body)
		k.used[p.text] = true
		return true, err
	})
	reached, sum := uint64(0), 0
	return func(n uint64) int {
		for ; reached <= n; reached++ {
			sum += steps[reached]
		}
		return sum
	}, err
}
