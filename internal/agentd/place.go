package agentd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"lighter/internal/agentapi"
	"lighter/internal/disk"
	"lighter/internal/owner"
	"lighter/internal/version"
	"lighter/store"
)

// Folders says where an agent has its things, by the name of its state folder, which is absolute.
//
// The state folder may be shared with other computers, as homes are on clusters: they
// have one store, one key and one ACL then, but each its own agent with its own builds,
// in a folder named after the computer. A server of lighter's own has another one, since it
// may run beside the agent that a head has uploaded, on the same store.
type Folders string

// Store is the folder of the embedded store, SigningKey its pair of keys, ACL the file of the keys that
// it trusts, Agent the folder of this computer's agent, and Server that of a server's.
func (f Folders) Store() string      { return filepath.Join(string(f), "store") }
func (f Folders) SigningKey() string { return filepath.Join(string(f), "signing-key") }
func (f Folders) ACL() string        { return filepath.Join(string(f), "acl") }
func (f Folders) Agent() string      { return filepath.Join(string(f), "agents", nodeName()) }
func (f Folders) Server() string     { return filepath.Join(string(f), "agent") }

// Keep is for agent.Options: where a head's coordinator has its ledger in the same state folder, as with
// homes that computers share, the store is the head's too, and only the head can tell what of it is needed.
func (f Folders) Keep(context.Context, []store.Path) ([]store.Path, error) {
	switch _, err := os.Lstat(filepath.Join(string(f), "ledger")); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("%s is a head's store too, and has what its builds have made: collect its garbage there, with: lighter store gc", f.Store())
}

// place is where one agent is: its socket, and the lock for starting it, are in a folder that no other
// computer sees.
type place struct {
	Folders
	socket string // absolute
}

func (p place) log() string       { return filepath.Join(p.Agent(), "agent.log") }
func (p place) startLock() string { return p.socket + ".lock" }

// makeState makes the state folder. Builders that run as another user need not enter it:
// what they see is mounted for them.
func (p place) makeState() error { return owner.MakeState(string(p.Folders)) }

// place finds out where things are, and makes the folder of the socket.
func (o *Options) place() (place, error) {
	state, err := absolute(o.State, func() (string, error) { return DefaultState(os.Getenv) })
	if err != nil {
		return place{}, fmt.Errorf("state folder: %w", err)
	}
	p := place{Folders: Folders(state)}
	if o.Socket == "" {
		p.socket, err = chooseSocket(state, socketFolders(state))
		return p, err
	}
	if p.socket, err = absolute(o.Socket, nil); err != nil {
		return place{}, fmt.Errorf("socket: %w", err)
	}
	if len(p.socket) > disk.MaxSocketName {
		return place{}, fmt.Errorf("socket %s: the name has %d bytes, more than %d", p.socket, len(p.socket), disk.MaxSocketName)
	}
	return p, os.MkdirAll(filepath.Dir(p.socket), 0o700)
}

// chooseSocket returns the socket's name in the first of the folders where there is one, else
// in the first that is this user's alone. Another user can make a folder of that name in
// /tmp, even later, and so take one away, but neither all nor the one where an agent is.
func chooseSocket(state string, folders []string) (string, error) {
	name := socketName(state)
	for _, dir := range folders {
		socket := filepath.Join(dir, name)
		if info, err := os.Lstat(socket); err == nil && info.Mode().Type() == fs.ModeSocket && checkPrivate(dir) == nil {
			return socket, nil
		}
	}
	var errs []error
	for _, dir := range folders {
		socket := filepath.Join(dir, name)
		err := fmt.Errorf("%s: the name has %d bytes, more than %d", socket, len(socket), disk.MaxSocketName)
		if len(socket) <= disk.MaxSocketName {
			err = makePrivate(dir)
		}
		if err == nil {
			return socket, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("no place for the agent's socket; choose one with --socket: %w", errors.Join(errs...))
}

func absolute(name string, otherwise func() (string, error)) (string, error) {
	if name == "" {
		return otherwise()
	}
	if rest, ok := strings.CutPrefix(name, "~/"); ok { // as machines files have it
		home, err := os.UserHomeDir()
		return filepath.Join(home, rest), err
	}
	return filepath.Abs(name)
}

// DefaultState is the state folder of an account where nothing says otherwise.
func DefaultState(getenv func(string) string) (string, error) {
	return DefaultFolder(getenv, "/var/lib/lighter", "XDG_DATA_HOME", ".local/share")
}

// DefaultFolder returns lighter's folder for this account: root's own, or for others the one below what
// an environment variable says, or in their home.
func DefaultFolder(getenv func(string) string, root, variable, inHome string) (string, error) {
	if disk.IsRoot() {
		return root, nil
	}
	if dir := getenv(variable); filepath.IsAbs(dir) {
		return filepath.Join(dir, "lighter"), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", fmt.Errorf("neither HOME nor %s is set", variable)
	}
	return filepath.Join(home, inHome, "lighter"), nil
}

// socketName is one that every process of this user on this computer finds for the state
// folder and this version of the protocol.
func socketName(state string) string {
	key := fmt.Sprintf("%s\x00%s\x00%d", nodeName(), state, agentapi.Protocol)
	return "agent-" + shortHash([]byte(key)) + ".sock"
}

// socketFolders are where it may be. XDG_RUNTIME_DIR is not one of them: that folder goes
// away with the last login, and the agent outlives the login. The one in the state folder
// nobody else can take away, but its name may be too long, or other computers may see it.
func socketFolders(state string) []string {
	own := "lighter-" + strconv.Itoa(os.Getuid())
	folders := []string{filepath.Join("/tmp", own), filepath.Join(state, "run"), filepath.Join("/var/tmp", own), filepath.Join("/dev/shm", own)}
	if os.Getuid() == 0 && unix.Access("/run", unix.W_OK) == nil {
		folders = append([]string{"/run/lighter"}, folders...)
	}
	return folders
}

// makePrivate makes a folder that this user alone can use. Another user may have made
// one of that name first, since /tmp is for all: then it is refused.
func makePrivate(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Base(dir) == "run" { // in a state folder that is still to be made
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return checkPrivate(dir)
}

func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s: it is not a folder", dir)
	case !ok || int64(stat.Uid) != int64(os.Getuid()):
		return fmt.Errorf("%s: it belongs to another user", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s: mode %04o lets other users in", dir, info.Mode().Perm())
	}
	return nil
}

// nodeName returns a name for this computer that is fit for a folder. Clones of one disk
// have the same machine-id, and different host names.
func nodeName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	host = strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || ('0' <= r && r <= '9') || ('a' <= r && r <= 'z') || ('A' <= r && r <= 'Z') {
			return r
		}
		return '_'
	}, host)
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return host // then the name must be enough
	}
	return host + "-" + shortHash(id)
}

func shortHash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}

// ProgramVersion returns the release and a hash of this program: two agents with the
// same one are the same.
func ProgramVersion() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read the program: %w", err)
	}
	return version.Version + "+" + hex.EncodeToString(h.Sum(nil)[:4]), nil
}
