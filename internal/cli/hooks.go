package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

func hooksCommand() *command.Command {
	return &command.Command{
		Name:  "hooks",
		Short: "look at event hooks, and retry what failed",
		Long: `Event hooks are programs and built-ins that the coordinator runs when something happens to a build or a machine. A run that fails is tried again, after ever longer pauses; after some tries it is parked: it waits for a person.

A run is named after its hook and the number of its event, such as publish/1042. "lighter help event-hooks" says how to write hooks.`,
		Sub: []*command.Command{
			hooksListCommand(), hooksShowCommand(), hooksRetryCommand(), hooksDropCommand(), hooksTestCommand(),
		},
	}
}

func hooksListCommand() *command.Command {
	return &command.Command{
		Name:  "list",
		Pages: true,
		Short: "list hooks, and the runs that failed",
		Long: `Lists the hooks with the numbers of their runs, then the runs that are parked or wait for their next try. BEHIND is how many events a hook has not looked at yet: it looks at more when it has carried out what it has.

With --json one object has everything, including the runs that merely wait; at most 1000 parked ones and 1000 others.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter hooks list", "the state of the hooks"},
			{"lighter hooks list --json | jq -r '.runs[] | select(.state == \"parked\") | .id'", "what is parked, for a program"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			limit := fs.IntP("limit", "n", maxHookRuns, "show at most this many runs that failed; 0 means all")
			asJSON := fs.Bool("json", false, "print a JSON object")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				list, err := client.Hooks(ctx)
				if err != nil {
					return err
				}
				if *asJSON {
					return base.WriteJSON(inv.Out, list)
				}
				return writeHooks(inv, list, time.Now(), *limit)
			})
		},
	}
}

// hookDoes is what a hook runs, for a table.
func hookDoes(h *api.HookStatus) string {
	if h.BuiltIn != "" {
		return "built in: " + h.BuiltIn
	}
	return strings.Join(h.Command, " ")
}

// maxHookRuns is how many runs that failed are listed, unless all are asked for.
const maxHookRuns = 20

// writeHooks shows hooks, and at most limit of their runs that failed; 0 means all.
func writeHooks(inv *command.Invocation, list *api.HookList, now time.Time, limit int) error {
	if len(list.Hooks) == 0 {
		fmt.Fprintln(inv.Err, "no hooks")
		return nil
	}
	hooks := display.Table{Heading: []string{"HOOK", "COMMAND", "EVENTS", "WAITING", "RUNNING", "PARKED", "DONE", "BEHIND"}}
	for i := range list.Hooks {
		h := &list.Hooks[i]
		hooks.Add(h.Name, hookDoes(h), strings.Join(h.Events, " "), human.Number(h.Waiting), human.Number(h.Running), human.Number(h.Parked),
			human.Number(int(h.Done)), human.Number(int(h.Behind))) // #nosec G115 -- counts of events
	}
	if err := hooks.Write(inv.Out, display.Width(inv.Out)); err != nil {
		return err
	}
	for i := range list.Hooks {
		if h := &list.Hooks[i]; h.Problem != "" {
			fmt.Fprintf(inv.Out, "\n%s is not carried out, and its events wait for it: %s\n", human.Printable(h.Name), human.Line(h.Problem))
		}
	}
	if !list.Since.IsZero() {
		fmt.Fprintf(inv.Out, "\nDONE counts since the coordinator was started, %s.\n", human.Ago(list.Since, now))
	}
	left := 0
	runs := display.Table{Heading: []string{"RUN", "STATE", "EVENT", "OF", "SINCE", "TRIES", "NEXT", "WHY"}, Optional: []int{6, 5, 2}}
	for i := range list.Runs {
		r := &list.Runs[i]
		if r.State != "parked" && r.Tries == 0 {
			continue
		}
		if limit > 0 && len(runs.Rows) == limit {
			left++
			continue
		}
		runs.Add(r.ID, r.State, r.Event, runSubject(r), human.ShortAgo(r.Since, now), human.Number(r.Tries),
			human.Known(r.NextTry != nil, nextTry(r, now)), oneLine(r.Error))
	}
	if len(runs.Rows) == 0 {
		return nil
	}
	fmt.Fprintln(inv.Out)
	err := runs.Write(inv.Out, display.Width(inv.Out))
	if left > 0 {
		fmt.Fprintf(inv.Err, "and %s more; --limit 0 shows all\n", human.Number(left))
	}
	return err
}

// runSubject is the build or the machine that a run is about.
func runSubject(r *api.HookRun) string {
	if r.Build != "" {
		return display.ShortID(r.Build)
	}
	return r.Machine
}

func nextTry(r *api.HookRun, now time.Time) string {
	switch {
	case r.NextTry == nil:
		return ""
	case r.NextTry.After(now):
		return "in " + quantity.Duration(r.NextTry.Sub(now))
	}
	return "now"
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func hooksShowCommand() *command.Command {
	return &command.Command{
		Name:  "show",
		Pages: true,
		Args:  "RUN…",
		Short: "show a run with its output",
		Long:  `Shows all that is known of runs that wait or are parked, with the end of what the last try wrote. Runs that are done are not kept.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter hooks show publish/1042", "why did it fail?"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				list, err := client.Hooks(ctx)
				if err != nil {
					return err
				}
				if err := hooksExist(inv, list, inv.Args...); err != nil {
					return err
				}
				return base.ShowEach(inv, *asJSON, func(id string) (*api.HookRun, error) { return client.HookRun(ctx, id) }, func(run *api.HookRun) error {
					return writeHookRun(inv.Out, run, time.Now())
				})
			})
		},
	}
}

