// Lighter-agent is the command server on a machine: the coordinator uploads it, starts
// it over SSH, and has it build. People rarely call it themselves; see
// "lighter-agent help".
package main

import (
	"context"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"lighter/store/local"
)

func main() {
	local.MaybeRunBuilder()
	keepName()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	status := run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(status)
}

// keepName makes a program that was executed by a descriptor, of which the kernel takes the
// number or "exe" for its name, be lighter-agent for ps and pkill. The descriptor is for no
// program that it starts.
func keepName() {
	text, ok := strings.CutPrefix(os.Args[0], "/proc/self/fd/")
	if fd, err := strconv.Atoi(text); ok && err == nil {
		syscall.CloseOnExec(fd)
	}
	_ = os.WriteFile("/proc/self/comm", []byte("lighter-agent"), 0) // it is but a name
}
