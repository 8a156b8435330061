package cli

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/doctor"
	"lighter/internal/head"
	"lighter/internal/human"
)

// steeredCoordinatorCommand is the command that runs the coordinator, with those below it
// that tell a running one what to do.
func steeredCoordinatorCommand() *command.Command {
	c := coordinatorCommand()
	c.Sub = append(c.Sub, coordinatorCheckCommand(), coordinatorPauseCommand(), coordinatorResumeCommand(), coordinatorReloadCommand())
	return c
}

func coordinatorCheckCommand() *command.Command {
	return &command.Command{
		Name:  "check",
		Short: "try all that a start would, without starting",
		Long:  `Reads settings and machines file, and tries folders, keys, ACL, agents, the head's store, and what the settings ask for: users and groups, programs of event hooks, built-in hooks with their keys and folders. Each gets a line, with what to do about a problem. Run it as the coordinator's user, with the coordinator's flags; one that runs is not disturbed.`,
		Examples: []command.Example{
			{"lighter coordinator check && lighter coordinator", "start only if all is well"},
			{"runuser -u lighter -- env LIGHTER_STATE=/var/lib/lighter LIGHTER_CONFIG=/etc/lighter lighter coordinator check --store=guix-daemon", "as the systemd unit does"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where := base.AllFolderFlags(fs)
			file := fs.String("machines", "", "the machines file is `FILE` (default machines.toml in the configuration folder)")
			agents := fs.String("agents", "", "folder `DIR` with agents for the machines' platforms")
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return func(ctx context.Context, inv *command.Invocation) error {
				f, err := head.ToStart(ctx, where.Said(), inv.Getenv)
				if err != nil {
					return base.WrongKind(inv, err)
				}
				f.Machines, f.Agents = *file, *agents
				return writeFindings(ctx, inv, doctor.New(f, inv.Getenv).BeforeStart(ctx), *asJSON)
			}
		},
	}
}

func coordinatorPauseCommand() *command.Command {
	return &command.Command{
		Name:  "pause",
		Short: "place no builds until resume",
		Long:  `The coordinator places no more builds until "lighter coordinator resume", even across restarts. It still takes submissions, and what runs on machines goes on.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter coordinator pause --reason 'the head moves'", "before the head is worked on"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			reason := fs.String("reason", "", "why, for others to read")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				if err := client.Pause(ctx, *reason); err != nil {
					return err
				}
				_, err := fmt.Fprintln(inv.Out, "paused; what runs goes on")
				return err
			})
		},
	}
}

func coordinatorResumeCommand() *command.Command {
	return &command.Command{
		Name:  "resume",
		Short: "place builds again",
		Long:  `Ends what "lighter coordinator pause" began. If something else is in the way, such as the head's disk, this says so.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter coordinator resume", "go on"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				before, err := client.Status(ctx)
				if err != nil {
					return err
				}
				if err := client.Resume(ctx); err != nil {
					return err
				}
				status, err := client.Status(ctx)
				if err != nil {
					return err
				}
				text := "resumed"
				switch {
				case status.Paused != "" && status.Paused == before.Paused:
					text = "nobody has paused it, but it is " + display.Paused(status.Paused)
				case status.Paused != "":
					text = "resumed, but still " + display.Paused(status.Paused)
				case before.Paused == "":
					text = "it was not paused"
				}
				_, err = fmt.Fprintln(inv.Out, human.Printable(text))
				return err
			})
		},
	}
}

func coordinatorReloadCommand() *command.Command {
	return &command.Command{
		Name:  "reload",
		Short: "read the machines file and lighter.toml again",
		Long:  `The same as "lighter machines reload". What else lighter.toml says counts when the coordinator starts again.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter coordinator reload", "after a change of lighter.toml"},
		},
		Setup: reloadAction,
	}
}
