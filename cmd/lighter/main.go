// Lighter builds GNU Guix derivations on other machines, over SSH. The command
// line is package cli's; see "lighter --help".
package main

import (
	"os"

	"lighter/internal/cli"
	"lighter/store/local"
)

func main() {
	local.MaybeRunBuilder()
	os.Exit(cli.Main())
}
