package sshtransport_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"lighter/internal/testkit"
	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
)

// connListener gives an http.Server the streams of a Server.
type connListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newConnListener() *connListener {
	return &connListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *connListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *connListener) Addr() net.Addr { return &net.UnixAddr{Name: "streams", Net: "unix"} }

// handle is for Server.Handle: it returns when the connection is closed.
func (l *connListener) handle(ctx context.Context, c net.Conn, _ ssh.PublicKey) {
	closed := &closingConn{Conn: c, closed: make(chan struct{})}
	select {
	case l.conns <- closed:
	case <-ctx.Done():
		return
	}
	select {
	case <-closed.closed:
	case <-ctx.Done():
	}
}

type closingConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *closingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// startServer runs a Server of ours with the agent of these tests behind it. The
// configuration that is returned logs in to it.
func startServer(t testing.TB) (sshtransport.Config, func()) {
	t.Helper()
	hostKey, err := sshtransport.LoadOrCreateHostKey(filepath.Join(t.TempDir(), "host-key"))
	if err != nil {
		t.Fatal(err)
	}
	key, keyFile := sshtest.WriteKey(t)
	authorized := filepath.Join(t.TempDir(), "authorized_keys")
	if err := os.WriteFile(authorized, append([]byte("# who may\n\n"), ssh.MarshalAuthorizedKey(key.PublicKey())...), 0o600); err != nil {
		t.Fatal(err)
	}
	streams := newConnListener()
	web := &http.Server{Handler: handler()}
	server := &sshtransport.Server{
		HostKey: hostKey, AuthorizedKeys: sshtransport.AuthorizedKeysFile(authorized), Handle: streams.handle,
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { web.Serve(streams) })
	wg.Go(func() {
		if err := server.Serve(ctx, listener); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	stop := sync.OnceFunc(func() {
		cancel()
		web.Close()
		wg.Wait()
	})
	t.Cleanup(stop)
	return sshtransport.Config{
		Machine: "m", Addr: listener.Addr().String(), User: "anybody", PrivateKey: keyFile,
		HostKey: sshtransport.FormatHostKey(hostKey.PublicKey()),
	}, stop
}

func TestServer(t *testing.T) {
	testkit.CheckLeaks(t)
	cfg, stop := startServer(t)
	c := newClient(t, cfg)
	h := httpClient(t, c)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for range 2 {
		if got, err := post(t, h, "/echo", big); err != nil || got != big {
			t.Fatalf("echo of %d bytes = %d bytes, %v", len(big), len(got), err)
		}
	}
	mustGet(t, h, "/pid") // leaves an idle stream
	if got := c.Status(); got.Mode != sshtransport.ModeStreamLocal || got.Streams != 1 {
		t.Errorf("status = %+v", got)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := get(t, h, "/bytes/1000000"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	// Requests that run when the server stops are ended, and all that it started is.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent/wait", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stop()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the answer ended well")
	}
}

// With forced commands: the magic line, then the stream, whatever is asked for.
func TestServerSession(t *testing.T) {
	testkit.CheckLeaks(t)
	cfg, _ := startServer(t)
	client := rawClient(t, cfg)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	stdin, _ := session.StdinPipe()
	stdout, _ := session.StdoutPipe()
	if err := session.Setenv("A", "b"); err == nil {
		t.Error("a variable was accepted")
	}
	if err := session.RequestPty("xterm", 24, 80, nil); err == nil {
		t.Error("a terminal was given")
	}
	if err := session.Start("rm -rf /"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(stdin, "GET /pid HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
	text, err := io.ReadAll(stdout)
	if err != nil || !strings.HasPrefix(string(text), "lighter-agent/1 connect\nHTTP/1.1 200 OK\r\n") ||
		!strings.HasSuffix(string(text), fmt.Sprint(os.Getpid())) {
		t.Errorf("stdout = %q, %v", text, err)
	}
	if err := session.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
}

func TestServerRefuses(t *testing.T) {
	testkit.CheckLeaks(t)
	cfg, _ := startServer(t)
	client := rawClient(t, cfg)
	if _, err := client.Dial("tcp", "127.0.0.1:1"); err == nil {
		t.Error("TCP was forwarded")
	}
	if _, err := client.Dial("unix", "/run/socket"); err == nil {
		t.Error("another socket was forwarded")
	}
	if _, err := client.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("a port was opened")
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.RequestSubsystem("sftp"); err == nil {
		t.Error("there is SFTP")
	}
	session.Close()

	_, wrong := sshtest.WriteKey(t)
	other := cfg
	other.PrivateKey = wrong
	_, err = newClient(t, other).DialAgent(t.Context())
	var auth *sshtransport.AuthError
	if !errors.As(err, &auth) {
		t.Errorf("error = %v", err)
	}
}

// rawClient logs in with the SSH library alone.
func rawClient(t *testing.T, cfg sshtransport.Config) *ssh.Client {
	t.Helper()
	key, err := sshtransport.LoadPrivateKey(cfg.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	hostKey, err := sshtransport.ParseHostKey(cfg.HostKey)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", cfg.Addr, &ssh.ClientConfig{
		Config: ssh.Config{Rand: rand.Reader}, User: "u",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(hostKey),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestAuthorizedKeysFile(t *testing.T) {
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshtest.NewKey(t).PublicKey())))
	for _, test := range []struct {
		name, text string
		keys       int
		err        string
	}{
		{"empty", "", 0, ""},
		{"two", key + " a\n# b\n\n " + key + "\n", 2, ""},
		{"no line end", key, 1, ""},
		{"option", "# x\nfrom=\"10.0.0.0/8\" " + key + "\n", 0, `:2: the option "from=\"10.0.0.0/8\"" is not known`},
		{"rubbish", key + "\nrubbish\n", 0, ":2: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "keys")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			keys, err := sshtransport.AuthorizedKeysFile(file)()
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), file+test.err)) {
				t.Errorf("error = %v, want %q", err, test.err)
			}
			if len(keys) != test.keys {
				t.Errorf("%d keys, want %d", len(keys), test.keys)
			}
		})
	}
	if _, err := sshtransport.AuthorizedKeysFile(filepath.Join(t.TempDir(), "none"))(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v", err)
	}
}

func TestLoadOrCreateHostKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "host-key")
	lines := make([]string, 8)
	var wg sync.WaitGroup
	for i := range lines {
		wg.Go(func() {
			key, err := sshtransport.LoadOrCreateHostKey(file)
			if err != nil {
				t.Error(err)
				return
			}
			lines[i] = sshtransport.FormatHostKey(key.PublicKey())
		})
	}
	wg.Wait()
	for _, line := range lines {
		if line != lines[0] || !strings.HasPrefix(line, "ssh-ed25519 AAAA") || strings.HasSuffix(line, "\n") {
			t.Errorf("key %q, and %q", line, lines[0])
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) != 1 {
		t.Errorf("files: %v, %v", entries, err)
	}
	os.Chmod(file, 0o644)
	if _, err := sshtransport.LoadOrCreateHostKey(file); err == nil || !strings.Contains(err.Error(), "0644") {
		t.Errorf("error = %v", err)
	}
}
