package catalogue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Drop removes the oldest revisions of a branch so that keep are left, at least one, with all that only they
// have. It returns how many it removed.
func (c *Catalogue) Drop(ctx context.Context, branch uint32, keep int) (dropped int, err error) {
	err = c.change(ctx, func(v *View, b *pebble.Batch) error {
		br := Branch{ID: branch}
		if err := getJSON(v.r, keyOf(prefixBranch, branch), &br); err != nil {
			return err
		}
		oldest, err := v.oldestOf(br, max(keep, 1))
		if err != nil {
			return err
		}
		if dropped, err = v.dropRevisions(b, br, oldest); err != nil || dropped == 0 {
			return err
		}
		for _, prefix := range []byte{prefixPackage, prefixDerivation} {
			err := v.spans(keyOf(prefix, br.ID), nil, func(key []byte, s span, _, _ []byte) (bool, error) {
				if s.end > oldest {
					return true, nil
				}
				return true, b.Delete(key, nil)
			})
			if err != nil {
				return err
			}
		}
		return v.dropTexts(b, br, oldest)
	})
	if err != nil {
		return 0, fmt.Errorf("drop revisions of branch %d: %w", branch, err)
	}
	return dropped, nil
}

// oldestOf returns the number of the oldest of the newest revisions of a branch.
func (v *View) oldestOf(b Branch, keep int) (n uint64, err error) {
	for r, err := range v.Revisions(b) {
		if err != nil {
			return 0, err
		}
		n = r.Number
		if keep--; keep == 0 {
			break
		}
	}
	return n, nil
}

func (v *View) dropRevisions(b *pebble.Batch, br Branch, oldest uint64) (dropped int, err error) {
	err = v.scan(keyOf(prefixRevision, br.ID), nil, func(key, value []byte) (bool, error) {
		r, err := decodeRevision(key, value)
		if err != nil || r.Number >= oldest {
			return false, err
		}
		dropped++
		last, err := v.numberOf(r.Commit, br.ID)
		if err == nil && last < oldest {
			err = b.Delete(keyCommit(r.Commit, br.ID), nil)
		}
		return true, errors.Join(err, b.Delete(key, nil))
	})
	return dropped, err
}

// dropTexts removes the texts that only the dropped revisions of a branch have.
func (v *View) dropTexts(b *pebble.Batch, br Branch, oldest uint64) error {
	used := make(map[[16]byte]bool)
	err := v.spans([]byte{prefixPackage}, nil, func(key []byte, s span, _, body []byte) (bool, error) {
		if len(body) < 16 {
			return false, corrupt(key)
		}
		if binary.BigEndian.Uint32(key[1:]) != br.ID || s.end > oldest {
			used[[16]byte(body)] = true
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return v.scan([]byte{prefixText}, nil, func(key, _ []byte) (bool, error) {
		if len(key) == 17 && used[[16]byte(key[1:])] {
			return true, nil
		}
		return true, b.Delete(key, nil)
	})
}
