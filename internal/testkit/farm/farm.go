// Package farm runs a head of lighter's and its machines in one folder, each program in a process of its own, for
// tests and benchmarks of what people see: commands, pages, figures.
package farm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lighter/machines"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/local"
)

// Farm is a head with a store of lighter's own, and what was started beside it.
type Farm struct {
	Folder string // of all that follows
	State  string // folder of the head's state
	Config string // folder of its configuration
	// Shell is the builder of derivations, on the machines.
	Shell string

	program     string
	env         []string
	processes   []*exec.Cmd
	coordinator *exec.Cmd
	head        *local.Store
	derivations map[store.Path]*derivation.Derivation
}

// New makes the folders of a farm inside one, and its keys. program is the file of lighter. Whoever has
// the farm calls Stop.
func New(ctx context.Context, folder, program string) (*Farm, error) {
	f := &Farm{Shell: "/bin/sh", derivations: make(map[store.Path]*derivation.Derivation)}
	var err error
	if f.program, err = filepath.Abs(program); err != nil {
		return nil, err
	}
	if f.Folder, err = os.MkdirTemp(folder, "farm-"); err != nil {
		return nil, err
	}
	f.State, f.Config = filepath.Join(f.Folder, "state"), filepath.Join(f.Folder, "config")
	f.env = append(os.Environ(), "LIGHTER_STATE="+f.State, "LIGHTER_CONFIG="+f.Config, "LIGHTER_STORE=local", "HOME="+f.Folder)
	if err := errors.Join(os.Chmod(f.Folder, 0o755), os.Mkdir(f.State, 0o755), os.Mkdir(f.Config, 0o755)); err != nil { // builders are other users
		return nil, err
	}
	if err := f.run(ctx, "key", "generate"); err != nil {
		return nil, err
	}
	return f, nil
}

// Start writes the machines file, trusts those machines that are named, starts the coordinator, and opens the
// head's store for [Farm.Add].
func (f *Farm) Start(ctx context.Context, machinesFile []byte, trusted ...string) error {
	if err := os.WriteFile(filepath.Join(f.Config, "machines.toml"), machinesFile, 0o600); err != nil {
		return err
	}
	for _, name := range trusted {
		if err := f.run(ctx, "machines", "authorize", "--yes", name); err != nil {
			return err
		}
	}
	if err := f.StartCoordinator(ctx); err != nil {
		return err
	}
	var err error
	f.head, err = local.Open(local.Options{Root: filepath.Join(f.State, "store")})
	return err
}

// Socket is where the coordinator answers.
func (f *Farm) Socket() string { return filepath.Join(f.State, "coordinator.sock") }

// Head is the head's store, open from Start to Stop.
func (f *Farm) Head() *local.Store { return f.head }

// StartCoordinator returns when the coordinator answers.
func (f *Farm) StartCoordinator(ctx context.Context) error {
	name := filepath.Join(f.Folder, "coordinator.log")
	log, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	f.coordinator = f.Lighter(ctx, "coordinator", "--log-level", "warn")
	f.coordinator.Stderr = log
	if err := f.Launch(f.coordinator); err != nil {
		return err
	}
	for range 400 {
		if err = f.run(ctx, "status"); err == nil {
			return nil
		}
		time.Sleep(25 * time.Millisecond)
	}
	said, _ := os.ReadFile(name)
	return fmt.Errorf("the coordinator does not answer: %w\n%s", err, said)
}

// Coordinator is its process.
func (f *Farm) Coordinator() *os.Process { return f.coordinator.Process }

// Lighter is a command of lighter on the head.
func (f *Farm) Lighter(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, f.program, args...)
	cmd.Env = f.env
	return cmd
}

