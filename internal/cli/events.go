package cli

import (
	"context"
	"fmt"
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

func eventsCommand() *command.Command {
	return &command.Command{
		Name:  "events",
		Pages: true,
		Args:  "[ID…]",
		Short: "print what happens to builds and machines",
		Long: `Prints a line for each change of a build, a machine or the coordinator; with ID only for those builds. Each event is printed once, in order, even if the coordinator is restarted meanwhile.

Events have numbers without gaps, so that a program can go on where it stopped: --from. Only those of builds that were pruned are gone. --state, --machine and --kind show fewer of them; the numbers stay.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter events --follow", "what happens from now on"},
			{"lighter events --from 1 --json", "everything that ever happened, one JSON object a line"},
			{"lighter events --follow --from 4711 --json", "for a program that has seen 4710"},
			{"lighter events --follow --state failed,timed-out", "only what fails"},
			{"lighter events --since 1h --last 50", "the last ones of this hour"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			e := &eventsAction{}
			fs.BoolVarP(&e.follow, "follow", "f", false, "go on as things happen, even across a restart of the coordinator")
			fs.Uint64Var(&e.from, "from", 0, "number of the first event (default: with --follow the next one, else 1)")
			fs.StringSliceVarP(&e.states, "state", "o", nil, "only events in which a build comes into this `STATE`, or one of open, running and done; may be repeated")
			fs.StringVarP(&e.machine, "machine", "m", "", "only events of this machine, by `NAME`")
			fs.StringSliceVar(&e.kinds, "kind", nil, fmt.Sprintf("only events of this `KIND`, one of %s; may be repeated", strings.Join(texts(api.EventKinds()), ", ")))
			fs.StringVar(&e.sinceText, "since", "", "only events at this `TIME` or later: 2h (ago), yesterday, 14:30, 2026-11-20")
			fs.IntVarP(&e.last, "last", "n", 0, "only the last `N` of those that are there; 0 means all")
			fs.BoolVar(&e.json, "json", false, "print one JSON object a line")
			return base.ClientAction(fs, e.run)
		},
	}
}

// eventsAction is one run of "lighter events".
type eventsAction struct {
	follow, json  bool
	from          uint64
	states, kinds []string
	machine       string
	wanted        []api.State
	sinceText     string
	since         time.Time
	last          int         // show that many; 0 means all
	kept          []api.Event // the last ones so far, if last is not 0
}

func (e *eventsAction) run(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
	var err error
	if e.wanted, err = parseStates(inv, e.states); err != nil {
		return err
	}
	for _, kind := range e.kinds {
		if !slices.Contains(api.EventKinds(), api.EventKind(kind)) {
			return inv.UsageErrorf("no kind of event is called %q; there are %s", kind, strings.Join(texts(api.EventKinds()), ", "))
		}
	}
	switch {
	case e.last < 0 || e.last > maxLastEvents || e.last > 0 && e.follow:
		return inv.UsageErrorf("--last wants a number from 0 to %d, and does not go with --follow", maxLastEvents)
	case e.sinceText != "":
		if e.since, err = human.ParseTime(e.sinceText, time.Now()); err != nil {
			return inv.UsageErrorf("--since: %w", err)
		}
	}
	if e.follow && !inv.Flags.Changed("from") && e.sinceText == "" {
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		e.from = status.LastEvent + 1
	}
	show := func(ev *api.Event) error { return e.show(inv, ev) }
	if e.follow {
		return client.FollowAcross(ctx, e.from, base.CoordinatorGrace, show, inv.Args...)
	}
	if err := client.Events(ctx, e.from, show, inv.Args...); err != nil {
		return err
	}
	for i := range e.kept {
		if err := e.write(inv, &e.kept[i]); err != nil {
			return err
		}
	}
	return nil
}

// maxLastEvents bounds what --last keeps in memory.
const maxLastEvents = 100_000

func (e *eventsAction) selects(ev *api.Event) bool {
	return (len(e.wanted) == 0 || slices.Contains(e.wanted, ev.State)) &&
		(len(e.kinds) == 0 || slices.Contains(e.kinds, string(ev.Kind))) &&
		(e.machine == "" || e.machine == ev.Machine) && !ev.Time.Before(e.since)
}

func (e *eventsAction) show(inv *command.Invocation, ev *api.Event) error {
	if !e.selects(ev) {
		return nil
	}
	if e.last > 0 {
		if len(e.kept) == e.last {
			e.kept = e.kept[1:]
		}
		e.kept = append(e.kept, *ev)
		return nil
	}
	return e.write(inv, ev)
}

func (e *eventsAction) write(inv *command.Invocation, ev *api.Event) error {
	if e.json {
		return base.WriteJSONLine(inv.Out, ev)
	}
	_, err := fmt.Fprintf(inv.Out, "%d %s %s %s\n", ev.Seq, ev.Time.Local().Format("2006-01-02 15:04:05.000"), eventSubject(ev), display.EventText(ev))
	return err
}

// eventSubject is the build's id and name, or a dash where the event is a machine's.
func eventSubject(ev *api.Event) string {
	if ev.Build == "" {
		return "-"
	}
	if ev.Derivation == "" {
		return human.Printable(display.ShortID(ev.Build))
	}
	return human.Printable(display.ShortID(ev.Build) + " " + api.DerivationName(ev.Derivation))
}

func metricsCommand() *command.Command {
	return &command.Command{
		Name:  "metrics",
		Short: "print the coordinator's figures for Prometheus",
		Long:  `Prints what GET /v1/metrics on the coordinator's socket answers, in Prometheus's text format: builds by state, queues, machines, transfers, times. docs/metrics.md has the names, and how a Prometheus server gets at them.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter metrics", "all figures"},
			{"lighter metrics > /var/lib/node_exporter/lighter.prom.new && mv /var/lib/node_exporter/lighter.prom.new /var/lib/node_exporter/lighter.prom", "for node_exporter's textfile collector"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				return client.Metrics(ctx, inv.Out)
			})
		},
	}
}
