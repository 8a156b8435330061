package head

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lighter/internal/agentd"
	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/disk"
	"lighter/internal/human"
	"lighter/internal/settings"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store/daemon"
)

// find.go finds out where a head has its things: what flags and the environment say counts first, then what
// the running coordinator says, then what the last one left in its state folder, then what is usual.

// Said is what flags say of where a head has its things. What is empty was not said.
type Said struct{ State, Config, Socket, StoreKind, DaemonSocket string }

// The usual places of the coordinator that serves a whole computer.
const (
	systemState  = "/var/lib/lighter"
	systemConfig = "/etc/lighter"
	socketName   = "coordinator.sock"
)

// with adds what the environment says.
func (s Said) with(getenv func(string) string) (Said, error) {
	for _, place := range []struct {
		said     *string
		variable string
	}{{&s.State, "LIGHTER_STATE"}, {&s.Config, "LIGHTER_CONFIG"}, {&s.Socket, "LIGHTER_SOCKET"}} {
		if *place.said == "" {
			*place.said = getenv(place.variable)
		}
		if *place.said == "" {
			continue
		}
		full, err := filepath.Abs(*place.said)
		if err != nil {
			return s, err
		}
		*place.said = full
	}
	if s.StoreKind == "" {
		s.StoreKind = getenv("LIGHTER_STORE")
	}
	switch s.StoreKind {
	case "", machines.StoreLocal, machines.StoreDaemon:
		return s, nil
	}
	return s, &KindError{s.StoreKind}
}

// KindError says that there is no kind of store of this name.
type KindError struct{ Kind string }

func (e *KindError) Error() string {
	return fmt.Sprintf("--store %q: want %s or %s", e.Kind, machines.StoreLocal, machines.StoreDaemon)
}

// own returns the folders of a coordinator of this user's own, without its store's kind.
func (s Said) own(getenv func(string) string) (f Folders, err error) {
	f = Folders{State: s.State, Config: s.Config, Socket: s.Socket, DaemonSocket: s.DaemonSocket, Guix: getenv("GUIX_CONFIGURATION_DIRECTORY")}
	if f.State == "" {
		if f.State, err = agentd.DefaultState(getenv); err != nil {
			return f, fmt.Errorf("state folder: %w", err)
		}
	}
	if f.Config == "" {
		if f.Config, err = agentd.DefaultFolder(getenv, systemConfig, "XDG_CONFIG_HOME", ".config"); err != nil {
			return f, fmt.Errorf("configuration folder: %w", err)
		}
	}
	if f.Socket == "" {
		f.Socket = filepath.Join(f.State, socketName)
	}
	if f.DaemonSocket == "" {
		f.DaemonSocket = getenv("GUIX_DAEMON_SOCKET")
	}
	if f.Guix == "" {
		f.Guix = "/etc/guix"
	}
	return f, nil
}

// hint is the flag with which commands of this user find a socket that they would not find by themselves.
func hint(socket string, getenv func(string) string) string {
	found, err := Reach(Said{}, func(name string) string {
		if strings.HasPrefix(name, "LIGHTER_") {
			return "" // a shell need not have it
		}
		return getenv(name)
	})
	if err == nil && found.Socket == socket {
		return ""
	}
	return "--socket " + human.ShellWord(socket) + " "
}

// ToStart returns the folders of a coordinator that is to be started: what others run does not count.
func ToStart(ctx context.Context, s Said, getenv func(string) string) (Folders, error) {
	s, err := s.with(getenv)
	if err != nil {
		return Folders{}, err
	}
	f, err := s.own(getenv)
	if err != nil {
		return f, err
	}
	f.StoreKind = s.StoreKind
	f.chooseStore(ctx)
	return f, nil
}

// Reach returns the folders with the socket of the coordinator that commands ask: this user's own, or, where
// there is none and nothing was said, that of the computer. Of the store nothing is known yet.
func Reach(s Said, getenv func(string) string) (Folders, error) {
	s, err := s.with(getenv)
	if err != nil {
		return Folders{}, err
	}
	return s.reach(getenv)
}

func (s Said) reach(getenv func(string) string) (Folders, error) {
	f, err := s.own(getenv)
	if s.State == "" && s.Socket == "" && (err != nil || f.State != systemState && missing(f.Socket) && missing(f.Ledger())) &&
		!missing(filepath.Join(systemState, socketName)) {
		s.State = systemState
		if s.Config == "" {
			s.Config = systemConfig
		}
		return s.own(getenv)
	}
	return f, err
}

// missing reports whether there is certainly no such file.
func missing(name string) bool {
	_, err := os.Lstat(name)
	return errors.Is(err, fs.ErrNotExist)
}

// askTimeout bounds how long a coordinator is asked where it has its things.
const askTimeout = 5 * time.Second

