// Package cli is what a person sees of lighter: the tree of commands, their
// flags, help, output and exit codes.
//
// [Main] is the whole program; cmd/lighter only calls it. [Run] is the same for
// a test, with its own arguments, streams and environment. A command is a value
// of type command, made by a function in the file that is named after it.
//
// The package decides nothing about builds: it asks the coordinator over its
// socket, or opens the head's store where no coordinator is needed.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// Process is what a command has of its process.
type Process struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	// Signals delivers SIGINT and SIGTERM. Nil means that none will come.
	Signals <-chan os.Signal
}

// Main runs the program and returns its exit code.
func Main() int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	return Run(context.Background(), os.Args[1:], Process{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Signals: signals,
	})
}

// Run runs one command line, without the program's name, and returns the exit
// code. Errors are written to p.Err.
func Run(ctx context.Context, args []string, p Process) int {
	root := rootCommand().cobra(p)                //nolint:contextcheck // each command gets ctx from ExecuteContext
	root.SetArgs(slices.Concat([]string{}, args)) // of none it would take the process's
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	code, shown := exitCode(err)
	if !shown {
		fmt.Fprintln(p.Err, withProgram(errorText(err)))
	}
	return code
}

// withProgram puts the program's name before an error, unless it is there.
func withProgram(text string) string {
	if strings.HasPrefix(text, "lighter: ") || strings.HasPrefix(text, "lighter ") {
		return text
	}
	return "lighter: " + text
}

// rootCommand makes the tree of all commands.
func rootCommand() *command {
	root := &command{
		name:  "lighter",
		short: "build GNU Guix derivations on other machines, over SSH",
		long: `lighter takes derivations, picks for each the machine that will finish it
soonest, carries the missing inputs there over SSH, has it built, and brings the
signed outputs home. One process, the coordinator, does that; the other commands
ask it, or work on the head's own store, keys and configuration.`,
		examples: []example{
			{"lighter demo", "see it work: a coordinator and three machines on this computer"},
			{"lighter coordinator", "start the coordinator, in the foreground"},
			{"lighter build /gnu/store/…-hello-2.12.drv", "have a derivation built, and wait for it"},
			{"lighter help machines check", "read about one command"},
		},
		sub: []*command{
			buildCommand(),
			buildsCommand(),
			queueCommand(),
			machinesCommand(),
			statusCommand(),
			eventsCommand(),
			hooksCommand(),
			metricsCommand(),
			doctorCommand(),
			storeCommand(),
			derivationCommand(),
			keyCommand(),
			publishCommand(),
			steeredCoordinatorCommand(),
			offloadCommand(),
			agentCommand(),
			demoCommand(),
		},
	}
	root.sub = append(root.sub, completionCommand(root), helpCommand(root))
	root.adopt()
	return root
}

var errInterrupted = errors.New("interrupted")

// cancelOnSignal returns a context that the first signal ends. A second signal
// ends the process at once. stop waits for the goroutine behind it.
func cancelOnSignal(ctx context.Context, signals <-chan os.Signal) (_ context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if signals == nil {
		return ctx, func() { cancel(nil) }
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for seen := 0; ; seen++ {
			select {
			case <-quit:
				return
			case <-signals:
				if seen > 0 {
					os.Exit(exitInterrupted)
				}
				cancel(errInterrupted)
			}
		}
	}()
	return ctx, func() {
		close(quit)
		<-done
		cancel(nil)
	}
}
