package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/store"
)

func buildCommand() *command {
	return &command{
		name:  "build",
		args:  "DRV…",
		short: "have derivations built, and wait for them",
		long: `Has the coordinator build each DRV, and first whatever it needs that is not
there. On a terminal the running builds and transfers are shown as they happen;
elsewhere there is a line for each start and each end. When all are done the
paths of their outputs are printed on standard output.

DRV is the path of a derivation in the head's store, or a file that holds one
whose inputs are in that store; "-" reads more of them from standard input, one
a line.

The first interrupt cancels the builds, a second one leaves at once. After
--detach, or if this command is killed, the builds go on; "lighter builds" shows
them.`,
		exits: []int{exitBuildFailed, exitCanceled, exitNoAnswer, exitBadInput, exitInterrupted},
		examples: []example{
			{"lighter build /gnu/store/…-hello-2.12.drv", "build one derivation"},
			{"lighter build --keep-going - < derivations.txt", "build many, whatever becomes of the others"},
			{"id=$(lighter build --detach --priority 10 --tag nightly=1 /gnu/store/…-hello-2.12.drv)", "submit it and go on"},
			{"ls $(lighter store path $(lighter build /gnu/store/…-hello-2.12.drv))", "look at the files of the result"},
		},
		takesSignals: true,
		setup: func(fs *pflag.FlagSet) action {
			b := &buildAction{where: allFolderFlags(fs)}
			fs.BoolVarP(&b.detach, "detach", "d", false, "print the builds' ids and don't wait")
			fs.BoolVarP(&b.keepGoing, "keep-going", "k", false, "after a failure go on with the other derivations")
			fs.BoolVar(&b.json, "json", false, "print the builds as JSON, one a line, instead of output paths")
			fs.BoolVarP(&b.quiet, "quiet", "q", false, "show nothing while building")
			fs.IntVarP(&b.priority, "priority", "p", 0, "builds with a higher number go first")
			fs.DurationVar(&b.timeout, "timeout", 0, "stop a build that takes longer, such as 2h")
			fs.DurationVar(&b.maxSilentTime, "max-silent-time", 0, "stop a build that writes nothing for so long")
			fs.BoolVar(&b.keepFailed, "keep-failed", false, "keep the folder of a failed build on its machine")
			fs.StringToStringVar(&b.tags, "tag", nil, "`k=v` to find the build by; may be repeated")
			return clientAction(b.where, b.run)
		},
	}
}

// buildAction is one run of "lighter build".
type buildAction struct {
	where                          *folderFlags
	detach, keepGoing, json, quiet bool
	keepFailed                     bool
	priority                       int
	timeout, maxSilentTime         time.Duration
	tags                           map[string]string
}

func (b *buildAction) run(ctx context.Context, inv *invocation, client *apiclient.Client, f folders) error {
	if err := inv.arguments("DRV", 1, -1); err != nil {
		return err
	}
	if b.timeout < 0 || b.maxSilentTime < 0 {
		return usageErrorf("%s: a time limit can't be negative", inv.flags.Name())
	}
	// Before anything is added to the store: is there anybody to build it?
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	paths, err := derivationArguments(ctx, inv, f)
	if err != nil {
		return err
	}
	builds, err := b.submit(ctx, inv, client, paths)
	if err != nil {
		return err
	}
	if b.detach {
		err = b.printDetached(inv, builds)
	} else {
		w := b.watcher(inv, client, builds, status.LastEvent+1)
		resized := make(chan os.Signal, 1)
		signal.Notify(resized, syscall.SIGWINCH)
		defer signal.Stop(resized)
		w.resized = resized
		err = w.watch(ctx)
		if err == nil {
			err = b.finish(inv, w)
		}
		if err == errInterrupted { //nolint:errorlint // with more to it there is more to say
			err = &exitError{code: exitInterrupted} // the person was told
		}
	}
	if err == nil && len(builds) < len(paths) {
		return &exitError{code: exitFailure}
	}
	return err
}

// submit asks for the builds and returns those that the coordinator took. That it
// refused one ends everything, and cancels the others, unless --keep-going.
func (b *buildAction) submit(ctx context.Context, inv *invocation, client *apiclient.Client, paths []store.Path) ([]*api.Build, error) {
	requests := make([]api.Request, 0, len(paths))
	for _, p := range paths {
		requests = append(requests, b.request(p))
	}
	answers, err := client.SubmitAll(ctx, requests)
	if err != nil {
		return nil, err
	}
	var builds []*api.Build
	var ids []string
	var refused error
	for i, a := range answers {
		if a.Build != nil {
			builds = append(builds, a.Build)
			ids = append(ids, a.Build.ID)
			continue
		}
		err := fmt.Errorf("%s: %w", paths[i], &api.Error{Code: a.Code, Message: a.Error})
		if b.keepGoing && len(answers) > 1 {
			fmt.Fprintf(inv.Err, "lighter: %s\n", errorText(err))
		} else if refused == nil {
			refused = err
		}
	}
	if refused != nil && len(ids) > 0 {
		refused = errors.Join(refused, client.Cancel(ctx, ids...))
	}
	return builds, refused
}

