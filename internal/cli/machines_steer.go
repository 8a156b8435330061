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
)

// machineAction is the action of a command that changes machines, one after the other,
// and shows the state of each then.
func machineAction(fs *pflag.FlagSet, change func(ctx context.Context, client *apiclient.Client, name string) (*api.MachineStatus, error)) command.Action {
	asJSON := fs.Bool("json", false, "print one JSON object a line")
	return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
		if err := machinesExist(ctx, inv, client, inv.Args); err != nil {
			return err
		}
		for _, name := range inv.Args {
			status, err := change(ctx, client, name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := writeMachine(inv.Out, status, *asJSON); err != nil {
				return err
			}
		}
		return nil
	})
}

// machinesExist says which name is no machine's before anything is changed.
func machinesExist(ctx context.Context, inv *command.Invocation, client *apiclient.Client, names []string) error {
	list, err := client.Machines(ctx)
	if err != nil {
		return err
	}
	_, err = chooseMachines(inv, statusNames(list), names)
	return err
}

// writeMachine writes the state of a machine in one line.
func writeMachine(w io.Writer, m *api.MachineStatus, asJSON bool) error {
	if asJSON {
		return base.WriteJSONLine(w, m)
	}
	text := fmt.Sprintf("%s: %s, %s running", m.Name, display.MachineState(m), human.Count(m.Running, "build"))
	if note := display.MachineNote(m, time.Now()); note != "" {
		text += ": " + note
	}
	if tags := tagText(m.Tags); tags != "" {
		text += " [" + tags + "]"
	}
	_, err := fmt.Fprintln(w, human.Printable(text))
	return err
}

// tagText lists tags, sorted: "disk=ssd,rack=2".
func tagText(tags map[string]string) string {
	var list []string
	for k, v := range tags {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

func machinesDrainCommand() *command.Command {
	return &command.Command{
		Name:  "drain",
		Args:  "NAME…",
		Short: "give machines no new builds",
		Long:  `Machines finish what they have. They get no new builds until "lighter machines resume", even across restarts of the coordinator. A machine is "drained" when nothing runs there any more.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter machines drain --reason 'new kernel' alpha", "before a machine is worked on"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			reason := fs.String("reason", "", "why, for others to read")
			return machineAction(fs, func(ctx context.Context, client *apiclient.Client, name string) (*api.MachineStatus, error) {
				return client.Drain(ctx, name, *reason)
			})
		},
	}
}

func machinesResumeCommand() *command.Command {
	return &command.Command{
		Name:  "resume",
		Args:  "NAME…",
		Short: "give machines builds again",
		Long:  `Ends what "lighter machines drain" began, and a quarantine.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter machines resume alpha", "the machine is back"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			return machineAction(fs, func(ctx context.Context, client *apiclient.Client, name string) (*api.MachineStatus, error) {
				return client.ResumeMachine(ctx, name)
			})
		},
	}
}

func machinesTagCommand() *command.Command {
	return &command.Command{
		Name:  "tag",
		Args:  "NAME KEY=VALUE… KEY-…",
		Short: "change the tags of a machine",
		Long:  `KEY=VALUE sets a tag, KEY- removes one. Tags that are set here are kept across restarts and go before those of the machines file.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter machines tag alpha rack=2 disk=ssd", "set two tags"},
			{"lighter machines tag alpha rack-", "remove one"},
		},
		ChecksArguments: true,
		Setup: func(fs *pflag.FlagSet) command.Action {
			asJSON := fs.Bool("json", false, "print a JSON object")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				if err := inv.Arguments("NAME and tags", 2, -1); err != nil {
					return err
				}
				change, err := tagChange(inv, inv.Args[1:])
				if err != nil {
					return err
				}
				if err := machinesExist(ctx, inv, client, inv.Args[:1]); err != nil {
					return err
				}
				status, err := client.TagMachine(ctx, inv.Args[0], change)
				if err != nil {
					return fmt.Errorf("%s: %w", inv.Args[0], err)
				}
				return writeMachine(inv.Out, status, *asJSON)
			})
		},
	}
}

// tagChange reads "k=v" and "k-".
func tagChange(inv *command.Invocation, args []string) (*api.TagChange, error) {
	change := &api.TagChange{Set: make(map[string]string)}
	for _, arg := range args {
		k, v, set := strings.Cut(arg, "=")
		gone, remove := strings.CutSuffix(arg, "-")
		switch {
		case set && k != "":
			change.Set[k] = v
		case !set && remove && gone != "":
			change.Remove = append(change.Remove, gone)
		default:
			return nil, inv.UsageErrorf("%q: want KEY=VALUE to set a tag, or KEY- to remove one", arg)
		}
	}
	for _, k := range change.Remove {
		if _, ok := change.Set[k]; ok {
			return nil, inv.UsageErrorf("tag %q is both set and removed", k)
		}
	}
	return change, nil
}

func machinesReloadCommand() *command.Command {
	return &command.Command{
		Name:  "reload",
		Short: "have the coordinator read its machines file now",
		Long:  `The coordinator rereads its machines file by itself when it changes; this does not wait for that. A bad file is refused as a whole, with what is wrong, and the machines stay as they are. A machine that is no longer in the file finishes its builds first. Hooks and rights of lighter.toml are read, too; a warning says what of them can't be carried out.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter machines check && lighter machines reload", "after a change of the file"},
		},
		Setup: reloadAction,
	}
}

// reloadAction is that of "machines reload" and "coordinator reload".
func reloadAction(fs *pflag.FlagSet) command.Action {
	asJSON := fs.Bool("json", false, "print a JSON object")
	return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
		done, err := client.Reload(ctx)
		if err != nil {
			return err
		}
		if *asJSON {
			return base.WriteJSON(inv.Out, done)
		}
		if err := writeReloaded(inv.Out, done); err != nil {
			return err
		}
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		for _, problem := range status.SettingsProblems {
			fmt.Fprintf(inv.Err, "warning: %s\n", human.Printable(problem))
		}
		return nil
	})
}

func writeReloaded(w io.Writer, done *api.Reloaded) error {
	if len(done.Added)+len(done.Changed)+len(done.Removed) == 0 {
		_, err := fmt.Fprintln(w, "no machine changed; hooks and rights of lighter.toml were read again")
		return err
	}
	for _, part := range []struct {
		word  string
		names []string
	}{{"added", done.Added}, {"changed", done.Changed}, {"removed", done.Removed}} {
		if len(part.names) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", part.word, human.Printable(strings.Join(part.names, ", "))); err != nil {
			return err
		}
	}
	return nil
}
