package cli

import (
	"context"
	"errors"

	"github.com/spf13/pflag"

	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/machines"
)

func coordinatorCommand() *command.Command {
	return &command.Command{
		Name:  "coordinator",
		Short: "run the process that has things built",
		Long: `Runs the coordinator in the foreground, until it is interrupted or terminated. It owns the queue, the ledger and the connections to the machines; there is one per state folder. Builds on machines go on while it is away, and when it is started again it takes up everything where it was, even after it was killed.

Next to the machines file there may be lighter.toml, with limits, event hooks, and where to publish; "lighter help lighter.toml" describes it. The machines file is read again when it changes, and the hooks of lighter.toml with "lighter coordinator reload"; its other settings take effect at the next start.

Where guix-daemon answers and nothing was said, or with --store=guix-daemon, the head's store is Guix's: derivations and inputs are read there, what machines sign is checked against /etc/guix/acl, and the machines may be those of /etc/guix/machines.scm. guix-daemon offloads to this coordinator when it is told to run lighter-guix; "lighter help guix" says how.

On its first start, with a store of its own, it makes the head's signing key. The machines must trust that key, and the head theirs: the first happens by itself where the machine uses lighter's own store, the second with "lighter machines authorize".

Machines get lighter-agent for their platform from a folder with files such as lighter-agent-linux-arm64: --agents, $LIGHTER_AGENTS, "agents" beside this program, or ../lib/lighter/agents from there.`,
		Exits: []int{command.ExitBadInput, command.ExitInterrupted},
		Examples: []command.Example{
			{"lighter coordinator", "with the machines of the configuration folder"},
			{"lighter coordinator --machines ./machines.toml --state /scratch/me/lighter --log-level debug", "with everything elsewhere"},
			{"lighter coordinator --store=guix-daemon", "for guix-daemon, with the machines of /etc/guix/machines.scm"},
			{"systemd-run --user --unit lighter lighter coordinator --log-format json", "in the background, under systemd"},
		},
		TakesSignals: true,
		Setup: func(fs *pflag.FlagSet) command.Action {
			c := &coordinatorAction{}
			fs.StringVar(&c.machines, "machines", "", "the machines file is `FILE` (default machines.toml in the configuration folder)")
			fs.StringVar(&c.agents, "agents", "", "folder `DIR` with agents for the machines' platforms")
			c.log = addLogFlags(fs)
			where := base.AllFolderFlags(fs)
			return func(ctx context.Context, inv *command.Invocation) error {
				f, err := head.ToStart(ctx, where.Said(), inv.Getenv)
				if err != nil {
					return base.WrongKind(inv, err)
				}
				f.Machines, f.Agents = c.machines, c.agents
				return c.run(ctx, inv, f)
			}
		},
	}
}

// coordinatorAction is one run of "lighter coordinator".
type coordinatorAction struct {
	log              *logFlags
	machines, agents string
}

func (c *coordinatorAction) run(ctx context.Context, inv *command.Invocation, f head.Folders) error {
	set, err := f.LoadSettings()
	if err != nil {
		return err
	}
	c.log.otherwise(set.Log.Level, set.Log.Format)
	logger, err := c.log.logger(inv, inv.Err)
	if err != nil {
		return err
	}
	file := f.MachinesFile()
	list, err := loadMachines(ctx, inv, file)
	if err != nil {
		return err
	}
	// Being asked to stop is a good end.
	ctx, stop := inv.CancelOnSignal(ctx)
	defer stop()
	err = head.Run(ctx, head.Options{
		Folders: f, Settings: set, Machines: list,
		LoadMachines: func(ctx context.Context) ([]machines.Machine, error) { return loadMachines(ctx, inv, file) },
		Getenv:       inv.Getenv, Logger: logger,
	})
	if errors.Is(err, command.ErrInterrupted) {
		return nil
	}
	return err
}
