package sshtransport_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lighter/internal/testkit"
	"lighter/sshtransport"
)

// The test's own binary is the agent: called with a command, it acts as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		if err := agentMain(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "lighter-agent:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Nobody's keys but those of a test are used.
	os.Unsetenv("SSH_AUTH_SOCK")
	os.Exit(m.Run())
}

// agentMain is an agent that serves HTTP, and nothing of lighter's.
func agentMain(args []string) error {
	if len(args) == 6 && args[0] == "hold" {
		return hold(args[1], args[2], args[3], args[4], args[5])
	}
	flags := flag.NewFlagSet("lighter-agent", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	socket := flags.String("socket", "", "")
	if len(args) == 0 {
		return errors.New("no command")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "start":
		return agentStart(*dir)
	case "serve":
		return agentServe(*dir)
	case "connect":
		return sshtransport.ServeConnect(context.Background(), *socket, nil, os.Stdin, os.Stdout)
	case "relay":
		return sshtransport.ServeConnect(context.Background(), flags.Arg(0), nil, os.Stdin, os.Stdout)
	}
	return fmt.Errorf("unknown command %q", args[0])
}

func agentStart(dir string) error {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "input"), input, 0o600); err != nil {
		return err
	}
	if reason, err := os.ReadFile(filepath.Join(dir, "refuse")); err == nil {
		return errors.New(string(reason))
	}
	socket := filepath.Join(dir, "agent.sock")
	if c, err := net.Dial("unix", socket); err == nil {
		c.Close()
		return sshtransport.WriteStart(os.Stdout, sshtransport.StartAnswer{Socket: socket})
	}
	cmd := exec.Command("/proc/self/exe", "serve", "--dir", dir)
	cmd.Args[0] = "lighter-agent"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	for range 1000 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return sshtransport.WriteStart(os.Stdout, sshtransport.StartAnswer{Socket: socket, PID: cmd.Process.Pid})
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the agent does not come up")
}

func agentServe(dir string) error {
	socket := filepath.Join(dir, "agent.sock")
	os.Remove(socket)
	if err := os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	time.AfterFunc(5*time.Minute, func() { os.Exit(0) }) // whatever becomes of the test
	return http.Serve(listener, handler())
}

// handler is what agents in these tests serve.
func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /pid", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Getpid()) })
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	mux.HandleFunc("POST /sum", func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		if _, err := io.Copy(hash, r.Body); err == nil {
			fmt.Fprintf(w, "%x", hash.Sum(nil))
		}
	})
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.PathValue("n"), 10, 64)
		w.Header().Set("Content-Length", r.PathValue("n"))
		io.CopyN(w, zeros{}, n)
	})
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	return mux
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// ownBinary is the agent, large as real ones are.
func ownBinary(t testing.TB) []byte {
	t.Helper()
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// ownScript runs the agent. Uploading it takes a few packets, and little time.
func ownScript(t testing.TB) []byte {
	t.Helper()
	file, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []byte("#!/bin/sh\nexec '" + file + "' \"$@\"\n" + strings.Repeat("# it does not come so far\n", 10_000))
}

// toUpload is an agent to upload.
func toUpload(program []byte) *sshtransport.AgentBinary {
	return &sshtransport.AgentBinary{
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(program)), nil },
		Size: int64(len(program)), SHA256: sha256.Sum256(program),
	}
}

// agents says that a program is the agent for each platform.
func agents(program []byte) func(context.Context, string, string) (*sshtransport.AgentBinary, error) {
	return agentsOf(toUpload(program))
}

func agentsOf(binary *sshtransport.AgentBinary) sshtransport.AgentSource {
	return func(context.Context, string, string) (*sshtransport.AgentBinary, error) { return binary, nil }
}

// farm is a machine's own files in a test.
type farm struct {
	dir    string // the agent's
	remote string // where agents are uploaded to
}

func newFarm(t testing.TB) *farm {
	t.Helper()
	// A socket's name is short; t.TempDir() is named after the test.
	dir, err := os.MkdirTemp("", "lighter") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	f := &farm{dir: dir, remote: filepath.Join(dir, "agents")}
	t.Cleanup(func() {
		f.killAgent(t)
		os.RemoveAll(dir)
	})
	return f
}

// killAgent kills the agent, if one runs, and returns its process.
func (f *farm) killAgent(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, "pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	for {
		conn, err := net.Dial("unix", filepath.Join(f.dir, "agent.sock"))
		if err != nil {
			return pid
		}
		conn.Close()
		time.Sleep(time.Millisecond)
	}
}

func (f *farm) bootstrap(t testing.TB) sshtransport.Bootstrap {
	return sshtransport.Bootstrap{
		Agents:     agents(ownScript(t)),
		Args:       []string{"--dir", f.dir},
		RemoteDir:  f.remote,
		StartInput: []byte("hello"),
	}
}

// uploaded returns what lies in the folder of agents.
func (f *farm) uploaded(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(f.remote)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// bothWays runs a test by lighter's own SSH and by the program ssh.
func bothWays(t *testing.T, test func(t *testing.T, openssh bool)) {
	t.Run("native", func(t *testing.T) { test(t, false) })
	t.Run("openssh", func(t *testing.T) {
		testkit.NeedCommand(t, "ssh")
		test(t, true)
	})
}

// byProgram has the program ssh make the connection of a configuration, if it is to.
func byProgram(t testing.TB, cfg *sshtransport.Config, openssh bool) {
	t.Helper()
	if !openssh {
		return
	}
	host, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	cfg.OpenSSH = &sshtransport.OpenSSH{Host: host, Port: n, User: cfg.User, ConfigFile: "none"}
}

// newClient returns a client that is closed with the test.
func newClient(t testing.TB, cfg sshtransport.Config) *sshtransport.Client {
	t.Helper()
	c := sshtransport.New(cfg)
	t.Cleanup(func() { c.Close() })
	return c
}

// httpClient speaks HTTP through the streams of a client.
func httpClient(t testing.TB, c *sshtransport.Client) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.DialAgent(ctx) }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t testing.TB, c *http.Client, path string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(c, req)
}

func do(c *http.Client, req *http.Request) (string, error) {
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func mustGet(t testing.TB, c *http.Client, path string) string {
	t.Helper()
	body, err := get(t, c, path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func post(t testing.TB, c *http.Client, path, body string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://agent"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return do(c, req)
}
