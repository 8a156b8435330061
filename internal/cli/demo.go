package cli

import (
	"context"
	"os"

	"github.com/spf13/pflag"

	"lighter/internal/demo"
)

func demoCommand() *command {
	return &command{
		name:  "demo",
		short: "see it work on this computer",
		long: `Starts a coordinator and three machines on loopback, connected by real SSH, in a temporary folder, and has them build lighter's own source tree into a release: archives of all packages, checksums, statistics, an index, a tarball of it all. Nothing that you have is touched, and nothing is left running.

The source tree is the one that contains the current folder; elsewhere the demo takes its own sources.`,
		exits: []int{exitInterrupted},
		examples: []example{
			{"lighter demo", "watch it"},
			{"lighter demo --keep", "and look at the stores, logs and the ledger afterwards"},
		},
		setup: func(fs *pflag.FlagSet) action {
			keep := fs.Bool("keep", false, "leave the temporary folder")
			result := fs.String("result", "build/demo", "copy the release to the folder `DIR`")
			return func(ctx context.Context, inv *invocation) error {
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
