package cli

import (
	"errors"
	"fmt"
	"strings"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/store"
)

// The exit codes of all commands. exitCodes says what each means.
const (
	exitDone        = 0
	exitFailure     = 1
	exitUsage       = 2
	exitBuildFailed = 3
	exitCanceled    = 4
	exitNoAnswer    = 5
	exitBadInput    = 6
	exitUnusable    = 7
	exitDiffers     = 8
	exitInterrupted = 130
)

var exitCodes = map[int]string{
	exitDone:        "done",
	exitFailure:     "something went wrong; the message says what",
	exitUsage:       "the command line is wrong",
	exitBuildFailed: "a build failed or took too long",
	exitCanceled:    "a build was canceled",
	exitNoAnswer:    "no coordinator answers",
	exitBadInput:    "a file, archive, derivation or key is wrong: malformed, corrupt, or signed by a key that is not authorized",
	exitUnusable:    "a machine can't be used",
	exitDiffers:     "machines made different outputs of the same derivation",
	exitInterrupted: "interrupted",
}

// exitError gives an error the exit code that it deserves. Without an err
// nothing is printed, because the command has said everything already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return exitCodes[e.code]
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usageErrorf(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func badInput(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitBadInput, err}
}

// exitCode returns the code for an error, and whether it was shown already.
func exitCode(err error) (code int, shown bool) {
	var e *exitError
	switch {
	case errors.As(err, &e):
		return e.code, e.err == nil
	case errors.Is(err, errInterrupted):
		return exitInterrupted, false
	case errors.Is(err, api.ErrUnavailable):
		return exitNoAnswer, false
	case errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrUnauthorized), errors.As(err, new(*human.InputError)):
		return exitBadInput, false
	}
	return exitFailure, false
}

// errorText makes an error safe to print; errors may quote what a machine sent.
func errorText(err error) string {
	return strings.TrimRight(human.PrintableText(err.Error()), "\n")
}
