package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// benchFarm builds 1,000 trivial derivations on two machines with 4 slots each: agents
// behind lighter's own SSH server, a coordinator, and a client, all on this machine.
func benchFarm(ctx context.Context, b *bench) error {
	const builds = 1000
	f, err := startFarm(ctx, b.folder, "m1", "m2")
	if err != nil {
		return err
	}
	defer f.stop()
	var times []time.Duration
	for i := range b.runs {
		var list bytes.Buffer
		for n := range builds {
			path, err := f.addDerivation(ctx, fmt.Sprintf("trivial-%d-%d", i, n), nil, "echo hello > $out")
			if err != nil {
				return err
			}
			fmt.Fprintln(&list, path)
		}
		start := time.Now()
		if err := f.build(ctx, &list); err != nil {
			return err
		}
		times = append(times, time.Since(start))
	}
	rate := builds / median(times).Seconds()
	bare, err := bareNamespaces(ctx, builds)
	if err != nil {
		return err
	}
	b.rows = append(b.rows, row{
		"1,000 trivial builds, 2 machines with 4 slots (bare `unshare … sh`, 8 at a time)",
		fmt.Sprintf("%.0f / s", rate), fmt.Sprintf("%.0f / s", bare), fmt.Sprintf("%.2f (aim: 100 / s)", rate/bare),
	})
	return nil
}

// benchSubmission submits derivations that nothing builds, from one list, twice: the
// second time they are there already, as after an interruption.
func benchSubmission(ctx context.Context, b *bench) error {
	const builds = 20_000
	f, err := newFarm(ctx, b.folder)
	if err != nil {
		return err
	}
	defer f.stop()
	if err := f.start(ctx, nil); err != nil {
		return err
	}
	var list bytes.Buffer
	for n := range builds {
		path, err := f.addDerivation(ctx, fmt.Sprintf("submitted-%d", n), nil, "echo hello > $out")
		if err != nil {
			return err
		}
		fmt.Fprintln(&list, path)
	}
	for _, what := range []string{"derivations submitted from a list", "the same list again"} {
		cmd := f.lighter(ctx, "build", "--detach", "--quiet", "--submission", "bench", "-")
		cmd.Stdin = bytes.NewReader(list.Bytes())
		start := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("lighter build: %w: %s", err, out)
		}
		b.rows = append(b.rows, row{what, fmt.Sprintf("%.0f / s", builds/time.Since(start).Seconds()), "", ""})
	}
	return nil
}

// bareNamespaces returns how many shells a second start and end in namespaces like a
// build's, eight at a time: how fast this machine is at what builds cannot do without.
func bareNamespaces(ctx context.Context, n int) (float64, error) {
	cmd := exec.CommandContext(ctx, "xargs", "-P8", "-I{}", "unshare", "-Urmpinuf", "--mount-proc", "sh", "-c", "echo hello > /dev/null")
	cmd.Stdin = strings.NewReader(strings.Repeat("x\n", n))
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("unshare: %w: %s", err, out)
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// benchMemory sends an item of 4 GiB to a machine and fetches a copy of it.
func benchMemory(ctx context.Context, b *bench) error {
	f, err := startFarm(ctx, b.folder, "m1")
	if err != nil {
		return err
	}
	defer f.stop()
	file := filepath.Join(b.folder, "four")
	if err := writeRandom(file, 4<<30); err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(packInto(w, file)) }()
	source, err := f.head.AddNAR(ctx, "four", r)
	if err := errors.Join(err, os.Remove(file)); err != nil {
		return err
	}
	path, err := f.addDerivation(ctx, "copy", []store.Path{source}, "cp "+string(source)+" $out")
	if err != nil {
		return err
	}
	if err := f.build(ctx, strings.NewReader(string(path)+"\n")); err != nil {
		return err
	}
	peak, err := f.coordinatorPeak()
	if err != nil {
		return err
	}
	mib := float64(peak) / (1 << 20)
	b.rows = append(b.rows, row{"coordinator's peak memory, 4 GiB sent and fetched", fmt.Sprintf("%.0f MiB", mib), "aim: 100 MiB", fmt.Sprintf("%.2f", 100/mib)})
	return nil
}

// farm is a coordinator and machines, in processes of their own.
type farm struct {
	folder      string
	state       string // of the head
	config      string
	program     string
	env         []string
	processes   []*exec.Cmd
	coordinator *exec.Cmd
	head        *local.Store
	shell       string
}

