package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/machinetest"
	"lighter/internal/quantity"
	"lighter/machines"
)

func offloadStatusCommand() *command.Command {
	return &command.Command{
		Name:  "status",
		Args:  offloadArgs,
		Short: "show what machines report now",
		Long: `Asks each machine what it is and how busy: kernel, architecture, store, load, free disk, clock, round trip, and how many builds lighter's agent there runs. Load is the average over a minute; the normalized one is that for each core. It uses connections of its own; "lighter machines status" says what a running coordinator knows.

` + offloadArguments,
		Exits: []int{command.ExitBadInput, command.ExitUnusable, command.ExitInterrupted},
		Examples: []command.Example{
			{"lighter offload status", "all machines"},
			{"lighter offload status --json | jq -r '[.machine, .normalizedLoad] | @tsv'", "the load of each"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			flags := addOffloadFlags(fs, 30*time.Second)
			return func(ctx context.Context, inv *command.Invocation) error {
				o, err := flags.setUp(ctx, inv)
				if err != nil {
					return err
				}
				return o.status(ctx, inv, *flags.asJSON)
			}
		},
	}
}

// machineState is what one machine says of itself.
type machineState struct {
	Machine string `json:"machine"`
	Address string `json:"address,omitempty"` // USER@HOST:PORT; none for the head itself
	OK      bool   `json:"ok"`
	// Error says why it could not be asked, or cannot build, and Fix what to do.
	Error string `json:"error,omitempty"`
	Fix   string `json:"fix,omitempty"`

	*stateFields
	Warnings []string `json:"warnings,omitempty"`
}

// stateFields are there if the machine answered.
type stateFields struct {
	Kernel         string      `json:"kernel"`
	Architecture   string      `json:"architecture"`
	Hostname       string      `json:"hostname"`
	StoreKind      string      `json:"storeKind"`
	StoreDir       string      `json:"storeDir"`
	Uptime         api.Seconds `json:"uptime"`
	Cores          int         `json:"cores"`
	Load           float64     `json:"load"` // 1-minute average
	NormalizedLoad float64     `json:"normalizedLoad"`
	FreeDisk       int64       `json:"freeDisk"` // bytes, where the store is
	FreeMemory     int64       `json:"freeMemory"`
	ClockSkew      api.Seconds `json:"clockSkew"` // machine minus head
	RoundTrip      api.Seconds `json:"roundTrip"`
	Agent          string      `json:"agent"` // version
	Running        int         `json:"running"`

	store, clock string
}

// status asks all machines.
func (o *offloading) status(ctx context.Context, inv *command.Invocation, asJSON bool) (err error) {
	if o.anyLocal() {
		head, headErr := o.openHead(ctx)
		if headErr != nil {
			return headErr
		}
		defer func() { err = errors.Join(err, head.Close()) }()
	}
	bad := 0
	err = each(ctx, o, o.ask, func(s *machineState) error {
		if !s.OK {
			bad++
		}
		if asJSON {
			return base.WriteJSONLine(inv.Out, s)
		}
		s.write(inv.Out, display.StyleOf(inv.Out, inv.Getenv))
		return nil
	})
	if err != nil {
		return err
	}
	return unusable(bad, len(o.machines))
}

func (o *offloading) ask(ctx context.Context, m *machines.Machine) *machineState {
	s := &machineState{Machine: m.Name}
	if !m.Local {
		s.Address = address(m)
	}
	r, err := o.reach(ctx, m)
	if err != nil {
		p := o.advice.Explain(m, err)
		s.Error, s.Fix = p.Err.Error(), p.Fix
		return s
	}
	s.OK = true
	s.fill(r, m)
	if text, fix := o.advice.StoreProblem(m, r.Info); text != "" {
		s.OK, s.Error, s.Fix = false, text, fix
	}
	return s
}

// reach asks a machine over a link of its own.
func (o *offloading) reach(ctx context.Context, m *machines.Machine) (*machinetest.Reached, error) {
	agent, closeLink, err := newAgentClient(o.links, m)
	if err != nil {
		return nil, err
	}
	defer closeLink()
	return machinetest.Reach(ctx, agent)
}

func (s *machineState) fill(r *machinetest.Reached, m *machines.Machine) {
	info := r.Info
	load := info.Load / float64(max(1, info.Cores))
	clock, far := r.Clock()
	s.stateFields = &stateFields{
		Kernel: info.Kernel, Architecture: architecture(info), Hostname: info.Hostname,
		StoreKind: info.StoreKind, StoreDir: string(info.StoreDir), Uptime: info.Uptime,
		Cores: info.Cores, Load: info.Load, NormalizedLoad: load, FreeDisk: info.FreeDisk, FreeMemory: info.FreeMemory,
		ClockSkew: api.Seconds(r.Skew.Seconds()), RoundTrip: api.Seconds(r.RoundTrip.Seconds()),
		Agent: info.Version, Running: info.Running, store: machinetest.StoreText(info), clock: clock,
	}
	if far {
		s.Warnings = append(s.Warnings, "clock: "+machinetest.ClockFix)
	}
	if m.OverloadThreshold > 0 && load >= m.OverloadThreshold {
		s.Warnings = append(s.Warnings, fmt.Sprintf("load: it gets no builds while its normalized load is not below its overload-threshold, %g", m.OverloadThreshold))
	}
	if info.FreeDisk < m.MinFreeDisk {
		s.Warnings = append(s.Warnings, fmt.Sprintf("disk: it gets no builds while less than %s are free", quantity.Bytes(m.MinFreeDisk)))
	}
	if lacks := machinetest.Lacks(m, info); len(lacks) > 0 {
		s.Warnings = append(s.Warnings, "systems: it gets no builds for "+strings.Join(lacks, ", ")+": its kernel runs programs of "+strings.Join(info.Builds(), ", "))
	}
}

// architecture is what uname(1) says, as far as the name of a system tells.
func architecture(info *agentapi.Machine) string {
	if len(info.Systems) == 0 {
		return "unknown"
	}
	arch, _, _ := strings.Cut(info.Systems[0], "-")
	return arch
}

func (s *machineState) write(w io.Writer, style display.Style) {
	fmt.Fprintln(w, human.Printable(s.Machine))
	if s.stateFields != nil {
		for _, field := range s.lines() {
			fmt.Fprintf(w, "  %s: %s\n", field[0], human.Printable(field[1]))
		}
	}
	if s.Error != "" {
		fmt.Fprintf(w, "  %s: %s\n", style.Verdict(false, "", "error"), command.ErrorText(errors.New(s.Error)))
		writeFix(w, "    ", s.Fix)
	}
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "  warning: %s\n", human.Printable(warning))
	}
}

// lines returns names and values, as "guix offload status" has them, and more.
func (f *stateFields) lines() [][2]string {
	uptime := "unknown"
	if f.Uptime > 0 {
		uptime = quantity.Elapsed(f.Uptime.Duration())
	}
	return [][2]string{
		{"kernel", f.Kernel},
		{"architecture", f.Architecture},
		{"host name", f.Hostname},
		{"store", f.store},
		{"uptime", uptime},
		{"load", fmt.Sprintf("%.2f on %s", f.Load, human.Count(f.Cores, "core"))},
		{"normalized load", fmt.Sprintf("%.2f", f.NormalizedLoad)},
		{"free disk space", quantity.Bytes(f.FreeDisk)},
		{"free memory", quantity.Bytes(f.FreeMemory)},
		{"clock", f.clock},
		{"round trip", f.RoundTrip.Duration().Round(10 * time.Microsecond).String()},
		{"agent", fmt.Sprintf("lighter-agent %s, %s running", f.Agent, human.Count(f.Running, "build"))},
	}
}
