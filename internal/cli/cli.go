// Package cli is what a person sees of lighter: the tree of commands, their
// flags, texts and output.
//
// [Main] is the whole program; cmd/lighter only calls it. [Run] is the same for
// a test, with its own arguments, streams and environment. A command is a value
// of [command.Command], made by a function in the file that is named after it.
//
// The package decides nothing about builds: it asks the coordinator over its
// socket, or opens the head's store where no coordinator is needed. It has the
// commands and no more: what a command is, with help and completion, is
// package command; how builds and machines look is package display; waiting for
// builds is package watch.
package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"lighter/docs"
	"lighter/internal/cli/command"
	"lighter/internal/cli/estimatecommands"
	"lighter/internal/cli/evaluatecommand"
	"lighter/internal/cli/simulation"
	"lighter/internal/cli/storecommands"
	"lighter/internal/cli/top"
)

// Main runs the program and returns its exit code.
func Main() int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	return Run(context.Background(), os.Args[1:], command.Process{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Signals: signals,
	})
}

// Run runs one command line, without the program's name, and returns the exit
// code. Errors are written to p.Err.
func Run(ctx context.Context, args []string, p command.Process) int {
	return rootCommand().Execute(ctx, args, p)
}

// WriteManPages writes a page of manual section 1 for each command into a folder, which
// must be there: lighter.1, lighter-machines-check.1 and so on, with what "--help" shows.
func WriteManPages(folder string) error { return rootCommand().WriteManPages(folder) }

// rootCommand makes the tree of all commands.
func rootCommand() *command.Command {
	return command.Tree(&command.Command{
		Name:  "lighter",
		Short: "build GNU Guix derivations on other machines, over SSH",
		Long: `lighter takes derivations, picks for each the machine that will finish it
soonest, carries the missing inputs there over SSH, has it built, and brings the
signed outputs home. One process, the coordinator, does that; the other commands
ask it, or work on the head's own store, keys and configuration.`,
		Examples: []command.Example{
			{"lighter demo", "see it work: a coordinator and three machines on this computer"},
			{"lighter coordinator", "start the coordinator, in the foreground"},
			{"lighter build /gnu/store/…-hello-2.12.drv", "have a derivation built, and wait for it"},
			{"lighter help machines check", "read about one command"},
		},
		Sub: []*command.Command{
			buildCommand(),
			buildsCommand(),
			queueCommand(),
			machinesCommand(),
			statusCommand(),
			top.Command(),
			webCommand(),
			dataServiceCommand(),
			simulation.Command(),
			eventsCommand(),
			estimatecommands.Command(),
			hooksCommand(),
			metricsCommand(),
			doctorCommand(),
			evaluatecommand.Command(),
			storecommands.Command(),
			derivationCommand(),
			keyCommand(),
			publishCommand(),
			steeredCoordinatorCommand(),
			offloadCommand(),
			agentCommand(),
			demoCommand(),
		},
		Offers: offers, Topics: docs.Pages(),
	})
}
