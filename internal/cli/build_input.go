package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/human"
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
	if _, err := os.Lstat(arg); errors.Is(err, fs.ErrNotExist) {
		return "", noDerivation(arg)
	}
	return d.add(ctx, arg)
}

// noDerivation says what is right where an argument names neither a derivation nor a file: people write
// names of packages, and outputs behind a derivation as Nix has them.
func noDerivation(arg string) error {
	if i := strings.Index(arg, ".drv"); i >= 0 && i+4 < len(arg) && strings.IndexByte("!^:", arg[i+4]) >= 0 {
		return command.UsageErrorf("%.300q: write %s alone, which builds all outputs; one of them is chosen by a line of JSON on standard input: echo '{\"derivation\": \"…\", \"outputs\": [\"%s\"]}' | lighter build -",
			arg, arg[:i+4], arg[i+5:])
	}
	if !strings.Contains(arg, "/") && !strings.HasSuffix(arg, ".drv") {
		return command.UsageErrorf("%.300q is no derivation; guix build -d %s prints one", arg, human.ShellWord(arg))
	}
	return fmt.Errorf("%.300q: there is no such file, and it is no derivation in the store", arg)
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
