//go:build guixlab

package guixlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/store"
)

// patience bounds every wait of these tests; what takes that long has failed.
const patience = 90 * time.Second

func TestMain(m *testing.M) {
	if !Inside() {
		fmt.Fprintln(os.Stderr, "these tests run on the head of the lab; make test-guix does that")
		os.Exit(1)
	}
	code := m.Run()
	if err := RestartDaemon(nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// farm is a coordinator, and a guix-daemon on the head that offloads to it.
type farm struct {
	*Head
	t      testing.TB
	dir    string // of the coordinator
	socket string
	client *apiclient.Client

	mu   sync.Mutex
	cmd  *exec.Cmd
	logs *os.File
}

// entry is a machine of the lab in the machines file.
func entry(name string, more ...string) string {
	kind := "guix-daemon"
	if name == "plain" {
		kind = "local"
	}
	return fmt.Sprintf("[[machine]]\nname = %q\nsystems = [\"x86_64-linux\"]\nuser = \"offload\"\nstore = %q\nparallel-builds = 4\noverload-threshold = false\n%s\n",
		name, kind, strings.Join(more, "\n"))
}

// newFarm starts a coordinator as an ordinary user with the machines, and waits until all of
// them are up. guix-daemon has no slot of its own, unless a client asks for one.
func newFarm(t *testing.T, machines ...string) *farm {
	t.Helper()
	f := startFarm(t, machines...)
	f.awaitUp(len(machines))
	return f
}

func startFarm(t *testing.T, machines ...string) *farm {
	t.Helper()
	return startFarmWith(t, "", machines...)
}

// startFarmWith starts a farm with a lighter.toml.
func startFarmWith(t *testing.T, settings string, machines ...string) *farm {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib/lighter", "farm-*") //nolint:usetesting // the coordinator's user has to get there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &farm{t: t, dir: dir, socket: filepath.Join(dir, "state", "coordinator.sock")}
	for _, sub := range []string{"config", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.write(machines...)
	if err := os.WriteFile(filepath.Join(dir, "config", "lighter.toml"), []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "-R", "lighter", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if f.logs, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(f.logs.Name())
			t.Logf("coordinator's log:\n%s", text)
		}
		f.logs.Close()
	})
	if err := RestartDaemon([]string{"GUIX=" + Programs + "/lighter-guix", "LIGHTER_SOCKET=" + f.socket}, "--max-jobs=0"); err != nil {
		t.Fatal(err)
	}
	if f.Head, err = OpenHead(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Head.Close() })
	f.client = apiclient.NewClient(f.socket)
	t.Cleanup(f.client.Close)
	f.start()
	t.Cleanup(f.stop)
	return f
}

func (f *farm) write(machines ...string) {
	f.t.Helper()
	file := filepath.Join(f.dir, "config", "machines.toml")
	if err := os.WriteFile(file, []byte(strings.Join(machines, "\n")), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// start starts the coordinator.
func (f *farm) start() {
	f.t.Helper()
	who, err := user.Lookup("lighter")
	if err != nil {
		f.t.Fatal(err)
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	cmd := exec.Command(Programs+"/lighter", "coordinator", "--store=guix-daemon", "--agents="+Programs+"/agents",
		"--state="+filepath.Join(f.dir, "state"), "--config="+filepath.Join(f.dir, "config"), "--log-level=debug")
	cmd.Env = []string{"HOME=" + who.HomeDir, "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = f.logs, f.logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	f.cmd = cmd
	f.mu.Unlock()
}

// kill ends the coordinator without a warning.
func (f *farm) kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cmd != nil {
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait()
		f.cmd = nil
	}
}

func (f *farm) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cmd == nil {
		return
	}
	_ = f.cmd.Process.Signal(syscall.SIGTERM)
	if err := f.cmd.Wait(); err != nil {
		f.t.Errorf("the coordinator ended with %v", err)
	}
	f.cmd = nil
}

// await waits until f returns no problem.
func await(t testing.TB, problem func() string) {
	t.Helper()
	var p string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if p = problem(); p == "" {
			return
		}
	}
	t.Fatalf("in %s: %s", patience, p)
}

// awaitUp waits until that many machines are up and take builds.
func (f *farm) awaitUp(n int) {
	f.t.Helper()
	await(f.t, func() string {
		list, err := f.client.Machines(f.t.Context())
		if err != nil {
			return err.Error()
		}
		up, text := 0, ""
		for _, m := range list {
			if m.State == "up" && m.Error == "" {
				up++
			}
			text += fmt.Sprintf("%s: %s %s; ", m.Name, m.State, m.Error)
		}
		if up < n {
			return text
		}
		return ""
	})
}

// run is a client of guix-daemon under way.
type run struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  bytes.Buffer
	text bytes.Buffer // of stderr
	done chan error
}

// guix starts "guix ARGS".
func (f *farm) guix(args ...string) *run {
	f.t.Helper()
	// What starts the tests in the background may have them ignore interrupts, and so
	// everything below them.
	cmd := exec.Command("env", append([]string{"--default-signal=INT", "guix"}, args...)...)
	r := &run{t: f.t, cmd: cmd, done: make(chan error, 1)}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.text
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	return r
}

