package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"lighter/internal/human"
)

// helpWidth is the width for which help texts are written.
const helpWidth = 80

// WriteHelp writes the command's page.
func (c *Command) WriteHelp(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s - %s\n\nSYNOPSIS\n  %s\n", c.path(), c.Short, c.synopsis())
	if c.Long != "" {
		fmt.Fprintf(&b, "\nDESCRIPTION\n%s\n", human.Indent(paragraphs(c.Long), "  "))
	}
	c.writeCommands(&b)
	fs, _ := c.allFlags()
	writeFlags(&b, fs)
	if len(c.Examples) > 0 {
		b.WriteString("\nEXAMPLES\n")
		for i, e := range c.Examples {
			if i > 0 {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "  # %s\n%s\n", e.What, human.Indent(e.Line, "  "))
		}
	}
	c.writeExitCodes(&b)
	_, err := w.Write(b.Bytes())
	return err
}

// commonFlags are those that many commands have; they are shown last.
var commonFlags = []string{"socket", "state", "config", "no-pager", "help", "version"}

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

func (c *Command) synopsis() string {
	switch {
	case len(c.Sub) > 0 && c.Setup != nil:
		return strings.TrimRight(c.path()+" [FLAGS] "+c.Args, " ") + "\n  " + c.path() + " COMMAND"
	case len(c.Sub) > 0:
		return c.path() + " COMMAND"
	case c.Args != "":
		return c.path() + " [FLAGS] " + c.Args
	}
	return c.path() + " [FLAGS]"
}

func (c *Command) writeCommands(b *bytes.Buffer) {
	if len(c.Sub) == 0 {
		return
	}
	width := 0
	for _, s := range c.Sub {
		width = max(width, len(s.Name))
	}
	b.WriteString("\nCOMMANDS\n")
	for _, s := range c.Sub {
		fmt.Fprintf(b, "  %s  %s\n", human.Pad(s.Name, width), s.Short)
	}
	fmt.Fprintf(b, "\n  Each has a page of its own: \"%s COMMAND --help\".\n", c.path())
}

func (c *Command) writeExitCodes(b *bytes.Buffer) {
	codes := append([]int{ExitDone, ExitFailure, ExitUsage}, c.Exits...)
	if c.Setup == nil {
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

// topicsText says about what "help" has pages besides those of commands.
func (c *Command) topicsText() string {
	if len(c.Topics) == 0 {
		return ""
	}
	return "There are pages too about " + strings.Join(slices.Sorted(maps.Keys(c.Topics)), ", ") + "."
}

// helpCommand is "lighter help COMMAND…".
func helpCommand(root *Command) *Command {
	return &Command{
		Name:  "help",
		Args:  "[COMMAND…]",
		Short: "show a command's page, or what is written about files",
		Long:  root.topicsText(),
		Pages: true,
		Examples: []Example{
			{"lighter help store import", "what \"lighter store import --help\" shows"},
			{"lighter help machines.toml", "all keys of the machines file"},
		},
		Setup: func(*pflag.FlagSet) Action {
			return func(_ context.Context, inv *Invocation) error {
				cmd, rest := root.find(inv.Args)
				topic, ok := root.Topics[strings.Join(inv.Args, " ")]
				switch {
				case ok:
					_, err := io.WriteString(inv.Out, topic)
					return err
				case len(rest) == 0:
					return cmd.WriteHelp(inv.Out)
				case len(cmd.Sub) > 0:
					return cmd.unknown(rest[0])
				}
				return UsageErrorf("%s has no command %q below it", cmd.path(), rest[0])
			}
		},
	}
}