func writeHookRun(w io.Writer, r *api.HookRun, now time.Time) error {
	var s strings.Builder
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&s, "%-8s %s\n", name, human.Printable(value))
		}
	}
	field("run", r.ID)
	field("hook", r.Hook)
	field("event", fmt.Sprintf("%s, number %d, %s", r.Event, r.EventSeq, human.Ago(r.Since, now)))
	field("build", r.Build)
	field("machine", r.Machine)
	field("state", r.State)
	field("tries", human.Number(r.Tries))
	field("next", nextTry(r, now))
	field("error", r.Error)
	writeHookOutput(&s, r.Output)
	_, err := io.WriteString(w, s.String())
	return err
}

// writeHookOutput writes what a hook wrote, made harmless.
func writeHookOutput(s *strings.Builder, output string) {
	if output == "" {
		return
	}
	fmt.Fprintln(s)
	for line := range strings.Lines(output) {
		fmt.Fprintf(s, "│ %s\n", human.LogLine(strings.TrimRight(line, "\n")))
	}
}

// hookSelection are the arguments and flags that name runs.
type hookSelection struct {
	hook string
	all  bool
}

func (h *hookSelection) define(fs *pflag.FlagSet, do string) {
	fs.StringVar(&h.hook, "hook", "", do+" all parked runs of the hook `NAME`")
	fs.BoolVar(&h.all, "all", false, do+" all parked runs")
}

func (h *hookSelection) selection(inv *command.Invocation) (*api.HookSelection, error) {
	given := 0
	for _, set := range []bool{len(inv.Args) > 0, h.hook != "", h.all} {
		if set {
			given++
		}
	}
	if given != 1 {
		return nil, inv.UsageErrorf("want runs, or --hook, or --all")
	}
	return &api.HookSelection{IDs: inv.Args, Hook: h.hook, All: h.all}, nil
}

// hooksExist says which name, perhaps of a run, is no hook's, before anything is changed.
func hooksExist(inv *command.Invocation, list *api.HookList, names ...string) error {
	var there []string
	for i := range list.Hooks {
		there = append(there, list.Hooks[i].Name)
	}
	for _, name := range names {
		name, _, _ = strings.Cut(name, "/")
		if name != "" && !slices.Contains(there, name) {
			if len(there) == 0 {
				return inv.UsageErrorf("no hook is called %q; there are none", name)
			}
			return inv.UsageErrorf("no hook is called %q; %s", name, command.NearestOf(name, there, "there are"))
		}
	}
	return nil
}

// mayDrop asks about parked runs that are not named one by one.
func mayDrop(ctx context.Context, inv *command.Invocation, list *api.HookList, which *hookSelection, consent *base.Consent) (bool, error) {
	parked := 0
	for i := range list.Hooks {
		if h := &list.Hooks[i]; which.all || h.Name == which.hook {
			parked += h.Parked
		}
	}
	if parked == 0 {
		return true, nil
	}
	return consent.Given(ctx, inv, human.Count(parked, "parked run")+" will never be carried out", "Drop them?")
}

