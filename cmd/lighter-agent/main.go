// Lighter-agent is the command server on a machine: the coordinator uploads it, starts
// it over SSH, and has it build. People rarely call it themselves; see
// "lighter-agent help".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"lighter/store/local"
)

func main() {
	local.MaybeRunBuilder()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	status := run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(status)
}
