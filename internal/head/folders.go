package head

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"lighter/internal/human"
	"lighter/internal/ledger"
	"lighter/internal/settings"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store"
)

// Folders says where lighter keeps its things on this computer.
type Folders struct {
	State  string // store, ledger, socket
	Config string // machines.toml, signing-key.{pub,sec}, acl
	Socket string // the coordinator's

	StoreKind    string // of the head's store: machines.StoreLocal or machines.StoreDaemon
	StoreWhy     string // why it is of that kind, where nobody said which
	DaemonSocket string // guix-daemon's; empty is the usual place
	Guix         string // Guix's own configuration folder, where kind is machines.StoreDaemon

	Machines string // the machines file, if it was named
	Agents   string // folder with agents for machines, if it was named
}

// MachinesFile is the one that was named, or else Guix's where the head's store is, and lighter has none
// of its own.
func (f Folders) MachinesFile() string {
	if f.Machines != "" {
		return f.Machines
	}
	own := filepath.Join(f.Config, "machines.toml")
	if theirs := f.GuixMachinesFile(); f.StoreKind == machines.StoreDaemon && !IsFile(own) && IsFile(theirs) {
		return theirs
	}
	return own
}

// SigningKey names the head's pair of keys, and ACL the file of the keys that it trusts: Guix's where the
// head's store is.
func (f Folders) SigningKey() string { return filepath.Join(f.Keys(), "signing-key") }
func (f Folders) ACL() string        { return filepath.Join(f.Keys(), "acl") }

// Keys is the folder of the signing key and the ACL.
func (f Folders) Keys() string {
	if f.StoreKind == machines.StoreDaemon {
		return f.Guix
	}
	return f.Config
}

// Store is the folder of lighter's own store, Ledger that of the ledger, LocalAgent that of the agent for
// what the head builds itself, and Logs that of the builds' logs. SettingsFile is lighter.toml.
func (f Folders) Store() string        { return filepath.Join(f.State, "store") }
func (f Folders) Ledger() string       { return filepath.Join(f.State, "ledger") }
func (f Folders) LocalAgent() string   { return filepath.Join(f.State, "local-agent") }
func (f Folders) Logs() string         { return filepath.Join(f.State, "log") }
func (f Folders) Catalogue() string    { return filepath.Join(f.State, "catalogue") }
func (f Folders) SettingsFile() string { return filepath.Join(f.Config, "lighter.toml") }

// GuixMachinesFile is what "guix offload" reads.
func (f Folders) GuixMachinesFile() string { return filepath.Join(f.Guix, "machines.scm") }

// Needed returns those of the items that builds in the ledger need, which no coordinator has open: see
// ledger.Needed.
func (f Folders) Needed(ctx context.Context, items []store.Path) (needed []store.Path, err error) {
	err = ledger.Read(ctx, f.Ledger(), ledger.Options{}, func(l *ledger.Ledger) error {
		needed, err = l.Needed(ctx, items)
		return err
	})
	return needed, err
}

// ReadLedger has do read the ledger, which no coordinator has open; where there is none yet, do is
// not called.
func (f Folders) ReadLedger(ctx context.Context, do func(*ledger.Ledger) error) error {
	return ledger.Read(ctx, f.Ledger(), ledger.Options{}, do)
}

// WithLedger opens the ledger, which no coordinator has open, and closes it when do has returned.
func (f Folders) WithLedger(do func(*ledger.Ledger) error) error {
	l, err := ledger.Open(f.Ledger(), ledger.Options{})
	if err != nil {
		return err
	}
	return errors.Join(do(l), l.Close())
}

// IsFile reports whether there is a file of that name.
func IsFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// LoadSettings reads lighter.toml; one that is not there is as good as an empty one. What is wrong in it is
// a human.InputError.
func (f Folders) LoadSettings() (*settings.Settings, error) {
	s, err := settings.Load(f.SettingsFile())
	if err != nil && !errors.As(err, new(*fs.PathError)) {
		err = &human.InputError{Err: err}
	}
	return s, err
}

// LoadSigningKey loads the head's secret key.
func (f Folders) LoadSigningKey() (*signature.PrivateKey, error) {
	file := signature.SecretFile(f.SigningKey())
	key, err := signature.LoadPrivateKey(file)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: anyone who can read the key can sign", err)
	case errors.Is(err, fs.ErrNotExist) && f.StoreKind == machines.StoreDaemon:
		return nil, fmt.Errorf("no signing key at %s; make one, as root, with: guix archive --generate-key", file)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no signing key at %s; make one with: lighter key generate", file)
	}
	return key, err
}

// LoadOwnACL reads the head's ACL, if there is one, and adds the head's own key: what it signed itself, as
// a machine among others or to be imported again, it takes.
func (f Folders) LoadOwnACL() (*signature.ACL, error) {
	acl, err := signature.LoadACLIfAny(f.ACL())
	if err != nil {
		return nil, err
	}
	key, err := signature.LoadPublicKey(signature.PublicFile(f.SigningKey()))
	if errors.Is(err, fs.ErrNotExist) {
		return acl, nil
	}
	if err != nil {
		return nil, err
	}
	acl.Add(key)
	return acl, nil
}

// Home is the home of the user as whom this runs.
func Home(getenv func(string) string) string {
	if home := getenv("HOME"); home != "" {
		return home
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "/"
	}
	return home
}
