package storecommands

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/terminal"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/machines"
	"lighter/nar"
	"lighter/store"
	"lighter/store/local"
)

func Command() *command.Command {
	return &command.Command{
		Name:  "store",
		Short: "the head's own store",
		Long: `The head's store holds what is sent to machines and what comes home from them.
Its items are named /gnu/store/HASH-NAME wherever the files really are ("lighter
store path" says where). Where it is guix-daemon's, the files are there, and Guix
collects garbage. These commands need no coordinator, and may be used while one
runs.`,
		Sub: []*command.Command{
			storeAddCommand(), storeImportCommand(), storeExportCommand(), storeInfoCommand(),
			storePathCommand(), storeVerifyCommand(), storeRootCommand(), storeGCCommand(),
		},
	}
}

// StoreAction is the action of a command that works on the head's store, whichever that is. The
// signing key is needed only to export, so that one that is missing is not an error here.
func StoreAction(fs *pflag.FlagSet, do func(ctx context.Context, inv *command.Invocation, s *head.Store) error) command.Action {
	return base.StateFlags(fs).Action(func(ctx context.Context, inv *command.Invocation, f head.Folders) error {
		s, err := head.OpenToLook(ctx, f, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer s.Close() //nolint:errcheck // what was added is there
		return do(ctx, inv, s)
	})
}

// ownStoreAction is that of a command for lighter's own store; instead says what does it where the
// head's store is guix-daemon's.
func ownStoreAction(where *base.FolderFlags, instead string, do func(ctx context.Context, inv *command.Invocation, f head.Folders, s *local.Store) error) command.Action {
	return where.Action(func(ctx context.Context, inv *command.Invocation, f head.Folders) error {
		if f.StoreKind == machines.StoreDaemon {
			return fmt.Errorf("the head's store is guix-daemon's, which looks after it: %s", instead)
		}
		s, err := head.OpenLocal(f, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer s.Close()
		return do(ctx, inv, f, s)
	})
}

// itemArgument reads the name of an item, or of a file in one: the full logical
// name, or the part after the store's directory.
func itemArgument(s store.Store, arg string) (store.Path, string, error) {
	if !strings.HasPrefix(arg, "/") {
		arg = string(s.Dir()) + "/" + arg
	}
	path, rest, err := s.Dir().ParsePathWithin(filepath.Clean(arg))
	if err != nil {
		return "", "", command.Exit(command.ExitUsage, err)
	}
	return path, rest, nil
}

func itemArguments(s store.Store, args []string) ([]store.Path, error) {
	paths := make([]store.Path, 0, len(args))
	for _, arg := range args {
		path, _, err := itemArgument(s, arg)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func storeAddCommand() *command.Command {
	return &command.Command{
		Name:  "add",
		Args:  "FILE…",
		Short: "add files and folders, print their store paths",
		Long: `Copies each FILE, with everything below it, into the store under the hash of its
contents, as "guix download" and the add-to-store operation do.`,
		Examples: []command.Example{
			{"lighter store add ./src", "a source tree, as input of a derivation"},
			{"lighter store add --name hello-2.12.tar.gz /tmp/download", "under another name"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			name := fs.String("name", "", "name of the item (default the file's; needs a single FILE)")
			return StoreAction(fs, func(ctx context.Context, inv *command.Invocation, s *head.Store) error {
				if *name != "" && len(inv.Args) > 1 {
					return inv.UsageErrorf("--name needs a single FILE")
				}
				for _, file := range inv.Args {
					path, err := addFile(ctx, s.Adder(), *name, file)
					if err != nil {
						return err
					}
					fmt.Fprintln(inv.Out, path)
				}
				return nil
			})
		},
	}
}

// addFile adds a file or a tree to the store, by default under its own name.
func addFile(ctx context.Context, s store.Adder, name, file string) (store.Path, error) {
	if name == "" {
		full, err := filepath.Abs(file)
		if err != nil {
			return "", err
		}
		name = filepath.Base(full)
	}
	if err := store.CheckName(name); err != nil {
		return "", command.UsageErrorf("%s: %w; choose another with --name", file, err)
	}
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := nar.Pack(w, file)
		w.CloseWithError(err)
		packed <- err
	}()
	path, err := s.AddNAR(ctx, name, bufio.NewReaderSize(r, 1<<18))
	r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	if packError := <-packed; packError != nil && !errors.Is(packError, io.ErrClosedPipe) {
		return "", packError
	}
	return path, err
}

func storeImportCommand() *command.Command {
	return &command.Command{
		Name:  "import",
		Short: "read an archive from standard input into the store",
		Long: `Reads an archive, as "lighter store export" and "guix archive --export" write
it, and prints the path of each item. An item becomes visible only after its
hash and its signature were checked; the key that signed must be authorized (see
"lighter key authorize"), and what it refers to must be there.`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{"ssh builder guix archive --export -r /gnu/store/…-hello-2.12 | lighter store import", "from a machine that runs Guix"},
			{"lighter store import < hello.nar", "from a file"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			return StoreAction(fs, func(ctx context.Context, inv *command.Invocation, s *head.Store) error {
				if terminal.Of(inv.In) != nil {
					return inv.UsageErrorf("standard input is a terminal; redirect an archive to it")
				}
				infos, err := s.Import(ctx, bufio.NewReaderSize(inv.In, 1<<18), store.ImportOptions{})
				for _, info := range infos {
					fmt.Fprintln(inv.Out, info.Path)
				}
				if err != nil {
					return fmt.Errorf("import: %w", err)
				}
				return nil
			})
		},
	}
}

func storeExportCommand() *command.Command {
	return &command.Command{
		Name:  "export",
		Args:  "PATH…",
		Short: "write items to standard output as an archive",
		Long: `Writes an archive of the items, signed with the head's key, for "lighter store
import" or "guix archive --import" elsewhere.`,
		Examples: []command.Example{
			{"lighter store export -r /gnu/store/…-hello-2.12 > hello.nar", "with everything that it refers to"},
			{"lighter store export -r /gnu/store/…-hello-2.12 | ssh other lighter store import", "to another computer"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where := base.StateFlags(fs)
			recursive := fs.BoolP("recursive", "r", false, "with everything that the items refer to")
			return where.Action(func(ctx context.Context, inv *command.Invocation, f head.Folders) error {
				if terminal.Of(inv.Out) != nil {
					return inv.UsageErrorf("standard output is a terminal; redirect it to a file or a program")
				}
				return exportItems(ctx, inv, f, *recursive)
			})
		},
	}
}

func exportItems(ctx context.Context, inv *command.Invocation, f head.Folders, recursive bool) error {
	if f.StoreKind != machines.StoreDaemon { // which signs by itself
		if _, err := f.LoadSigningKey(); err != nil {
			return err
		}
	}
	s, err := head.OpenStore(ctx, f, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // it was only read
	paths, err := itemArguments(s, inv.Args)
	if err != nil {
		return err
	}
	if recursive {
		infos, err := store.Closure(ctx, s, paths)
		if err != nil {
			return err
		}
		paths = paths[:0]
		for _, info := range infos {
			paths = append(paths, info.Path)
		}
	}
	out := bufio.NewWriterSize(inv.Out, 1<<18)
	if err := s.Export(ctx, out, paths); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return out.Flush()
}

func storeInfoCommand() *command.Command {
	return &command.Command{
		Name:  "info",
		Pages: true,
		Args:  "PATH…",
		Short: "show what the store knows of items",
		Examples: []command.Example{
			{"lighter store info /gnu/store/…-hello-2.12", "hash, size, references, where the files are"},
			{"lighter store info --json -r /gnu/store/…-hello-2.12", "the same of its closure, for a program, an item a line"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			recursive := fs.BoolP("recursive", "r", false, "and of everything that the items refer to")
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return StoreAction(fs, func(ctx context.Context, inv *command.Invocation, s *head.Store) error {
				infos, err := itemInfos(ctx, inv, s, *recursive)
				if err != nil {
					return err
				}
				for i, info := range infos {
					if *asJSON {
						if err := base.WriteJSONLine(inv.Out, info); err != nil {
							return err
						}
						continue
					}
					if i > 0 {
						fmt.Fprintln(inv.Out)
					}
					if err := writeInfo(inv, s, info); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func itemInfos(ctx context.Context, inv *command.Invocation, s *head.Store, recursive bool) ([]*store.Info, error) {
	paths, err := itemArguments(s, inv.Args)
	if err != nil {
		return nil, err
	}
	if recursive {
		return store.Closure(ctx, s, paths)
	}
	infos := make([]*store.Info, 0, len(paths))
	for _, p := range paths {
		info, err := s.Info(ctx, p)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func writeInfo(inv *command.Invocation, s *head.Store, info *store.Info) error {
	files, err := s.Files(info.Path)
	if err != nil {
		return err
	}
	w := inv.Out
	fmt.Fprintf(w, "path        %s\nfiles       %s\nhash        %s\nsize        %s (%d bytes)\n",
		info.Path, files, info.NARHash, quantity.Bytes(info.NARSize), info.NARSize)
	if info.Deriver != "" {
		fmt.Fprintf(w, "deriver     %s\n", info.Deriver)
	}
	if !info.Registered.IsZero() {
		fmt.Fprintf(w, "registered  %s\n", info.Registered.UTC().Format(time.RFC3339))
	}
	for i, ref := range info.References {
		label := ""
		if i == 0 {
			label = "references"
		}
		fmt.Fprintf(w, "%-10s  %s\n", label, ref)
	}
	return nil
}

func storePathCommand() *command.Command {
	return &command.Command{
		Name:  "path",
		Args:  "PATH…",
		Short: "say where an item's files really are",
		Examples: []command.Example{
			{"ls \"$(lighter store path /gnu/store/…-hello-2.12)/bin\"", "look into an item; the quotes keep ls from listing this folder if it is not there"},
			{"cat $(lighter store path /gnu/store/…-hello-2.12/share/README)", "a file in an item"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			return StoreAction(fs, func(ctx context.Context, inv *command.Invocation, s *head.Store) error {
				for _, arg := range inv.Args {
					path, rest, err := itemArgument(s, arg)
					if err != nil {
						return err
					}
					if _, err := s.Info(ctx, path); err != nil {
						return err
					}
					files, err := s.Files(path)
					if err != nil {
						return err
					}
					fmt.Fprintln(inv.Out, filepath.Join(files, rest))
				}
				return nil
			})
		},
	}
}

func storeVerifyCommand() *command.Command {
	return &command.Command{
		Name:  "verify",
		Short: "check that every item is there and unchanged",
		Long: `Prints a line for each item that is not as the store's records say. Nothing is
changed.`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{"lighter store verify", "is everything there?"},
			{"lighter store verify --check-contents", "and whether every item has the right hash; reads all of them"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			contents := fs.Bool("check-contents", false, "also compute the hash of every item")
			return ownStoreAction(base.StateFlags(fs), "guix gc --verify", func(ctx context.Context, inv *command.Invocation, _ head.Folders, s *local.Store) error {
				problems := 0
				err := s.Verify(ctx, *contents, func(p store.VerifyProblem) {
					problems++
					fmt.Fprintf(inv.Out, "%s: %s\n", p.Path, human.Printable(p.Problem))
				})
				if err != nil {
					return err
				}
				if problems > 0 {
					return command.BadInput(fmt.Errorf("the store has %s", human.Count(problems, "problem")))
				}
				return nil
			})
		},
	}
}
