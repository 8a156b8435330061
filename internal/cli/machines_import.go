package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/cli/command"
	"lighter/machines"
)

func machinesImportCommand() *command.Command {
	return &command.Command{
		Name:  "import",
		Args:  "FILE",
		Short: "show a machines file of Guix or Nix in TOML",
		Long: `Reads FILE and prints its machines in TOML, for a machines.toml. What lighter
does not take over is listed on standard error.

Guix's machines.scm is a program. lighter evaluates what such files consist of;
a file that needs more is given to "guix repl", which runs whatever is in it.
"lighter help machines.toml" says what is understood.`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{"lighter machines import /etc/guix/machines.scm > /etc/lighter/machines.toml", "go on with Guix's machines"},
			{"lighter machines import --format nix builders.txt", "a file whose name does not say what it is"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			format := fs.String("format", "", "the file is in `FORMAT` guix, nix or toml (default by its name: .scm, machines, .toml; else by its contents)")
			guix := fs.String("guix", "guix", "the guix `PROGRAM` for what is beyond lighter's own evaluator; empty for none")
			limit := fs.Duration("guix-timeout", machines.DefaultGuixTimeout, "how long that program may take, as in `TIME` 90s")
			return func(ctx context.Context, inv *command.Invocation) error {
				opts, err := importOptions(*format, *guix, *limit)
				if err != nil {
					return err
				}
				return importMachines(ctx, inv, inv.Args[0], opts)
			}
		},
	}
}

func importOptions(format, guix string, limit time.Duration) (machines.Options, error) {
	formats := []string{string(machines.Guix), string(machines.Nix), string(machines.TOML)}
	switch {
	case format != "" && !slices.Contains(formats, format):
		return machines.Options{}, command.UsageErrorf("--format %q: the formats are %s", format, strings.Join(formats, ", "))
	case limit <= 0:
		return machines.Options{}, command.UsageErrorf("--guix-timeout %s: want more than 0", limit)
	}
	return machines.Options{Format: machines.Format(format), Guix: guix, GuixTimeout: limit}, nil
}

func importMachines(ctx context.Context, inv *command.Invocation, file string, opts machines.Options) error {
	list, warnings, err := machines.Read(ctx, file, opts)
	for _, w := range warnings {
		fmt.Fprintf(inv.Err, "warning: %s\n", command.ErrorText(w))
	}
	var problems machines.Errors
	switch {
	case errors.As(err, &problems):
		fmt.Fprintln(inv.Err, command.ErrorText(problems))
		return command.Exit(command.ExitBadInput, nil)
	case errors.As(err, new(*fs.PathError)), ctx.Err() != nil:
		return err
	case err != nil:
		return command.BadInput(err)
	}
	warnOfKeys(inv, list)
	_, err = inv.Out.Write(machines.FormatTOML(list))
	return err
}

// warnOfKeys says which private keys the coordinator's user has to be able to read.
func warnOfKeys(inv *command.Invocation, list []machines.Machine) {
	var files []string
	for i := range list {
		if file := list[i].PrivateKey; file != "" && !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	if len(files) > 0 {
		fmt.Fprintf(inv.Err, "warning: private-key names %s: if the coordinator is to run as another user, who can't read that, take private-key out; then that user's own keys are used\n",
			strings.Join(files, ", "))
	}
}
