package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lighter/internal/version"
)

// Command is a node of the tree. It has an action, or commands below it, or both.
type Command struct {
	Name  string
	Args  string // what follows the flags in the synopsis: "DRV… [FILE]"; see takes and Completions
	Short string // one line, no full stop
	Long  string // paragraphs, with an empty line in between

	Examples []Example
	Exits    []int // besides ExitDone, ExitFailure and ExitUsage
	// Setup defines the flags and returns what to do once they are parsed. It is
	// also called to show them.
	Setup func(fs *pflag.FlagSet) Action
	// ChecksArguments says that the action looks itself how many arguments there are; else
	// that follows from Args.
	ChecksArguments bool
	// Pages says that what it prints may be long: on a terminal it goes through a pager, unless
	// the command goes on with --follow.
	Pages bool
	// TakesSignals says that the action reads Process.Signals itself.
	TakesSignals bool

	Sub    []*Command
	Offers Completions       // of the root, for all commands
	Topics map[string]string // of the root: pages that "help" shows besides those of commands
	parent *Command
}

// Example is a command line, and what it is for.
type Example = struct{ Line, What string }

// Action is what a command does. Its context ends with the first signal, unless the command
// takes signals itself. Its error, if any, is shown, and becomes the exit code.
type Action func(ctx context.Context, inv *Invocation) error

// Invocation is one run of a command.
type Invocation struct {
	Process
	Args  []string       // what is not a flag
	Flags *pflag.FlagSet // named after the command: "lighter builds list"
}

// Tree adds "completion" and "help" to the commands below root, and makes it ready to run.
func Tree(root *Command) *Command {
	root.Sub = append(root.Sub, completionCommand(root), helpCommand(root))
	root.adopt()
	return root
}

// adopt sets the parents below c.
func (c *Command) adopt() {
	for _, s := range c.Sub {
		s.parent = c
		s.adopt()
	}
}

// root returns the command above all others.
func (c *Command) root() *Command {
	if c.parent == nil {
		return c
	}
	return c.parent.root()
}

// path returns "lighter machines check".
func (c *Command) path() string {
	if c.parent == nil {
		return c.Name
	}
	return c.parent.path() + " " + c.Name
}

// find returns the command that names lead to from c, and the names that lead nowhere.
func (c *Command) find(names []string) (*Command, []string) {
	if len(names) > 0 {
		for _, s := range c.Sub {
			if s.Name == names[0] {
				return s.find(names[1:])
			}
		}
	}
	return c, names
}

// names are those of the commands below c.
func (c *Command) names() (names []string) {
	for _, s := range c.Sub {
		names = append(names, s.Name)
	}
	return names
}

// allFlags returns the command's flags and its action, nil if it only has commands below it.
func (c *Command) allFlags() (*pflag.FlagSet, Action) {
	fs := pflag.NewFlagSet(c.path(), pflag.ContinueOnError)
	fs.SortFlags = false
	var do Action
	if c.Setup != nil {
		do = c.Setup(fs)
	}
	if c.Pages {
		fs.Bool("no-pager", false, "print on a terminal without a pager ($LIGHTER_PAGER, else $PAGER, else less)")
	}
	fs.BoolP("help", "h", false, "show this text")
	if c.parent == nil {
		fs.Bool("version", false, "print lighter's version")
	}
	return fs, do
}

// cobra returns the command, and all below it, for the library that finds the command of a
// command line, parses its flags, and completes what is typed. Help and errors are ours.
func (c *Command) cobra(p Process) *cobra.Command {
	fs, do := c.allFlags()
	cmd := &cobra.Command{
		Use: c.Name, Short: c.Short, Args: cobra.ArbitraryArgs,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(cmd.Context(), do, &Invocation{Process: p, Args: args, Flags: fs})
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(fs)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return c.flagError(fs, err) })
	cmd.SetHelpFunc(func(*cobra.Command, []string) {
		inv := &Invocation{Process: p}
		leave := inv.page()
		_ = c.WriteHelp(inv.Out)
		_ = leave(nil)
	})
	c.complete(cmd, p, fs)
	for _, s := range c.Sub {
		sub := s.cobra(p)
		cmd.AddCommand(sub)
		if s.Name == "help" {
			cmd.SetHelpCommand(sub)
		}
	}
	return cmd
}

