package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/testkit"
	"lighter/sshtransport/sshtest"
	"lighter/store"
)

// TestMain is the program itself if it is called as lighter or guix. So the test depends on all
// of the program, and go test does not take its result from the cache when that changed.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "lighter", "lighter-guix", "guix":
		main()
	}
	code := m.Run()
	if programs != "" {
		os.RemoveAll(programs)
	}
	os.Exit(code)
}

// programs is the folder of the programs, once compile has made them.
var programs string

// compile makes the programs: tests of processes that are killed need real ones.
func compile(t *testing.T) {
	t.Helper()
	if programs != "" {
		return
	}
	var err error
	if programs, err = os.MkdirTemp("", "lighter"); err != nil { //nolint:usetesting // it is for several tests
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", programs+"/", "lighter/cmd/lighter", "lighter/cmd/lighter-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// farm is a head and two machines behind real sshds, all of them the programs that
// people run, in folders of their own.
type farm struct {
	t       *testing.T
	dir     string
	lighter string
	agent   string
	client  *apiclient.Client
	system  string
	sshd    []*sshtest.OpenSSH
	states  []string // of the machines

	coordinator *exec.Cmd
}

func newFarm(t *testing.T) *farm {
	testkit.NeedUserNamespaces(t)
	compile(t)
	// A socket's name is short; t.TempDir() is named after the test.
	dir, err := os.MkdirTemp("", "lighter") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // builders that run as another user
		t.Fatal(err)
	}
	f := &farm{
		t: t, dir: dir, lighter: filepath.Join(programs, "lighter"), agent: filepath.Join(programs, "lighter-agent"),
		system: map[string]string{
			"amd64": "x86_64-linux", "arm64": "aarch64-linux", "arm": "armhf-linux",
			"386": "i686-linux", "ppc64le": "powerpc64le-linux", "riscv64": "riscv64-linux",
		}[runtime.GOARCH],
	}
	f.client = apiclient.NewClient(filepath.Join(dir, "head", "coordinator.sock"))
	t.Cleanup(f.tearDown)
	f.run("key", "generate")
	var list strings.Builder
	for i := range 2 {
		sshd := sshtest.StartOpenSSH(t)
		name := fmt.Sprintf("m%d", i)
		f.sshd, f.states = append(f.sshd, sshd), append(f.states, filepath.Join(dir, name))
		host, port, err := net.SplitHostPort(sshd.Addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&list, `[[machine]]
name = %q
host = %q
port = %s
system = %q
user = %q
private-key = %q
host-key = %q
state-directory = %q
parallel-builds = 3
overload-threshold = false
sandbox-paths = ["/bin", "/usr", "/lib", "/lib64"]

`, name, host, port, f.system, sshd.User, sshd.KeyFile, sshd.HostKey, f.states[i])
	}
	f.write("config/machines.toml", []byte(list.String()))
	f.run("machines", "authorize", "--yes", "m0")
	f.run("machines", "authorize", "--yes", "m1")
	return f
}

func (f *farm) tearDown() {
	f.kill()
	for i, state := range f.states {
		out, err := exec.Command(f.agent, "stop", "--state", state).CombinedOutput()
		if err != nil {
			f.t.Errorf("stop m%d: %v\n%s", i, err, out)
		}
	}
	if f.t.Failed() {
		for _, name := range []string{"coordinator.log", "m0/agents/*/agent.log", "m1/agents/*/agent.log"} {
			files, _ := filepath.Glob(filepath.Join(f.dir, name))
			for _, file := range files {
				text, _ := os.ReadFile(file)
				f.t.Logf("%s:\n%s", file, text[max(0, len(text)-20000):])
			}
		}
	}
	// Items are read-only.
	if out, err := exec.Command("chmod", "-R", "u+w", f.dir).CombinedOutput(); err != nil {
		f.t.Errorf("%v\n%s", err, out)
	}
	if err := os.RemoveAll(f.dir); err != nil {
		f.t.Error(err)
	}
}

func (f *farm) write(name string, text []byte) string {
	f.t.Helper()
	file := filepath.Join(f.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644)); err != nil {
		f.t.Fatal(err)
	}
	return file
}

