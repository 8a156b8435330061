package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/buildhook"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/machinetest"
	"lighter/machines"
)

func offloadCommand() *command.Command {
	c := &command.Command{
		Name:  "offload",
		Args:  "SYSTEM MAX-SILENT-TIME TRACE? TIMEOUT",
		Short: "be guix-daemon's build hook; try the machines",
		Long: `guix-daemon runs "lighter offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT" to ask whether a build is offloaded, in the place of "guix offload"; "lighter help guix" says how to set that up. It is not for people: questions come on standard input, and the exit codes are those that guix-daemon knows.

The commands below do what those of "guix offload" do.`,
		Sub: []*command.Command{offloadTestCommand(), offloadStatusCommand()},
		// What guix-daemon does with a hook is end it.
		TakesSignals:    true,
		ChecksArguments: true,
	}
	c.Setup = func(*pflag.FlagSet) command.Action {
		return func(_ context.Context, inv *command.Invocation) error {
			if len(inv.Args) < 4 {
				return c.Incomplete(inv)
			}
			return runBuildHook(inv)
		}
	}
	return c
}

// runBuildHook answers guix-daemon.
func runBuildHook(inv *command.Invocation) error {
	cfg, err := buildhook.Environment(inv.Args, inv.Getenv)
	if err != nil {
		return command.UsageErrorf("%w", err)
	}
	if code := buildhook.Run(cfg); code != buildhook.ExitBuilt {
		return command.Exit(code, nil)
	}
	return nil
}

// offloadFlags are the flags of "offload test" and "offload status".
type offloadFlags struct {
	where   *base.FolderFlags
	agents  *string
	timeout *time.Duration
	asJSON  *bool
}

func addOffloadFlags(fs *pflag.FlagSet, timeout time.Duration) *offloadFlags {
	f := &offloadFlags{
		timeout: fs.Duration("timeout", timeout, "how long each machine may take, as in `TIME` 90s"),
		asJSON:  fs.Bool("json", false, "print one JSON object a line, for each machine"),
		agents:  fs.String("agents", "", "folder `DIR` with agents for the machines' platforms"),
	}
	f.where = base.AllFolderFlags(fs)
	return f
}

// offloadArgs are the arguments of both commands.
const offloadArgs = "[FILE [REGEXP]]"

// offloadArguments explains them.
const offloadArguments = `FILE lists the machines, as Guix's machines.scm, as a machines.toml or as Nix's machines; by default it is machines.toml in the configuration folder, or /etc/guix/machines.scm where there is none or --store=guix-daemon is given. With REGEXP only machines whose name it matches somewhere are taken. Of several entries for one address the first that is taken counts.

Where neither --store nor $LIGHTER_STORE says which store the head has, it is guix-daemon's if FILE is a machines.scm.`

// offloading is what both commands work with.
type offloading struct {
	folders  head.Folders
	file     string // that lists the machines
	machines []machines.Machine
	links    *head.Links
	advice   machinetest.Advice
	timeout  time.Duration // for each machine
}

