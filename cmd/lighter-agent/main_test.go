package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lighter/internal/agent"
	"lighter/internal/agentapi"
	"lighter/internal/agentd"
	"lighter/internal/api"
	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/sshtransport"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/local"
)

// asAgent is a variable with which this test program is lighter-agent.
const asAgent = "LIGHTER_AGENT_TEST_MAIN"

func TestMain(m *testing.M) {
	local.MaybeRunBuilder()
	if os.Getenv(asAgent) != "" {
		main()
	}
	os.Exit(m.Run())
}

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// host is an account on a machine: a folder with everything of it.
type host struct {
	t       *testing.T
	dir     string
	program string
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") //nolint:usetesting // a socket's name must be short, and t.TempDir's are not
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, program: program}
	t.Cleanup(func() {
		if text, err := h.run("", "stop"); err != nil {
			t.Errorf("stop: %v: %s", err, text)
		}
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(h.state(), "agents", "*", "agent.log"))
			for _, name := range logs {
				text, _ := os.ReadFile(name)
				t.Logf("%s:\n%s", name, text)
			}
		}
		if err := nar.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *host) state() string  { return filepath.Join(h.dir, "state") }
func (h *host) socket() string { return filepath.Join(h.dir, "s", "agent.sock") }

func (h *host) command(args ...string) *exec.Cmd {
	flags := []string{
		"--state", h.state(), "--socket", h.socket(), "--timeout", patience.String(), "--log-level", "debug",
		"--daemon-socket", filepath.Join(h.dir, "no-daemon"), // also where this computer has one
	}
	cmd := exec.Command(h.program, append(flags, args...)...)
	cmd.Env = append(os.Environ(), asAgent+"=1")
	cmd.Dir = h.dir
	return cmd
}

// run runs a command to its end. The text is what it printed, also as an error.
func (h *host) run(input string, args ...string) (string, error) {
	cmd := h.command(args...)
	cmd.Stdin = strings.NewReader(input)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// start starts the agent, or finds the one that runs.
func (h *host) start(input string, args ...string) sshtransport.StartAnswer {
	h.t.Helper()
	text, err := h.run(input, append([]string{"start"}, args...)...)
	if err != nil {
		h.t.Fatalf("start: %v: %s", err, text)
	}
	answer, err := parseStart(text)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer
}

func parseStart(text string) (answer sshtransport.StartAnswer, err error) {
	line, ok := strings.CutPrefix(text, "lighter-agent/1 start ")
	if !ok || strings.Count(line, "\n") != 1 {
		return answer, fmt.Errorf("start printed %q", text)
	}
	return answer, json.Unmarshal([]byte(line), &answer)
}

func (h *host) client() *agentapi.Client {
	client := agentapi.NewClient(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.socket())
	})
	h.t.Cleanup(client.Close)
	return client
}

// await polls until done says so.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (h *host) inUse() bool {
	h.t.Helper()
	used, err := agent.InUse(agentd.Folders(h.state()).Agent())
	if err != nil {
		h.t.Fatal(err)
	}
	return used
}

func TestStartStop(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	first := h.start("")
	if first.Socket != h.socket() || first.PID <= 0 {
		t.Errorf("start answers %+v", first)
	}
	m, err := h.client().Machine(t.Context())
	if err != nil || m.PID != first.PID || m.Version != first.Version || m.StoreKind != "local" || m.PublicKey == "" {
		t.Errorf("machine: %+v, %v", m, err)
	}
	if info, err := os.Stat(h.socket()); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if sid, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", first.PID)); err != nil || !strings.Contains(string(sid), fmt.Sprintf(" %d %d ", first.PID, first.PID)) {
		t.Errorf("it leads no session of its own: %s, %v", sid, err)
	}
	if again := h.start(""); again != first {
		t.Errorf("start again: %+v, want %+v", again, first)
	}
	if text, err := h.run("", "stop"); err != nil {
		t.Errorf("stop: %v: %s", err, text)
	}
	if h.inUse() {
		t.Error("it runs after stop")
	}
	if text, err := h.run("", "stop"); err != nil || !strings.Contains(text, "none runs") {
		t.Errorf("stop again: %v: %s", err, text)
	}
}

func TestStartRace(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var group sync.WaitGroup
	pids := make([]int, 6)
	for i := range pids {
		group.Go(func() {
			text, err := h.run("", "start")
			answer, parseErr := parseStart(text)
			if err = errors.Join(err, parseErr); err != nil {
				t.Error(err)
			}
			pids[i] = answer.PID
		})
	}
	group.Wait()
	for _, pid := range pids {
		if pid != pids[0] {
			t.Fatalf("several agents: %v", pids)
		}
	}
}