// Find returns where the head has its things.
func Find(ctx context.Context, s Said, getenv func(string) string) (Folders, error) {
	s, err := s.with(getenv)
	if err != nil {
		return Folders{}, err
	}
	f, err := s.reach(getenv)
	if err != nil {
		return f, err
	}
	there := told(ctx, f)
	if there != nil && s.agrees(there) {
		f.heed(there)
	}
	if s.StoreKind != "" && s.StoreKind != f.StoreKind {
		f.StoreKind, f.StoreWhy, f.Machines = s.StoreKind, "", ""
	}
	if s.DaemonSocket != "" {
		f.DaemonSocket = s.DaemonSocket
	}
	f.chooseStore(ctx)
	return f, nil
}

// heed takes over what a coordinator says of itself. Root reads and writes no file of another user because
// that user's coordinator names it.
func (f *Folders) heed(there *api.Installation) {
	take := func(to *string, name string) {
		if os.Geteuid() != 0 || name == "" || ofRoot(name) {
			*to = name
		}
	}
	f.State, f.DaemonSocket, f.StoreKind, f.StoreWhy = there.State, there.DaemonSocket, there.StoreKind, there.StoreWhy
	take(&f.Config, there.Config)
	take(&f.Guix, there.Guix)
	take(&f.Machines, there.MachinesFile)
	take(&f.Agents, there.Agents)
}

// ofRoot reports whether nobody but root can change a file, or, where it is missing, make it.
func ofRoot(name string) bool {
	info, err := os.Stat(name)
	for errors.Is(err, fs.ErrNotExist) && name != "/" {
		name = filepath.Dir(name)
		info, err = os.Stat(name)
	}
	return err == nil && info.Sys().(*syscall.Stat_t).Uid == 0 && info.Mode().Perm()&0o022 == 0
}

// agrees reports whether nothing that was said speaks against an installation.
func (s Said) agrees(there *api.Installation) bool {
	return (s.State == "" || s.State == there.State) && (s.Config == "" || s.Config == there.Config)
}

// told returns what the coordinator behind the socket says of itself, or what the last one left in the state
// folder; nil if neither does.
func told(ctx context.Context, f Folders) *api.Installation {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client := apiclient.NewClient(f.Socket)
	defer client.Close()
	if there, err := client.Installation(ctx); err == nil {
		return there
	}
	return f.left()
}

// installationFile has what the last coordinator told of itself.
func (f Folders) installationFile() string { return filepath.Join(f.State, "installation.json") }

// maxInstallation bounds what is read of that file, in bytes.
const maxInstallation = 1 << 20

// left reads what the last coordinator of the state folder told of itself; nil if there is nothing usable.
func (f Folders) left() *api.Installation {
	info, err := os.Stat(f.installationFile())
	if err != nil || info.Size() > maxInstallation {
		return nil
	}
	text, err := os.ReadFile(f.installationFile())
	var there api.Installation
	if err != nil || json.Unmarshal(text, &there) != nil {
		return nil
	}
	return &there
}

// Installation is what a coordinator with these folders tells of itself.
func (f Folders) Installation() *api.Installation {
	return &api.Installation{
		User:  disk.UserName(uint32(os.Geteuid())), // #nosec G115 -- a number of the kernel's
		State: f.State, Config: f.Config, Socket: f.Socket, StoreKind: f.StoreKind, StoreWhy: f.StoreWhy,
		DaemonSocket: f.DaemonSocket, Guix: f.Guix, MachinesFile: f.MachinesFile(),
		SigningKey: signature.PublicFile(f.SigningKey()), ACL: f.ACL(), Agents: f.Agents,
	}
}

// leave writes it into the state folder, for commands that are run while no coordinator is.
func (f Folders) leave(there *api.Installation) error {
	text, err := json.Marshal(there)
	if err != nil {
		return err
	}
	return disk.Replace(f.installationFile(), 0o644, func(w *os.File) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
}

// chooseStore says which store the head has where nobody does, and why. What was chosen once stays, so that a
// guix-daemon that is not up yet makes no other head of it.
func (f *Folders) chooseStore(ctx context.Context) {
	if f.StoreKind != "" {
		return
	}
	f.StoreKind = machines.StoreLocal
	set, err := settings.Load(f.SettingsFile())
	there := f.left()
	switch {
	case err == nil && set.Head.Store != "":
		f.StoreKind = set.Head.Store
	case there != nil && (there.StoreKind == machines.StoreLocal || there.StoreKind == machines.StoreDaemon):
		f.StoreKind, f.StoreWhy = there.StoreKind, there.StoreWhy
	case holdsItems(f.Store()):
		f.StoreWhy = "there are items in " + f.Store()
	case daemonAnswers(ctx, f.DaemonSocket):
		f.StoreKind, f.StoreWhy = machines.StoreDaemon, "guix-daemon answers, and nothing says --store=local"
	}
}

// holdsItems reports whether a store of lighter's own has items.
func holdsItems(folder string) bool {
	d, err := os.Open(filepath.Join(folder, "info"))
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(1)
	return len(names) > 0
}

// daemonAnswers reports whether guix-daemon lets this user in.
func daemonAnswers(ctx context.Context, socket string) bool {
	name, err := daemon.SocketName(socket)
	if err != nil {
		return false
	}
	d := net.Dialer{Timeout: askTimeout}
	conn, err := d.DialContext(ctx, "unix", name)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}