func (b *buildAction) request(drv store.Path) api.Request {
	return api.Request{
		Derivation: drv, Priority: b.priority, Tags: b.tags, KeepFailed: b.keepFailed,
		Timeout: seconds(b.timeout), MaxSilentTime: seconds(b.maxSilentTime),
	}
}

func seconds(d time.Duration) api.Seconds { return api.Seconds(d.Seconds()) }

func (b *buildAction) printDetached(inv *invocation, builds []*api.Build) error {
	for i := range builds {
		if b.json {
			if err := writeJSONLine(inv.Out, builds[i]); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintln(inv.Out, builds[i].ID)
	}
	return nil
}

func (b *buildAction) watcher(inv *invocation, client buildClient, builds []*api.Build, next uint64) *watcher {
	w := &watcher{
		client:    client,
		model:     display.NewModel(time.Now()),
		style:     inv.style(inv.Err),
		signals:   inv.Signals,
		keepGoing: b.keepGoing,
		now:       time.Now,
		next:      next,
		reported:  make(map[string]bool),
		started:   make(map[string]int),
	}
	for i := range builds {
		w.model.Want(builds[i], w.now())
	}
	switch t := inv.canDraw(inv.Err); {
	case b.quiet:
		w.show = quietShower{}
	case t != nil:
		w.show = newScreenShower(t, w.style)
	default:
		w.show = &lineShower{w: inv.Err}
	}
	return w
}

// finish prints the results and returns an error with the exit code.
func (b *buildAction) finish(inv *invocation, w *watcher) error {
	code := exitDone
	for _, build := range w.model.Wanted() {
		switch {
		case build.State == api.Failed, build.State == api.TimedOut:
			code = exitBuildFailed
		case build.State == api.Canceled && code == exitDone:
			code = exitCanceled
		}
		if err := b.printResult(inv, build); err != nil {
			return err
		}
	}
	if !b.quiet {
		fmt.Fprintln(inv.Err, w.model.Summary(w.now()))
	}
	if code != exitDone {
		return &exitError{code: code}
	}
	return nil
}

func (b *buildAction) printResult(inv *invocation, build *api.Build) error {
	if b.json {
		return writeJSONLine(inv.Out, build)
	}
	if build.State != api.Succeeded {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(build.OutputPaths)) {
		fmt.Fprintln(inv.Out, build.OutputPaths[name])
	}
	return nil
}

// derivationArguments returns the paths of the derivations that the arguments
// name, each once. Files that are in no store are added to the head's.
func derivationArguments(ctx context.Context, inv *invocation, f folders) ([]store.Path, error) {
	args, err := expandDash(inv)
	if err != nil {
		return nil, err
	}
	var paths []store.Path
	seen := make(map[store.Path]bool)
	for _, arg := range args {
		path, err := derivationArgument(ctx, f, arg)
		if err != nil {
			return nil, err
		}
		if !seen[path] {
			seen[path] = true
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return nil, usageErrorf("%s: standard input names no derivation", inv.flags.Name())
	}
	return paths, nil
}

// expandDash puts the lines of standard input in place of "-".
func expandDash(inv *invocation) ([]string, error) {
	var args []string
	for _, arg := range inv.args {
		if arg != "-" {
			args = append(args, arg)
			continue
		}
		lines := bufio.NewScanner(inv.In)
		for lines.Scan() {
			if line := strings.TrimSpace(lines.Text()); line != "" {
				args = append(args, line)
			}
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
	}
	return args, nil
}

func derivationArgument(ctx context.Context, f folders, arg string) (store.Path, error) {
	path, err := store.DefaultDir.ParsePath(filepath.Clean(arg))
	if err == nil {
		if !path.IsDerivation() {
			return "", &exitError{exitUsage, fmt.Errorf("%s: no derivation; its name does not end in .drv", path)}
		}
		return path, nil
	}
	s, err := openStore(f, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	defer s.Close()
	_, d, err := readDerivation(s, arg)
	if err != nil {
		return "", err
	}
	name := fileDerivationName(arg)
	if err := d.Check(s.Dir(), name, resolver(s)); err != nil {
		return "", badInput(fmt.Errorf("%s: %w", arg, err))
	}
	return s.AddText(ctx, name+".drv", d.Marshal(), d.References())
}
