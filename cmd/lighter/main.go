// Lighter builds GNU Guix derivations on other machines, over SSH. The command
// line is package cli's; see "lighter --help".
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"lighter/internal/buildhook"
	"lighter/internal/cli"
	"lighter/store/local"
)

func main() {
	local.MaybeRunBuilder()
	switch name := filepath.Base(os.Args[0]); {
	case name == "guix" || name == "lighter-guix":
		os.Exit(buildhook.Main(os.Args))
	case buildhook.IsHelper(os.Args[1:]):
		// guix-daemon was given this program as its guix.
		fmt.Fprintln(os.Stderr, "lighter:", buildhook.ExecGuix(os.Args[1:]))
		os.Exit(exitNoGuix)
	}
	os.Exit(cli.Main())
}

// exitNoGuix is what shells answer where there is no such program.
const exitNoGuix = 127
