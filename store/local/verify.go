package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
)

// Verify implements store.Verifier. Items that are deleted meanwhile are no problem.
func (s *Store) Verify(ctx context.Context, contents bool, report func(store.VerifyProblem)) error {
	bases, err := s.layout.validBases()
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	for _, base := range bases {
		if err := ctx.Err(); err != nil {
			return err
		}
		path, err := s.layout.dir.Path(base)
		if err != nil {
			return fmt.Errorf("verify: %s: %w", s.layout.info(base), err)
		}
		problem := s.verifyItem(ctx, path, contents)
		if err := ctx.Err(); err != nil {
			return err
		}
		if valid, err := s.items.isValid(ctx, path); problem != "" && (valid || err != nil) {
			report(store.VerifyProblem{Path: path, Problem: problem})
		}
	}
	return nil
}

// verifyItem says what is wrong with an item, or nothing.
func (s *Store) verifyItem(ctx context.Context, path store.Path, contents bool) string {
	lease := s.claims.newLease("verify")
	defer lease.Release() //nolint:errcheck // a lease that stays ends with the store
	if err := lease.Add(ctx, path); err != nil {
		return err.Error()
	}
	r, err := s.items.record(ctx, path)
	if err != nil {
		return err.Error()
	}
	for _, ref := range r.References {
		if valid, err := s.items.isValid(ctx, ref); err == nil && !valid {
			return fmt.Sprintf("it refers to %s, which is not there", ref)
		}
	}
	data := s.layout.data(r.data())
	if _, err := os.Lstat(data); errors.Is(err, fs.ErrNotExist) {
		return "its contents are gone"
	} else if err != nil {
		return err.Error()
	}
	if !contents {
		return ""
	}
	var h nar.Hasher
	if err := nar.Pack(stream.WriterUntil(ctx, &h), data); err != nil {
		return err.Error()
	}
	if h.Sum() != r.NARHash {
		return fmt.Sprintf("its contents have changed: the hash is %s instead of %s", h.Sum(), r.NARHash)
	}
	return ""
}

// validBases returns the base names of all valid items.
func (l layout) validBases() ([]string, error) {
	if err := l.refresh(l.infos()); err != nil {
		return nil, err
	}
	entries, err := readNames(l.infos())
	if err != nil {
		return nil, err
	}
	bases := make([]string, 0, len(entries))
	for _, name := range entries {
		if base, ok := strings.CutSuffix(name, infoSuffix); ok {
			bases = append(bases, base)
		}
	}
	return bases, nil
}

// readNames returns the names in a folder, in no order.
func readNames(folder string) ([]string, error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
