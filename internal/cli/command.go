package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lighter/internal/human"
	"lighter/internal/version"
)

// command is a node of the tree. It has an action, or commands below it.
type command struct {
	name     string
	args     string // what follows the flags in the synopsis: "DRV…"; see argumentValues
	short    string // one line, no full stop
	long     string // paragraphs, with an empty line in between
	examples []example
	exits    []int // besides exitDone, exitFailure and exitUsage
	// setup defines the flags and returns what to do once they are parsed. It is
	// also called to show them.
	setup func(fs *pflag.FlagSet) action
	// checksArguments says that the action looks itself how many arguments there are; else
	// that follows from args.
	checksArguments bool
	// takesSignals says that the action reads Process.Signals itself.
	takesSignals bool

	sub    []*command
	parent *command
}

type example struct{ line, what string }

type action func(ctx context.Context, inv *invocation) error

// invocation is one run of a command.
type invocation struct {
	Process
	args  []string // what is not a flag
	flags *pflag.FlagSet
}

// adopt sets the parents below c.
func (c *command) adopt() {
	for _, s := range c.sub {
		s.parent = c
		s.adopt()
	}
}

// path returns "lighter machines check".
func (c *command) path() string {
	if c.parent == nil {
		return c.name
	}
	return c.parent.path() + " " + c.name
}

// find returns the command that names lead to from c, and the names that lead nowhere.
func (c *command) find(names []string) (*command, []string) {
	if len(names) > 0 {
		for _, s := range c.sub {
			if s.name == names[0] {
				return s.find(names[1:])
			}
		}
	}
	return c, names
}

func (c *command) unknown(name string) error {
	names := make([]string, 0, len(c.sub))
	for _, s := range c.sub {
		names = append(names, s.name)
	}
	return usageErrorf("%s: unknown command %q; %s", c.path(), name, nearestOf(name, names, "the commands are"))
}

// allFlags returns the command's flags and its action, nil if it only has commands below it.
func (c *command) allFlags() (*pflag.FlagSet, action) {
	fs := pflag.NewFlagSet(c.path(), pflag.ContinueOnError)
	fs.SortFlags = false
	var do action
	if c.setup != nil {
		do = c.setup(fs)
	}
	fs.BoolP("help", "h", false, "show this text")
	if c.parent == nil {
		fs.Bool("version", false, "print lighter's version")
	}
	return fs, do
}

// cobra returns the command, and all below it, for the library that finds the command of a
// command line, parses its flags, and completes what is typed. Help and errors are ours.
func (c *command) cobra(p Process) *cobra.Command {
	fs, do := c.allFlags()
	cmd := &cobra.Command{
		Use: c.name, Short: c.short, Args: cobra.ArbitraryArgs,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(cmd.Context(), do, &invocation{Process: p, args: args, flags: fs})
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(fs)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return c.flagError(fs, err) })
	cmd.SetHelpFunc(func(*cobra.Command, []string) { _ = c.writeHelp(p.Out) })
	c.complete(cmd, p, fs)
	for _, s := range c.sub {
		sub := s.cobra(p)
		cmd.AddCommand(sub)
		if s.name == "help" {
			cmd.SetHelpCommand(sub)
		}
	}
	return cmd
}

// flagError says of a flag that is not known which one was meant.
func (c *command) flagError(fs *pflag.FlagSet, err error) error {
	var notExist *pflag.NotExistError
	if !errors.As(err, &notExist) {
		return usageErrorf("%s: %w", c.path(), err)
	}
	given := notExist.GetSpecifiedName()
	if notExist.GetSpecifiedShortnames() != "" {
		return usageErrorf("%s: unknown flag -%s; see \"%s --help\"", c.path(), given, c.path())
	}
	var names []string
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := nearest(given, names); near != "" {
		return usageErrorf("%s: unknown flag --%s; did you mean --%s?", c.path(), given, near)
	}
	return usageErrorf("%s: unknown flag --%s; see \"%s --help\"", c.path(), given, c.path())
}

