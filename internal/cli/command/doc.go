// Package command is what a command of a program is: a node of a tree, with flags, an action,
// and the texts from which its help page, its man page and completion in shells are made.
//
// A program makes a [Command], completes it with [Tree] and runs command lines with
// [Command.Execute]. Finding the command and completing what is typed is cobra's; the pages, the
// suggestions for what was mistyped, and the exit codes are made here. How many arguments a
// command takes follows from its synopsis.
//
// It knows no commands, and asks no coordinator: what completes a flag comes with the tree. An
// error becomes an exit code by [Exit], or by what it wraps.
package command