func TestKilled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	first := h.start("")
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the kernel gives the lock back", func() bool { return !h.inUse() })
	second := h.start("")
	if second.PID == first.PID {
		t.Error("the dead agent is said to run")
	}
	if m, err := h.client().Machine(t.Context()); err != nil || m.PID != second.PID {
		t.Errorf("machine: %+v, %v", m, err)
	}
}

// TestOtherVersion shows that an idle agent of another version is replaced.
func TestOtherVersion(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	first := h.start("")
	program, err := os.ReadFile(h.program)
	if err != nil {
		t.Fatal(err)
	}
	h.program = filepath.Join(h.dir, "lighter-agent")
	if err := os.WriteFile(h.program, append(program, "another version"...), 0o700); err != nil {
		t.Fatal(err)
	}
	second := h.start("")
	if second.PID == first.PID || second.Version == first.Version {
		t.Errorf("got %+v after %+v", second, first)
	}
	if again := h.start(""); again != second {
		t.Errorf("start again: %+v, want %+v", again, second)
	}
}

func TestLinger(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("", "--linger", "100ms")
	await(t, "an agent that nobody needs ends", func() bool { return !h.inUse() })
	if _, err := os.Lstat(h.socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket is there: %v", err)
	}
}

func TestSocketDeleted(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	first := h.start("")
	if err := os.Remove(h.socket()); err != nil {
		t.Fatal(err)
	}
	if second := h.start(""); second.PID != first.PID {
		t.Errorf("got %+v, want the agent %+v with a new socket", second, first)
	}
}

func TestDoesNotStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	text, err := h.run("", "start", "--store", "guix-daemon", "--daemon-socket", "ssh://else.where")
	if err == nil || !strings.Contains(text, `socket "ssh://else.where"`) {
		t.Errorf("got %v: %s", err, text)
	}
	if text, err := h.run(`{"authorize": ["(public-key"]}`, "start"); err == nil || !strings.Contains(text, "key 1") {
		t.Errorf("got %v: %s", err, text)
	}
}

// pipes is a net.Conn on the standard input and output of a process.
type pipes struct {
	io.Reader
	io.WriteCloser
	net.Conn // what the HTTP client does not need
}

func (p pipes) Read(b []byte) (int, error)  { return p.Reader.Read(b) }
func (p pipes) Write(b []byte) (int, error) { return p.WriteCloser.Write(b) }
func (p pipes) Close() error                { return p.WriteCloser.Close() }

// TestConnect starts the agent by a stream, as a forced command does.
func TestConnect(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The default place is used here, as far as the environment says where it is.
	cmd := exec.Command(program, "connect", "--state-directory", h.state(), "--linger", "1m")
	cmd.Env = append(os.Environ(), asAgent+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	magic := make([]byte, len("lighter-agent/1 connect\n"))
	if _, err := io.ReadFull(out, magic); err != nil || string(magic) != "lighter-agent/1 connect\n" {
		t.Fatalf("got %q, %v", magic, err)
	}
	client := agentapi.NewClient(func(context.Context) (net.Conn, error) {
		return pipes{Reader: out, WriteCloser: in}, nil
	})
	m, err := client.Machine(t.Context())
	if err != nil || m.Protocol != agentapi.Protocol {
		t.Errorf("machine: %+v, %v", m, err)
	}
	client.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("connect: %v", err)
	}
	socket := h.start("", "--socket=").Socket // in its default place
	defer os.Remove(filepath.Dir(socket))     // if it is empty
	if text, err := h.run("", "stop", "--socket", socket); err != nil || strings.Contains(text, "none runs") {
		t.Errorf("stop: %v: %s", err, text)
	}
}

