package command

import (
	"errors"
	"fmt"
	"strings"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/store"
)

// The exit codes of all commands; their texts are on the help pages.
const (
	ExitDone        = 0
	ExitFailure     = 1
	ExitUsage       = 2
	ExitBuildFailed = 3
	ExitCanceled    = 4
	ExitNoAnswer    = 5
	ExitBadInput    = 6
	ExitUnusable    = 7
	ExitDiffers     = 8
	ExitLeft        = 9
	ExitNoMachine   = 10
	ExitTimedOut    = 124
	ExitInterrupted = 130
)

var exitCodes = map[int]string{
	ExitDone:        "done",
	ExitFailure:     "something went wrong; the message says what",
	ExitUsage:       "the command line is wrong",
	ExitBuildFailed: "a build failed or took too long",
	ExitCanceled:    "a build was canceled",
	ExitNoAnswer:    "no coordinator answers",
	ExitBadInput:    "a file, archive, derivation or key is wrong: malformed, corrupt, or signed by a key that is not authorized",
	ExitUnusable:    "a machine can't be used",
	ExitLeft:        "some of what was to be deleted could not be; all the rest was",
	ExitDiffers:     "machines made different outputs of the same derivation",
	ExitTimedOut:    "not all builds were finished in the time that --timeout gives; as timeout(1) has it",
	ExitNoMachine:   "no machine was there for a build",
	ExitInterrupted: "interrupted",
}

// ExitError is an error with an exit code. Without an err nothing is printed, because the
// command has said everything already.
type ExitError struct {
	Code int
	err  error
}

func (e *ExitError) Error() string {
	if e.err == nil {
		return exitCodes[e.Code]
	}
	return e.err.Error()
}

func (e *ExitError) Unwrap() error { return e.err }

// Exit gives an error the exit code that it deserves. A nil err is one that was shown already.
func Exit(code int, err error) error { return &ExitError{code, err} }

// UsageErrorf returns an error with ExitUsage.
func UsageErrorf(format string, args ...any) error {
	return Exit(ExitUsage, fmt.Errorf(format, args...))
}

// BadInput gives an error ExitBadInput; nil stays nil.
func BadInput(err error) error {
	if err == nil {
		return nil
	}
	return Exit(ExitBadInput, err)
}

// ExitCode returns the code for an error, and whether it was shown already.
func ExitCode(err error) (code int, shown bool) {
	var e *ExitError
	switch {
	case errors.As(err, &e):
		return e.Code, e.err == nil
	case errors.Is(err, ErrInterrupted):
		return ExitInterrupted, false
	case errors.Is(err, api.ErrUnavailable):
		return ExitNoAnswer, false
	case errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrUnauthorized), errors.As(err, new(*human.InputError)):
		return ExitBadInput, false
	}
	return ExitFailure, false
}

// ErrorText makes an error safe to print; errors may quote what a machine sent.
func ErrorText(err error) string {
	return strings.TrimRight(human.PrintableText(err.Error()), "\n")
}
