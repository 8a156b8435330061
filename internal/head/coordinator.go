// Package head is what a head's coordinator is made of: where it has its things, its keys and store, the
// socket for its clients, the links to machines and the agents that go there, and what the settings of
// lighter.toml become. [Run] puts it together. It decides nothing about builds.
package head

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/api/apiserver"
	"lighter/internal/catalogue"
	"lighter/internal/coordinator"
	"lighter/internal/coordinator/headroom"
	"lighter/internal/coordinator/limits"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/turns"
	"lighter/internal/ledger"
	"lighter/internal/machinetest"
	"lighter/internal/settings"
	"lighter/internal/version"
	"lighter/machines"
	"lighter/sshtransport"
	"lighter/store"
)

// Options say how a coordinator runs. All must be set.
type Options struct {
	Folders      Folders
	Settings     *settings.Settings
	Machines     []machines.Machine
	LoadMachines func(ctx context.Context) ([]machines.Machine, error) // reads the machines file again
	Getenv       func(string) string
	Logger       *slog.Logger
}

// Run runs a coordinator until ctx ends, or until it cannot go on. There is one for a state folder.
func Run(ctx context.Context, o Options) (err error) {
	f, set, logger := o.Folders, o.Settings, o.Logger
	lock, err := LockFolder(f.State, "coordinator")
	if err != nil {
		return err
	}
	defer lock.Close()
	access, group, problems := accessOf(&set.Access, f.SettingsFile())
	clients, err := Listen(f.Socket, group, logger)     //nolint:contextcheck // asks a local socket, for a second at most
	if group >= 0 && errors.Is(err, fs.ErrPermission) { // of that group this user is no member
		problems = append(problems, fmt.Errorf("%s: [access] submit-group: %w", f.SettingsFile(), err))
		clients, err = Listen(f.Socket, nobody, logger) //nolint:contextcheck // as above
	}
	if err != nil {
		return err
	}
	defer clients.Close()
	s, err := OpenStore(ctx, f, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	logger.Info("the head's store is "+machinetest.StoreOf(s.Kind, s.Disk), whyStore(f)...)
	records, err := ledger.Open(f.Ledger(), ledger.Options{Logger: logger, SyncDelay: set.Ledger.SyncDelay})
	if err != nil {
		return fmt.Errorf("open ledger %s: %w", f.Ledger(), err)
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	revisions, err := catalogue.Open(f.Catalogue(), catalogue.Options{Logger: logger})
	if err != nil { // builds need none
		logger.Error("revisions can't be recorded, nor read", "err", err)
	} else {
		defer func() { err = errors.Join(err, revisions.Close()) }()
	}
	links, err := NewLinks(f, o.Getenv, logger)
	if err != nil {
		return err
	}
	links.Store, links.Needed = s, records.Needed
	advice := f.Advice(links)
	advice.ByName, advice.Hint = true, hint(f.Socket, o.Getenv)
	var one *coordinator.Coordinator
	var face *apiserver.Server
	hookMaker := &hookMaker{
		folders: f, head: s, logger: logger, home: Home(o.Getenv), socket: clients,
		log: func(ctx context.Context, w io.Writer, b *api.Build) error { return one.WriteLog(ctx, w, b) },
	}
	defer hookMaker.close()
	hooks, more := hookMaker.configure(set)
	problems = append(problems, more...)
	hookMaker.adopt(problems)
	for _, err := range problems {
		logger.Error("a setting can't be carried out; mend it, then: lighter coordinator reload", "err", err)
	}
	servers := newFetcher(s, logger)
	defer servers.close()
	one, err = coordinator.New(coordinator.Config{ //nolint:contextcheck // streams live as long as their lane
		Store: s.Backend, Ledger: records, Machines: o.Machines,
		NewLink:     func(m machines.Machine) (peer.Link, error) { return links.Link(m) },
		NeedsPerson: sshtransport.Permanent,
		Advice:      advice,
		ACL:         s.ACL, PublicKey: s.PublicKey,
		LoadMachines: o.LoadMachines, MachinesFile: f.MachinesFile(), StoreFolder: s.Disk, StateFolder: f.State,
		PruneAfter: set.Ledger.PruneAfter, PruneKeepLogs: set.Ledger.KeepLogs,
		HeadLimits: headLimitsOf(set), Limits: limitsOf(set), Shares: turns.Rules(set.Shares),
		Hooks: hooks, HookPrograms: hookMaker.programs(os.Environ()), Published: hookMaker.published, Elsewhere: f.elsewhere,
		Fetch: servers.fetch, SubstituteURLs: set.Coordinator.DerivationSubstituteURLs,
		Reload: func(ctx context.Context) error { return hookMaker.reload(ctx, one, face) },
		LogDir: f.Logs(), Logger: logger, Version: version.Version,
	})
	if err != nil {
		return err
	}
	there := f.Installation()
	there.Web = set.Web.URL
	if err := f.leave(there); err != nil {
		logger.Warn("commands that are run while no coordinator is must be told its folders", "err", err)
	}
	rooter, _ := s.Backend.(store.Rooter)
	face = apiserver.New(one, apiserver.Options{Logger: logger, Access: access, Installation: there, Roots: rooter, Problems: hookMaker.wrong, Catalogue: revisions})
	logger.Info("coordinator is ready", "socket", f.Socket, "machines", len(o.Machines), "version", version.Version)
	err = serve(ctx, one, face, clients)
	logger.Info("coordinator stops; builds on machines go on")
	return err
}

// whyStore says in the log why the store is of its kind, where nobody said which.
func whyStore(f Folders) []any {
	if f.StoreWhy == "" {
		return nil
	}
	return []any{"why", f.StoreWhy}
}

// stopTimeout is how long requests of clients may take to end.
const stopTimeout = 5 * time.Second

// serve runs the coordinator and its API until ctx ends, or one of them fails.
func serve(ctx context.Context, c *coordinator.Coordinator, face *apiserver.Server, clients *Socket) error {
	group, ctx := errgroup.WithContext(ctx)
	server := face.HTTP()
	group.Go(func() error {
		ticks := time.NewTicker(socketInterval)
		defer ticks.Stop()
		clients.keep(ctx, ticks.C)
		return nil
	})
	group.Go(func() error {
		if err := server.Serve(face.Clients(clients)); !errors.Is(err, http.ErrServerClosed) {
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

// forEver is longer than any wait, for limits whose 0 would mean the default.
const forEver = 100 * 365 * 24 * time.Hour

func limitsOf(s *settings.Settings) limits.Limits {
	c := &s.Coordinator
	l := limits.Limits{
		MachineLostAfter: cmp.Or(c.MachineLostAfter, forEver), MaxAttempts: c.MaxAttempts, Retries: c.Retries,
		DownloadRetries: c.DownloadRetries, QuarantineAfter: c.QuarantineAfter, QuarantineTime: c.QuarantineTime,
		Streams: c.ParallelTransfers, KeepMissingInputs: !c.BuildMissingInputs, RunOnce: !c.RunAgain, IdleAlarm: cmp.Or(c.IdleAlarm, forEver),
		MaxLog: c.MaxLog, Timeout: c.Timeout, MaxSilentTime: c.MaxSilentTime,
	}
	if l.DownloadRetries == 0 {
		l.DownloadRetries = -1
	}
	if l.QuarantineAfter == 0 {
		l.QuarantineAfter = -1
	}
	return l
}

func headLimitsOf(s *settings.Settings) headroom.Limits {
	return headroom.Limits{
		MinFreeDisk: s.Head.MinFreeDisk, MinFreeInodes: s.Head.MinFreeInodes, MinFreeStateDisk: s.Head.MinFreeStateDisk,
	}
}
