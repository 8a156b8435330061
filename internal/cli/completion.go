package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/human"
	"lighter/machines"
)

// completionTime bounds how long a person who pressed tab waits for the coordinator.
const completionTime = 2 * time.Second

// maxCompletions bounds the builds among which a completion looks for what it offers.
const maxCompletions = 200

// values returns what may stand somewhere on a command line, each perhaps followed by a tab
// and a description. The client is the coordinator's, whether one answers or not.
type values func(ctx context.Context, client *apiclient.Client) ([]string, error)

// oneOf are values that are known without asking.
func oneOf(words ...string) values {
	return func(context.Context, *apiclient.Client) ([]string, error) { return words, nil }
}

func machineNames(ctx context.Context, client *apiclient.Client) (names []string, err error) {
	list, err := client.Machines(ctx)
	for i := range list {
		names = append(names, list[i].Name+"\t"+string(list[i].State))
	}
	return names, err
}

func systems(ctx context.Context, client *apiclient.Client) (all []string, err error) {
	list, err := client.Machines(ctx)
	for i := range list {
		all = append(all, list[i].Systems...)
	}
	slices.Sort(all)
	return slices.Compact(all), err
}

// latestBuilds are the builds that were submitted last.
func latestBuilds(ctx context.Context, client *apiclient.Client) ([]api.Build, error) {
	list, err := client.Builds(ctx, apiclient.BuildFilter{Limit: maxCompletions})
	if err != nil {
		return nil, err
	}
	return list.Builds, nil
}

func buildIDs(ctx context.Context, client *apiclient.Client) (ids []string, err error) {
	list, err := latestBuilds(ctx, client)
	for i := range list {
		ids = append(ids, fmt.Sprintf("%s\t%s, %s", list[i].ID, list[i].Derivation.Name(), list[i].State))
	}
	return ids, err
}

func tags(ctx context.Context, client *apiclient.Client) ([]string, error) {
	list, err := latestBuilds(ctx, client)
	found := make(map[string]bool)
	for i := range list {
		for k, v := range list[i].Tags {
			found[k+"="+v] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), err
}

func hookRuns(ctx context.Context, client *apiclient.Client) (ids []string, err error) {
	list, err := client.Hooks(ctx)
	if err != nil {
		return nil, err
	}
	for i := range list.Runs {
		ids = append(ids, list.Runs[i].ID)
	}
	return ids, nil
}

func hookNames(ctx context.Context, client *apiclient.Client) (names []string, err error) {
	list, err := client.Hooks(ctx)
	if err != nil {
		return nil, err
	}
	for i := range list.Hooks {
		names = append(names, list.Hooks[i].Name)
	}
	return names, nil
}

func states() values {
	var words []string
	for _, s := range api.States() {
		words = append(words, string(s))
	}
	return oneOf(words...)
}

// flagValues are the values of flags, by name. The rest are numbers, texts, or files.
var flagValues = map[string]values{
	"machine": machineNames, "on": machineNames, "skip": machineNames,
	"system": systems, "tag": tags, "not-tag": tags, "hook": hookNames, "supersede": tags,
	"store":     oneOf(machines.StoreLocal, machines.StoreDaemon),
	"log-level": oneOf(logLevels...), "log-format": oneOf(logFormats...),
}

// argumentValues are the values of arguments, by the word that stands for them in a synopsis.
// Others are files.
var argumentValues = map[string]values{"NAME": machineNames, "ID": buildIDs, "RUN": hookRuns, "HOOK": hookNames}

// arguments are the values of the command's arguments; nil are files.
func (c *command) arguments() values {
	words := strings.FieldsFunc(c.args, func(r rune) bool { return strings.ContainsRune(" []…", r) })
	switch {
	case len(c.sub) > 0 || len(words) == 0:
		return oneOf()
	case words[0] == "COMMAND":
		var names []string
		for _, s := range c.parent.sub {
			names = append(names, s.name+"\t"+s.short)
		}
		return oneOf(names...)
	case strings.Contains(words[0], "|"):
		return oneOf(strings.Split(words[0], "|")...)
	}
	for _, w := range words {
		if from := argumentValues[w]; from != nil {
			return from
		}
	}
	return nil
}

// complete says what completes the flags and arguments of a command.
func (c *command) complete(cmd *cobra.Command, p Process, fs *pflag.FlagSet) {
	fs.VisitAll(func(f *pflag.Flag) {
		from := flagValues[f.Name]
		if f.Value.Type() == "stringSlice" && (f.Name == "state" || f.Name == "only") {
			from = states()
		}
		if from != nil {
			// It only fails for a flag that is not there, or that has values already.
			_ = cmd.RegisterFlagCompletionFunc(f.Name, completed(p, fs, from))
		}
	})
	if from := c.arguments(); from != nil {
		cmd.ValidArgsFunction = completed(p, fs, from)
	}
}

// completed offers the values that start with what is typed. That there is no coordinator
// is not an error here: there is nothing to offer.
func completed(p Process, fs *pflag.FlagSet, from values) cobra.CompletionFunc {
	return func(cmd *cobra.Command, typed []string, start string) ([]string, cobra.ShellCompDirective) {
		where := &folderFlags{}
		for name, field := range map[string]**string{"state": &where.state, "socket": &where.socket} {
			if f := fs.Lookup(name); f != nil && f.Value.Type() == "string" {
				text := f.Value.String()
				*field = &text
			}
		}
		f, err := where.resolve(&invocation{Process: p, flags: fs})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client := apiclient.NewClient(f.Socket)
		defer client.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		all, _ := from(ctx, client)
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

func completionCommand(root *command) *command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &command{
		name:  "completion",
		args:  strings.Join(shells, "|"),
		short: "print what makes a shell complete lighter's commands",
		long: `Prints a script for the shell. With it, the tab key completes commands, flags, files, and what the coordinator knows: machines, builds, tags, systems, hooks.

The completion of bash needs the package bash-completion. "make install" puts the scripts for bash, zsh and fish where these look for them.`,
		examples: []example{
			{"source <(lighter completion bash)", "for this shell"},
			{"lighter completion bash > ~/.local/share/bash-completion/completions/lighter", "for all your bash shells"},
			{"lighter completion zsh > ~/.zfunc/_lighter", "for zsh, where ~/.zfunc is in fpath"},
			{"lighter completion fish > ~/.config/fish/completions/lighter.fish", "for fish"},
		},
		checksArguments: true,
		setup: func(*pflag.FlagSet) action {
			return func(_ context.Context, inv *invocation) error {
				if err := inv.arguments("a shell", 1, 1); err != nil {
					return err
				}
				tree := root.cobra(inv.Process) //nolint:contextcheck // nothing of it is run
				switch inv.args[0] {
				case "bash":
					return tree.GenBashCompletionV2(inv.Out, true)
				case "zsh":
					return tree.GenZshCompletion(inv.Out)
				case "fish":
					return tree.GenFishCompletion(inv.Out, true)
				case "powershell":
					return tree.GenPowerShellCompletionWithDesc(inv.Out)
				}
				return inv.usageErrorf("%q is not one of %s", inv.args[0], strings.Join(shells, ", "))
			}
		},
	}
}
