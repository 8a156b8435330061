package cli

import (
	"context"
	"os"

	"github.com/spf13/pflag"

	"lighter/internal/cli/command"
	"lighter/internal/demo"
)

func demoCommand() *command.Command {
	return &command.Command{
		Name:  "demo",
		Short: "see it work on this computer",
		Long: `Starts a coordinator and three machines on loopback, connected by real SSH, in a temporary folder, and has them build lighter's own source tree into a release: archives of all packages, checksums, statistics, an index, a tarball of it all. Nothing that you have is touched, and nothing is left running.

The source tree is the one that contains the current folder; elsewhere the demo takes its own sources.`,
		Exits: []int{command.ExitInterrupted},
		Examples: []command.Example{
			{"lighter demo", "watch it"},
			{"lighter demo --keep", "and look at the stores, logs and the ledger afterwards"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			keep := fs.Bool("keep", false, "leave the temporary folder")
			result := fs.String("result", "build/demo", "copy the release to the folder `DIR`")
			return func(ctx context.Context, inv *command.Invocation) error {
				executable, err := os.Executable()
				if err != nil {
					return err
				}
				folder, err := os.Getwd()
				if err != nil {
					return err
				}
				return demo.Run(ctx, demo.Options{
					Executable: executable, Out: inv.Out, Err: inv.Err, Folder: folder,
					Result: *result, Keep: *keep, Getenv: inv.Getenv,
				})
			}
		},
	}
}
