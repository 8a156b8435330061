package cli

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/store"
)

// derivationFinder finds the derivations that arguments and lines mean. Files that are in
// no store are added to the head's. The goroutine that reads may outlive a submission that
// broke off, and then finds nothing any more.
type derivationFinder struct {
	folders  head.Folders
	onlyJSON bool // nothing but JSON is welcome

	mu     sync.Mutex
	store  *head.Store // opened when the first file is to be added
	closed bool
}

func (d *derivationFinder) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.store == nil {
		return nil
	}
	return d.store.Close()
}

// find returns the path of a derivation that is named by path or file. Whether a path is
// in the store is the coordinator's to find out: it may fetch it.
func (d *derivationFinder) find(ctx context.Context, arg string) (store.Path, error) {
	if d.onlyJSON {
		return "", command.BadInput(fmt.Errorf("%.60q is not a JSON object, as --json-input wants", arg))
	}
	path, err := store.DefaultDir.ParsePath(filepath.Clean(arg))
	if err == nil {
		if !path.IsDerivation() {
			return "", command.Exit(command.ExitUsage, fmt.Errorf("%s: no derivation; its name does not end in .drv", path))
		}
		return path, nil
	}
	return d.add(ctx, arg)
}

// add adds a derivation in a file to the head's store.
func (d *derivationFinder) add(ctx context.Context, arg string) (_ store.Path, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return "", fmt.Errorf("%s: %w", arg, context.Canceled)
	}
	if d.store == nil {
		if d.store, err = head.OpenToLook(ctx, d.folders, slog.New(slog.DiscardHandler)); err != nil {
			return "", err
		}
	}
	_, drv, err := readDerivation(d.store, arg)
	if err != nil {
		return "", err
	}
	name := fileDerivationName(arg)
	if err := drv.Check(d.store.Dir(), name, resolver(d.store)); err != nil {
		return "", command.BadInput(fmt.Errorf("%s: %w", arg, err))
	}
	return d.store.Adder().AddText(ctx, name+".drv", drv.Marshal(), drv.References())
}