// setUp finds out which machines are meant.
func (f *offloadFlags) setUp(ctx context.Context, inv *command.Invocation) (*offloading, error) {
	if *f.timeout <= 0 {
		return nil, inv.UsageErrorf("--timeout %s: want more than 0", *f.timeout)
	}
	found, err := f.where.Resolve(ctx, inv)
	if err != nil {
		return nil, err
	}
	o := &offloading{file: found.MachinesFile(), timeout: *f.timeout}
	if theirs := found.GuixMachinesFile(); !head.IsFile(o.file) && head.IsFile(theirs) {
		o.file = theirs
	}
	if len(inv.Args) > 0 {
		o.file = inv.Args[0]
	}
	if *f.where.Store == "" && inv.Getenv("LIGHTER_STORE") == "" && strings.HasSuffix(o.file, ".scm") {
		found.StoreKind = machines.StoreDaemon
	}
	o.folders = found
	if err := o.read(ctx, inv); err != nil {
		return nil, err
	}
	if err := o.choose(inv); err != nil {
		return nil, err
	}
	if *f.agents != "" {
		found.Agents = *f.agents
	}
	if o.links, err = head.NewLinks(found, inv.Getenv, slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	o.links.MachinesFile = o.file
	o.advice = found.Advice(o.links)
	o.advice.ByName, o.advice.Hint = o.file == found.MachinesFile(), f.where.Typed()
	return o, nil
}

// read reads the machines file. One in Scheme that is beyond lighter is given to guix, as
// "guix offload" does with all of them.
func (o *offloading) read(ctx context.Context, inv *command.Invocation) error {
	list, err := base.ReadMachines(ctx, inv, o.file, "lighter: warning: ")
	if err == nil && len(list) == 0 {
		err = command.BadInput(fmt.Errorf("%s lists no machine", o.file))
	}
	o.machines = list
	return err
}

// choose leaves the machines that the arguments ask for, each address once. It says in one line which
// entries that leaves out.
func (o *offloading) choose(inv *command.Invocation) error {
	if len(inv.Args) > 1 {
		re, err := regexp.Compile(inv.Args[1])
		if err != nil {
			return command.UsageErrorf("REGEXP: %w", err)
		}
		var names []string
		o.machines = slices.DeleteFunc(o.machines, func(m machines.Machine) bool {
			names = append(names, m.Name)
			return !re.MatchString(m.Name) && !re.MatchString(m.Host)
		})
		if len(o.machines) == 0 {
			return command.UsageErrorf("no machine of %s matches %q; there are %s", o.file, inv.Args[1], strings.Join(names, ", "))
		}
	}
	type place struct {
		user, addr, state string
		local             bool
	}
	first := make(map[place]string)
	var left []string
	o.machines = slices.DeleteFunc(o.machines, func(m machines.Machine) bool {
		p := place{m.User, m.Addr(), m.StateDirectory, m.Local}
		name, again := first[p]
		if again {
			left = append(left, m.Name+" (that of "+name+")")
		} else {
			first[p] = m.Name
		}
		return again
	})
	if len(left) > 0 {
		fmt.Fprintf(inv.Err, "lighter: left out, since an entry before has the same address: %s\n", human.Printable(strings.Join(left, ", ")))
	}
	return nil
}

// anyLocal reports whether the head itself is among the machines.
func (o *offloading) anyLocal() bool {
	return slices.ContainsFunc(o.machines, func(m machines.Machine) bool { return m.Local })
}

// openHead opens the head's store, for the links too. A local machine's agent gets a folder
// of its own, so that it is not in the way of a coordinator's.
func (o *offloading) openHead(ctx context.Context) (*head.Store, error) {
	s, err := head.OpenStore(ctx, o.folders, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, arrow(o.advice.HeadFix(err)))
	}
	o.links.Store, o.links.PublicKey = s, s.PublicKey // which may have been made just now
	if !o.anyLocal() {
		return s, nil
	}
	closeStore := s.Close
	temporary, err := os.MkdirTemp("", "lighter-offload-")
	if err != nil {
		return nil, errors.Join(err, closeStore())
	}
	s.Close = func() error { return errors.Join(closeStore(), os.RemoveAll(temporary)) }
	o.links.LocalAgent = temporary
	return s, nil
}

// each calls do for every machine, for all at the same time and each within the time
// limit, and show with what it returned, in the order of the file. It ends at once with
// ctx.
func each[T any](ctx context.Context, o *offloading, do func(context.Context, *machines.Machine) T, show func(T) error) error {
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make([]chan T, len(o.machines))
	for i := range o.machines {
		results[i] = make(chan T, 1)
		group.Go(func() {
			ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, &machinetest.TooLong{Limit: o.timeout})
			defer cancel()
			results[i] <- do(ctx, &o.machines[i])
		})
	}
	for _, result := range results {
		select {
		case r := <-result:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := show(r); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// unusable is the error of a command that found some of the machines bad.
func unusable(bad, all int) error {
	if bad == 0 {
		return nil
	}
	return command.Exit(command.ExitUnusable, fmt.Errorf("%d of %s can't be used", bad, human.Count(all, "machine")))
}