func (f *Farm) run(ctx context.Context, args ...string) error {
	if out, err := f.Lighter(ctx, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("lighter %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Launch starts a program that ends with the farm.
func (f *Farm) Launch(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return err
	}
	f.processes = append(f.processes, cmd)
	return nil
}

// LaunchUntil starts a program that ends with the farm, and returns what it prints on its standard output up to a
// text, with that.
func (f *Farm) LaunchUntil(cmd *exec.Cmd, end string) ([]byte, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := f.Launch(cmd); err != nil {
		return nil, err
	}
	var text []byte
	for buf := make([]byte, 4096); !bytes.Contains(text, []byte(end)); {
		n, err := out.Read(buf)
		text = append(text, buf[:n]...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
		}
	}
	return text, nil
}

// StartMachine starts an agent with an SSH server of its own, which lets in who has the head's key sshKey.
func (f *Farm) StartMachine(ctx context.Context, name, sshKey string) (*machines.Machine, error) {
	args := []string{
		"agent", "--listen", "127.0.0.1:0", "--name", name, "--state", filepath.Join(f.Folder, name),
		"--authorized-keys", sshKey + ".pub", "--authorize", filepath.Join(f.Config, "signing-key.pub"),
	}
	for _, path := range SandboxPaths() {
		args = append(args, "--sandbox-path", path)
	}
	text, err := f.LaunchUntil(f.Lighter(ctx, args...), "\n\n")
	if err != nil {
		return nil, err
	}
	list, err := machines.ParseTOML(name, text)
	if err != nil {
		return nil, err
	}
	m := &list[0]
	m.PrivateKey, m.ParallelBuilds, m.OverloadThreshold = sshKey, 4, 0
	return m, nil
}

// SandboxPaths are what builders need of this computer for a shell and its commands.
func SandboxPaths() (there []string) {
	for _, path := range []string{"/bin", "/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(path); err == nil {
			there = append(there, path)
		}
	}
	return there
}

// stopTime is how long a program may take to end.
const stopTime = 20 * time.Second

// Stop ends all that was started, the latest first, and closes the head's store. It returns whether
// all ended by themselves.
func (f *Farm) Stop() (err error) {
	if f.head != nil {
		err = f.head.Close()
	}
	for i := len(f.processes) - 1; i >= 0; i-- {
		cmd := f.processes[i]
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(stopTime, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		_ = cmd.Wait()
		if !kill.Stop() {
			err = errors.Join(err, fmt.Errorf("%s did not end", strings.Join(cmd.Args, " ")))
		}
	}
	f.processes = nil
	return err
}

// System is that of derivations which this computer can build.
func System() string {
	return map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux"}[runtime.GOARCH]
}

// Recipe is a derivation in few words.
type Recipe struct {
	Name    string
	System  string       // empty is that of this computer
	Script  string       // of a shell, which makes $out
	Inputs  []store.Path // derivations, made by Add, whose outputs are needed
	Sources []store.Path // other items
}

// Add puts a derivation into the head's store.
func (f *Farm) Add(ctx context.Context, r Recipe) (store.Path, error) {
	d := &derivation.Derivation{
		Outputs: []derivation.Output{{Name: "out"}}, Sources: r.Sources, System: r.System,
		Builder: f.Shell, Args: []string{"-c", r.Script},
		Env: []derivation.EnvVar{{Name: "PATH", Value: "/bin:/usr/bin"}, {Name: "name", Value: r.Name}, {Name: "out"}},
	}
	if d.System == "" {
		d.System = System()
	}
	for _, input := range r.Inputs {
		d.Inputs = append(d.Inputs, derivation.Input{Path: input, Outputs: []string{"out"}})
	}
	resolve := func(path store.Path) (*derivation.Derivation, error) {
		if input := f.derivations[path]; input != nil {
			return input, nil
		}
		return nil, fmt.Errorf("%s is not of this farm", path)
	}
	if err := d.Fill(store.DefaultDir, r.Name, resolve); err != nil {
		return "", err
	}
	path, err := f.head.AddText(ctx, r.Name+".drv", d.Marshal(), d.References())
	if err != nil {
		return "", err
	}
	f.derivations[path] = d
	return path, nil
}

// Figure returns a figure of a process in bytes, as proc_pid_status(5) names it: VmHWM is the most memory that it
// had, VmRSS what it has.
func Figure(pid int, name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), name+":")
	line, _, _ := strings.Cut(rest, "\n")
	kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	return kib << 10, err
}
