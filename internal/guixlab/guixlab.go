// Package guixlab is for tests and benchmarks on the head of the lab that lab.sh makes:
// real guix-daemons and SSH servers on machines that are namespaces of this computer. Its
// tests have the build tag guixlab and run there, as root; "make test-guix" does that.
package guixlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lighter/nar"
	"lighter/store"
	"lighter/store/daemon"
	"lighter/store/derivation"
)

// Where things are on the head.
const (
	Shared   = "/lab"                           // a folder that all machines see
	Programs = "/src/build"                     // lighter, lighter-guix, agents/
	Socket   = "/var/guix/daemon-socket/socket" // of guix-daemon
)

// Inside reports whether this process runs on the head.
func Inside() bool {
	_, err := os.Stat(filepath.Join(Shared, "head.pid"))
	return err == nil
}

// Head is the head's store, with a builder in it for derivations of all kinds.
type Head struct {
	Store   *daemon.Store
	Busybox store.Path // a folder with bin/sh and the other applets
	drvs    map[store.Path]*derivation.Derivation
}

// OpenHead connects to the head's guix-daemon, which must run.
func OpenHead(ctx context.Context) (*Head, error) {
	s, err := daemon.Open(ctx, daemon.Options{})
	if err != nil {
		return nil, err
	}
	h := &Head{Store: s, drvs: make(map[store.Path]*derivation.Derivation)}
	if h.Busybox, err = h.addBusybox(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return h, nil
}

// Close ends the connections.
func (h *Head) Close() error { return h.Store.Close() }

func (h *Head) addBusybox(ctx context.Context) (store.Path, error) {
	dir, err := os.MkdirTemp("", "busybox-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return "", err
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), program, 0o755); err != nil { //nolint:gosec // a program
		return "", err
	}
	for _, applet := range []string{"sh", "cat", "cp", "sleep", "mkdir", "dd", "ln", "seq", "rm", "date", "od", "test"} {
		if err := os.Symlink("busybox", filepath.Join(bin, applet)); err != nil {
			return "", err
		}
	}
	return h.AddTree(ctx, "busybox", dir)
}

// AddTree adds a file or folder.
func (h *Head) AddTree(ctx context.Context, name, tree string) (store.Path, error) {
	var b bytes.Buffer
	if err := nar.Pack(&b, tree); err != nil {
		return "", err
	}
	return h.Store.AddNAR(ctx, name, &b)
}

// Recipe is a derivation whose builder is a shell.
type Recipe struct {
	Name    string
	Script  string
	Outputs []string     // "out" if there are none
	Inputs  []store.Path // derivations, of which all outputs are wanted
	Sources []store.Path // beside the shell
	Env     map[string]string
	System  string // x86_64-linux if empty
	// Hash makes it a fixed-output derivation: base16, with HashAlgorithm "sha256" or "r:sha256".
	HashAlgorithm, Hash string
}