// TestConnectSocket shows that a stream to a socket starts no agent.
func TestConnectSocket(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var out bytes.Buffer
	cmd := h.command("connect")
	cmd.Stdout = &out
	if err := cmd.Run(); err == nil || out.Len() > 0 {
		t.Errorf("got %v, %q", err, out.String())
	}
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var keys []*signature.PublicKey
	for range 3 {
		key, err := signature.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key.Public())
	}
	input, err := json.Marshal(map[string][]string{"authorize": {keys[0].String()}})
	if err != nil {
		t.Fatal(err)
	}
	h.start(string(input))
	h.start(string(input))
	file := filepath.Join(h.dir, "key.pub")
	if err := os.WriteFile(file, []byte(keys[1].String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := h.run("", "authorize", file); err != nil || !strings.Contains(text, keys[1].Fingerprint()) {
		t.Errorf("authorize: %v: %s", err, text)
	}
	if text, err := h.run(keys[2].String(), "authorize", "-"); err != nil {
		t.Errorf("authorize: %v: %s", err, text)
	}
	acl, err := signature.LoadACL(filepath.Join(h.state(), "acl"))
	if err != nil || len(acl.Keys()) != 3 {
		t.Fatalf("ACL: %v, %v", acl, err)
	}
	for i, key := range keys {
		if !acl.Authorized(key) {
			t.Errorf("key %d is not accepted", i)
		}
	}
}

// TestBuild has the real agent build something with the store that it carries, and is
// killed while it builds.
func TestBuild(t *testing.T) {
	testkit.NeedUserNamespaces(t)
	t.Parallel()
	h := newHost(t)
	first := h.start("")
	client := h.client()
	m, err := client.Machine(t.Context())
	if err != nil || m.BuildProblem != "" {
		t.Fatalf("machine: %+v, %v", m, err)
	}
	hello := shell(t, m.Systems[0], "hello", "echo building; echo hello > $out")
	if status, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: "hello"}, hello); err != nil || status.State != agentapi.Running {
		t.Fatalf("put: %+v, %v", status, err)
	}
	var log bytes.Buffer
	status, err := client.Log(t.Context(), &agentapi.Asked{ID: "hello"}, 0, &log)
	if err != nil || status.State != agentapi.Succeeded || log.String() != "building\n" {
		t.Fatalf("log %q, then %+v, %v", log.String(), status, err)
	}
	slow := shell(t, m.Systems[0], "slow", "echo started; while :; do sleep 1; done")
	if _, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: "slow"}, slow); err != nil {
		t.Fatal(err)
	}
	await(t, "the slow build runs", func() bool {
		status, err := client.Build(t.Context(), &agentapi.Asked{ID: "slow"})
		return err == nil && status.LogSize > 0
	})
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the kernel gives the lock back", func() bool { return !h.inUse() })
	client.Close()
	h.start("")
	status, err = client.Build(t.Context(), &agentapi.Asked{ID: "slow"})
	if err != nil || status.State != agentapi.Failed || status.Failure.Culprit != api.CulpritMachine || status.LogSize == 0 {
		t.Errorf("the build that ran: %+v, %v", status, err)
	}
	fetch(t, client, m.PublicKey, hello.Outputs[0])
	slow.Attempt = 2
	if status, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: "slow"}, slow); err != nil || status.State != agentapi.Running {
		t.Errorf("the next attempt: %+v, %v", status, err)
	}
	if err := client.DeleteBuild(t.Context(), "slow"); err != nil {
		t.Error(err)
	}
}

// shell returns a request to build what a script for the machine's own shell makes.
func shell(t *testing.T, system, name, script string) *agentapi.BuildRequest {
	t.Helper()
	d := &derivation.Derivation{
		Outputs: []derivation.Output{{Name: "out"}}, System: system, Builder: "/bin/sh", Args: []string{"-c", script},
		Env: []derivation.EnvVar{{Name: "PATH", Value: "/usr/bin:/bin"}, {Name: "out"}},
	}
	if err := d.Fill(store.DefaultDir, name, nil); err != nil {
		t.Fatal(err)
	}
	path, err := d.Path(store.DefaultDir, name)
	if err != nil {
		t.Fatal(err)
	}
	req := &agentapi.BuildRequest{Attempt: 1, Derivation: path, Text: d.Marshal(), Outputs: []store.Path{d.Outputs[0].Path}}
	for _, folder := range []string{"/bin", "/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(folder); err == nil {
			req.SandboxPaths = append(req.SandboxPaths, folder)
		}
	}
	return req
}

// fetch shows that the agent gives away an item that is signed with its key.
func fetch(t *testing.T, client *agentapi.Client, publicKey string, path store.Path) {
	t.Helper()
	key, err := signature.ParsePublicKey([]byte(publicKey))
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(t.TempDir(), "home")
	s, err := local.Open(local.Options{Root: home, ACL: func() (*signature.ACL, error) {
		acl := new(signature.ACL)
		acl.Add(key)
		return acl, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(s.Close(), nar.RemoveAll(home)); err != nil {
			t.Error(err)
		}
	}()
	body, err := client.Export(t.Context(), []store.Path{path})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if infos, err := s.Import(t.Context(), body, store.ImportOptions{}); err != nil || len(infos) != 1 || infos[0].Path != path {
		t.Errorf("import of the export: %v, %v", infos, err)
	}
}