func startFarm(ctx context.Context, folder string, names ...string) (*farm, error) {
	f, err := newFarm(ctx, folder)
	if err != nil {
		return nil, err
	}
	if err := f.start(ctx, names); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

// newFarm makes folders and keys.
func newFarm(ctx context.Context, folder string) (*farm, error) {
	program, err := filepath.Abs("build/lighter")
	if err != nil {
		return nil, err
	}
	f := &farm{program: program, shell: "/bin/sh"}
	if f.folder, err = os.MkdirTemp(folder, "farm-"); err != nil {
		return nil, err
	}
	f.state, f.config = filepath.Join(f.folder, "state"), filepath.Join(f.folder, "config")
	f.env = append(os.Environ(), "LIGHTER_STATE="+f.state, "LIGHTER_CONFIG="+f.config, "HOME="+f.folder)
	if err := errors.Join(os.Mkdir(f.state, 0o755), os.Mkdir(f.config, 0o755)); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f.key()).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
	}
	if err := f.lighter(ctx, "key", "generate").Run(); err != nil {
		return nil, fmt.Errorf("key generate: %w", err)
	}
	return f, nil
}

func (f *farm) key() string { return filepath.Join(f.config, "ssh-key") }

// start starts machines of the given names and the coordinator.
func (f *farm) start(ctx context.Context, names []string) error {
	var list []machines.Machine
	for _, name := range names {
		m, err := f.startMachine(ctx, name)
		if err != nil {
			return err
		}
		list = append(list, *m)
	}
	if err := os.WriteFile(filepath.Join(f.config, "machines.toml"), machines.FormatTOML(list), 0o600); err != nil {
		return err
	}
	for _, name := range names {
		if err := f.lighter(ctx, "machines", "authorize", "--yes", name).Run(); err != nil {
			return fmt.Errorf("authorize %s: %w", name, err)
		}
	}
	if err := f.startCoordinator(ctx); err != nil {
		return err
	}
	var err error
	f.head, err = local.Open(local.Options{Root: filepath.Join(f.state, "store")})
	return err
}

// startCoordinator returns when it answers.
func (f *farm) startCoordinator(ctx context.Context) error {
	f.coordinator = f.lighter(ctx, "coordinator", "--log-level", "warn")
	if err := f.launch(f.coordinator); err != nil {
		return err
	}
	for range 400 {
		if f.lighter(ctx, "status").Run() == nil {
			return nil
		}
		time.Sleep(25 * time.Millisecond)
	}
	return errors.New("the coordinator does not answer")
}

func (f *farm) lighter(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, f.program, args...)
	cmd.Env = f.env
	return cmd
}

func (f *farm) launch(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	f.processes = append(f.processes, cmd)
	return nil
}

func (f *farm) startMachine(ctx context.Context, name string) (*machines.Machine, error) {
	key := f.key()
	args := []string{"agent", "--listen", "127.0.0.1:0", "--name", name, "--state", filepath.Join(f.folder, name), "--authorized-keys", key + ".pub", "--authorize", filepath.Join(filepath.Dir(key), "signing-key.pub")}
	for _, path := range []string{"/bin", "/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(path); err == nil {
			args = append(args, "--sandbox-path", path)
		}
	}
	cmd := f.lighter(ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := f.launch(cmd); err != nil {
		return nil, err
	}
	var text []byte
	for buf := make([]byte, 4096); !bytes.Contains(text, []byte("\n\n")); {
		n, err := out.Read(buf)
		text = append(text, buf[:n]...)
		if err != nil {
			return nil, fmt.Errorf("machine %s: %w", name, err)
		}
	}
	list, err := machines.ParseTOML(name, text)
	if err != nil {
		return nil, err
	}
	m := &list[0]
	m.PrivateKey, m.ParallelBuilds, m.OverloadThreshold = key, 4, 0
	return m, nil
}

func (f *farm) stop() {
	if f.head != nil {
		_ = f.head.Close()
	}
	for _, cmd := range f.processes {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}
}

func (f *farm) addDerivation(ctx context.Context, name string, sources []store.Path, script string) (store.Path, error) {
	system := map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux"}[runtime.GOARCH]
	d := &derivation.Derivation{
		Outputs: []derivation.Output{{Name: "out"}}, Sources: sources, System: system,
		Builder: f.shell, Args: []string{"-c", script},
		Env: []derivation.EnvVar{{Name: "PATH", Value: "/bin:/usr/bin"}, {Name: "name", Value: name}, {Name: "out"}},
	}
	if err := d.Fill(store.DefaultDir, name, nil); err != nil {
		return "", err
	}
	return f.head.AddText(ctx, name+".drv", d.Marshal(), d.References())
}

func (f *farm) build(ctx context.Context, list io.Reader) error {
	cmd := f.lighter(ctx, "build", "--quiet", "-")
	cmd.Stdin = list
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("lighter build: %w: %s", err, stderr.String())
	}
	return nil
}

// coordinatorPeak returns VmHWM (proc_pid_status(5)) of the coordinator, in bytes.
func (f *farm) coordinatorPeak() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.coordinator.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	line, _, _ := strings.Cut(rest, "\n")
	kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	return kib << 10, err
}
