package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lighter/store"
)

// writeReferencesGraphs writes the files that the option exportReferencesGraph asks
// for into the folder in which the builder starts (DerivationGoal::startBuilder and
// makeValidityRegistration in libstore).
func (b *build) writeReferencesGraphs(ctx context.Context) error {
	words := b.drv.ReferencesGraph()
	if len(words)%2 != 0 {
		return b.failure(store.FailedExit, "exportReferencesGraph has an odd number of words")
	}
	for pair := range slices.Chunk(words, 2) {
		if err := store.CheckName(pair[0]); err != nil {
			return b.failure(store.FailedExit, "exportReferencesGraph: file name %q: %v", pair[0], err)
		}
		path, _, err := b.store.layout.dir.ParsePathWithin(pair[1])
		if err != nil {
			return b.failure(store.FailedExit, "exportReferencesGraph: %v", err)
		}
		text, err := b.referencesGraph(ctx, path)
		if err != nil {
			return fmt.Errorf("exportReferencesGraph: %w", err)
		}
		if err := b.writeInput(pair[0], text); err != nil {
			return err
		}
	}
	return nil
}

// writeInput makes a file in the folder in which the builder starts.
func (b *build) writeInput(name, text string) error {
	file := filepath.Join(b.folder.top(), name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil { //nolint:gosec // the builder is another user, and may read it
		return err
	}
	if u := b.folder.user; u.change {
		return os.Lchown(file, int(u.uid), int(u.gid))
	}
	return nil
}

// referencesGraph returns the closure of an item in the format of guix-daemon's
// registrations. The outputs of derivations in it count as parts of it, where they are
// valid.
func (b *build) referencesGraph(ctx context.Context, path store.Path) (string, error) {
	if err := b.lease.Add(ctx, path); err != nil {
		return "", err
	}
	infos, err := store.Closure(ctx, b.store, []store.Path{path})
	if err != nil {
		return "", err
	}
	roots := []store.Path{path}
	for _, info := range infos {
		if !info.Path.IsDerivation() {
			continue
		}
		drv, err := b.store.readDerivation(ctx, info.Path)
		if err != nil {
			return "", err
		}
		for _, o := range drv.OutputPaths() {
			if err := b.lease.Add(ctx, o); err != nil {
				return "", err
			}
			switch valid, err := b.store.items.isValid(ctx, o); {
			case err != nil:
				return "", err
			case valid:
				roots = append(roots, o)
			}
		}
	}
	if infos, err = store.Closure(ctx, b.store, roots); err != nil {
		return "", errors.Join(err)
	}
	slices.SortFunc(infos, func(x, y *store.Info) int { return strings.Compare(string(x.Path), string(y.Path)) })
	var text strings.Builder
	for _, info := range infos {
		fmt.Fprintf(&text, "%s\n\n%d\n", info.Path, len(info.References)) // without its deriver
		for _, ref := range info.References {
			fmt.Fprintln(&text, ref)
		}
	}
	return text.String(), nil
}
