package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/disk"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/machines"
)

func machinesCommand() *command.Command {
	return &command.Command{
		Name:  "machines",
		Short: "the machines that build",
		Long: `Machines are listed in machines.toml in the configuration folder. "lighter help
machines.toml" describes it key by key.`,
		Sub: []*command.Command{
			machinesListCommand(), machinesStatusCommand(), machinesTestCommand(),
			machinesDrainCommand(), machinesResumeCommand(), machinesTagCommand(), machinesGCCommand(), machinesReloadCommand(),
			machinesAuthorizeCommand(), machinesCheckCommand(), machinesImportCommand(),
		},
	}
}

// loadMachines reads the machines file; its errors name file, line and column. What a
// person should know of a good file is written to standard error. A file of Guix's that
// is beyond lighter's evaluator is given to guix, if there is one.
func loadMachines(ctx context.Context, inv *command.Invocation, file string) ([]machines.Machine, error) {
	return base.ReadMachines(ctx, inv, file, "lighter: ")
}

// machinesFileArgument returns the file that the argument names, or the head's.
func machinesFileArgument(ctx context.Context, inv *command.Invocation, where *base.FolderFlags) (string, error) {
	if len(inv.Args) == 1 {
		return inv.Args[0], nil
	}
	f, err := where.Resolve(ctx, inv)
	return f.MachinesFile(), err
}

func machinesCheckCommand() *command.Command {
	return &command.Command{
		Name:  "check",
		Args:  "[FILE]",
		Short: "check a machines file without connecting to anything",
		Long: `Names the line and column of everything that is wrong, and says what would be
right. FILE is by default machines.toml in the configuration folder. What
OpenSSH's configuration adds to an entry, as this user, is shown.`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{"lighter machines check", "the head's own file"},
			{"lighter machines check new.toml && mv new.toml /etc/lighter/machines.toml", "before it is put in place"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where := base.ConfigFlags(fs)
			return func(ctx context.Context, inv *command.Invocation) error {
				file, err := machinesFileArgument(ctx, inv, where)
				if err != nil {
					return err
				}
				list, err := loadMachines(ctx, inv, file)
				var problems machines.Errors
				if errors.As(err, &problems) {
					fmt.Fprintln(inv.Err, command.ErrorText(problems))
					return command.Exit(command.ExitBadInput, nil)
				}
				if err != nil {
					return err
				}
				fmt.Fprintf(inv.Out, "%s: good; %s, %s\n", file, human.Count(len(list), "machine"), human.Count(machines.Slots(list), "slot"))
				writeSameHosts(inv.Out, machines.SameHost(list))
				tellOtherUser(ctx, inv, where, list)
				return tellWays(inv, list)
			}
		},
	}
}

// tellOtherUser says to root that the configuration of SSH of another user counts, if an entry needs any.
func tellOtherUser(ctx context.Context, inv *command.Invocation, where *base.FolderFlags, list []machines.Machine) {
	asked := slices.ContainsFunc(list, func(m machines.Machine) bool { return m.Way != nil && (len(m.Way.From) > 0 || m.Way.Problem != "") })
	if os.Geteuid() != 0 || !asked {
		return
	}
	f, err := where.Resolve(ctx, inv)
	if err != nil {
		return
	}
	info, err := os.Stat(f.State)
	if err != nil || info.Sys().(*syscall.Stat_t).Uid == 0 {
		return
	}
	user := human.ShellWord(disk.UserName(info.Sys().(*syscall.Stat_t).Uid))
	args := strings.Join(append([]string{"lighter machines check"}, inv.Args...), " ")
	fmt.Fprintf(inv.Out, "what follows is as root has it in ~/.ssh; the coordinator's user %s may have something else: runuser -u %s -- %s\n", user, user, human.Printable(args))
}

// tellWays says what the ways to machines have that their entries don't.
func tellWays(inv *command.Invocation, list []machines.Machine) error {
	unknown := false
	for i := range list {
		w := list[i].Way
		if w == nil {
			continue
		}
		if len(w.From) > 0 {
			fmt.Fprintf(inv.Out, "%s: besides its entry: %s\n", list[i].Name, human.Printable(strings.Join(w.From, ", ")))
		}
		if w.Problem != "" {
			fmt.Fprintf(inv.Err, "%s: how it is reached is not known: %s\n", list[i].Name, human.Printable(w.Problem))
			unknown = true
		}
	}
	if unknown {
		return command.Exit(command.ExitBadInput, nil)
	}
	return nil
}

// writeSameHosts says which machines are one host, and what that means.
func writeSameHosts(w io.Writer, hosts [][]*machines.Machine) {
	for _, same := range hosts {
		var names []string
		most := 0
		for _, m := range same {
			names = append(names, m.Name)
			most = max(most, m.ParallelBuilds)
		}
		fmt.Fprintf(w, "%s and %s are the same account of one host: one agent, one store; their slots, memory and tokens count together: at most %s at once\n",
			strings.Join(names[:len(names)-1], ", "), names[len(names)-1], human.Count(most, "build"))
	}
}

func machinesListCommand() *command.Command {
	return &command.Command{
		Name:  "list",
		Pages: true,
		Args:  "[FILE]",
		Short: "show the machines and their state",
		Long:  `Shows what the coordinator knows of its machines now, as "lighter machines status" does. With FILE, with --file, or where no coordinator runs it shows what the machines file says about them.`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{"lighter machines list", "the head's machines"},
			{"lighter machines list --json | jq -r 'select(.draining) | .name'", "for a program, one machine a line"},
			{"lighter machines list --json /etc/lighter/machines.toml", "what a file says"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where := base.SocketFlags(fs)
			where.Config = base.ConfigFlag(fs)
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			fromFile := fs.Bool("file", false, "show the head's machines file, whether or not a coordinator runs")
			return func(ctx context.Context, inv *command.Invocation) error {
				if len(inv.Args) == 0 && !*fromFile {
					f, err := where.Reach(inv)
					if err != nil {
						return err
					}
					client := apiclient.NewClient(f.Socket)
					defer client.Close()
					list, err := client.Machines(ctx)
					if err == nil {
						return writeMachines(inv, list, *asJSON)
					}
					if !errors.Is(err, api.ErrUnavailable) {
						return err
					}
				}
				return listMachinesFile(ctx, inv, where, *asJSON)
			}
		},
	}
}

