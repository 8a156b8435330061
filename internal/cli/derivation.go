package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"lighter/internal/cli/command"
	"lighter/internal/cli/storecommands"
	"lighter/internal/head"
	"lighter/store"
	"lighter/store/derivation"
)

func derivationCommand() *command.Command {
	return &command.Command{
		Name:  "derivation",
		Short: "show derivations as JSON, and make them from JSON",
		Long: `A derivation says how to build something; it is a file in the store whose name
ends in ".drv". These commands translate between that file and JSON, in the
shape of "nix derivation show" and "nix derivation add".`,
		Sub: []*command.Command{derivationShowCommand(), derivationAddCommand()},
	}
}

func derivationShowCommand() *command.Command {
	return &command.Command{
		Name:  "show",
		Args:  "DRV…",
		Short: "print derivations as JSON",
		Long: `Prints one JSON object with a member for each derivation, by its path. DRV is
the path of a derivation in the head's store, or any file that holds one.`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{"lighter derivation show /gnu/store/…-hello-2.12.drv", "one derivation"},
			{"lighter derivation show -r /gnu/store/…-hello-2.12.drv | jq length", "how many derivations it needs, with itself"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			recursive := fs.BoolP("recursive", "r", false, "also show every derivation that it needs")
			return storecommands.StoreAction(fs, func(ctx context.Context, inv *command.Invocation, s *head.Store) error {
				return showDerivations(ctx, inv, s, *recursive)
			})
		},
	}
}

func showDerivations(ctx context.Context, inv *command.Invocation, s *head.Store, recursive bool) error {
	found := make(map[store.Path]*derivation.Derivation)
	var queue []store.Path
	for _, arg := range inv.Args {
		path, d, err := readDerivation(s, arg)
		if err != nil {
			return err
		}
		found[path] = d
		queue = append(queue, inputPaths(d)...)
	}
	for recursive && len(queue) > 0 {
		path := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if found[path] != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		d, err := storedDerivation(s, path)
		if err != nil {
			return err
		}
		found[path] = d
		queue = append(queue, inputPaths(d)...)
	}
	text, err := derivation.MarshalJSON(found)
	if err != nil {
		return err
	}
	_, err = inv.Out.Write(append(bytes.TrimRight(text, "\n"), '\n'))
	return err
}

func inputPaths(d *derivation.Derivation) []store.Path {
	paths := make([]store.Path, 0, len(d.Inputs))
	for _, in := range d.Inputs {
		paths = append(paths, in.Path)
	}
	return paths
}

// readDerivation reads the derivation that arg names: a path in the store, or a
// file. A file outside the store gets the path that it would have.
func readDerivation(s *head.Store, arg string) (store.Path, *derivation.Derivation, error) {
	if path, err := s.Dir().ParsePath(arg); err == nil {
		if !path.IsDerivation() {
			return "", nil, command.BadInput(fmt.Errorf("%s: no derivation; its name does not end in %s", path, derivation.Extension))
		}
		d, err := storedDerivation(s, path)
		if !errors.Is(err, store.ErrNotValid) {
			return path, d, err
		}
		// Perhaps it is there without this store knowing it, as in a Guix store.
		if _, statErr := os.Stat(arg); statErr != nil {
			return "", nil, fmt.Errorf("read derivation: %w", err)
		}
	}
	d, err := derivationFile(s.Dir(), arg)
	if err != nil {
		return "", nil, err
	}
	path, err := d.Path(s.Dir(), fileDerivationName(arg))
	if err != nil {
		return "", nil, command.BadInput(fmt.Errorf("%s: %w", arg, err))
	}
	return path, d, nil
}

// fileDerivationName returns the name of the derivation in a file: what stands
// before ".drv", without a hash.
func fileDerivationName(file string) string {
	base := filepath.Base(file)
	if path, err := store.DefaultDir.Path(base); err == nil && path.IsDerivation() {
		return derivation.NameOf(path)
	}
	return strings.TrimSuffix(base, derivation.Extension)
}

func derivationFile(dir store.Dir, file string) (*derivation.Derivation, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, derivation.MaxSize+1))
	if err != nil {
		return nil, err
	}
	d, err := derivation.Parse(dir, text)
	if err != nil {
		return nil, command.BadInput(fmt.Errorf("%s: %w", file, err))
	}
	return d, nil
}

// storedDerivation reads a derivation that is valid in the store.
func storedDerivation(s *head.Store, path store.Path) (*derivation.Derivation, error) {
	physical, err := s.Files(path)
	if err != nil {
		return nil, err
	}
	d, err := derivationFile(s.Dir(), physical)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, store.NotValid(path)
	}
	return d, err
}

// resolver finds derivations in a store.
func resolver(s *head.Store) derivation.Resolver {
	return func(path store.Path) (*derivation.Derivation, error) { return storedDerivation(s, path) }
}

func derivationAddCommand() *command.Command {
	return &command.Command{
		Name:  "add",
		Args:  "[FILE]",
		Short: "make derivations from JSON and print their paths",
		Long: `Reads JSON from FILE or standard input, computes the output paths (those that
are there are checked), writes the derivations into the head's store, and prints
the path of each .drv, inputs first. The JSON holds one derivation with a "name",
or several by path, as "lighter derivation show" prints them.`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{`lighter derivation add <<'END'
{ "name": "greeting", "system": "x86_64-linux",
  "builder": "/bin/sh", "args": ["-c", "echo hello > $out"],
  "env": {}, "inputDrvs": {}, "inputSrcs": [], "outputs": {"out": {}} }
END`, "a derivation by hand (the machine needs sandbox-paths with a static /bin/sh, or with /bin, /usr, /lib and /lib64)"},
			{"lighter build $(lighter derivation add hello.json)", "make one and build it"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			return storecommands.StoreAction(fs, func(ctx context.Context, inv *command.Invocation, s *head.Store) error {
				text, name, err := readInput(inv, maxJSONSize)
				if err != nil {
					return err
				}
				return addDerivations(ctx, inv, s, name, text)
			})
		},
	}
}

// maxJSONSize bounds the JSON of derivations, in bytes.
const maxJSONSize = 256 << 20

// readInput reads the file that the argument names, or standard input.
func readInput(inv *command.Invocation, limit int64) (text []byte, name string, err error) {
	in, name := inv.In, "standard input"
	if len(inv.Args) == 1 && inv.Args[0] != "-" {
		name = inv.Args[0]
		f, err := os.Open(name)
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		in = f
	}
	text, err = io.ReadAll(io.LimitReader(in, limit+1))
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("read %s: %w", name, err)
	case int64(len(text)) > limit:
		return nil, "", command.BadInput(fmt.Errorf("%s: more than %d bytes", name, limit))
	}
	return text, name, nil
}

func addDerivations(ctx context.Context, inv *command.Invocation, s *head.Store, name string, text []byte) error {
	all, err := derivation.ParseJSON(s.Dir(), text)
	if err != nil {
		return command.BadInput(fmt.Errorf("%s: %w", name, err))
	}
	hasher := derivation.NewHasher(s.Dir(), resolver(s))
	for _, n := range all {
		if err := n.Complete(hasher); err != nil {
			return command.BadInput(fmt.Errorf("%s: derivation %s: %w", name, n.Name, err))
		}
		d := n.Derivation
		path, err := s.Adder().AddText(ctx, n.Name+derivation.Extension, d.Marshal(), d.References())
		if err != nil {
			return err
		}
		fmt.Fprintln(inv.Out, path)
	}
	return nil
}
