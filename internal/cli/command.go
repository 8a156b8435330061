package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"lighter/internal/cli/human"
)

// command is a node of the tree. It has an action, or commands below it.
type command struct {
	name     string
	args     string // what follows the flags in the synopsis: "DRV…"
	short    string // one line, no full stop
	long     string // paragraphs, with an empty line in between
	examples []example
	exits    []int // beside exitDone, exitFailure and exitUsage
	// setup defines the flags and returns what to do once they are parsed. It is
	// also called to show them.
	setup func(fs *pflag.FlagSet) action
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

// find returns the command that args name, and the arguments after its name.
// Flags may stand in front of a subcommand's name only where c has that flag.
func (c *command) find(args []string) (*command, []string, error) {
	if len(c.sub) == 0 || len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return c, args, nil
	}
	for _, s := range c.sub {
		if s.name == args[0] {
			return s.find(args[1:])
		}
	}
	if c.setup != nil {
		return c, args, nil // it has arguments beside its commands
	}
	return nil, nil, c.unknown(args[0])
}

func (c *command) unknown(name string) error {
	names := make([]string, 0, len(c.sub))
	for _, s := range c.sub {
		names = append(names, s.name)
	}
	text := fmt.Sprintf("%s: unknown command %q", c.path(), name)
	if near := nearest(name, names); near != "" {
		return usageErrorf("%s; did you mean %q?", text, near)
	}
	return usageErrorf("%s; the commands are %s", text, strings.Join(names, ", "))
}

func (c *command) newFlagSet() *pflag.FlagSet {
	fs := pflag.NewFlagSet(c.path(), pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.SortFlags = false
	return fs
}

// parse reads the flags; its errors name the nearest known flag.
func (c *command) parse(fs *pflag.FlagSet, args []string) error {
	err := fs.Parse(args)
	if err == nil {
		return nil
	}
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

// arguments checks how many arguments there are; atMost < 0 is no limit.
func (inv *invocation) arguments(what string, atLeast, atMost int) error {
	switch n := len(inv.args); {
	case n < atLeast && atLeast == 1:
		return usageErrorf("%s: %s is missing; see \"%s --help\"", inv.flags.Name(), what, inv.flags.Name())
	case n < atLeast:
		return usageErrorf("%s: want %s; see \"%s --help\"", inv.flags.Name(), what, inv.flags.Name())
	case atMost == 0 && n > 0:
		return usageErrorf("%s: takes no arguments, got %q", inv.flags.Name(), inv.args[0])
	case atMost >= 0 && n > atMost:
		return usageErrorf("%s: one argument too many: %q", inv.flags.Name(), inv.args[atMost])
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
	fs := c.newFlagSet()
	if c.setup != nil {
		c.setup(fs)
	}
	fs.BoolP("help", "h", false, "show this text")
	if c.parent == nil {
		fs.Bool("version", false, "print lighter's version")
	}
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
		// A filter by state is no folder.
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

// paragraphs wraps each paragraph of text anew.
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
				cmd, rest, err := root.find(inv.args)
				if err != nil {
					return err
				}
				if len(rest) > 0 {
					return usageErrorf("%s has no command %q below it", cmd.path(), rest[0])
				}
				return cmd.writeHelp(inv.Out)
			}
		},
	}
}
