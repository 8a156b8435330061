package sshtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"lighter/internal/testkit"
)

// OpenSSH is a real sshd with keys and a configuration of its own, for the user who
// runs the test. Each connection has an "sshd -i" process of its own.
type OpenSSH struct {
	Addr    string // HOST:PORT
	User    string
	KeyFile string // private key that may log in
	HostKey string // "TYPE BASE64"
	Dir     string // its own files

	program  string
	log      string
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	procs  map[*os.Process]struct{}
	closed bool
}

// StartOpenSSH starts an sshd, which ends with the test. The lines are added to its
// sshd_config(5), before all others: the first value counts. When the test fails, its
// log is shown. Run by root it needs, and leaves, the folder /run/sshd.
func StartOpenSSH(t testing.TB, lines ...string) *OpenSSH {
	t.Helper()
	s := &OpenSSH{program: testkit.NeedCommand(t, "sshd"), Dir: t.TempDir(), procs: make(map[*os.Process]struct{})}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.log = filepath.Join(s.Dir, "sshd.log")
	s.writeKeys(t)
	s.SetConfig(t, lines...)
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s.User = u.Username
	var config net.ListenConfig
	s.listener, err = config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = s.listener.Addr().String()
	s.wg.Go(s.accept)
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *OpenSSH) writeKeys(t testing.TB) {
	t.Helper()
	client, file := WriteKey(t)
	s.KeyFile = file
	s.write(t, "authorized_keys", ssh.MarshalAuthorizedKey(client.PublicKey()))
	s.NewHostKey(t)
}

// NewHostKey gives the server another host key, as if it had been reinstalled.
func (s *OpenSSH) NewHostKey(t testing.TB) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "test")
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "host_key", pem.EncodeToMemory(block))
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	s.HostKey = hostKeyLine(key)
}

// SetConfig replaces the lines given to StartOpenSSH, for new connections.
func (s *OpenSSH) SetConfig(t testing.TB, lines ...string) {
	t.Helper()
	lines = append(lines,
		"HostKey "+filepath.Join(s.Dir, "host_key"),
		"AuthorizedKeysFile "+filepath.Join(s.Dir, "authorized_keys"),
		"StrictModes no", // the test's folder is in one that all can write to
		"PidFile none",
		"UsePAM no",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"PermitRootLogin prohibit-password",
		"LogLevel VERBOSE",
		"PrintMotd no",
		"SetEnv HOME="+s.Dir, // what a person's shell does when it starts has no part in tests
	)
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, "Subsystem ") }) {
		lines = append(lines, "Subsystem sftp internal-sftp -d "+s.Dir) // relative names are not in the home
	}
	s.write(t, configFile, []byte(strings.Join(lines, "\n")+"\n"))
}

// configFile is its name in Dir.
const configFile = "sshd_config"

func (s *OpenSSH) config() string { return filepath.Join(s.Dir, configFile) }

// RemoveConfig removes the lines of a keyword, for new connections.
func (s *OpenSSH) RemoveConfig(t testing.TB, keyword string) {
	t.Helper()
	text, err := os.ReadFile(s.config())
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, keyword+" ") {
			kept = append(kept, line)
		}
	}
	s.write(t, configFile, []byte(strings.Join(kept, "")))
}

func (s *OpenSSH) write(t testing.TB, name string, text []byte) string {
	t.Helper()
	file := filepath.Join(s.Dir, name)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *OpenSSH) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() {
			defer c.Close()
			if err := s.serve(c.(*net.TCPConn)); err != nil {
				s.note(err)
			}
		})
	}
}

// serve runs sshd for a connection.
func (s *OpenSSH) serve(c *net.TCPConn) error {
	file, err := c.File()
	if err != nil {
		return err
	}
	defer file.Close()
	cmd := exec.Command(s.program, "-i", "-f", s.config(), "-E", s.log)
	cmd.Stdin, cmd.Stdout = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	err = cmd.Start()
	if err == nil {
		s.procs[cmd.Process] = struct{}{}
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	file.Close()
	c.Close()
	_ = cmd.Wait() // its log says more
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.procs, cmd.Process)
	return nil
}

func (s *OpenSSH) note(err error) {
	f, openErr := os.OpenFile(s.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if openErr != nil {
		return
	}
	defer f.Close()
	fmt.Fprintln(f, "sshtest:", err)
}

// Kill ends all connections with SIGKILL, as if the machine had been switched off.
func (s *OpenSSH) Kill() { s.signal(syscall.SIGKILL) }

// Freeze stops all connections' processes without closing anything; Thaw lets them go on.
func (s *OpenSSH) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (s *OpenSSH) Thaw() { s.signal(syscall.SIGCONT) }

func (s *OpenSSH) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.procs {
		_ = syscall.Kill(-p.Pid, sig) // it may be over already
	}
}

func (s *OpenSSH) stop(t testing.TB) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.listener.Close()
	s.Kill()
	s.wg.Wait()
	if !t.Failed() {
		return
	}
	if text, err := os.ReadFile(s.log); err == nil {
		t.Logf("log of sshd:\n%s", bytes.TrimSpace(text))
	}
}