// flagError says of a flag that is not known which one was meant, and of a value what was
// wanted.
func (c *Command) flagError(fs *pflag.FlagSet, err error) error {
	var notExist *pflag.NotExistError
	var invalid *pflag.InvalidValueError
	var none *pflag.ValueRequiredError
	switch {
	case errors.As(err, &invalid):
		return UsageErrorf("%s: --%s %w", c.path(), invalid.GetFlag().Name, valueError(fs, invalid))
	case errors.As(err, &none):
		return UsageErrorf("%s: --%s wants a value; see \"%s --help\"", c.path(), none.GetFlag().Name, c.path())
	case !errors.As(err, &notExist):
		return UsageErrorf("%s: %w", c.path(), err)
	}
	given := notExist.GetSpecifiedName()
	if notExist.GetSpecifiedShortnames() != "" {
		if strings.Trim(notExist.GetSpecifiedShortnames(), "0123456789") == "" {
			return UsageErrorf("%s: unknown flag -%s; a negative number comes after --: %s -- -%[2]s", c.path(), notExist.GetSpecifiedShortnames(), c.path())
		}
		return UsageErrorf("%s: unknown flag -%s; see \"%s --help\"", c.path(), given, c.path())
	}
	var names []string
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := nearest(given, names); near != "" {
		return UsageErrorf("%s: unknown flag --%s; did you mean --%s?", c.path(), given, near)
	}
	return UsageErrorf("%s: unknown flag --%s; see \"%s --help\"", c.path(), given, c.path())
}

// run runs the command. The first signal ends ctx, a second one the process, unless the
// command takes the signals for itself.
func (c *Command) run(ctx context.Context, do Action, inv *Invocation) error {
	if showVersion, _ := inv.Flags.GetBool("version"); showVersion && c.parent == nil {
		_, err := fmt.Fprintf(inv.Out, "lighter %s\n", version.Full())
		return err
	}
	if do == nil {
		return c.Incomplete(inv)
	}
	if !c.ChecksArguments {
		if err := inv.Arguments(c.takes()); err != nil {
			return err
		}
	}
	leave, second := func(err error) error { return err }, leaveAtOnce
	if c.pages(inv) {
		// The pager takes interrupts for itself, too.
		leave, second = inv.page(), func(os.Signal) {}
	}
	if !c.TakesSignals {
		var stop context.CancelFunc
		ctx, stop = inv.cancelOnSignal(ctx, second)
		defer stop()
	}
	err := leave(do(ctx, inv))
	if err != nil && errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), ErrInterrupted) {
		return ErrInterrupted
	}
	return err
}

// Incomplete answers a command that only has others below it.
func (c *Command) Incomplete(inv *Invocation) error {
	if len(inv.Args) > 0 {
		return c.unknown(inv.Args[0])
	}
	if c.parent == nil {
		if err := c.WriteHelp(inv.Err); err != nil {
			return err
		}
		return Exit(ExitUsage, nil)
	}
	return UsageErrorf("%s: which one? %s (see \"%s --help\")", c.path(), strings.Join(c.names(), ", "), c.path())
}

func (c *Command) unknown(name string) error {
	return UsageErrorf("%s: unknown command %q; %s", c.path(), name, NearestOf(name, c.names(), "the commands are"))
}

// takes returns what the first argument is, and how many there may be, as the synopsis says.
func (c *Command) takes() (what string, atLeast, atMost int) {
	for i, word := range strings.Fields(c.Args) {
		if strings.HasPrefix(word, "--") {
			break // a flag that must be given
		}
		if i == 0 {
			what = strings.Trim(word, "[…]")
		}
		if word[0] != '[' {
			atLeast++
		}
		if strings.Contains(word, "…") {
			return what, atLeast, -1
		}
		atMost++
	}
	return what, atLeast, atMost
}

// UsageErrorf returns an error that says what is wrong with the command line.
func (inv *Invocation) UsageErrorf(format string, args ...any) error {
	return UsageErrorf("%s: "+format, slices.Concat([]any{inv.Flags.Name()}, args)...)
}

// Arguments checks how many arguments there are; atMost < 0 means no limit.
func (inv *Invocation) Arguments(what string, atLeast, atMost int) error {
	switch n := len(inv.Args); {
	case n < atLeast && atLeast == 1:
		return inv.UsageErrorf("%s is missing; see \"%s --help\"", what, inv.Flags.Name())
	case n < atLeast:
		return inv.UsageErrorf("want %s; see \"%s --help\"", what, inv.Flags.Name())
	case atMost == 0 && n > 0:
		return inv.UsageErrorf("takes no arguments, got %q", inv.Args[0])
	case atMost >= 0 && n > atMost:
		return inv.UsageErrorf("one argument too many: %q", inv.Args[atMost])
	}
	return nil
}
