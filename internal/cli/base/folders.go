package base

import (
	"context"
	"errors"

	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/human"

	"github.com/spf13/pflag"
)

// FolderFlags are the flags from which folders are found.
type FolderFlags struct{ State, Config, Socket, Store, daemonSocket, Machines *string }

// StateFlags adds those of a command that needs the state and configuration folders.
func StateFlags(fs *pflag.FlagSet) *FolderFlags {
	return &FolderFlags{State: StateFlag(fs), Config: ConfigFlag(fs)}
}

// ConfigFlags adds those of a command that needs the configuration folder alone.
func ConfigFlags(fs *pflag.FlagSet) *FolderFlags {
	return &FolderFlags{Config: ConfigFlag(fs)}
}

// SocketFlags adds those of a command that only asks the coordinator.
func SocketFlags(fs *pflag.FlagSet) *FolderFlags {
	return &FolderFlags{Socket: fs.String("socket", "", "the coordinator's socket is `FILE` (else $LIGHTER_SOCKET, else coordinator.sock in the state folder, or in /var/lib/lighter)")}
}

// AllFolderFlags adds all but Machines.
func AllFolderFlags(fs *pflag.FlagSet) *FolderFlags {
	f := SocketFlags(fs)
	f.State, f.Config = StateFlag(fs), ConfigFlag(fs)
	f.Store = fs.String("store", "", "the head's store is `KIND`: local, or guix-daemon (else $LIGHTER_STORE, else the coordinator's; a new coordinator takes guix-daemon's where that answers)")
	f.daemonSocket = fs.String("daemon-socket", "", "guix-daemon's socket is `FILE` (else $GUIX_DAEMON_SOCKET, else where Guix has it)")
	return f
}

// StateFlag adds the flag of the state folder.
func StateFlag(fs *pflag.FlagSet) *string {
	return fs.String("state", "", "folder `DIR` with store and ledger (else $LIGHTER_STATE, else the coordinator's; its own default is /var/lib/lighter for root and ~/.local/share/lighter for others)")
}

// ConfigFlag adds the flag of the configuration folder.
func ConfigFlag(fs *pflag.FlagSet) *string {
	return fs.String("config", "", "folder `DIR` with machines.toml, keys and ACL (else $LIGHTER_CONFIG, else the coordinator's; its own default is /etc/lighter for root and ~/.config/lighter for others)")
}

// socketAction is that of a command that asks the coordinator, and needs none of its folders.
func (f *FolderFlags) socketAction(do func(ctx context.Context, inv *command.Invocation, found head.Folders) error) command.Action {
	return func(ctx context.Context, inv *command.Invocation) error {
		found, err := f.Reach(inv)
		if err != nil {
			return err
		}
		return do(ctx, inv, found)
	}
}

// Action is that of a command that works in the folders.
func (f *FolderFlags) Action(do func(ctx context.Context, inv *command.Invocation, found head.Folders) error) command.Action {
	return func(ctx context.Context, inv *command.Invocation) error {
		found, err := f.Resolve(ctx, inv)
		if err != nil {
			return err
		}
		return do(ctx, inv, found)
	}
}

// Said is what the flags say.
func (f *FolderFlags) Said() head.Said {
	value := func(flag *string) string {
		if flag == nil {
			return ""
		}
		return *flag
	}
	return head.Said{
		State: value(f.State), Config: value(f.Config), Socket: value(f.Socket),
		StoreKind: value(f.Store), DaemonSocket: value(f.daemonSocket),
	}
}

// Typed are the flags that were given, each with a blank behind it, for commands that people are told.
func (f *FolderFlags) Typed() string {
	text := ""
	for _, flag := range []struct {
		name  string
		value *string
	}{{"state", f.State}, {"config", f.Config}, {"socket", f.Socket}, {"store", f.Store}, {"daemon-socket", f.daemonSocket}, {"machines", f.Machines}} {
		if flag.value != nil && *flag.value != "" {
			text += "--" + flag.name + "=" + human.ShellWord(*flag.value) + " "
		}
	}
	return text
}

// Reach finds the coordinator's socket, and no more.
func (f *FolderFlags) Reach(inv *command.Invocation) (head.Folders, error) {
	found, err := head.Reach(f.Said(), inv.Getenv)
	return found, WrongKind(inv, err)
}

// Resolve finds all folders.
func (f *FolderFlags) Resolve(ctx context.Context, inv *command.Invocation) (head.Folders, error) {
	found, err := head.Find(ctx, f.Said(), inv.Getenv)
	return found, WrongKind(inv, err)
}

// WrongKind makes an error of usage of a kind of store that is not there.
func WrongKind(inv *command.Invocation, err error) error {
	if errors.As(err, new(*head.KindError)) {
		return inv.UsageErrorf("%w", err)
	}
	return err
}
