package base

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/machines"
)

// ReadMachines reads a machines file; its errors name file, line and column. What a person should
// know of a good file is written to standard error, with a prefix before each warning.
func ReadMachines(ctx context.Context, inv *command.Invocation, file, prefix string) ([]machines.Machine, error) {
	list, warnings, err := head.ReadMachines(ctx, file, inv.Getenv)
	for _, w := range warnings {
		fmt.Fprintf(inv.Err, "%s%s\n", prefix, command.ErrorText(w))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no machines file at %s; lighter help machines.toml describes it", file)
	case errors.As(err, new(*fs.PathError)), ctx.Err() != nil:
		return nil, err
	}
	return list, command.BadInput(err)
}
