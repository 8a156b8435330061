package storecommands

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/store"
	"lighter/store/local"
)

func storeGCCommand() *command.Command {
	return &command.Command{
		Name:  "gc",
		Short: "delete items that nothing needs",
		Long: `Deletes items of the head's store, after a question, and prints their paths. Kept
are the outputs of builds that the coordinator knows as succeeded, whatever
unfinished builds need, and what has a root ("lighter build --root" and "lighter
store root add" make one), each with all that it refers to. What builds have
made goes when they leave the ledger ("lighter builds prune"), or at once with
--all. For a machine's store there is "lighter machines gc".

The coordinator is asked what is needed; where none runs, its ledger is read.
What can't be deleted, such as a file that is in use on NFS, is named at the
end, and the rest goes all the same.`,
		Exits: []int{command.ExitNoAnswer, command.ExitLeft},
		Examples: []command.Example{
			{"lighter store gc --dry-run", "what would go?"},
			{"lighter store gc --yes --max-freed 5GiB --older-than 3d", "make some room, sparing what is new; for cron"},
			{"lighter store gc --all", "what builds have made too, unless it has a root"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			g := new(headGC)
			where := base.StateFlags(fs)
			where.Socket = base.SocketFlags(fs).Socket
			g.opts, g.maxFreed = GCFlags(fs)
			fs.BoolVar(&g.all, "all", false, "also delete what builds have made that the coordinator knows, unless it has a root or is in use")
			g.consent = base.AddConsentFlag(fs, "don't ask")
			return ownStoreAction(where, "guix gc", g.run)
		},
	}
}

// headGC is a garbage collection of the head's store.
type headGC struct {
	opts     *store.GCOptions
	maxFreed *command.Size
	all      bool
	consent  *base.Consent
}

func (g *headGC) run(ctx context.Context, inv *command.Invocation, f head.Folders, s *local.Store) error {
	g.opts.MaxFreed = int64(*g.maxFreed)
	if !g.all {
		client := apiclient.NewClient(f.Socket)
		defer client.Close()
		g.opts.Keep = func(ctx context.Context, garbage []store.Path) ([]store.Path, error) {
			return neededOnHead(ctx, client, f, garbage)
		}
	}
	if ok, err := g.mayDelete(ctx, inv, s); !ok {
		return err
	}
	result, err := s.CollectGarbage(ctx, *g.opts)
	if result == nil {
		return err
	}
	left := WriteGarbage(inv, result, g.opts.DryRun)
	if err != nil {
		return err
	}
	return left
}

// mayDelete says how much would go, and asks whether it may.
func (g *headGC) mayDelete(ctx context.Context, inv *command.Invocation, s store.Collector) (bool, error) {
	if g.opts.DryRun || g.consent.Yes {
		return true, nil
	}
	dry := *g.opts
	dry.DryRun = true
	would, err := s.CollectGarbage(ctx, dry)
	if err != nil {
		return false, err
	}
	if len(would.Deleted) == 0 {
		return true, nil // what crashed processes have left may go
	}
	about := fmt.Sprintf("%s would go, %s", human.Count(len(would.Deleted), "item"), quantity.Bytes(would.Freed))
	return g.consent.Given(ctx, inv, about, "Delete?")
}

// neededOnHead asks the coordinator which items builds need, or where none runs its ledger.
func neededOnHead(ctx context.Context, client *apiclient.Client, f head.Folders, items []store.Path) ([]store.Path, error) {
	needed, err := client.Needed(ctx, items)
	if base.NobodyThere(err) {
		needed, err = f.Needed(ctx, items)
	}
	if err != nil {
		return nil, fmt.Errorf("what builds need is not known, so nothing is deleted (--all would not ask): %w", base.NoAnswer(f, err))
	}
	return needed, nil
}

// GCFlags are the flags of the commands that collect garbage.
func GCFlags(fs *pflag.FlagSet) (*store.GCOptions, *command.Size) {
	opts, maxFreed := new(store.GCOptions), new(command.Size)
	fs.BoolVarP(&opts.DryRun, "dry-run", "n", false, "only print what would be deleted")
	command.DurationVar(fs, &opts.OlderThan, "older-than", 0, "spare items that came into the store less than this ago")
	fs.Var(maxFreed, "max-freed", "stop after this much, such as 5GiB")
	return opts, maxFreed
}

// WriteGarbage says what a collection deleted, and returns an error with an exit code of its own if it
// had to leave something.
func WriteGarbage(inv *command.Invocation, result *store.GCResult, dryRun bool) error {
	for _, path := range result.Deleted {
		fmt.Fprintln(inv.Out, path)
	}
	word := "freed"
	if dryRun {
		word = "would be freed"
	}
	fmt.Fprintf(inv.Err, "%s, %s %s\n", human.Count(len(result.Deleted), "item"), quantity.Bytes(result.Freed), word)
	if len(result.Left) == 0 {
		return nil
	}
	for _, left := range result.Left {
		what := human.Printable(left.Problem)
		if left.Path != "" {
			what = human.Printable(string(left.Path)) + ": " + what
		}
		fmt.Fprintf(inv.Err, "left: %s\n", what)
	}
	if result.LeftMore > 0 {
		fmt.Fprintf(inv.Err, "left: %d more\n", result.LeftMore)
	}
	return command.Exit(command.ExitLeft, fmt.Errorf("%s could not be deleted", human.Count(len(result.Left)+result.LeftMore, "thing")))
}
