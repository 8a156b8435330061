package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lighter/internal/human"
)

// completionTime bounds how long a person who pressed tab waits.
const completionTime = 2 * time.Second

// Values returns what may stand somewhere on a command line, each perhaps followed by a tab
// and a description. inv has the flags as they are typed so far.
type Values func(ctx context.Context, inv *Invocation) ([]string, error)

// OneOf are values that are known without asking.
func OneOf(words ...string) Values {
	return func(context.Context, *Invocation) ([]string, error) { return words, nil }
}

// Completions are the values that a program offers where somebody types.
type Completions struct {
	// Flag has those of a flag; nil where it takes a number, a text or a file. It must be set.
	Flag func(f *pflag.Flag) Values
	// Argument has those of arguments, by the word that stands for them in a synopsis.
	// Others are files.
	Argument map[string]Values
}

// arguments are the values of the command's arguments; nil are files.
func (c *Command) arguments() Values {
	words := strings.FieldsFunc(c.Args, func(r rune) bool { return strings.ContainsRune(" []…", r) })
	switch {
	case len(c.Sub) > 0 || len(words) == 0:
		return OneOf()
	case words[0] == "COMMAND":
		var names []string
		for _, s := range c.parent.Sub {
			names = append(names, s.Name+"\t"+s.Short)
		}
		return OneOf(names...)
	case strings.Contains(words[0], "|"):
		return OneOf(strings.Split(words[0], "|")...)
	}
	for _, w := range words {
		if from := c.root().Offers.Argument[w]; from != nil {
			return from
		}
	}
	return nil
}

// complete says what completes the flags and arguments of a command.
func (c *Command) complete(cmd *cobra.Command, p Process, fs *pflag.FlagSet) {
	fs.VisitAll(func(f *pflag.Flag) {
		if from := c.root().Offers.Flag(f); from != nil {
			// It only fails for a flag that is not there, or that has values already.
			_ = cmd.RegisterFlagCompletionFunc(f.Name, completed(p, fs, from))
		}
	})
	if from := c.arguments(); from != nil {
		cmd.ValidArgsFunction = completed(p, fs, from)
	}
}

// completed offers the values that start with what is typed. That they can't be had is not an
// error here: there is nothing to offer.
func completed(p Process, fs *pflag.FlagSet, from Values) cobra.CompletionFunc {
	return func(cmd *cobra.Command, typed []string, start string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		all, _ := from(ctx, &Invocation{Process: p, Flags: fs})
		var offered []string
		for _, v := range all {
			word, about, described := strings.Cut(v, "\t")
			if !strings.HasPrefix(word, start) || slices.Contains(typed, word) || word != human.Printable(word) {
				continue
			}
			if described {
				word += "\t" + human.Printable(about)
			}
			offered = append(offered, word)
		}
		return offered, cobra.ShellCompDirectiveNoFileComp
	}
}

func completionCommand(root *Command) *Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &Command{
		Name:  "completion",
		Args:  strings.Join(shells, "|"),
		Short: "print what makes a shell complete lighter's commands",
		Long: `Prints a script for the shell. With it, the tab key completes commands, flags, files, and what the coordinator knows: machines, builds, tags, systems, hooks.

The completion of bash needs the package bash-completion. "make install" puts the scripts for bash, zsh and fish where these look for them.`,
		Examples: []Example{
			{"source <(lighter completion bash)", "for this shell"},
			{"lighter completion bash > ~/.local/share/bash-completion/completions/lighter", "for all your bash shells"},
			{"lighter completion zsh > ~/.zfunc/_lighter", "for zsh, where ~/.zfunc is in fpath"},
			{"lighter completion fish > ~/.config/fish/completions/lighter.fish", "for fish"},
		},
		ChecksArguments: true,
		Setup: func(*pflag.FlagSet) Action {
			return func(_ context.Context, inv *Invocation) error {
				if err := inv.Arguments("a shell", 1, 1); err != nil {
					return err
				}
				tree := root.cobra(inv.Process) //nolint:contextcheck // nothing of it is run
				switch inv.Args[0] {
				case "bash":
					return tree.GenBashCompletionV2(inv.Out, true)
				case "zsh":
					return tree.GenZshCompletion(inv.Out)
				case "fish":
					return tree.GenFishCompletion(inv.Out, true)
				case "powershell":
					return tree.GenPowerShellCompletionWithDesc(inv.Out)
				}
				return inv.UsageErrorf("%q is not one of %s", inv.Args[0], strings.Join(shells, ", "))
			}
		},
	}
}
