package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/nar/signature"
	"lighter/store"
)

func machinesStatusCommand() *command {
	return &command{
		name:  "status",
		short: "show what the coordinator knows of its machines",
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter machines status", "who is up, and how busy"},
			{"lighter machines status --json | jq -r 'select(.state == \"down\") | .name'", "for a program, one machine a line"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := socketFlags(fs)
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return clientAction(where, func(ctx context.Context, inv *invocation, client *apiclient.Client, _ head.Folders) error {
				if err := inv.arguments("", 0, 0); err != nil {
					return err
				}
				list, err := client.Machines(ctx)
				if err != nil {
					return err
				}
				return writeMachines(inv, list, *asJSON)
			})
		},
	}
}

func machinesTestCommand() *command {
	return &command{
		name:  "test",
		args:  "[NAME…]",
		short: "try whether machines can build",
		long: `Connects to the machines, by default to all, at the same time, and tries in order what building there needs: the SSH connection, the agent, its store, the key with which it signs, the clock. Of what fails it says how to mend it.

Where a coordinator runs, it does this over its own connections; else this command connects by itself.`,
		exits: []int{exitBadInput, exitUnusable},
		examples: []example{
			{"lighter machines test", "all machines"},
			{"lighter machines test alpha beta", "two of them"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := allFolderFlags(fs)
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return func(ctx context.Context, inv *invocation) error {
				f, err := where.resolve(inv)
				if err != nil {
					return err
				}
				c, err := newChecker(ctx, inv, f)
				if err != nil {
					return err
				}
				defer c.close()
				names, err := c.choose(inv, inv.args)
				if err != nil {
					return err
				}
				return testMachines(ctx, inv, c, names, *asJSON)
			}
		},
	}
}

// checkResult is how the check of one machine ended.
type checkResult struct {
	check *api.MachineCheck
	err   error
}

// testMachines checks machines at the same time and shows the results in order.
func testMachines(ctx context.Context, inv *invocation, c *checker, names []string, asJSON bool) error {
	results := make([]checkResult, len(names))
	var group errgroup.Group
	for i, name := range names {
		group.Go(func() error {
			results[i].check, results[i].err = c.check(ctx, name)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	bad := 0
	for i, r := range results {
		if r.err != nil {
			return fmt.Errorf("test %s: %w", names[i], r.err)
		}
		if !r.check.OK {
			bad++
		}
		if asJSON {
			if err := writeJSONLine(inv.Out, r.check); err != nil {
				return err
			}
			continue
		}
		writeCheck(inv.Out, r.check, inv.style(inv.Out))
	}
	if bad > 0 {
		return &exitError{exitUnusable, fmt.Errorf("%d of %s can't be used", bad, human.Count(len(names), "machine"))}
	}
	return nil
}

func writeCheck(w io.Writer, c *api.MachineCheck, style display.Style) {
	fmt.Fprintf(w, "%s: %s\n", human.Printable(c.Machine), style.Verdict(c.OK, "good", "can't be used"))
	for _, s := range c.Steps {
		fmt.Fprintf(w, "  %-8s  %s  %s\n", human.Printable(s.Name), style.Verdict(s.OK, "good", "bad "), human.Printable(s.Detail))
		if s.Fix != "" {
			for _, line := range strings.Split(human.PrintableText(s.Fix), "\n") {
				fmt.Fprintf(w, "            %s %s\n", "→", line)
			}
		}
	}
}

func machinesGCCommand() *command {
	return &command{
		name:  "gc",
		args:  "NAME…",
		short: "delete from machines' stores what no build needs",
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter machines gc --older-than 3d alpha", "outputs that nobody asked for in three days"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := socketFlags(fs)
			opts, maxFreed := gcFlags(fs)
			return clientAction(where, func(ctx context.Context, inv *invocation, client *apiclient.Client, _ head.Folders) error {
				if err := inv.arguments("NAME", 1, -1); err != nil {
					return err
				}
				var deleted []store.Path
				var freed int64
				for _, name := range inv.args {
					result, err := client.CollectGarbage(ctx, name, api.MachineGC{
						MaxFreed: int64(*maxFreed), OlderThan: seconds(opts.OlderThan), DryRun: opts.DryRun,
					})
					if err != nil {
						return fmt.Errorf("collect garbage on %s: %w", name, err)
					}
					deleted = append(deleted, result.Deleted...)
					freed += result.Freed
				}
				writeGarbage(inv, deleted, freed, opts.DryRun)
				return nil
			})
		},
	}
}

func machinesAuthorizeCommand() *command {
	return &command{
		name:  "authorize",
		args:  "NAME…",
		short: "trust the key with which a machine signs",
		long:  `Asks each machine for the key with which its store signs, shows the fingerprint, and after a yes adds the key to the head's ACL. Without this nothing that the machine builds is imported. The key comes over SSH from a machine whose host key is pinned; compare the fingerprint with what "lighter key show --fingerprint FILE" says there if that is not enough.`,
		exits: []int{exitBadInput, exitUnusable},
		examples: []example{
			{"lighter machines authorize alpha", "after a look at the fingerprint"},
			{"lighter machines authorize --yes alpha beta gamma", "without being asked"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := allFolderFlags(fs)
			yes := fs.BoolP("yes", "y", false, "don't ask")
			return func(ctx context.Context, inv *invocation) error {
				if err := inv.arguments("NAME", 1, -1); err != nil {
					return err
				}
				f, err := where.resolve(inv)
				if err != nil {
					return err
				}
				c, err := newChecker(ctx, inv, f)
				if err != nil {
					return err
				}
				defer c.close()
				names, err := c.choose(inv, inv.args)
				if err != nil {
					return err
				}
				return authorizeMachines(ctx, inv, f, c, names, *yes)
			}
		},
	}
}

func authorizeMachines(ctx context.Context, inv *invocation, f head.Folders, c *checker, names []string, yes bool) error {
	if !yes && terminal(inv.In) == nil {
		return usageErrorf("%s: standard input is no terminal to ask on; use --yes", inv.flags.Name())
	}
	for _, name := range names {
		key, err := machineKey(ctx, c, name)
		if err != nil {
			return &exitError{exitUnusable, err}
		}
		acl, err := loadACL(f)
		if err != nil {
			return err
		}
		if acl.Authorized(key) {
			fmt.Fprintf(inv.Out, "%s: already authorized: %s\n", name, key.Fingerprint())
			continue
		}
		if !yes {
			ok, err := ask(ctx, inv, fmt.Sprintf("%s signs with the key %s. Trust it?", name, key.Fingerprint()))
			if err != nil {
				return err
			}
			if !ok {
				fmt.Fprintf(inv.Out, "%s: not authorized\n", name)
				continue
			}
		}
		if _, err := changeACL(f, key, false); err != nil {
			return err
		}
		fmt.Fprintf(inv.Out, "%s: authorized: %s\n", name, key.Fingerprint())
		if c.client != nil {
			// So that the coordinator finds out now; what is wrong beside shows in its status.
			_, _ = c.check(ctx, name)
		}
	}
	return nil
}

// machineKey asks a machine for the key with which it signs.
func machineKey(ctx context.Context, c *checker, name string) (*signature.PublicKey, error) {
	check, err := c.check(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its key: %w", name, err)
	}
	if check.Status.PublicKey == "" {
		i := slices.IndexFunc(check.Steps, func(s api.CheckStep) bool { return !s.OK })
		if i < 0 {
			return nil, fmt.Errorf("%s did not say with which key it signs", name)
		}
		return nil, fmt.Errorf("ask %s for its key: %s: %s", name, check.Steps[i].Name, check.Steps[i].Detail)
	}
	key, err := signature.ParsePublicKey([]byte(check.Status.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", name, err)
	}
	return key, nil
}

// ask asks a yes-or-no question on the terminal; anything but a yes is a no.
func ask(ctx context.Context, inv *invocation, question string) (bool, error) {
	fmt.Fprintf(inv.Err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	// Reading a terminal can't be interrupted; the goroutine ends with its line, or
	// with the process.
	go func() {
		line := make([]byte, 0, 16)
		for b := make([]byte, 1); len(line) < cap(line); {
			n, err := inv.In.Read(b)
			if n == 0 || err != nil || b[0] == '\n' {
				break
			}
			line = append(line, b[0])
		}
		answer <- strings.ToLower(strings.TrimSpace(string(line)))
	}()
	select {
	case a := <-answer:
		return a == "y" || a == "yes", nil
	case <-ctx.Done():
		fmt.Fprintln(inv.Err)
		return false, context.Cause(ctx)
	}
}

// checker checks machines, through the coordinator or by itself.
type checker struct {
	client *apiclient.Client
	names  []string // of all machines
	alone  *loneChecker
}

func newChecker(ctx context.Context, inv *invocation, f head.Folders) (*checker, error) {
	client := apiclient.NewClient(f.Socket)
	list, err := client.Machines(ctx)
	if err == nil {
		c := &checker{client: client}
		for i := range list {
			c.names = append(c.names, list[i].Name)
		}
		return c, nil
	}
	client.Close()
	var noCoordinator *exitError
	if !errors.As(noAnswer(f, err), &noCoordinator) || noCoordinator.code != exitNoAnswer {
		return nil, err
	}
	alone, err := newLoneChecker(ctx, inv, f)
	if err != nil {
		return nil, err
	}
	c := &checker{alone: alone}
	for i := range alone.machines {
		c.names = append(c.names, alone.machines[i].Name)
	}
	return c, nil
}

// choose returns the machines that were named, or all.
func (c *checker) choose(inv *invocation, given []string) ([]string, error) {
	if len(given) == 0 {
		return c.names, nil
	}
	for _, name := range given {
		if slices.Contains(c.names, name) {
			continue
		}
		text := fmt.Sprintf("%s: no machine is called %q", inv.flags.Name(), name)
		if near := nearest(name, c.names); near != "" {
			return nil, usageErrorf("%s; did you mean %q?", text, near)
		}
		return nil, usageErrorf("%s; there are %s", text, strings.Join(c.names, ", "))
	}
	return given, nil
}

func (c *checker) check(ctx context.Context, name string) (*api.MachineCheck, error) {
	if c.client != nil {
		return c.client.CheckMachine(ctx, name)
	}
	return c.alone.check(ctx, name)
}

func (c *checker) close() {
	if c.client != nil {
		c.client.Close()
	}
	if c.alone != nil {
		_ = c.alone.close() // it was looked at, no more
	}
}