// Add makes a derivation and adds it to the store.
func (h *Head) Add(ctx context.Context, r Recipe) (store.Path, error) {
	bin := string(h.Busybox) + "/bin"
	d := &derivation.Derivation{
		System: r.System, Builder: bin + "/sh",
		Args:    []string{"-c", "export PATH=" + bin + "\n" + r.Script},
		Sources: append(slices.Clone(r.Sources), h.Busybox),
	}
	if d.System == "" {
		d.System = "x86_64-linux"
	}
	outputs := r.Outputs
	if len(outputs) == 0 {
		outputs = []string{"out"}
	}
	for _, name := range outputs {
		d.Outputs = append(d.Outputs, derivation.Output{Name: name, HashAlgorithm: r.HashAlgorithm, Hash: r.Hash})
		d.Env = append(d.Env, derivation.EnvVar{Name: name})
	}
	for _, in := range r.Inputs {
		var names []string
		for _, o := range h.drvs[in].Outputs {
			names = append(names, o.Name)
		}
		d.Inputs = append(d.Inputs, derivation.Input{Path: in, Outputs: names})
	}
	for name, value := range r.Env {
		d.Env = append(d.Env, derivation.EnvVar{Name: name, Value: value})
	}
	slices.Sort(d.Sources)
	slices.SortFunc(d.Outputs, func(a, b derivation.Output) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(d.Inputs, func(a, b derivation.Input) int { return strings.Compare(string(a.Path), string(b.Path)) })
	slices.SortFunc(d.Env, func(a, b derivation.EnvVar) int { return strings.Compare(a.Name, b.Name) })
	resolve := func(p store.Path) (*derivation.Derivation, error) { return h.drvs[p], nil }
	if err := d.Fill(h.Store.Dir(), r.Name, resolve); err != nil {
		return "", err
	}
	p, err := h.Store.AddText(ctx, r.Name+".drv", d.Marshal(), d.References())
	if err != nil {
		return "", err
	}
	h.drvs[p] = d
	return p, nil
}

// Output returns the path of an output of a derivation that Add made.
func (h *Head) Output(drv store.Path, name string) store.Path {
	o, _ := h.drvs[drv].Output(name)
	return o.Path
}

// ---- processes ---------------------------------------------------------------------------

// RestartDaemon ends the head's guix-daemon with all that it started, and starts it again
// with more in its environment and on its command line.
func RestartDaemon(env []string, args ...string) error {
	if err := StopDaemon(); err != nil {
		return err
	}
	cmd := exec.Command("/bin/bash", append([]string{filepath.Join(Shared, "script"), "service", "daemon"}, args...)...) //nolint:noctx // it returns when the daemon listens
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("start guix-daemon: %w: %s", err, out)
	}
	return nil
}

// StopDaemon ends the head's guix-daemon, its process for each client, and their children.
func StopDaemon() error {
	pid, err := readPID("/run/guix-daemon.pid")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	victims := append([]int{pid}, descendants(pid)...)
	for _, v := range victims {
		if err := syscall.Kill(v, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	for _, v := range victims {
		for i := 0; alive(v); i++ {
			if i == 1000 {
				return fmt.Errorf("process %d does not end", v)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return os.Remove("/run/guix-daemon.pid")
}

func readPID(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// alive reports whether a process runs; one that was not waited for yet does not.
func alive(pid int) bool {
	state, _ := stat(pid)
	return state != "" && state != "Z" && state != "X"
}

// stat returns a process's state and parent, from /proc/PID/stat (proc(5)).
func stat(pid int) (state string, parent int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}

// descendants returns the processes below one.
func descendants(pid int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := make(map[int][]int)
	for _, e := range entries {
		if child, err := strconv.Atoi(e.Name()); err == nil {
			_, parent := stat(child)
			children[parent] = append(children[parent], child)
		}
	}
	all := children[pid]
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// Machine is one of the lab's machines, seen from the head.
type Machine struct{ Name string }

// Root returns the folder that is the machine's root.
func (m Machine) Root() (string, error) {
	pid, err := readPID(filepath.Join(Shared, m.Name+".pid"))
	return fmt.Sprintf("/proc/%d/root", pid), err
}

// Command returns a command that runs on the machine as root, with a shell.
func (m Machine) Command(ctx context.Context, script string) (*exec.Cmd, error) {
	pid, err := readPID(filepath.Join(Shared, m.Name+".pid"))
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(pid), "--mount", "--uts", "/bin/bash", "-c", "cd /; "+script), nil
}

// Run runs a script on the machine as root and returns what it wrote.
func (m Machine) Run(ctx context.Context, script string) (string, error) {
	cmd, err := m.Command(ctx, script)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("on %s: %s: %w: %s", m.Name, script, err, out)
	}
	return string(out), nil
}

// KillSSH ends the machine's SSH server and all its sessions.
func (m Machine) KillSSH(ctx context.Context) error {
	_, err := m.Run(ctx, `pid=$(cat /run/sshd.pid)
		kids=$(pgrep -P $pid; for k in $(pgrep -P $pid); do pgrep -P $k -x sshd-session; done)
		kill -KILL $pid $kids; rm -f /run/sshd.pid; while kill -0 $pid 2>/dev/null; do sleep 0.01; done`)
	return err
}

// StartSSH starts the machine's SSH server again.
func (m Machine) StartSSH(ctx context.Context) error {
	_, err := m.Run(ctx, "mkdir -p /run/sshd; bash /lab/script service sshd")
	return err
}
