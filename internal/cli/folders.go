package cli

import (
	"context"
	"errors"

	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/human"

	"github.com/spf13/pflag"
)

// folderFlags are the flags from which folders are found.
type folderFlags struct{ state, config, socket, store, daemonSocket, machines *string }

// The flags that a command needs. State and socket are asked for together,
// since the socket's place follows the state's.
func stateFlags(fs *pflag.FlagSet) *folderFlags {
	return &folderFlags{state: stateFlag(fs), config: configFlag(fs)}
}

func configFlags(fs *pflag.FlagSet) *folderFlags {
	return &folderFlags{config: configFlag(fs)}
}

func socketFlags(fs *pflag.FlagSet) *folderFlags {
	return &folderFlags{socket: fs.String("socket", "", "the coordinator's socket is `FILE` (else $LIGHTER_SOCKET, else coordinator.sock in the state folder, or in /var/lib/lighter)")}
}

func allFolderFlags(fs *pflag.FlagSet) *folderFlags {
	f := socketFlags(fs)
	f.state, f.config = stateFlag(fs), configFlag(fs)
	f.store = fs.String("store", "", "the head's store is `KIND`: local, or guix-daemon (else $LIGHTER_STORE, else the coordinator's; a new coordinator takes guix-daemon's where that answers)")
	f.daemonSocket = fs.String("daemon-socket", "", "guix-daemon's socket is `FILE` (else $GUIX_DAEMON_SOCKET, else where Guix has it)")
	return f
}

func stateFlag(fs *pflag.FlagSet) *string {
	return fs.String("state", "", "folder `DIR` with store and ledger (else $LIGHTER_STATE, else the coordinator's; its own default is /var/lib/lighter for root and ~/.local/share/lighter for others)")
}

func configFlag(fs *pflag.FlagSet) *string {
	return fs.String("config", "", "folder `DIR` with machines.toml, keys and ACL (else $LIGHTER_CONFIG, else the coordinator's; its own default is /etc/lighter for root and ~/.config/lighter for others)")
}

// socketAction is that of a command that asks the coordinator, and needs none of its folders.
func (f *folderFlags) socketAction(do func(ctx context.Context, inv *command.Invocation, found head.Folders) error) command.Action {
	return func(ctx context.Context, inv *command.Invocation) error {
		found, err := f.reach(inv)
		if err != nil {
			return err
		}
		return do(ctx, inv, found)
	}
}

// action is that of a command that works in the folders.
func (f *folderFlags) action(do func(ctx context.Context, inv *command.Invocation, found head.Folders) error) command.Action {
	return func(ctx context.Context, inv *command.Invocation) error {
		found, err := f.resolve(ctx, inv)
		if err != nil {
			return err
		}
		return do(ctx, inv, found)
	}
}

// said is what the flags say.
func (f *folderFlags) said() head.Said {
	value := func(flag *string) string {
		if flag == nil {
			return ""
		}
		return *flag
	}
	return head.Said{
		State: value(f.state), Config: value(f.config), Socket: value(f.socket),
		StoreKind: value(f.store), DaemonSocket: value(f.daemonSocket),
	}
}

// typed are the flags that were given, each with a blank behind it, for commands that people are told.
func (f *folderFlags) typed() string {
	text := ""
	for _, flag := range []struct {
		name  string
		value *string
	}{{"state", f.state}, {"config", f.config}, {"socket", f.socket}, {"store", f.store}, {"daemon-socket", f.daemonSocket}, {"machines", f.machines}} {
		if flag.value != nil && *flag.value != "" {
			text += "--" + flag.name + "=" + human.ShellWord(*flag.value) + " "
		}
	}
	return text
}

// reach finds the coordinator's socket, and no more.
func (f *folderFlags) reach(inv *command.Invocation) (head.Folders, error) {
	found, err := head.Reach(f.said(), inv.Getenv)
	return found, wrongKind(inv, err)
}

// resolve finds all folders.
func (f *folderFlags) resolve(ctx context.Context, inv *command.Invocation) (head.Folders, error) {
	found, err := head.Find(ctx, f.said(), inv.Getenv)
	return found, wrongKind(inv, err)
}

// wrongKind makes an error of usage of a kind of store that is not there.
func wrongKind(inv *command.Invocation, err error) error {
	if errors.As(err, new(*head.KindError)) {
		return inv.UsageErrorf("%w", err)
	}
	return err
}
