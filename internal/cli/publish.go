package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/store"
	"lighter/store/narinfo"
	"lighter/store/publish"
)

func publishCommand() *command.Command {
	return &command.Command{
		Name:  "publish",
		Short: "serve a folder from which Guix substitutes; fill it, prune it",
		Long: `The folder has signed narinfos and compressed NARs, with the names that guix
publish gives them, so that any web server for static files can serve it, or this
command. It is filled by "lighter publish add", or for each build by the
coordinator's publish hook.

A Guix that is to use it authorizes the key in the folder's signing-key.pub with
"guix archive --authorize", and gets --substitute-urls=http://HOST:PORT.

GET and HEAD are answered for the files of a published folder, and for no others.
Without --listen nothing starts. Folders are not
listed, and nothing is written. --log-level debug logs every request.`,
		Examples: []command.Example{
			{"lighter publish --dir /srv/substitutes --listen 127.0.0.1:8080", "for this computer, or for a proxy on it that adds TLS"},
			{"lighter publish --dir /srv/substitutes --listen /run/substitutes.sock", "on a Unix socket"},
		},
		Setup: servePublished,
		Sub:   []*command.Command{publishAddCommand(), publishPruneCommand()},
	}
}

// servePublished serves a folder until a signal comes.
func servePublished(flags *pflag.FlagSet) command.Action {
	dir := flags.String("dir", "", "the published folder is `DIR`")
	listen := flags.String("listen", "", "answer on `ADDR`: HOST:PORT, or the absolute name of a Unix socket")
	log := addLogFlags(flags)
	return func(ctx context.Context, inv *command.Invocation) error {
		if *dir == "" || *listen == "" {
			return inv.UsageErrorf("want --dir DIR and --listen ADDR; see \"%s --help\"", inv.Flags.Name())
		}
		logger, err := log.logger(inv, inv.Err)
		if err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(*dir, narinfo.CacheInfoName)); err != nil {
			return fmt.Errorf("%s is not a published folder: %w; \"lighter publish add\" makes one", *dir, err)
		}
		l, url, err := listenFor(ctx, *listen)
		if err != nil {
			return err
		}
		fmt.Fprintln(inv.Out, url)
		logger.Info("serving substitutes", "folder", *dir, "on", url)
		if err := publish.Serve(ctx, l, *dir, logger); err != nil {
			return fmt.Errorf("serve %s: %w", *dir, err)
		}
		return nil
	}
}

// listenFor listens on an address, or on a Unix socket if that is an absolute file name, perhaps
// after "unix:", and returns its URL.
func listenFor(ctx context.Context, addr string) (net.Listener, string, error) {
	addr, isUnix := strings.CutPrefix(addr, "unix:")
	if isUnix && !filepath.IsAbs(addr) {
		return nil, "", command.Exit(command.ExitUsage, fmt.Errorf("--listen unix:%s: want the absolute name of a file", addr))
	}
	if !filepath.IsAbs(addr) {
		var config net.ListenConfig
		l, err := config.Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, "", fmt.Errorf("--listen %s: %w", addr, err)
		}
		return l, "http://" + l.Addr().String(), nil
	}
	l, err := head.Listen(addr, -1, nil) //nolint:contextcheck // asks a local socket, for a second at most
	return l, "unix://" + addr, err
}

func publishAddCommand() *command.Command {
	return &command.Command{
		Name:  "add",
		Args:  "PATH… --to DIR",
		Short: "publish items of the head's store, with what they refer to",
		Long: `Writes narinfos, signed with the key of [publish] in lighter.toml or else the head's,
and NARs of the items, and of all that they refer to. What is in the folder already is not written again. Of a derivation
it publishes the text, not the outputs.`,
		Examples: []command.Example{
			{"lighter publish add /gnu/store/…-hello-2.12 --to /srv/substitutes", "as the coordinator's user, or as root"},
		},
		Setup: func(flags *pflag.FlagSet) command.Action {
			a, where := new(publishAdd), base.AllFolderFlags(flags)
			flags.StringVar(&a.to, "to", "", "publish in the folder `DIR`, made if missing")
			flags.StringVar(&a.compression, "compression", narinfo.Zstd, "compress NARs with `METHOD` zstd or gzip, or none")
			flags.IntVar(&a.level, "level", 0, "compression level, 1 to 22 for zstd and 1 to 9 for gzip (default the method's)")
			flags.BoolVar(&a.alone, "no-closure", false, "only the items, not what they refer to")
			return where.Action(a.run)
		},
	}
}

