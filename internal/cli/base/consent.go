package base

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"lighter/internal/cli/command"
	"lighter/internal/cli/terminal"
)

// Consent is a person's yes to what can't be undone: given with --yes, or on a terminal when
// asked.
type Consent struct{ Yes bool }

func AddConsentFlag(fs *pflag.FlagSet, usage string) *Consent {
	c := &Consent{}
	fs.BoolVarP(&c.Yes, "yes", "y", false, usage)
	return c
}

// Given reports whether the person says yes to a question, after being told what it is about.
// Where nobody can be asked, --yes is what is missing.
func (c *Consent) Given(ctx context.Context, inv *command.Invocation, about, question string) (bool, error) {
	if c.Yes {
		return true, nil
	}
	if terminal.Of(inv.In) == nil {
		return false, fmt.Errorf("%w: %s", ErrNobodyToAsk(inv), about)
	}
	question = strings.ToUpper(about[:1]) + about[1:] + ". " + question
	ok, err := Ask(ctx, inv, question)
	if err == nil && !ok {
		fmt.Fprintln(inv.Err, "nothing was changed")
	}
	return ok, err
}

func ErrNobodyToAsk(inv *command.Invocation) error {
	return inv.UsageErrorf("standard input is not a terminal to ask on; use --yes")
}

// Ask asks a yes-or-no question on the terminal; anything but a yes is a no.
func Ask(ctx context.Context, inv *command.Invocation, question string) (bool, error) {
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
