package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"lighter/internal/agentd"
	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/machines"

	"github.com/spf13/pflag"
)

// folderFlags are the flags from which folders are found.
type folderFlags struct{ state, config, socket, store, daemonSocket *string }

// The flags that a command needs. State and socket are asked for together,
// since the socket's place follows the state's.
func stateFlags(fs *pflag.FlagSet) *folderFlags {
	return &folderFlags{state: stateFlag(fs), config: configFlag(fs)}
}

func configFlags(fs *pflag.FlagSet) *folderFlags {
	return &folderFlags{config: configFlag(fs)}
}

func socketFlags(fs *pflag.FlagSet) *folderFlags {
	return &folderFlags{socket: fs.String("socket", "", "the coordinator's socket is `FILE` (else $LIGHTER_SOCKET, else coordinator.sock in the state folder)")}
}

func allFolderFlags(fs *pflag.FlagSet) *folderFlags {
	f := socketFlags(fs)
	f.state, f.config = stateFlag(fs), configFlag(fs)
	f.store = fs.String("store", "", "the head's store is `KIND`: local, or guix-daemon's (else $LIGHTER_STORE, else local)")
	f.daemonSocket = fs.String("daemon-socket", "", "guix-daemon's socket is `FILE` (else $GUIX_DAEMON_SOCKET, else where Guix has it)")
	return f
}

func stateFlag(fs *pflag.FlagSet) *string {
	return fs.String("state", "", "folder `DIR` with store and ledger (else $LIGHTER_STATE, else /var/lib/lighter for root and ~/.local/share/lighter for others)")
}

func configFlag(fs *pflag.FlagSet) *string {
	return fs.String("config", "", "folder `DIR` with machines.toml, keys and ACL (else $LIGHTER_CONFIG, else /etc/lighter for root and ~/.config/lighter for others)")
}

// action is that of a command that works in the folders.
func (f *folderFlags) action(do func(ctx context.Context, inv *command.Invocation, found head.Folders) error) command.Action {
	return func(ctx context.Context, inv *command.Invocation) error {
		found, err := f.resolve(inv)
		if err != nil {
			return err
		}
		return do(ctx, inv, found)
	}
}

// resolve applies flags, environment and defaults, in this order.
func (f *folderFlags) resolve(inv *command.Invocation) (head.Folders, error) {
	state, err := pick(f.state, inv.Getenv("LIGHTER_STATE"), func() (string, error) {
		return agentd.DefaultState(inv.Getenv)
	})
	if err != nil {
		return head.Folders{}, fmt.Errorf("state folder: %w", err)
	}
	config, err := pick(f.config, inv.Getenv("LIGHTER_CONFIG"), func() (string, error) {
		return agentd.DefaultFolder(inv.Getenv, "/etc/lighter", "XDG_CONFIG_HOME", ".config")
	})
	if err != nil {
		return head.Folders{}, fmt.Errorf("configuration folder: %w", err)
	}
	socket, err := pick(f.socket, inv.Getenv("LIGHTER_SOCKET"), func() (string, error) {
		return filepath.Join(state, "coordinator.sock"), nil
	})
	if err != nil {
		return head.Folders{}, fmt.Errorf("socket: %w", err)
	}
	found := head.Folders{State: state, Config: config, Socket: socket, StoreKind: machines.StoreLocal}
	if f.store == nil {
		return found, nil
	}
	return found, f.resolveStore(inv, &found)
}

// resolveStore finds out which store the head has.
func (f *folderFlags) resolveStore(inv *command.Invocation, found *head.Folders) error {
	if found.StoreKind = *f.store; found.StoreKind == "" {
		found.StoreKind = inv.Getenv("LIGHTER_STORE")
	}
	switch found.StoreKind {
	case "":
		found.StoreKind = machines.StoreLocal
	case machines.StoreLocal, machines.StoreDaemon:
	default:
		return inv.UsageErrorf("--store %q: want %s or %s", found.StoreKind, machines.StoreLocal, machines.StoreDaemon)
	}
	found.DaemonSocket = *f.daemonSocket
	if found.Guix = inv.Getenv("GUIX_CONFIGURATION_DIRECTORY"); found.Guix == "" {
		found.Guix = "/etc/guix"
	}
	return nil
}

// pick returns the absolute name of what the flag says, else the environment,
// else fallback.
func pick(flag *string, env string, fallback func() (string, error)) (string, error) {
	name := env
	if flag != nil && *flag != "" {
		name = *flag
	}
	if name == "" {
		return fallback()
	}
	return filepath.Abs(name)
}