// run runs the command. The first signal ends ctx, a second one the process, unless the
// command takes the signals for itself.
func (c *command) run(ctx context.Context, do action, inv *invocation) error {
	if showVersion, _ := inv.flags.GetBool("version"); showVersion && c.parent == nil {
		_, err := fmt.Fprintf(inv.Out, "lighter %s\n", version.Version)
		return err
	}
	if do == nil {
		return c.incomplete(inv)
	}
	if !c.checksArguments {
		if err := inv.arguments(c.takes()); err != nil {
			return err
		}
	}
	if !c.takesSignals {
		var stop context.CancelFunc
		ctx, stop = cancelOnSignal(ctx, inv.Signals)
		defer stop()
	}
	err := do(ctx, inv)
	if err != nil && errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), errInterrupted) {
		return errInterrupted
	}
	return err
}

// incomplete answers a command that only has others below it.
func (c *command) incomplete(inv *invocation) error {
	if len(inv.args) > 0 {
		return c.unknown(inv.args[0])
	}
	if c.parent == nil {
		if err := c.writeHelp(inv.Err); err != nil {
			return err
		}
		return &exitError{code: exitUsage}
	}
	var names []string
	for _, s := range c.sub {
		names = append(names, s.name)
	}
	return usageErrorf("%s: which one? %s (see \"%s --help\")", c.path(), strings.Join(names, ", "), c.path())
}

// takes returns what the first argument is, and how many there may be, as the synopsis says.
func (c *command) takes() (what string, atLeast, atMost int) {
	for i, word := range strings.Fields(c.args) {
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

// usageErrorf returns an error that says what is wrong with the command line.
func (inv *invocation) usageErrorf(format string, args ...any) error {
	return usageErrorf("%s: "+format, slices.Concat([]any{inv.flags.Name()}, args)...)
}

// arguments checks how many arguments there are; atMost < 0 means no limit.
func (inv *invocation) arguments(what string, atLeast, atMost int) error {
	switch n := len(inv.args); {
	case n < atLeast && atLeast == 1:
		return inv.usageErrorf("%s is missing; see \"%s --help\"", what, inv.flags.Name())
	case n < atLeast:
		return inv.usageErrorf("want %s; see \"%s --help\"", what, inv.flags.Name())
	case atMost == 0 && n > 0:
		return inv.usageErrorf("takes no arguments, got %q", inv.args[0])
	case atMost >= 0 && n > atMost:
		return inv.usageErrorf("one argument too many: %q", inv.args[atMost])
	}
	return nil
}

// helpWidth is the width for which help texts are written.
const helpWidth = 80

// writeHelp writes the command's page.
func (c *command) writeHelp(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s - %s\n\nSYNOPSIS\n  %s\n", c.path(), c.short, c.synopsis())
	if c.long != "" {
		fmt.Fprintf(&b, "\nDESCRIPTION\n%s\n", indent(paragraphs(c.long)))
	}
	c.writeCommands(&b)
	fs, _ := c.allFlags()
	writeFlags(&b, fs)
	if len(c.examples) > 0 {
		b.WriteString("\nEXAMPLES\n")
		for i, e := range c.examples {
			if i > 0 {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "  # %s\n%s\n", e.what, indent(e.line))
		}
	}
	c.writeExitCodes(&b)
	_, err := w.Write(b.Bytes())
	return err
}

// commonFlags are those that many commands have; they are shown last.
var commonFlags = []string{"socket", "state", "config", "help", "version"}

func writeFlags(b *bytes.Buffer, fs *pflag.FlagSet) {
	var own, common []*pflag.Flag
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		// A filter by state is not a folder.
		if slices.Contains(commonFlags, f.Name) && f.Value.Type() != "stringSlice" {
			common = append(common, f)
		} else {
			own = append(own, f)
		}
	})
	for _, section := range []struct {
		title string
		flags []*pflag.Flag
	}{{"FLAGS", own}, {"COMMON FLAGS", common}} {
		if len(section.flags) == 0 {
			continue
		}
		fmt.Fprintf(b, "\n%s\n", section.title)
		for _, f := range section.flags {
			writeFlag(b, f)
		}
	}
}

