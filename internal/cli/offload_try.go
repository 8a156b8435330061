package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/machinetest"
	"lighter/internal/quantity"
	"lighter/machines"
)

func offloadTestCommand() *command.Command {
	return &command.Command{
		Name:  "test",
		Args:  offloadArgs,
		Short: "try whether machines can build, all at the same time",
		Long: `Tries on each machine what offloading to it needs, in the steps of "lighter machines test", and that the machine imports what the head signed, and the head what the machine signed. It uses connections of its own, as the user who runs it, even where a coordinator runs, and so knows nothing of pauses and drains. If something fails, it says how to fix it, and the other machines are tried all the same.

` + offloadArguments + `

It leaves on each machine a small text in the store, for its next garbage collection, and the agent, which ends by itself.`,
		Exits: []int{command.ExitBadInput, command.ExitUnusable, command.ExitInterrupted},
		Examples: []command.Example{
			{"lighter offload test", "all machines"},
			{"lighter offload test /etc/guix/machines.scm '^node[0-9]+$'", "some of Guix's"},
			{"lighter offload test --json | jq -r 'select(.ok | not) | .machine'", "which ones are bad"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			flags := addOffloadFlags(fs, time.Minute)
			keys := fs.Bool("show-keys", false, "show the public keys that must be authorized, where some are not")
			return func(ctx context.Context, inv *command.Invocation) error {
				o, err := flags.setUp(ctx, inv)
				if err != nil {
					return err
				}
				return o.test(ctx, inv, *flags.asJSON, *keys)
			}
		},
	}
}

// offloadTrial is the test of one machine: what was tried, in order, up to the first thing
// without which the rest cannot be tried.
type offloadTrial struct {
	Machine string          `json:"machine"`
	Address string          `json:"address,omitempty"` // USER@HOST:PORT; none for the head itself
	OK      bool            `json:"ok"`
	Took    api.Seconds     `json:"took"`
	Steps   []api.TrialStep `json:"steps"`
	// HeadKey is the key that the machine must authorize, where it does not take what
	// the head signed.
	HeadKey *keyFile `json:"headKey,omitempty"`
	// MachineKey is the key that the head must authorize, where it does not take what
	// the machine signed.
	MachineKey string `json:"machineKey,omitempty"` // s-expression
}

// keyFile is a public key and where it is.
type keyFile struct {
	File string `json:"file"`
	Key  string `json:"key"` // s-expression
}

// test tries all machines.
func (o *offloading) test(ctx context.Context, inv *command.Invocation, asJSON, keys bool) (err error) {
	own, err := o.openHead(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.Close()) }()
	tester := &machinetest.Tester{Advice: o.advice, Store: own.Backend, ACL: own.ACL}
	tester.Dir, tester.PublicKey = own.Dir(), own.PublicKey
	bad := 0
	err = each(ctx, o, func(ctx context.Context, m *machines.Machine) *offloadTrial {
		return o.try(ctx, tester, m)
	}, func(t *offloadTrial) error {
		if !t.OK {
			bad++
		}
		if asJSON {
			return base.WriteJSONLine(inv.Out, t)
		}
		t.write(inv.Out, keys, display.StyleOf(inv.Out, inv.Getenv))
		return nil
	})
	if err != nil {
		return err
	}
	return unusable(bad, len(o.machines))
}

// try tries one machine.
func (o *offloading) try(ctx context.Context, tester *machinetest.Tester, m *machines.Machine) *offloadTrial {
	began := time.Now()
	var result *machinetest.Result
	if agent, closeLink, err := newAgentClient(o.links, m); err != nil {
		result = tester.Unreachable(m, err)
	} else {
		defer closeLink()
		result = tester.Test(ctx, m, agent)
	}
	t := &offloadTrial{Machine: m.Name, OK: result.OK, Steps: result.Steps}
	if !m.Local {
		t.Address = address(m)
	}
	if result.HeadRefused {
		t.HeadKey = &keyFile{File: tester.KeyFile, Key: tester.PublicKey.String()}
	}
	if result.MachineRefused {
		t.MachineKey = result.Info.PublicKey
	}
	t.Took = api.Seconds(time.Since(began).Seconds())
	return t
}

func (t *offloadTrial) write(w io.Writer, keys bool, style display.Style) {
	took := quantity.Duration(t.Took.Duration())
	fmt.Fprintf(w, "%s: %s (%s)\n", human.Printable(t.Machine), style.Verdict(t.OK, "good", "can't be used"), took)
	writeSteps(w, t.Steps, style)
	if !keys {
		return
	}
	if t.HeadKey != nil {
		fmt.Fprintf(w, "  the head's key, %s:\n%s\n", human.Printable(t.HeadKey.File), human.Indent(human.PrintableText(t.HeadKey.Key), "    "))
	}
	if t.MachineKey != "" {
		fmt.Fprintf(w, "  the machine's key:\n%s\n", human.Indent(human.PrintableText(t.MachineKey), "    "))
	}
}
