package base

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/command"
	"lighter/internal/disk"
	"lighter/internal/head"
	"lighter/internal/human"
)

// ClientAction is the action of a command that asks the coordinator, with the flag that says
// where that is.
func ClientAction(fs *pflag.FlagSet, do func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error) command.Action {
	return SocketFlags(fs).socketAction(func(ctx context.Context, inv *command.Invocation, f head.Folders) error {
		client := apiclient.NewClient(f.Socket)
		defer client.Close()
		return NoAnswer(f, do(ctx, inv, client))
	})
}

// ClientActionIn is one that works in the head's folders too.
func ClientActionIn(where *FolderFlags, do func(ctx context.Context, inv *command.Invocation, client *apiclient.Client, f head.Folders) error) command.Action {
	return where.Action(func(ctx context.Context, inv *command.Invocation, f head.Folders) error {
		client := apiclient.NewClient(f.Socket)
		defer client.Close()
		return NoAnswer(f, do(ctx, inv, client, f))
	})
}

// CoordinatorGrace is how long a coordinator that went away may take to come back, where
// somebody waits.
const CoordinatorGrace = time.Minute

// NoAnswer says what to do where no coordinator runs.
func NoAnswer(f head.Folders, err error) error {
	var answer *api.Error
	switch {
	case !errors.Is(err, api.ErrUnavailable) || errors.As(err, &answer) || errors.As(err, new(*command.ExitError)):
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return command.Exit(command.ExitNoAnswer, fmt.Errorf("no coordinator answers at %s; start one with: lighter coordinator", f.Socket))
	case errors.Is(err, fs.ErrPermission):
		return command.Exit(command.ExitNoAnswer, noAccess(f.Socket))
	}
	return err
}

// NobodyThere reports whether an error says that no coordinator runs.
func NobodyThere(err error) bool {
	return err != nil && !errors.As(err, new(*api.Error)) && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED))
}

// noAccess says who may open a socket that this process may not.
func noAccess(socket string) error {
	name, what := socket, "the coordinator's socket "+socket
	info, err := os.Stat(name)
	for errors.Is(err, fs.ErrPermission) && name != "/" { // the folder is closed
		name = filepath.Dir(name)
		what = "the folder " + name + " of the coordinator's socket"
		info, err = os.Stat(name)
	}
	if err != nil {
		return fmt.Errorf("no access to the coordinator's socket %s: %w", socket, err)
	}
	group := disk.Group(info)
	return fmt.Errorf("no access to %s: it is for %s and members of the group %s; root adds you with: usermod -aG %s %s, which takes effect at the next login",
		what, disk.Owner(info), group, human.ShellWord(group), human.ShellWord(disk.UserName(uint32(os.Geteuid())))) // #nosec G115 -- a number of the kernel's
}
