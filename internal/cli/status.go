package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/human"
)

func statusCommand() *command {
	return &command{
		name:  "status",
		short: "show the coordinator at one glance",
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter status", "builds, machines, what runs and what travels"},
			{"watch -n 1 lighter status", "the same every second"},
			{"lighter status --json | jq .counts", "for a program"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := socketFlags(fs)
			asJSON := fs.Bool("json", false, "print a JSON object")
			return clientAction(where, func(ctx context.Context, inv *invocation, client *apiclient.Client, _ folders) error {
				if err := inv.arguments("", 0, 0); err != nil {
					return err
				}
				status, err := client.Status(ctx)
				if err != nil {
					return err
				}
				if *asJSON {
					return writeJSON(inv.Out, status)
				}
				return writeStatus(inv, status, time.Now())
			})
		},
	}
}

func eventsCommand() *command {
	return &command{
		name:  "events",
		args:  "[ID…]",
		short: "print what happens to builds and machines",
		long: `Prints a line for each change of a build or a machine; with ID only for those
builds. Events have numbers without gaps, so that a program can go on where it
stopped: --from.`,
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter events --follow", "what happens from now on"},
			{"lighter events --from 1 --json", "everything that ever happened, one JSON object a line"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := socketFlags(fs)
			follow := fs.BoolP("follow", "f", false, "go on as things happen, also across a restart of the coordinator")
			from := fs.Uint64("from", 0, "number of the first event (default: with --follow the next one, else 1)")
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return clientAction(where, func(ctx context.Context, inv *invocation, client *apiclient.Client, _ folders) error {
				first := *from
				if *follow && !inv.flags.Changed("from") {
					status, err := client.Status(ctx)
					if err != nil {
						return err
					}
					first = status.LastEvent + 1
				}
				show := func(ev *api.Event) error {
					if *asJSON {
						return writeJSONLine(inv.Out, ev)
					}
					_, err := fmt.Fprintf(inv.Out, "%d %s %s %s\n", ev.Seq, ev.Time.Local().Format("2006-01-02 15:04:05.000"), eventSubject(ev), eventText(ev))
					return err
				}
				if *follow {
					return client.FollowAcross(ctx, first, coordinatorGrace, show, inv.args...)
				}
				return client.Events(ctx, first, show, inv.args...)
			})
		},
	}
}

// eventSubject is the build's id, or a dash where the event is a machine's.
func eventSubject(ev *api.Event) string {
	if ev.Build == "" {
		return "-"
	}
	return human.Printable(ev.Build)
}
