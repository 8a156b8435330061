package cli

import (
	"fmt"
	"path/filepath"

	"lighter/internal/agentd"
	"lighter/machines"

	"github.com/spf13/pflag"
)

// folders says where lighter keeps its things on this computer.
type folders struct {
	state  string // store, ledger, socket
	config string // machines.toml, signing-key.{pub,sec}, acl
	socket string // the coordinator's

	kind         string // of the head's store: machines.StoreLocal or machines.StoreDaemon
	daemonSocket string // guix-daemon's; empty is the usual place
	guix         string // Guix's own configuration folder, where kind is machines.StoreDaemon
}

// machinesFile is Guix's where the head's store is, and lighter has none of its own.
func (f folders) machinesFile() string {
	own := filepath.Join(f.config, "machines.toml")
	if theirs := filepath.Join(f.guix, guixMachinesFile); f.kind == machines.StoreDaemon && !isFile(own) && isFile(theirs) {
		return theirs
	}
	return own
}

// signingKey and acl are Guix's where the head's store is.
func (f folders) signingKey() string { return filepath.Join(f.keys(), "signing-key") }
func (f folders) acl() string        { return filepath.Join(f.keys(), "acl") }

func (f folders) keys() string {
	if f.kind == machines.StoreDaemon {
		return f.guix
	}
	return f.config
}

func (f folders) store() string      { return filepath.Join(f.state, "store") }
func (f folders) ledger() string     { return filepath.Join(f.state, "ledger") }
func (f folders) localAgent() string { return filepath.Join(f.state, "local-agent") }

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

// resolve applies flags, environment and defaults, in this order.
func (f *folderFlags) resolve(inv *invocation) (folders, error) {
	state, err := pick(f.state, inv.Getenv("LIGHTER_STATE"), func() (string, error) {
		return agentd.DefaultState(inv.Getenv)
	})
	if err != nil {
		return folders{}, fmt.Errorf("state folder: %w", err)
	}
	config, err := pick(f.config, inv.Getenv("LIGHTER_CONFIG"), func() (string, error) {
		return agentd.DefaultFolder(inv.Getenv, "/etc/lighter", "XDG_CONFIG_HOME", ".config")
	})
	if err != nil {
		return folders{}, fmt.Errorf("configuration folder: %w", err)
	}
	socket, err := pick(f.socket, inv.Getenv("LIGHTER_SOCKET"), func() (string, error) {
		return filepath.Join(state, "coordinator.sock"), nil
	})
	if err != nil {
		return folders{}, fmt.Errorf("socket: %w", err)
	}
	found := folders{state: state, config: config, socket: socket, kind: machines.StoreLocal}
	if f.store == nil {
		return found, nil
	}
	return found, f.resolveStore(inv, &found)
}

// resolveStore finds out which store the head has.
func (f *folderFlags) resolveStore(inv *invocation, found *folders) error {
	if found.kind = *f.store; found.kind == "" {
		found.kind = inv.Getenv("LIGHTER_STORE")
	}
	switch found.kind {
	case "":
		found.kind = machines.StoreLocal
	case machines.StoreLocal, machines.StoreDaemon:
	default:
		return usageErrorf("%s: --store %q: want %s or %s", inv.flags.Name(), found.kind, machines.StoreLocal, machines.StoreDaemon)
	}
	found.daemonSocket = *f.daemonSocket
	if found.guix = inv.Getenv("GUIX_CONFIGURATION_DIRECTORY"); found.guix == "" {
		found.guix = "/etc/guix"
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
