package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

// selectionFlags say which builds a command changes: those that are named, or those that
// the filters of "builds list" select.
type selectionFlags struct {
	filters    *filterFlags
	consent    *base.Consent
	json       bool
	dependents bool
	reason     string
}

func addSelectionFlags(fs *pflag.FlagSet, dependents bool) *selectionFlags {
	f := &selectionFlags{}
	fs.StringVar(&f.reason, "reason", "", "why, for the history of the builds")
	if dependents {
		fs.BoolVar(&f.dependents, "with-dependents", false, "and all builds that need them, directly or not")
	}
	f.consent = base.AddConsentFlag(fs, "don't ask, even if a filter selects many builds")
	fs.BoolVar(&f.json, "json", false, "print a JSON object")
	f.filters = addFilterFlags(fs)
	return f
}

// buildChange is what a command does to builds.
type buildChange struct {
	question, participle string      // "Cancel them", "canceled"
	states               []api.State // what a filter also says where the flags name no state
	do                   func(context.Context, *api.Selection) (*api.Selected, error)
}

// apply changes the builds that ids and flags select, and says which.
func (f *selectionFlags) apply(ctx context.Context, inv *command.Invocation, client *apiclient.Client, ids []string, change *buildChange) error {
	selection, err := f.choose(ctx, inv, client, ids, change)
	if err != nil || selection == nil {
		return err
	}
	done, err := change.do(ctx, selection)
	if err != nil {
		return err
	}
	return f.write(ctx, inv, client, selection, done, change.participle)
}

// choose returns what ids and flags select, or nil if a person was asked and said no.
func (f *selectionFlags) choose(ctx context.Context, inv *command.Invocation, client *apiclient.Client, ids []string, change *buildChange) (*api.Selection, error) {
	filter, err := f.filters.filter(inv, time.Now())
	if err != nil {
		return nil, err
	}
	selection := &api.Selection{IDs: ids, WithDependents: f.dependents, Reason: f.reason}
	switch {
	case len(ids) > 0 && !filter.Empty():
		return nil, inv.UsageErrorf("builds are named by ID or by filter, not both")
	case len(ids) == 0 && filter.Empty():
		return nil, inv.UsageErrorf("which builds? Want an ID, or a filter such as --state or --tag; see \"%s --help\"", inv.Flags.Name())
	case len(ids) > 0:
		return selection, nil
	}
	if len(filter.States) == 0 {
		filter.States = change.states
	}
	selection.Filter = filter
	if f.consent.Yes {
		return selection, nil
	}
	ok, err := f.confirm(ctx, inv, client, filter, change.question)
	if err != nil || !ok {
		return nil, err
	}
	return selection, nil
}

// maxCounted bounds how many builds are counted before a person is asked about them.
const maxCounted = 100_000

// confirm counts the builds that a filter selects, and asks about them. That there are none
// is a no.
func (f *selectionFlags) confirm(ctx context.Context, inv *command.Invocation, client *apiclient.Client, filter *api.Filter, question string) (bool, error) {
	n := 0
	more, err := client.EachPage(ctx, filter, maxCounted, func(page []api.Build) error {
		n += len(page)
		return nil
	})
	if err != nil {
		return false, err
	}
	if n == 0 {
		fmt.Fprintln(inv.Err, "no builds")
		return false, nil
	}
	count := human.Count(n, "build")
	if more {
		count = "more than " + count
	}
	return f.consent.Given(ctx, inv, "the filter selects "+count, question+"?")
}

// maxLookups bounds how many builds that were named but not changed are looked at to say
// why.
const maxLookups = 100

