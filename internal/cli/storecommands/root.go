package storecommands

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/disk"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/machines"
	"lighter/store"
	"lighter/store/daemon"
)

func storeRootCommand() *command.Command {
	return &command.Command{
		Name:  "root",
		Short: "links that keep items from being deleted",
		Long: `A root is a symlink to an item: it keeps the item, and all that it refers to,
from "lighter store gc", as long as the link is there and leads to the item.
"lighter build --root LINK" makes one of what it has built.`,
		Sub: []*command.Command{storeRootAddCommand(), storeRootListCommand(), storeRootRemoveCommand()},
	}
}

func storeRootAddCommand() *command.Command {
	return &command.Command{
		Name:  "add",
		Args:  "LINK PATH",
		Short: "make a link that keeps an item",
		Long: `Makes the symlink LINK to the files of the item PATH, and a root of it. A link to
another item that is there is replaced; anything else is not.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter store root add ./result /gnu/store/…-hello-2.12", "until ./result is removed"},
			{"lighter store root add --for 30d ./result /gnu/store/…-hello-2.12", "for a month at most"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			var lasts time.Duration
			command.DurationVar(fs, &lasts, "for", 0, "for this long, such as 30d; 0 is forever")
			return rootAction(fs, func(ctx context.Context, inv *command.Invocation, r *rootMaker) error {
				path, rest, err := itemArgument(r.store, inv.Args[1])
				if err == nil && rest != "" {
					err = inv.UsageErrorf("%s is a file in an item: a root keeps whole items", inv.Args[1])
				}
				if err != nil {
					return err
				}
				return r.make(ctx, inv.Args[0], path, lasts)
			})
		},
	}
}

func storeRootListCommand() *command.Command {
	return &command.Command{
		Name:  "list",
		Short: "list the roots",
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter store root list", "which links keep what, whose they are, and until when"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return rootAction(fs, func(ctx context.Context, inv *command.Invocation, r *rootMaker) error {
				roots, err := r.list(ctx)
				if err != nil {
					return err
				}
				slices.SortFunc(roots, func(a, b store.Root) int { return strings.Compare(a.Link, b.Link) })
				for _, root := range roots {
					if *asJSON {
						if err := base.WriteJSONLine(inv.Out, root); err != nil {
							return err
						}
						continue
					}
					until := ""
					if !root.Expires.IsZero() {
						until = ", until " + root.Expires.Local().Format("2006-01-02 15:04")
					}
					fmt.Fprintf(inv.Out, "%s -> %s (%s%s)\n", human.Printable(root.Link), root.Path, human.Printable(root.Owner), until)
				}
				return nil
			})
		},
	}
}

func storeRootRemoveCommand() *command.Command {
	return &command.Command{
		Name:  "remove",
		Args:  "LINK…",
		Short: "end roots, and remove their links",
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter store root remove ./result", "the item may go with the next collection"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			return rootAction(fs, func(ctx context.Context, inv *command.Invocation, r *rootMaker) error {
				for _, arg := range inv.Args {
					link, err := filepath.Abs(arg)
					if err == nil {
						err = r.remove(ctx, link)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func rootAction(fs *pflag.FlagSet, do func(ctx context.Context, inv *command.Invocation, r *rootMaker) error) command.Action {
	where := base.StateFlags(fs)
	where.Socket = base.SocketFlags(fs).Socket
	return where.Action(func(ctx context.Context, inv *command.Invocation, f head.Folders) error {
		client := apiclient.NewClient(f.Socket)
		defer client.Close()
		r, err := newRootMaker(ctx, f, client)
		if err != nil {
			return err
		}
		defer r.store.Close() //nolint:errcheck // what was made is there
		return base.NoAnswer(f, do(ctx, inv, r))
	})
}

// rootMaker makes links, and roots of them: as this user, in the head's store, by way of the coordinator
// where one runs.
type rootMaker struct {
	store  *head.Store
	client *apiclient.Client
}

func newRootMaker(ctx context.Context, f head.Folders, client *apiclient.Client) (*rootMaker, error) {
	s, err := head.OpenToLook(ctx, f, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &rootMaker{store: s, client: client}, nil
}

// own returns lighter's own store, or an error if the head's is guix-daemon's.
func (r *rootMaker) own(instead string) (store.Rooter, error) {
	if own, ok := r.store.Backend.(store.Rooter); ok && r.store.Kind != machines.StoreDaemon {
		return own, nil
	}
	return nil, fmt.Errorf("the head's store is guix-daemon's, which has the roots: %s", instead)
}

// make makes a link to an item, and a root of it; with lasts not 0, for so long.
func (r *rootMaker) make(ctx context.Context, link string, path store.Path, lasts time.Duration) error {
	link, err := filepath.Abs(link)
	if err != nil {
		return err
	}
	files, err := r.store.Files(path)
	if err != nil {
		return err
	}
	guix, isDaemon := r.store.Backend.(*daemon.Store)
	if isDaemon && lasts > 0 {
		return command.UsageErrorf("--for: guix-daemon's roots have no end but that of their link")
	}
	if err := r.link(link, files); err != nil {
		return err
	}
	if isDaemon {
		return guix.AddIndirectRoot(ctx, link)
	}
	err = r.client.AddRoot(ctx, api.NewRoot{Link: link, Path: path, For: api.Seconds(lasts.Seconds())})
	if !base.NobodyThere(err) {
		return err
	}
	own, err := r.own("")
	if err != nil {
		return err
	}
	root := store.Root{Link: link, Path: path, Owner: disk.UserName(uint32(os.Geteuid())), Created: time.Now().UTC().Truncate(time.Second)} // #nosec G115 -- a number of the kernel's
	if lasts > 0 {
		root.Expires = root.Created.Add(lasts)
	}
	return own.AddRoot(ctx, root, uint32(os.Geteuid())) // #nosec G115 -- as above
}

// link makes a symlink. It replaces one to an item, and nothing else.
func (r *rootMaker) link(link, files string) error {
	err := os.Symlink(files, link)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	target, readErr := os.Readlink(link)
	if readErr != nil || filepath.Dir(target) != filepath.Dir(files) {
		return fmt.Errorf("%s is there, and is no link to an item: choose another name, or remove it", link)
	}
	temporary := filepath.Join(filepath.Dir(link), ".root-"+strconv.Itoa(os.Getpid()))
	if err := os.Symlink(files, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, link); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return nil
}

func (r *rootMaker) list(ctx context.Context) ([]store.Root, error) {
	own, err := r.own("guix gc --list-roots lists them")
	if err != nil {
		return nil, err
	}
	roots, err := r.client.Roots(ctx)
	if base.NobodyThere(err) {
		roots, err = own.Roots(ctx)
	}
	return roots, err
}

// remove ends a root, and removes its link if it is one to an item.
func (r *rootMaker) remove(ctx context.Context, link string) error {
	own, err := r.own("removing the link ends a root")
	if err != nil {
		return err
	}
	roots, err := r.list(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(roots, func(root store.Root) bool { return root.Link == link })
	if i < 0 {
		return fmt.Errorf("%s is no root; lighter store root list shows all", link)
	}
	if err = r.client.RemoveRoot(ctx, link); base.NobodyThere(err) {
		err = own.RemoveRoot(ctx, link)
	}
	if err != nil {
		return err
	}
	if files, filesErr := r.store.Files(roots[i].Path); filesErr == nil {
		if target, linkErr := os.Readlink(link); linkErr == nil && target == files {
			return os.Remove(link)
		}
	}
	return nil
}

// RootOutputs makes roots of what builds have made: LINK for the output out of the first, LINK-NAME for
// its others, and LINK-2 and so on for the next ones.
func RootOutputs(ctx context.Context, f head.Folders, client *apiclient.Client, link string, builds []*api.Build) error {
	r, err := newRootMaker(ctx, f, client)
	if err != nil {
		return err
	}
	defer r.store.Close() //nolint:errcheck // what was made is there
	for i, b := range builds {
		if b.State != api.Succeeded || display.Differs(b) {
			continue
		}
		name := link
		if i > 0 {
			name += "-" + strconv.Itoa(i+1)
		}
		for _, output := range b.OutputsAskedFor() {
			to := name
			if output != "out" {
				to += "-" + output
			}
			if err := r.make(ctx, to, b.OutputPaths[output], 0); err != nil {
				return err
			}
		}
	}
	return nil
}
