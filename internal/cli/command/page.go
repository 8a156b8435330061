package command

import (
	"cmp"
	"errors"
	"syscall"

	"lighter/internal/cli/terminal"
)

// pages reports whether what this run prints goes through a pager, if there is a terminal.
func (c *Command) pages(inv *Invocation) bool {
	given := func(flag string) bool {
		set, err := inv.Flags.GetBool(flag)
		return err == nil && set
	}
	return c.Pages && !given("follow") && !given("no-pager")
}

// page puts a pager in front of a terminal that can show one; messages to the same terminal go
// through it, too, so that they stand where they belong. leave waits until the person has left
// it, and returns the error of what was printed.
func (inv *Invocation) page() (leave func(error) error) {
	t := terminal.Of(inv.Out)
	if t == nil || !terminal.Smart(inv.Getenv) {
		return func(err error) error { return err }
	}
	pager := terminal.NewPager(t, inv.Getenv)
	if terminal.Of(inv.Err) != nil {
		inv.Err = terminal.Marks(pager, inv.Getenv, true)
	}
	inv.Out = terminal.Marks(pager, inv.Getenv, false)
	return func(err error) error {
		closed := pager.Close()
		if errors.Is(err, syscall.EPIPE) {
			err = nil // the person has seen enough
		}
		return cmp.Or(err, closed)
	}
}