// write says which builds were changed, and of those that were named what the others are.
func (f *selectionFlags) write(ctx context.Context, inv *command.Invocation, client *apiclient.Client, selection *api.Selection, done *api.Selected, participle string) error {
	if f.json {
		return base.WriteJSON(inv.Out, done)
	}
	for _, id := range done.IDs {
		if _, err := fmt.Fprintf(inv.Out, "%s %s\n", human.Printable(id), participle); err != nil {
			return err
		}
	}
	if left := done.Count - len(done.IDs); left > 0 {
		fmt.Fprintf(inv.Out, "and %s more\n", human.Number(left))
	}
	if done.StandIns > 0 {
		fmt.Fprintf(inv.Err, "others need what was canceled: %s made anew; --with-dependents cancels what needs it too\n", human.Count(done.StandIns, "build"))
	}
	if done.Others > 0 {
		fmt.Fprintf(inv.Err, "%s of others stay as they are: only operators may change those\n", human.Count(done.Others, "build"))
	}
	if selection.Filter != nil && done.Count == 0 {
		fmt.Fprintln(inv.Err, "no build was changed")
	}
	for _, id := range selection.IDs[:min(len(selection.IDs), maxLookups)] {
		if slices.ContainsFunc(done.IDs, func(full string) bool { return strings.HasPrefix(full, id) }) {
			continue
		}
		b, err := client.Build(ctx, id)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(inv.Out, "%s stays %s\n", human.Printable(b.ID), b.State); err != nil {
			return err
		}
	}
	return nil
}

const selectionText = `Builds are named by their ids, or by the filters of "lighter builds list". With a filter it says on a terminal how many builds that selects, and asks; elsewhere it wants --yes.

Only operators may change the builds of others; see "lighter help lighter.toml", [access]. For others, a filter changes only their own builds, and says how many more it selects.`

func buildsCancelCommand() *command.Command {
	return &command.Command{
		Name:  "cancel",
		Args:  "[ID…]",
		Short: "cancel builds",
		Long: `Cancels builds, and those that exist only for them; one that runs is stopped on its machine. Builds that are finished stay as they are, and do not count as failures. What other builds need is made all the same, by new builds in the place of the canceled ones; with --with-dependents the others are canceled too.

` + selectionText,
		Exits: []int{command.ExitNoAnswer, command.ExitInterrupted},
		Examples: []command.Example{
			{"lighter builds cancel 3f2a91c0 77b0c2de", "two builds"},
			{"lighter builds cancel --with-dependents --reason 'wrong patch' 3f2a91c0", "one, and all that need it"},
			{"lighter builds cancel --tag commit=3f2a91c", "all of a commit; asks first"},
			{"lighter builds cancel --yes --state open", "everything unfinished, from a script"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			f := addSelectionFlags(fs, true)
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				return f.apply(ctx, inv, client, inv.Args, &buildChange{"Cancel them", "canceled", api.OpenStates(), client.CancelAll})
			})
		},
	}
}

func buildsRetryCommand() *command.Command {
	return &command.Command{
		Name:  "retry",
		Args:  "[ID…]",
		Short: "retry builds that did not succeed",
		Long: `Puts builds that failed, timed out or were canceled back into the queue, under the same ids. --with-dependents also retries the builds that were not made because of them. A filter that names no state selects no canceled builds.

` + selectionText,
		Exits: []int{command.ExitNoAnswer, command.ExitInterrupted},
		Examples: []command.Example{
			{"lighter builds retry --with-dependents 3f2a91c0", "one build, and what failed because of it"},
			{"lighter builds retry --machine beta --since 2h", "what did not succeed on a machine in the last two hours"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			f := addSelectionFlags(fs, true)
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				return f.apply(ctx, inv, client, inv.Args, &buildChange{"Try them again", "queued again", []api.State{api.Failed, api.TimedOut, api.DependencyFailed}, client.Retry})
			})
		},
	}
}

func buildsPriorityCommand() *command.Command {
	return &command.Command{
		Name:  "priority",
		Args:  "N [ID…]",
		Short: "give builds another priority",
		Long: `Gives builds that are not finished another priority: builds with a higher number go first. Write a negative one after "--".

` + selectionText,
		Exits: []int{command.ExitNoAnswer, command.ExitInterrupted},
		Examples: []command.Example{
			{"lighter builds priority 100 3f2a91c0", "this one first"},
			{"lighter builds priority --tag branch=staging -- -10", "that branch last"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			f := addSelectionFlags(fs, false)
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				priority, err := strconv.Atoi(inv.Args[0])
				if err != nil {
					return inv.UsageErrorf("%q is not a priority; want a whole number, and after it the builds", inv.Args[0])
				}
				prioritise := func(ctx context.Context, selection *api.Selection) (*api.Selected, error) {
					selection.Priority = priority
					return client.Prioritise(ctx, selection)
				}
				return f.apply(ctx, inv, client, inv.Args[1:], &buildChange{
					fmt.Sprintf("Give them priority %d", priority), fmt.Sprintf("has priority %d", priority), api.OpenStates(), prioritise,
				})
			})
		},
	}
}

