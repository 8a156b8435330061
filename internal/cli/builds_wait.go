package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/cli/watch"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/internal/submission"
)

func buildsWaitCommand() *command.Command {
	return &command.Command{
		Name:  "wait",
		Args:  "[ID…]",
		Short: "wait until builds are finished",
		Long: `Shows builds until the last one is finished, and then what became of them, as "lighter build" does: the paths of their outputs go to standard output, and the exit code is that of the worst.

Builds are named by their ids, by the filters of "lighter builds list", or by the name of their submission. Those count that a filter selects when this command starts, finished ones too; with --submission the coordinator's builds are looked through, and --since makes that short.

Waiting changes nothing: when it is interrupted, or --timeout has passed, the builds go on.`,
		Exits: []int{command.ExitBuildFailed, command.ExitCanceled, command.ExitNoAnswer, command.ExitDiffers, command.ExitTimedOut, command.ExitInterrupted},
		Examples: []command.Example{
			{"lighter builds wait 3f2a91c0 77b0c2de", "two builds that \"lighter build --detach\" has started"},
			{"lighter builds wait --tag commit=3f2a91c --timeout 2h", "all of a commit, but not for ever"},
			{"lighter builds wait --submission nightly --since yesterday --quiet", "in a script"},
		},
		TakesSignals: true,
		Setup: func(fs *pflag.FlagSet) command.Action {
			w := &buildsWaiter{}
			command.DurationVar(fs, &w.timeout, "timeout", 0, "wait no longer than this, such as 2h")
			fs.StringVar(&w.submission, "submission", "", "builds of the submission `NAME`, as \"lighter build --submission\" made them")
			fs.BoolVar(&w.json, "json", false, "print the builds as JSON, one a line, instead of output paths")
			fs.BoolVarP(&w.quiet, "quiet", "q", false, "show nothing while waiting")
			w.filters = addFilterFlags(fs)
			return base.ClientAction(fs, w.run)
		},
	}
}

// buildsWaiter is one run of "lighter builds wait".
type buildsWaiter struct {
	filters     *filterFlags
	timeout     time.Duration
	submission  string
	json, quiet bool
}

func (w *buildsWaiter) run(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
	// What happens after this is news.
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	builds, err := w.choose(ctx, inv, client)
	if err != nil {
		return err
	}
	late := fmt.Errorf("after %s not all builds are finished; they go on", quantity.Duration(w.timeout))
	if w.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, w.timeout, late)
		defer cancel()
	}
	resized, stop := display.Resized()
	defer stop()
	output := &buildAction{json: w.json, quiet: w.quiet}
	watcher := watch.New(watch.Options{
		Client: client, Next: status.LastEvent + 1, Show: output.live(inv), Style: display.StyleOf(inv.Err, inv.Getenv),
		Signals: inv.Signals, Resized: resized, OnlyLooks: true, Patience: base.CoordinatorGrace,
	}, builds)
	err = watcher.Run(ctx)
	switch {
	case err == nil:
		return output.finish(inv, watcher)
	case errors.Is(context.Cause(ctx), late):
		if !w.quiet {
			fmt.Fprintln(inv.Err, watcher.Summary())
		}
		return command.Exit(command.ExitTimedOut, late)
	case errors.Is(err, command.ErrInterrupted):
		return fmt.Errorf("%w; the builds go on", err)
	}
	return err
}

// choose returns the builds to wait for. That there are none is an error: a name may be mistyped.
func (w *buildsWaiter) choose(ctx context.Context, inv *command.Invocation, client *apiclient.Client) ([]*api.Build, error) {
	filter, err := w.filters.filter(inv, time.Now())
	if err != nil {
		return nil, err
	}
	filtered := !filter.Empty() || w.submission != ""
	switch {
	case len(inv.Args) > 0 && filtered:
		return nil, inv.UsageErrorf("builds are named by ID or by filter, not both")
	case len(inv.Args) == 0 && !filtered:
		return nil, inv.UsageErrorf("which builds? Want an ID, --submission, or a filter such as --tag; see \"%s --help\"", inv.Flags.Name())
	}
	var builds []*api.Build
	for _, id := range inv.Args {
		b, err := client.Build(ctx, id)
		if err != nil {
			return nil, err
		}
		builds = append(builds, b)
	}
	if !filtered {
		return builds, nil
	}
	_, err = client.EachPage(ctx, filter, 0, func(page []api.Build) error {
		for i := range page {
			if b := &page[i]; w.submission == "" || b.ID == submission.BuildID(w.submission, b.Derivation) {
				builds = append(builds, b)
			}
		}
		if len(builds) > maxCounted {
			return fmt.Errorf("these are more than %s; choose fewer", human.Count(maxCounted, "build"))
		}
		return nil
	})
	if err == nil && len(builds) == 0 {
		err = errors.New("there are no such builds")
	}
	return builds, err
}