// writeMachines writes what the coordinator knows of its machines.
func writeMachines(inv *command.Invocation, list []api.MachineStatus, asJSON bool) error {
	if !asJSON {
		return writeMachineStatus(inv, list, time.Now())
	}
	for i := range list {
		if err := base.WriteJSONLine(inv.Out, &list[i]); err != nil {
			return err
		}
	}
	return nil
}

// listMachinesFile writes what a machines file says.
func listMachinesFile(ctx context.Context, inv *command.Invocation, where *base.FolderFlags, asJSON bool) error {
	file, err := machinesFileArgument(ctx, inv, where)
	if err != nil {
		return err
	}
	list, err := loadMachines(ctx, inv, file)
	if err != nil {
		return err
	}
	if asJSON {
		return writeMachinesJSON(inv, list)
	}
	t := display.Table{Heading: []string{"NAME", "ADDRESS", "SYSTEMS", "SLOTS", "SPEED", "FEATURES"}, Optional: []int{4}}
	for i := range list {
		m := &list[i]
		t.Add(m.Name, address(m), strings.Join(m.Systems, ","), strconv.Itoa(m.ParallelBuilds),
			speed(m.Speed), features(m.Offers(), m.MandatoryFeatures))
	}
	return t.Write(inv.Out, display.Width(inv.Out))
}

func address(m *machines.Machine) string {
	if m.Local {
		return "(this computer)"
	}
	return m.User + "@" + m.Addr()
}

func speed(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }

// features lists features; mandatory ones carry an exclamation mark.
func features(offered, mandatory []string) string {
	var list []string
	for _, f := range mandatory {
		list = append(list, f+"!")
	}
	for _, f := range offered {
		if !slices.Contains(mandatory, f) {
			list = append(list, f)
		}
	}
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ",")
}

// machineJSON is a machine of the machines file as "machines list --json" shows it.
type machineJSON struct {
	Name              string   `json:"name"`
	Address           string   `json:"address,omitempty"`
	User              string   `json:"user,omitempty"`
	Local             bool     `json:"local,omitempty"`
	Systems           []string `json:"systems"`
	ParallelBuilds    int      `json:"parallelBuilds"`
	Speed             float64  `json:"speed"`
	Features          []string `json:"features,omitempty"`
	MandatoryFeatures []string `json:"mandatoryFeatures,omitempty"`
	// Memory is in bytes; absent it is what the machine has, and -1 is not counted.
	Memory      int64          `json:"memory,omitempty"`
	MemoryLimit int64          `json:"memoryLimit,omitempty"`
	Tokens      map[string]int `json:"tokens,omitempty"`
	Store       string         `json:"store"`
}

func writeMachinesJSON(inv *command.Invocation, list []machines.Machine) error {
	for i := range list {
		m := &list[i]
		if err := base.WriteJSONLine(inv.Out, machineJSON{
			Name: m.Name, Address: m.Addr(), User: m.User, Local: m.Local, Systems: m.Systems,
			ParallelBuilds: m.ParallelBuilds, Speed: m.Speed, Features: m.Offers(),
			MandatoryFeatures: m.MandatoryFeatures, Memory: m.Memory, MemoryLimit: m.MemoryLimit, Tokens: m.Tokens, Store: m.Store,
		}); err != nil {
			return err
		}
	}
	return nil
}

// bandwidths says how much goes to a machine and, if that was measured, comes from it.
func bandwidths(m *api.MachineStatus) string {
	text := human.Known(m.Bandwidth > 0, quantity.Rate(m.Bandwidth))
	if m.FetchBandwidth > 0 {
		text += " / " + quantity.Rate(m.FetchBandwidth)
	}
	return text
}

// writeMachineStatus writes the table of "machines status". Below it stands why
// machines get no builds.
func writeMachineStatus(inv *command.Invocation, list []api.MachineStatus, now time.Time) error {
	t := display.Table{Heading: []string{"NAME", "STATE", "SLOTS", "SYSTEMS", "SPEED", "LOAD", "MEMORY", "FREE DISK", "BANDWIDTH", "STORE", "TAGS"}, Optional: []int{9, 8, 4, 6, 10, 5}}
	for i := range list {
		m := &list[i]
		t.Add(m.Name, display.MachineState(m), fmt.Sprintf("%d/%d", m.Running, m.ParallelBuilds), strings.Join(m.Systems, ","), speed(m.Speed),
			human.Known(m.Cores > 0, strconv.FormatFloat(m.Load, 'f', 2, 64)), human.Known(m.Memory > 0, quantity.BytesOf(m.ReservedMemory, m.Memory)), human.Known(m.FreeDisk > 0, quantity.Bytes(m.FreeDisk)),
			bandwidths(m), human.Known(m.StoreKind != "", m.StoreKind), human.Known(len(m.Tags) > 0, tagText(m.Tags)))
	}
	if err := t.Write(inv.Out, display.Width(inv.Out)); err != nil {
		return err
	}
	for i := range list {
		if note := display.MachineNote(&list[i], now); note != "" {
			fmt.Fprintf(inv.Out, "\n%s: %s\n", human.Printable(list[i].Name), human.PrintableText(note))
		}
	}
	return nil
}