// code waits for the client and returns its exit code.
func (r *run) code() int {
	r.t.Helper()
	select {
	case <-r.done:
		return r.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		_ = r.cmd.Process.Kill()
		<-r.done
		r.t.Fatalf("guix did not end in %s; it said:\n%s", patience, r.text.String())
		return -1
	}
}

// build runs "guix build ARGS", which must succeed, and returns what it said.
func (f *farm) build(args ...string) string {
	f.t.Helper()
	r := f.guix(append([]string{"build"}, args...)...)
	if code := r.code(); code != 0 {
		f.t.Fatalf("guix build %s: exit code %d:\n%s", strings.Join(args, " "), code, r.text.String())
	}
	return r.text.String()
}

// buildFails runs "guix build ARGS", which must fail, and returns what it said.
func (f *farm) buildFails(args ...string) string {
	f.t.Helper()
	r := f.guix(append([]string{"build"}, args...)...)
	if code := r.code(); code != 1 {
		f.t.Fatalf("guix build %s: exit code %d, want 1:\n%s", strings.Join(args, " "), code, r.text.String())
	}
	return r.text.String()
}

// add makes a derivation.
func (f *farm) add(r Recipe) store.Path {
	f.t.Helper()
	p, err := f.Add(f.t.Context(), r)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// unique makes names of derivations that no earlier run had.
var unique = func() func(string) string {
	tag := strconv.FormatInt(time.Now().UnixNano(), 36)
	var n int
	var mu sync.Mutex
	return func(name string) string {
		mu.Lock()
		defer mu.Unlock()
		n++
		return fmt.Sprintf("%s-%s-%d", name, tag, n)
	}
}()

// content checks that an output is valid and what the file there holds.
func (f *farm) content(p store.Path, want string) {
	f.t.Helper()
	if ok, err := store.IsValid(f.t.Context(), f.Store, p); err != nil || !ok {
		f.t.Fatalf("%s is not valid (%v)", p, err)
	}
	got, err := os.ReadFile(string(p))
	if err != nil || string(got) != want {
		f.t.Fatalf("%s has %q (%v), want %q", p, got, err, want)
	}
}

// absent checks that nothing is left of an output.
func (f *farm) absent(p store.Path) {
	f.t.Helper()
	if ok, err := store.IsValid(f.t.Context(), f.Store, p); err != nil || ok {
		f.t.Fatalf("%s is valid (%v)", p, err)
	}
	if _, err := os.Lstat(string(p)); err == nil {
		f.t.Fatalf("%s was left in the store", p)
	}
}

// buildOf returns what the coordinator has of the newest build of a derivation, or nil.
func (f *farm) buildOf(drv store.Path) *api.Build {
	f.t.Helper()
	list, err := f.client.Builds(f.t.Context(), apiclient.BuildFilter{Filter: api.Filter{Derivation: drv}, Limit: 1})
	if err != nil {
		f.t.Fatal(err)
	}
	if len(list.Builds) == 0 {
		return nil
	}
	return &list.Builds[0]
}

// awaitState waits until the newest build of a derivation is in a state.
func (f *farm) awaitState(drv store.Path, want api.State) *api.Build {
	f.t.Helper()
	var b *api.Build
	await(f.t, func() string {
		if b = f.buildOf(drv); b == nil {
			return "there is no build of " + string(drv)
		}
		if b.State != want {
			text, _ := json.Marshal(b)
			return fmt.Sprintf("want %s: %s", want, text)
		}
		return ""
	})
	return b
}

// on runs a script on a machine.
func (f *farm) on(machine, script string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := Machine{machine}.Run(ctx, script)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// contains checks that a text has all the parts.
func contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("it does not say %q:\n%s", p, text)
		}
	}
}

func filterOf(drv store.Path) apiclient.BuildFilter {
	return apiclient.BuildFilter{Filter: api.Filter{Derivation: drv}}
}

// restoreACL puts the head's ACL back when the test is over.
func restoreACL(t *testing.T) {
	t.Helper()
	acl, err := os.ReadFile("/etc/guix/acl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile("/etc/guix/acl", acl, 0o644); err != nil {
			t.Error(err)
		}
	})
}

// newFarmAuthorized is newFarm with machines whose own keys are authorized on the head, by
// the command that a person uses for that.
func newFarmAuthorized(t *testing.T, machines ...string) *farm {
	t.Helper()
	restoreACL(t)
	f := startFarm(t, machines...)
	f.authorize("plain")
	f.awaitUp(len(machines))
	return f
}

// authorize has the head accept a machine's key, as a person does.
func (f *farm) authorize(machine string) {
	f.t.Helper()
	await(f.t, func() string {
		cmd := exec.Command(Programs+"/lighter", "machines", "authorize", "--yes", "--store=guix-daemon",
			"--socket="+f.socket, "--config="+filepath.Join(f.dir, "config"), machine)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return err.Error() + ": " + string(out)
		}
		return ""
	})
}
