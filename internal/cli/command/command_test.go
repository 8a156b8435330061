package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
)

func TestSignalsInterruptACommand(t *testing.T) {
	signals := make(chan os.Signal, 1)
	signals <- os.Interrupt
	ctx, stop := (&Process{Signals: signals}).CancelOnSignal(t.Context())
	defer stop()
	<-ctx.Done()
	if got := context.Cause(ctx); !errors.Is(got, ErrInterrupted) {
		t.Errorf("cause %v", got)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"build", "builds", "machines", "status", "store", "keep-going", "keep-failed"}
	for given, want := range map[string]string{
		"biuld": "build", "bui": "build", "stor": "store", "satus": "status",
		"keepgoing": "keep-going", "keep-fail": "keep-failed", "x": "", "lorry": "",
	} {
		if got := nearest(given, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", given, got, want)
		}
	}
}

func TestHowManyArguments(t *testing.T) {
	for synopsis, want := range map[string]string{
		"": " 0 0", "ID": "ID 1 1", "[FILE]": "FILE 0 1", "[FILE [REGEXP]]": "FILE 0 2", "HOOK [BUILD]": "HOOK 1 2",
		"DRV…": "DRV 1 -1", "[ID…]": "ID 0 -1", "N [ID…]": "N 1 -1", "PATH… --to DIR": "PATH 1 -1", "--dir DIR": " 0 0",
	} {
		what, atLeast, atMost := (&Command{Args: synopsis}).takes()
		if got := fmt.Sprint(what, " ", atLeast, " ", atMost); got != want {
			t.Errorf("%q: %s, want %s", synopsis, got, want)
		}
	}
}