func buildsPruneCommand() *command.Command {
	return &command.Command{
		Name:  "prune",
		Short: "move old builds out of the ledger",
		Long:  `Builds that finished this long ago leave the ledger. They are first written, with their events, to a file of JSON lines in the state folder; their logs are removed. Builds that another build still needs stay. On a terminal it says what would go, and asks; elsewhere it wants --yes.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter builds prune --older-than 30d --dry-run", "what would go?"},
			{"lighter builds prune --older-than 90d --state failed,timed-out,canceled --keep-logs", "only what did not succeed, and keep the logs"},
			{"lighter builds prune --older-than 90d --yes", "from a timer"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			older := fs.String("older-than", "", "how long they have been finished, such as `TIME` 30d or 12w; must be given")
			states := fs.StringSliceP("state", "o", nil, "only builds in this final `STATE`; may be repeated")
			dryRun := fs.Bool("dry-run", false, "only say what would go")
			keepLogs := fs.Bool("keep-logs", false, "leave the logs of the builds where they are")
			consent := base.AddConsentFlag(fs, "don't ask")
			asJSON := fs.Bool("json", false, "print a JSON object")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				prune, err := pruneRequest(inv, *older, *states)
				if err != nil {
					return err
				}
				prune.DryRun, prune.KeepLogs = *dryRun, *keepLogs
				if ok, err := mayPrune(ctx, inv, client, consent, prune); !ok {
					return err
				}
				done, err := client.Prune(ctx, prune)
				if err != nil {
					return err
				}
				if *asJSON {
					return base.WriteJSON(inv.Out, done)
				}
				return writePruned(inv, done, *dryRun)
			})
		},
	}
}

func pruneRequest(inv *command.Invocation, older string, states []string) (*api.Prune, error) {
	if older == "" {
		return nil, inv.UsageErrorf("how old? Want --older-than, such as 30d")
	}
	age, err := command.ParseDuration(older)
	if err != nil {
		return nil, inv.UsageErrorf("--older-than: %w", err)
	}
	list, err := parseStates(inv, states)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		if !s.Final() {
			return nil, inv.UsageErrorf("a build that is %s is not finished; only finished ones are pruned", s)
		}
	}
	return &api.Prune{OlderThan: api.Seconds(age.Seconds()), States: list}, nil
}

// mayPrune asks about what would go, unless that was answered, or nothing would.
func mayPrune(ctx context.Context, inv *command.Invocation, client *apiclient.Client, consent *base.Consent, prune *api.Prune) (bool, error) {
	if prune.DryRun || consent.Yes {
		return true, nil
	}
	dry := *prune
	dry.DryRun = true
	would, err := client.Prune(ctx, &dry)
	if err != nil || would.Builds == 0 {
		return err == nil, err
	}
	return consent.Given(ctx, inv, prunedText(would, true), "Go on?")
}

// prunedText says what pruning did, or would do.
func prunedText(done *api.Pruned, dryRun bool) string {
	format := "%s with %s left the ledger, %s went"
	if dryRun {
		format = "%s with %s would leave the ledger, %s would go"
	}
	return fmt.Sprintf(format, human.Count(done.Builds, "build"), human.Count(done.Events, "event"), human.Count(done.Logs, "log"))
}

func writePruned(inv *command.Invocation, done *api.Pruned, dryRun bool) error {
	_, err := fmt.Fprintln(inv.Out, prunedText(done, dryRun))
	if err == nil && done.File != "" {
		_, err = fmt.Fprintf(inv.Out, "they are in %s (%s)\n", human.Printable(done.File), quantity.Bytes(done.Bytes))
	}
	return err
}
