package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/cli/storecommands"
	"lighter/internal/cli/terminal"
	"lighter/internal/human"
	"lighter/internal/machinetest"
	"lighter/nar/signature"
	"lighter/store"
)

func machinesStatusCommand() *command.Command {
	return &command.Command{
		Name:  "status",
		Pages: true,
		Short: "show what the coordinator knows of its machines",
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter machines status", "who is up, and how busy"},
			{"lighter machines status --json | jq -r 'select(.state == \"down\") | .name'", "for a program, one machine a line"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				list, err := client.Machines(ctx)
				if err != nil {
					return err
				}
				return writeMachines(inv, list, *asJSON)
			})
		},
	}
}

func machinesTestCommand() *command.Command {
	return &command.Command{
		Name:  "test",
		Args:  "[NAME…]",
		Short: "try whether machines can build",
		Long: `Connects to the machines, by default to all, at the same time, and tries in order what building there needs: the SSH connection, the agent, its store, the systems that it builds for, whether it can build, the keys, its limits, the clock. If something fails, it says how to fix it. A machine is good if a build would be placed there now.

Where a coordinator runs, it does this over its own connections, exchanges a small item with the machine, and says whether it is paused, or the machine drained; else this command connects by itself, and only looks.`,
		Exits: []int{command.ExitBadInput, command.ExitUnusable},
		Examples: []command.Example{
			{"lighter machines test", "all machines"},
			{"lighter machines test alpha beta", "two of them"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where := testerFlags(fs)
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return testerAction(where, func(ctx context.Context, inv *command.Invocation, t *machineTester, names []string) error {
				return testMachines(ctx, inv, t, names, *asJSON)
			})
		},
	}
}

// testMachines tests machines at the same time and shows the results in order.
func testMachines(ctx context.Context, inv *command.Invocation, t *machineTester, names []string, asJSON bool) error {
	trials, errs := make([]*api.MachineTrial, len(names)), make([]error, len(names))
	var group errgroup.Group
	for i, name := range names {
		group.Go(func() error {
			trials[i], errs[i] = t.test(ctx, name)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	bad := 0
	for i, trial := range trials {
		if errs[i] != nil {
			return fmt.Errorf("test %s: %w", names[i], errs[i])
		}
		if !trial.OK {
			bad++
		}
		if asJSON {
			if err := base.WriteJSONLine(inv.Out, trial); err != nil {
				return err
			}
			continue
		}
		writeTrial(inv.Out, trial, display.StyleOf(inv.Out, inv.Getenv))
	}
	return unusable(bad, len(names))
}

func writeTrial(w io.Writer, t *api.MachineTrial, style display.Style) {
	fmt.Fprintf(w, "%s: %s\n", human.Printable(t.Machine), style.Verdict(t.OK, "good", "can't be used"))
	writeSteps(w, t.Steps, style)
}

// writeSteps writes the steps of a trial, and what to do.
func writeSteps(w io.Writer, steps []api.TrialStep, style display.Style) {
	const width = len(machinetest.StepSystems)
	for _, s := range steps {
		outcome := cmp.Or(s.Outcome, api.TrialBad)
		if s.OK {
			outcome = api.TrialGood
		}
		text := fmt.Sprintf("%-7s", human.Printable(string(outcome)))
		fmt.Fprintf(w, "  %-*s  %s  %s\n", width, human.Printable(s.Name), style.Verdict(outcome != api.TrialBad, text, text), human.Printable(s.Detail))
		writeFix(w, strings.Repeat(" ", width+len(text)+6), s.Fix)
	}
}

// writeFix writes what to do, behind an arrow.
func writeFix(w io.Writer, margin, fix string) {
	if fix == "" {
		return
	}
	for line := range strings.SplitSeq(human.PrintableText(fix), "\n") {
		fmt.Fprintf(w, "%s→ %s\n", margin, line)
	}
}

// arrow is what to do, below an error; empty if that is.
func arrow(fix string) string {
	if fix == "" {
		return ""
	}
	return "\n  → " + strings.ReplaceAll(fix, "\n", "\n    ")
}

func machinesGCCommand() *command.Command {
	return &command.Command{
		Name:  "gc",
		Args:  "NAME…",
		Short: "delete from machines' stores what no build needs",
		Long:  `Deletes items of the machines' stores that no root and no build needs, and prints their paths. On a terminal it asks first; elsewhere it wants --yes.`,
		Exits: []int{command.ExitNoAnswer, command.ExitLeft},
		Examples: []command.Example{
			{"lighter machines gc --dry-run alpha", "what would go?"},
			{"lighter machines gc --older-than 3d --yes alpha", "outputs that nobody asked for in three days"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			opts, maxFreed := storecommands.GCFlags(fs)
			consent := base.AddConsentFlag(fs, "don't ask")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				if err := machinesExist(ctx, inv, client, inv.Args); err != nil {
					return err
				}
				if !opts.DryRun {
					about := "this deletes from the store of " + strings.Join(inv.Args, ", ") + " what no build needs"
					if ok, err := consent.Given(ctx, inv, about, "Go on?"); !ok {
						return err
					}
				}
				var all store.GCResult
				for _, name := range inv.Args {
					result, err := client.CollectGarbage(ctx, name, api.MachineGC{
						MaxFreed: int64(*maxFreed), OlderThan: api.Seconds(opts.OlderThan.Seconds()), DryRun: opts.DryRun,
					})
					if err != nil {
						return fmt.Errorf("collect garbage on %s: %w", name, err)
					}
					all.Deleted = append(all.Deleted, result.Deleted...)
					all.Freed += result.Freed
					for _, left := range result.Left {
						left.Problem = "on " + name + ": " + left.Problem
						all.Left = append(all.Left, left)
					}
					all.LeftMore += result.LeftMore
				}
				return storecommands.WriteGarbage(inv, &all, opts.DryRun)
			})
		},
	}
}

func machinesAuthorizeCommand() *command.Command {
	return &command.Command{
		Name:  "authorize",
		Args:  "NAME…",
		Short: "trust the key with which a machine signs",
		Long:  `Asks each machine for the key with which its store signs, shows the fingerprint, and after a yes adds the key to the head's ACL. Without this nothing that the machine builds is imported. The key comes over SSH from a machine whose host key is pinned; compare the fingerprint with what "lighter key show --fingerprint FILE" says there if that is not enough.`,
		Exits: []int{command.ExitBadInput, command.ExitUnusable},
		Examples: []command.Example{
			{"lighter machines authorize alpha", "after a look at the fingerprint"},
			{"lighter machines authorize --yes alpha beta gamma", "without being asked"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where := testerFlags(fs)
			yes := fs.BoolP("yes", "y", false, "don't ask")
			return testerAction(where, func(ctx context.Context, inv *command.Invocation, t *machineTester, names []string) error {
				return authorizeMachines(ctx, inv, t, names, *yes)
			})
		},
	}
}

func authorizeMachines(ctx context.Context, inv *command.Invocation, t *machineTester, names []string, yes bool) error {
	if !yes && terminal.Of(inv.In) == nil {
		return base.ErrNobodyToAsk(inv)
	}
	for _, name := range names {
		key, err := machineKey(ctx, t, name)
		if err != nil {
			return command.Exit(command.ExitUnusable, err)
		}
		acl, err := loadACL(t.folders)
		if err != nil {
			return err
		}
		if acl.Authorized(key) {
			fmt.Fprintf(inv.Out, "%s: already authorized in %s: %s\n", name, t.folders.ACL(), key.Fingerprint())
			continue
		}
		if !yes {
			ok, err := base.Ask(ctx, inv, fmt.Sprintf("%s signs with the key %s. Trust it?", name, key.Fingerprint()))
			if err != nil {
				return err
			}
			if !ok {
				fmt.Fprintf(inv.Out, "%s: not authorized\n", name)
				continue
			}
		}
		if _, err := changeACL(t.folders, key, false); errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%s is not authorized: %w; whoever may write there can: %s", name, err, t.asRoot(key, name))
		} else if err != nil {
			return err
		}
		fmt.Fprintf(inv.Out, "%s: authorized in %s: %s\n", name, t.folders.ACL(), key.Fingerprint())
		if t.client != nil {
			// So that the coordinator finds out now; what else is wrong shows in its status.
			_, _ = t.test(ctx, name)
		}
	}
	return nil
}

// asRoot is the command with which root trusts a machine. Root's own keys may not lead there, but
// the coordinator's connections do.
func (t *machineTester) asRoot(key *signature.PublicKey, name string) string {
	if t.client == nil {
		return pipedKey(t.folders, key, false)
	}
	return "sudo lighter machines authorize --socket " + human.ShellWord(t.folders.Socket) + " " + human.ShellWord(name)
}

// machineKey asks a machine for the key with which it signs.
func machineKey(ctx context.Context, t *machineTester, name string) (*signature.PublicKey, error) {
	trial, err := t.test(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its key: %w", name, err)
	}
	if trial.Status.PublicKey == "" {
		i := slices.IndexFunc(trial.Steps, func(s api.TrialStep) bool { return !s.OK })
		if i < 0 {
			return nil, fmt.Errorf("%s did not say with which key it signs", name)
		}
		return nil, fmt.Errorf("ask %s for its key: %s: %s%s", name, trial.Steps[i].Name, trial.Steps[i].Detail, arrow(trial.Steps[i].Fix))
	}
	key, err := signature.ParsePublicKey([]byte(trial.Status.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", name, err)
	}
	return key, nil
}
