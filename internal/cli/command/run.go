package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"lighter/internal/cli/terminal"
)

// Process is what a command has of its process.
type Process struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	// Signals delivers SIGINT and SIGTERM. Nil means that none will come.
	Signals <-chan os.Signal
}

// Execute runs one command line, without the program's name, and returns the exit
// code. Errors are written to p.Err.
func (c *Command) Execute(ctx context.Context, args []string, p Process) int {
	p.Out, p.Err = terminal.Marks(p.Out, p.Getenv, false), terminal.Marks(p.Err, p.Getenv, true)
	root := c.cobra(p)                            //nolint:contextcheck // each command gets ctx from ExecuteContext
	root.SetArgs(slices.Concat([]string{}, args)) // of none it would take the process's
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitDone
	}
	code, shown := ExitCode(err)
	if shown {
		return code
	}
	text := ErrorText(err)
	if !strings.HasPrefix(text, "lighter: ") && !strings.HasPrefix(text, "lighter ") {
		text = "lighter: " + text
	}
	fmt.Fprintln(p.Err, text)
	return code
}

// ErrInterrupted is why a context ended that a signal has canceled.
var ErrInterrupted = errors.New("interrupted")

// CancelOnSignal returns a context that the first signal ends, with ErrInterrupted as its
// cause. A second signal ends the process at once. stop waits for the goroutine behind it.
func (p *Process) CancelOnSignal(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	return p.cancelOnSignal(ctx, leaveAtOnce)
}

func leaveAtOnce(os.Signal) { os.Exit(ExitInterrupted) }

// cancelOnSignal is CancelOnSignal with another answer to later signals.
func (p *Process) cancelOnSignal(ctx context.Context, second func(os.Signal)) (_ context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if p.Signals == nil {
		return ctx, func() { cancel(nil) }
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for seen := 0; ; seen++ {
			select {
			case <-quit:
				return
			case signal := <-p.Signals:
				if seen > 0 {
					second(signal)
				}
				cancel(ErrInterrupted)
			}
		}
	}()
	return ctx, func() {
		close(quit)
		<-done
		cancel(nil)
	}
}