// flagColumn is where the descriptions of flags start.
const flagColumn = 28

func writeFlag(b *bytes.Buffer, f *pflag.Flag) {
	value, usage := pflag.UnquoteUsage(f)
	head := "      --" + f.Name
	if f.Shorthand != "" {
		head = "  -" + f.Shorthand + ", --" + f.Name
	}
	if value != "" {
		head += " " + strings.ToUpper(value)
	}
	if zeros := []string{"", "0", "0s", "false", "[]"}; !slices.Contains(zeros, f.DefValue) {
		usage += " (default " + f.DefValue + ")"
	}
	if len(head)+2 > flagColumn {
		b.WriteString(head + "\n")
		head = ""
	}
	for _, line := range wrap(usage, helpWidth-flagColumn) {
		b.WriteString(human.Pad(head, flagColumn) + line + "\n")
		head = ""
	}
}

func (c *command) synopsis() string {
	switch {
	case len(c.sub) > 0 && c.setup != nil:
		return strings.TrimRight(c.path()+" [FLAGS] "+c.args, " ") + "\n  " + c.path() + " COMMAND"
	case len(c.sub) > 0:
		return c.path() + " COMMAND"
	case c.args != "":
		return c.path() + " [FLAGS] " + c.args
	}
	return c.path() + " [FLAGS]"
}

func (c *command) writeCommands(b *bytes.Buffer) {
	if len(c.sub) == 0 {
		return
	}
	width := 0
	for _, s := range c.sub {
		width = max(width, len(s.name))
	}
	b.WriteString("\nCOMMANDS\n")
	for _, s := range c.sub {
		fmt.Fprintf(b, "  %s  %s\n", human.Pad(s.name, width), s.short)
	}
	fmt.Fprintf(b, "\n  Each has a page of its own: \"%s COMMAND --help\".\n", c.path())
}

func (c *command) writeExitCodes(b *bytes.Buffer) {
	codes := append([]int{exitDone, exitFailure, exitUsage}, c.exits...)
	if c.setup == nil {
		// A node without an action shows the whole table.
		codes = nil
		for code := range exitCodes {
			codes = append(codes, code)
		}
	}
	slices.Sort(codes)
	b.WriteString("\nEXIT CODES\n")
	for _, code := range slices.Compact(codes) {
		lines := wrap(exitCodes[code], helpWidth-7)
		fmt.Fprintf(b, "  %3d  %s\n", code, strings.Join(lines, "\n       "))
	}
}

func indent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = "  " + l
		}
	}
	return strings.Join(lines, "\n")
}

// paragraphs rewraps each paragraph of text.
func paragraphs(text string) string {
	var all []string
	for p := range strings.SplitSeq(text, "\n\n") {
		all = append(all, strings.Join(wrap(p, helpWidth-2), "\n"))
	}
	return strings.Join(all, "\n\n")
}

// wrap breaks text between words into lines of at most width cells.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case human.Width(line)+1+human.Width(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// helpCommand is "lighter help COMMAND…".
func helpCommand(root *command) *command {
	return &command{
		name:  "help",
		args:  "[COMMAND…]",
		short: "show a command's page",
		examples: []example{
			{"lighter help store import", "what \"lighter store import --help\" shows"},
		},
		setup: func(*pflag.FlagSet) action {
			return func(_ context.Context, inv *invocation) error {
				cmd, rest := root.find(inv.args)
				switch {
				case len(rest) == 0:
					return cmd.writeHelp(inv.Out)
				case len(cmd.sub) > 0:
					return cmd.unknown(rest[0])
				}
				return usageErrorf("%s has no command %q below it", cmd.path(), rest[0])
			}
		},
	}
}