// hooksSelecting is a command that does something to selected runs, and says so with
// the words of done.
func hooksSelecting(c *command.Command, do, done string, ask func(*apiclient.Client, context.Context, *api.HookSelection) (*api.Selected, error)) *command.Command {
	c.Args = "[RUN…]"
	c.Exits = []int{command.ExitNoAnswer}
	c.Setup = func(fs *pflag.FlagSet) command.Action {
		var which hookSelection
		which.define(fs, do)
		asJSON := fs.Bool("json", false, "print a JSON object")
		var consent *base.Consent
		if do == "drop" {
			consent = base.AddConsentFlag(fs, "don't ask about --all and --hook")
		}
		return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
			selection, err := which.selection(inv)
			if err != nil {
				return err
			}
			list, err := client.Hooks(ctx)
			if err != nil {
				return err
			}
			if err := hooksExist(inv, list, slices.Concat(selection.IDs, []string{which.hook})...); err != nil {
				return err
			}
			if consent != nil {
				if ok, err := mayDrop(ctx, inv, list, &which, consent); !ok {
					return err
				}
			}
			selected, err := ask(client, ctx, selection)
			if err != nil {
				return err
			}
			if *asJSON {
				return base.WriteJSON(inv.Out, selected)
			}
			fmt.Fprintf(inv.Out, "%s %s\n", human.Count(selected.Count, "run"), done)
			return nil
		})
	}
	return c
}

func hooksRetryCommand() *command.Command {
	return hooksSelecting(&command.Command{
		Name:  "retry",
		Short: "try runs again",
		Long: `Has parked runs carried out again, with all their tries. Those that wait for their next try are tried now.

A run that was parked comes after later ones of the same build, which did not wait for it.`,
		Examples: []command.Example{
			{"lighter hooks retry publish/1042", "one run"},
			{"lighter hooks retry --hook publish", "all that is parked, once the hook is repaired"},
		},
	}, "retry", "will be tried again", (*apiclient.Client).RetryHooks)
}

func hooksDropCommand() *command.Command {
	return hooksSelecting(&command.Command{
		Name:  "drop",
		Short: "forget runs",
		Long:  `Forgets parked runs: they are not carried out. A run that is named may also be one that waits for its next try. Before it drops all of a hook, or all, it asks on a terminal; elsewhere it wants --yes.`,
		Examples: []command.Example{
			{"lighter hooks drop publish/1042", "one run"},
			{"lighter hooks drop --all", "all that is parked"},
		},
	}, "drop", "dropped", (*apiclient.Client).DropHooks)
}

func hooksTestCommand() *command.Command {
	return &command.Command{
		Name:  "test",
		Args:  "HOOK [BUILD]",
		Short: "carry a hook out once, by hand",
		Long: `Carries a hook out once, on the coordinator, for a build as it is now, and prints what it wrote. The event is the one of the build's state, if --event names no other; its number is 0. Nothing of it is kept, and it is not tried again.

For the events of machines, machine-lost and machine-back, name a machine in place of a build.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter hooks test publish 3f2a91c0", "what would it do with this build?"},
			{"lighter hooks test mail --event machine-lost --machine eightysix", "an event of a machine"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			var test api.HookTest
			fs.StringVar(&test.Event, "event", "", "the event is `NAME`")
			fs.StringVar(&test.Machine, "machine", "", "the event is about the machine `NAME`")
			asJSON := fs.Bool("json", false, "print a JSON object")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				list, err := client.Hooks(ctx)
				if err != nil {
					return err
				}
				if err := hooksExist(inv, list, inv.Args[0]); err != nil {
					return err
				}
				if len(inv.Args) == 2 {
					test.Build = inv.Args[1]
				}
				tested, err := client.TestHook(ctx, inv.Args[0], &test)
				if err != nil {
					return err
				}
				return writeHookTested(inv, inv.Args[0], tested, *asJSON)
			})
		},
	}
}

func writeHookTested(inv *command.Invocation, hook string, tested *api.HookTested, asJSON bool) error {
	if asJSON {
		if err := base.WriteJSON(inv.Out, tested); err != nil {
			return err
		}
	} else {
		var s strings.Builder
		result := "done"
		if !tested.OK {
			result = "failed: " + tested.Error
		}
		fmt.Fprintf(&s, "%s, %s: %s, in %s\n", hook, tested.Event, human.Printable(result), quantity.Duration(tested.Took.Duration()))
		writeHookOutput(&s, tested.Output)
		if _, err := io.WriteString(inv.Out, s.String()); err != nil {
			return err
		}
	}
	if !tested.OK {
		return command.Exit(command.ExitFailure, nil)
	}
	return nil
}