// publishAdd is one run of "lighter publish add".
type publishAdd struct {
	to, compression string
	level           int
	alone           bool
}

func (a *publishAdd) run(ctx context.Context, inv *command.Invocation, f head.Folders) error {
	if a.to == "" {
		return inv.UsageErrorf("--to DIR is missing")
	}
	key, err := f.PublishKey()
	if err != nil {
		return err
	}
	logger := slog.New(slog.DiscardHandler)
	w, err := publish.New(publish.Options{FS: publish.Folder(a.to), Key: key, Compression: a.compression, Level: a.level, Logger: logger})
	if err != nil {
		return command.Exit(command.ExitUsage, err)
	}
	from, err := head.OpenStore(ctx, f, logger)
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // it was only read
	paths, err := pathArguments(from.Dir(), inv.Args)
	if err != nil {
		return err
	}
	written, err := w.PublishPaths(ctx, from, !a.alone, paths...)
	for _, p := range written {
		fmt.Fprintln(inv.Out, p)
	}
	return err
}

// pathArguments reads names of items, with or without the store's directory.
func pathArguments(dir store.Dir, args []string) ([]store.Path, error) {
	paths := make([]store.Path, 0, len(args))
	for _, arg := range args {
		if !strings.HasPrefix(arg, "/") {
			arg = string(dir) + "/" + arg
		}
		path, err := dir.ParsePath(filepath.Clean(arg))
		if err != nil {
			return nil, command.Exit(command.ExitUsage, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func publishPruneCommand() *command.Command {
	return &command.Command{
		Name:  "prune",
		Args:  "--dir DIR",
		Short: "remove from a folder what was not published lately",
		Long: `Removes items that were not published for longer than --older-than, with their NARs;
what a remaining item refers to stays. An item that is published again counts as
new. Logs and failures go when they are as old. Others may publish meanwhile. On a
terminal it says what would go, and asks; elsewhere it wants --yes.`,
		Examples: []command.Example{
			{"lighter publish prune --dir /srv/substitutes --older-than 90d --dry-run", "what has nobody built for 90 days?"},
			{"lighter publish prune --dir /srv/substitutes --older-than 90d --yes", "from a timer"},
		},
		Setup: func(flags *pflag.FlagSet) command.Action {
			dir := flags.String("dir", "", "the published folder is `DIR`")
			var olderThan time.Duration
			command.DurationVar(flags, &olderThan, "older-than", 0, "remove what was not published for this long, such as 30d; an hour at least")
			dryRun := flags.BoolP("dry-run", "n", false, "only say what would go")
			consent := base.AddConsentFlag(flags, "don't ask")
			return func(ctx context.Context, inv *command.Invocation) error {
				if *dir == "" || olderThan <= 0 {
					return inv.UsageErrorf("want --dir DIR and --older-than TIME")
				}
				return prunePublished(ctx, inv, *dir, olderThan, *dryRun, consent)
			}
		},
	}
}

func prunePublished(ctx context.Context, inv *command.Invocation, dir string, olderThan time.Duration, dryRun bool, consent *base.Consent) error {
	folder := publish.Folder(dir)
	text, err := folder.Read(ctx, narinfo.CacheInfoName, 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not a published folder: %s is not there", dir, filepath.Join(dir, narinfo.CacheInfoName))
	}
	if err != nil {
		return fmt.Errorf("%s is not a published folder: %w", dir, err)
	}
	info, err := narinfo.ParseCacheInfo(text)
	if err != nil {
		return err
	}
	summary := func(pruned *publish.Pruned) string {
		return fmt.Sprintf("%s in %s, %s", human.Count(len(pruned.Items), "item"), human.Count(pruned.Files, "file"), quantity.Bytes(pruned.Freed))
	}
	if dryRun || !consent.Yes {
		would, err := publish.Prune(ctx, folder, info.StoreDir, olderThan, true)
		if err != nil || dryRun {
			fmt.Fprintln(inv.Out, "would remove", summary(would))
			return err
		}
		if would.Files > 0 {
			if ok, err := consent.Given(ctx, inv, "this removes "+summary(would), "Go on?"); !ok {
				return err
			}
		}
	}
	pruned, err := publish.Prune(ctx, folder, info.StoreDir, olderThan, false)
	fmt.Fprintln(inv.Out, "removed", summary(pruned))
	return err
}
