package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/coordinator"
	"lighter/internal/ledger"
	"lighter/internal/settings"
	"lighter/internal/version"
	"lighter/machines"
	"lighter/sshtransport"
)

func coordinatorCommand() *command {
	return &command{
		name:  "coordinator",
		short: "run the process that has things built",
		long: `Runs the coordinator in the foreground, until it is interrupted or terminated. It owns the queue, the ledger and the connections to the machines; there is one for a state folder. Builds on machines go on while it is away, and when it is started again it takes up everything where it was, also after it was killed.

Beside the machines file there may be lighter.toml, with limits, event hooks, and where to publish; docs/settings.md describes it. The machines file is read again when it changes, and the hooks of lighter.toml with "lighter coordinator reload"; its other settings hold from the next start on.

With --store=guix-daemon the head's store is Guix's: derivations and inputs are read there, what machines sign is judged by /etc/guix/acl, and the machines may be those of /etc/guix/machines.scm. guix-daemon offloads to this coordinator when it is told to run lighter-guix; docs/guix.md says how.

On its first start, with a store of its own, it makes the head's signing key. The machines must trust that key, and the head theirs: the first happens by itself where the machine uses lighter's own store, the second with "lighter machines authorize".

Machines get lighter-agent for their platform from a folder with files such as lighter-agent-linux-arm64: --agents, $LIGHTER_AGENTS, "agents" beside this program, or ../lib/lighter/agents from there.`,
		exits: []int{exitBadInput, exitInterrupted},
		examples: []example{
			{"lighter coordinator", "with the machines of the configuration folder"},
			{"lighter coordinator --machines ./machines.toml --state /scratch/me/lighter --log-level debug", "with everything elsewhere"},
			{"lighter coordinator --store=guix-daemon", "for guix-daemon, with the machines of /etc/guix/machines.scm"},
			{"systemd-run --user --unit lighter lighter coordinator --log-format json", "in the background, under systemd"},
		},
		takesSignals: true,
		setup: func(fs *pflag.FlagSet) action {
			c := &coordinatorAction{}
			fs.StringVar(&c.machines, "machines", "", "the machines file is `FILE` (default machines.toml in the configuration folder)")
			fs.StringVar(&c.agents, "agents", "", "folder `DIR` with agents for the machines' platforms")
			c.log = addLogFlags(fs)
			c.where = allFolderFlags(fs)
			return c.run
		},
	}
}

// coordinatorAction is one run of "lighter coordinator".
type coordinatorAction struct {
	where            *folderFlags
	log              *logFlags
	machines, agents string
}

func (c *coordinatorAction) run(ctx context.Context, inv *invocation) error {
	if err := inv.arguments("", 0, 0); err != nil {
		return err
	}
	f, err := c.where.resolve(inv)
	if err != nil {
		return err
	}
	set, err := loadSettings(f)
	if err != nil {
		return err
	}
	c.log.otherwise(set.Log.Level, set.Log.Format)
	logger, err := c.log.logger(inv, inv.Err)
	if err != nil {
		return err
	}
	file := c.machines
	if file == "" {
		file = f.machinesFile()
	}
	list, err := loadMachines(ctx, inv, file)
	if err != nil {
		return err
	}
	lock, err := lockFolder(f.state, "coordinator")
	if err != nil {
		return err
	}
	defer lock.Close()
	access, group, err := accessOf(&set.Access, f.settingsFile())
	if err != nil {
		return badInput(err)
	}
	clients, err := listenSocket(f.socket, group, logger)
	if err != nil {
		return err
	}
	defer clients.Close()
	// Being asked to stop is a good end.
	ctx, stop := cancelOnSignal(ctx, inv.Signals)
	defer stop()
	err = c.coordinate(ctx, inv, f, set, file, list, clients, access, logger)
	if errors.Is(err, errInterrupted) {
		return nil
	}
	return err
}

func (c *coordinatorAction) coordinate(ctx context.Context, inv *invocation, f folders, set *settings.Settings, file string, list []machines.Machine, clients *socket, access *coordinator.Access, logger *slog.Logger) (err error) {
	s, err := openHeadStoreOf(ctx, f, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	records, err := ledger.Open(f.ledger(), ledger.Options{Logger: logger, SyncDelay: set.Ledger.SyncDelay})
	if err != nil {
		return fmt.Errorf("open ledger %s: %w", f.ledger(), err)
	}
	links, err := newLinkMaker(inv, f, c.agents, logger)
	if err != nil {
		return errors.Join(err, records.Close())
	}
	links.store = s
	var one *coordinator.Coordinator
	hookMaker := &hookMaker{
		folders: f, head: s, logger: logger, home: homeFolder(inv.Getenv), socket: clients,
		log: func(ctx context.Context, w io.Writer, b *api.Build) error { return one.WriteLog(ctx, w, b) },
	}
	defer hookMaker.close()
	hooks, err := hookMaker.configure(set)
	if err != nil {
		return errors.Join(err, records.Close())
	}
	servers := newFetcher(s, logger)
	defer servers.close()
	one, err = coordinator.New(coordinator.Config{
		Store: s.Store, Ledger: records, Machines: list,
		NewLink:      func(m machines.Machine) (coordinator.Link, error) { return links.link(m) },
		NeedsPerson:  sshtransport.Permanent,
		ACL:          s.acl,
		PublicKey:    s.publicKey,
		LoadMachines: func(ctx context.Context) ([]machines.Machine, error) { return loadMachines(ctx, inv, file) },
		MachinesFile: file, StoreFolder: s.disk, StateFolder: f.state,
		PruneAfter: set.Ledger.PruneAfter, PruneKeepLogs: set.Ledger.KeepLogs,
		HeadLimits: headLimitsOf(set), Limits: limitsOf(set),
		Hooks: hooks, HookPrograms: hookMaker.programs(os.Environ()), Published: hookMaker.published,
		Fetch: servers.fetch, SubstituteURLs: set.Coordinator.DerivationSubstituteURLs,
		Reload: func(ctx context.Context) error { return hookMaker.reload(ctx, one) },
		LogDir: f.logs(), Logger: logger, Version: version.Version, Access: access,
	})
	if err != nil {
		return errors.Join(err, records.Close())
	}
	logger.Info("coordinator is ready", "socket", f.socket, "machines", len(list), "version", version.Version)
	err = serve(ctx, one, clients)
	logger.Info("coordinator stops; builds on machines go on")
	return errors.Join(err, records.Close())
}

// stopTimeout is how long requests of clients may take to end.
const stopTimeout = 5 * time.Second

// serve runs the coordinator and its API until ctx ends, or one of them fails.
func serve(ctx context.Context, c *coordinator.Coordinator, clients *socket) error {
	group, ctx := errgroup.WithContext(ctx)
	server := c.Server()
	group.Go(func() error {
		ticks := time.NewTicker(socketInterval)
		defer ticks.Stop()
		clients.keep(ctx, ticks.C)
		return nil
	})
	group.Go(func() error {
		if err := server.Serve(c.Clients(clients)); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve clients: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		err := c.Run(ctx)
		// Run has returned, so that streams of events and logs end too.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if server.Shutdown(bounded) != nil {
			server.Close()
		}
		return err
	})
	return group.Wait()
}
