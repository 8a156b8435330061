package cli

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
)

// steeredCoordinatorCommand is the command that runs the coordinator, with those below it
// that tell a running one what to do.
func steeredCoordinatorCommand() *command {
	c := coordinatorCommand()
	c.sub = append(c.sub, coordinatorPauseCommand(), coordinatorResumeCommand(), coordinatorReloadCommand())
	return c
}

func coordinatorPauseCommand() *command {
	return &command{
		name:  "pause",
		short: "place no builds until resume",
		long:  `The coordinator places no more builds until "lighter coordinator resume", even across restarts. It still takes submissions, and what runs on machines goes on.`,
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter coordinator pause --reason 'the head moves'", "before the head is worked on"},
		},
		setup: func(fs *pflag.FlagSet) action {
			reason := fs.String("reason", "", "why, for others to read")
			return clientAction(fs, func(ctx context.Context, inv *invocation, client *apiclient.Client) error {
				if err := client.Pause(ctx, *reason); err != nil {
					return err
				}
				_, err := fmt.Fprintln(inv.Out, "paused; what runs goes on")
				return err
			})
		},
	}
}

func coordinatorResumeCommand() *command {
	return &command{
		name:  "resume",
		short: "place builds again",
		long:  `Ends what "lighter coordinator pause" began. If something else is in the way, such as the head's disk, this says so.`,
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter coordinator resume", "go on"},
		},
		setup: func(fs *pflag.FlagSet) action {
			return clientAction(fs, func(ctx context.Context, inv *invocation, client *apiclient.Client) error {
				if err := client.Resume(ctx); err != nil {
					return err
				}
				status, err := client.Status(ctx)
				if err != nil {
					return err
				}
				text := "resumed"
				if status.Paused != "" {
					text = "resumed, but still " + display.Paused(status.Paused)
				}
				_, err = fmt.Fprintln(inv.Out, human.Printable(text))
				return err
			})
		},
	}
}

func coordinatorReloadCommand() *command {
	return &command{
		name:  "reload",
		short: "read the machines file now",
		long:  `The same as "lighter machines reload".`,
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter coordinator reload", "after a change of machines.toml"},
		},
		setup: reloadAction,
	}
}