func (f *farm) command(args ...string) *exec.Cmd {
	cmd := exec.Command(f.lighter, args...)
	cmd.Env = append(os.Environ(), "LIGHTER_STATE="+filepath.Join(f.dir, "head"), "LIGHTER_CONFIG="+filepath.Join(f.dir, "config"),
		"LIGHTER_AGENTS=", "LIGHTER_SOCKET=", "SSH_AUTH_SOCK=")
	return cmd
}

// run runs lighter and returns what it printed.
func (f *farm) run(args ...string) string {
	f.t.Helper()
	cmd := f.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("lighter %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// start starts the coordinator and waits until it answers.
func (f *farm) start() {
	f.t.Helper()
	log, err := os.OpenFile(filepath.Join(f.dir, "coordinator.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		f.t.Fatal(err)
	}
	defer log.Close()
	f.coordinator = f.command("coordinator")
	f.coordinator.Stderr = log
	if err := f.coordinator.Start(); err != nil {
		f.t.Fatal(err)
	}
	for {
		if _, err := f.client.Version(f.t.Context()); err == nil {
			return
		} else if f.t.Context().Err() != nil || f.exited() {
			f.t.Fatalf("the coordinator does not answer: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// exited reports whether the coordinator has ended by itself.
func (f *farm) exited() bool {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(f.coordinator.Process.Pid, &status, syscall.WNOHANG, nil)
	return err == nil && pid != 0
}

// kill kills the coordinator as nothing could be done about.
func (f *farm) kill() {
	if f.coordinator == nil {
		return
	}
	_ = f.coordinator.Process.Kill()
	_ = f.coordinator.Wait()
	f.coordinator = nil
	f.client.Close()
}

// agents returns the processes that are agents of a machine.
func (f *farm) agents(machine int) (pids []int) {
	f.t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, file := range found {
		text, err := os.ReadFile(file)
		args := strings.Split(string(text), "\x00")
		if err != nil || len(args) < 2 || args[1] != "serve" || !slices.Contains(args, "--state="+f.states[machine]) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			f.t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// killAgent kills the agent of a machine.
func (f *farm) killAgent(machine int) {
	f.t.Helper()
	for _, pid := range f.agents(machine) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			f.t.Fatal(err)
		}
	}
}

// derive adds a derivation that runs a shell script.
func (f *farm) derive(name, script string, inputs ...store.Path) store.Path {
	f.t.Helper()
	type outputs struct {
		Outputs        []string       `json:"outputs"`
		DynamicOutputs map[string]any `json:"dynamicOutputs"`
	}
	drvs := make(map[store.Path]outputs)
	for _, in := range inputs {
		drvs[in] = outputs{Outputs: []string{"out"}, DynamicOutputs: map[string]any{}}
	}
	text, err := json.Marshal(map[string]any{
		"name": name, "system": f.system, "builder": "/bin/sh", "args": []string{"-c", "PATH=/bin:/usr/bin; " + script},
		"env": map[string]string{}, "inputSrcs": []string{}, "inputDrvs": drvs, "outputs": map[string]any{"out": map[string]any{}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return store.Path(f.run("derivation", "add", f.write("drv.json", text)))
}

// output returns the path of a derivation's output.
func (f *farm) output(drv store.Path) store.Path {
	f.t.Helper()
	var shown map[store.Path]struct {
		Outputs map[string]struct {
			Path store.Path `json:"path"`
		} `json:"outputs"`
	}
	if err := json.Unmarshal([]byte(f.run("derivation", "show", string(drv))), &shown); err != nil {
		f.t.Fatal(err)
	}
	return shown[drv].Outputs["out"].Path
}

// submit asks for a build, until that is acknowledged.
func (f *farm) submit(ctx context.Context, drv store.Path) (id string, err error) {
	id = uuid.NewString()
	for {
		_, err := f.client.Submit(ctx, api.Request{ID: id, Derivation: drv})
		if err == nil {
			return id, nil
		}
		var refused *api.Error
		if ctx.Err() != nil || errors.As(err, &refused) && refused.Status < 500 {
			return "", err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// TestKilled kills the coordinator with SIGKILL, again and again, at random moments of
// a stream of submissions, and now and then the agents and the SSH connections too.
// Every acknowledged build succeeds, and what came home is whole.
func TestKilled(t *testing.T) {
	const rounds = 60
	f := newFarm(t)
	f.start()
	type chain struct{ drv, out store.Path }
	var chains []chain
	for i := range rounds {
		first := f.derive(fmt.Sprintf("first-%d", i), fmt.Sprintf("head -c 3000000 /dev/urandom > $out; echo %d >> $out", i))
		second := f.derive(fmt.Sprintf("second-%d", i), fmt.Sprintf("sleep 0.%d; cat %s > $out; echo second >> $out", i%4, f.output(first)), first)
		chains = append(chains, chain{second, f.output(second)})
	}
	ids := make(chan string, rounds)
	go func() {
		defer close(ids)
		for _, c := range chains {
			id, err := f.submit(t.Context(), c.drv)
			if err != nil {
				t.Error(err)
				return
			}
			ids <- id
			time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond)
		}
	}()
	atWork := 0
	for i := range rounds {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		working := f.working()
		// Where all is slow, a coordinator would be killed each time before a machine has work.
		for patience := 500; i%6 == 0 && !working && patience > 0; patience-- {
			time.Sleep(10 * time.Millisecond)
			working = f.working()
		}
		if working {
			atWork++
		}
		switch {
		case i%6 == 2:
			f.sshd[rand.IntN(2)].Kill()
		case i%10 == 5:
			f.killAgent(rand.IntN(2))
		}
		f.kill()
		f.start()
	}
	t.Logf("the coordinator was killed %d times, %d times while machines worked", rounds, atWork)
	for id := range ids {
		f.awaitSuccess(id)
	}
	for _, c := range chains {
		text, err := os.ReadFile(f.run("store", "path", string(c.out)))
		if err != nil || !bytes.HasSuffix(text, []byte("second\n")) || len(text) < 3000000 {
			t.Errorf("%s has %d bytes: %v", c.out, len(text), err)
		}
	}
	f.run("store", "verify", "--check-contents")
	f.noneLeft()
}

// working reports whether machines work.
func (f *farm) working() bool {
	f.t.Helper()
	status, err := f.client.Status(f.t.Context())
	if err != nil {
		f.t.Error(err)
		return false
	}
	return status.Counts[api.Sending]+status.Counts[api.Building]+status.Counts[api.Fetching] > 0
}

// awaitSuccess waits for the end of a build, which must be good.
func (f *farm) awaitSuccess(id string) {
	f.t.Helper()
	f.awaitBuild(id, api.Succeeded)
}

// awaitBuild waits until a build is in a state, or over.
func (f *farm) awaitBuild(id string, want api.State) *api.Build {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Minute)
	defer cancel()
	for {
		b, err := f.client.Build(ctx, id)
		if err != nil {
			f.t.Fatalf("build %s, which was acknowledged: %v", id, err)
		}
		if b.State == want {
			return b
		}
		if b.State.Final() {
			f.t.Errorf("build %s: %s, %+v; want %s", id, b.State, b.Failure, want)
			return b
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// noneLeft shows that no builder runs on.
func (f *farm) noneLeft() {
	f.t.Helper()
	for _, state := range f.states {
		entries, err := os.ReadDir(filepath.Join(state, "store", "builds"))
		if err != nil {
			f.t.Fatal(err)
		}
		for _, e := range entries {
			f.t.Errorf("%s/store/builds/%s is left", state, e.Name())
		}
	}
}
