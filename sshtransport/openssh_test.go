package sshtransport_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"lighter/internal/testkit"
	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
)

// config is for an sshd and a machine.
func opensshConfig(t testing.TB, s *sshtest.OpenSSH, f *farm, openssh bool) sshtransport.Config {
	cfg := sshtransport.Config{
		Machine: "m", Addr: s.Addr, User: s.User, PrivateKey: s.KeyFile, HostKey: s.HostKey,
		Bootstrap: f.bootstrap(t),
	}
	byProgram(t, &cfg, openssh)
	return cfg
}

func TestOpenSSH(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		s, f := sshtest.StartOpenSSH(t), newFarm(t)
		cfg := opensshConfig(t, s, f, openssh)
		cfg.Bootstrap.Agents = agents(ownBinary(t))
		c := newClient(t, cfg)
		h := httpClient(t, c)
		if got, err := post(t, h, "/echo", "abc"); err != nil || got != "abc" {
			t.Fatalf("echo = %q, %v", got, err)
		}
		status := c.Status()
		if status.Mode != sshtransport.ModeStreamLocal || !openssh && !strings.HasPrefix(status.ServerVersion, "SSH-2.0-OpenSSH") {
			t.Errorf("status = %+v", status)
		}
		if input, err := os.ReadFile(filepath.Join(f.dir, "input")); err != nil || string(input) != "hello" {
			t.Errorf("start was given %q, %v", input, err)
		}
		pid := mustGet(t, h, "/pid")
		first := f.uploaded(t)
		if len(first) != 1 {
			t.Errorf("uploaded: %q", first)
		}

		// The agent outlives the connection, and is not uploaded again.
		program := filepath.Join(f.remote, first[0], "lighter-agent")
		before, err := os.Stat(program)
		if err != nil {
			t.Fatal(err)
		}
		if before.Mode().Perm() != 0o700 {
			t.Errorf("mode of the agent is %v", before.Mode())
		}
		c.Close()
		c = newClient(t, cfg)
		if again := mustGet(t, httpClient(t, c), "/pid"); again != pid {
			t.Errorf("another agent: %s, was %s", again, pid)
		}
		if after, err := os.Stat(program); err != nil || !os.SameFile(before, after) {
			t.Errorf("the agent was uploaded again: %v", err)
		}
	})
}

// Modes and restrictions of real servers.
func TestOpenSSHRestricted(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		forced := func(f *farm) string {
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			link := filepath.Join(f.dir, "lighter-agent")
			if err := os.Symlink(exe, link); err != nil {
				t.Fatal(err)
			}
			return "ForceCommand " + link + " connect --socket " + filepath.Join(f.dir, "agent.sock")
		}
		for _, test := range []struct {
			name  string
			lines func(*farm) []string
			mode  sshtransport.Mode
			start bool // an agent must run before
			known bool // that the command is forced
		}{
			{name: "no forwarding", lines: func(*farm) []string { return []string{"DisableForwarding yes"} }, mode: sshtransport.ModeSession},
			{name: "no stream-local", lines: func(*farm) []string { return []string{"AllowStreamLocalForwarding no"} }, mode: sshtransport.ModeSession},
			{name: "forced", lines: func(f *farm) []string { return []string{forced(f)} }, mode: sshtransport.ModeSession, start: true},
			{name: "forced and said so", lines: func(f *farm) []string { return []string{forced(f)} }, mode: sshtransport.ModeSession, start: true, known: true},
			{name: "one session", lines: func(*farm) []string { return []string{"MaxSessions 1"} }, mode: sshtransport.ModeStreamLocal},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				f := newFarm(t)
				if test.start {
					serveInProcess(t, f)
				}
				s := sshtest.StartOpenSSH(t, test.lines(f)...)
				cfg := opensshConfig(t, s, f, openssh)
				cfg.Bootstrap.Forced = test.known
				c := newClient(t, cfg)
				h := httpClient(t, c)
				big := strings.Repeat("0123456789abcdef", 1<<16)
				for range 3 {
					if got, err := post(t, h, "/echo", big); err != nil || got != big {
						t.Fatalf("echo of %d bytes = %d bytes, %v", len(big), len(got), err)
					}
				}
				if got := c.Status().Mode; got != test.mode {
					t.Errorf("mode = %q, want %q", got, test.mode)
				}
			})
		}
	})
}

// One session must do for everything, one stream after the other.
func TestOpenSSHOneSessionNoForwarding(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		s, f := sshtest.StartOpenSSH(t, "MaxSessions 2", "DisableForwarding yes"), newFarm(t)
		c := newClient(t, opensshConfig(t, s, f, openssh))
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				conn, err := c.DialAgent(t.Context())
				if err != nil {
					t.Errorf("stream %d: %v", i, err)
					return
				}
				defer conn.Close()
				fmt.Fprintf(conn, "GET /pid HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
				if text, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 200") {
					t.Errorf("stream %d: %q, %v", i, text, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestOpenSSHAgentKilled(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		for _, lines := range [][]string{nil, {"DisableForwarding yes"}} {
			t.Run(fmt.Sprint(lines), func(t *testing.T) {
				t.Parallel()
				s, f := sshtest.StartOpenSSH(t, lines...), newFarm(t)
				c := newClient(t, opensshConfig(t, s, f, openssh))
				h := httpClient(t, c)
				first := mustGet(t, h, "/pid")
				if killed := strconv.Itoa(f.killAgent(t)); killed != first {
					t.Fatalf("the agent is %s, not %s", first, killed)
				}
				conn, err := c.DialAgent(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
				h.CloseIdleConnections()
				if second := mustGet(t, h, "/pid"); second == first {
					t.Errorf("the agent is still %s", second)
				}
				if got := c.Status(); got.Mode == "" {
					t.Errorf("status = %+v", got)
				}
			})
		}
	})
}

// An agent that cannot be started again makes the machine down.
func TestOpenSSHAgentGone(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		s, f := sshtest.StartOpenSSH(t), newFarm(t)
		c := newClient(t, opensshConfig(t, s, f, openssh))
		h := httpClient(t, c)
		mustGet(t, h, "/pid")
		f.killAgent(t)
		h.CloseIdleConnections()
		if err := os.WriteFile(filepath.Join(f.dir, "refuse"), []byte("no\x1b[31m room\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := c.DialAgent(t.Context())
		var command *sshtransport.CommandError
		if !errors.As(err, &command) || !strings.Contains(err.Error(), "lighter-agent: no\uFFFD[31m room") {
			t.Fatalf("error = %v", err)
		}
		if command.Status != 1 {
			t.Errorf("exit status = %d", command.Status)
		}
		if got := c.Status(); got != (sshtransport.Status{}) {
			t.Errorf("status = %+v", got)
		}
		os.Remove(filepath.Join(f.dir, "refuse"))
		mustGet(t, h, "/pid")
	})
}

func TestOpenSSHKilledInTransfer(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		for _, lines := range [][]string{nil, {"DisableForwarding yes"}} {
			t.Run(fmt.Sprint(lines), func(t *testing.T) {
				t.Parallel()
				s, f := sshtest.StartOpenSSH(t, lines...), newFarm(t)
				c := newClient(t, opensshConfig(t, s, f, openssh))
				h := httpClient(t, c)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent/bytes/1000000000000", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := h.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if _, err := io.CopyN(io.Discard, resp.Body, 10<<20); err != nil {
					t.Fatal(err)
				}
				s.Kill()
				if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, sshtransport.ErrLinkLost) {
					t.Errorf("error = %v", err)
				}
				mustGet(t, h, "/pid")

				// The same while sending.
				_, err = postReader(t, h, "/sum", io.TeeReader(zeros{}, &killAfter{n: 10 << 20, kill: s.Kill}))
				if err == nil {
					t.Error("no error")
				}
				h.CloseIdleConnections()
				mustGet(t, h, "/pid")
			})
		}
	})
}

// killAfter calls kill when that many bytes have been written.
type killAfter struct {
	n    int
	kill func()
}

func (k *killAfter) Write(p []byte) (int, error) {
	if k.n -= len(p); k.n < 0 && k.kill != nil {
		k.kill()
		k.kill = nil
	}
	return len(p), nil
}

func postReader(t testing.TB, c *http.Client, path string, body io.Reader) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://agent"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return do(c, req)
}

// A machine that hangs is found out by its silence.
func TestOpenSSHFrozen(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		s, f := sshtest.StartOpenSSH(t), newFarm(t)
		cfg := opensshConfig(t, s, f, openssh)
		cfg.KeepaliveInterval, cfg.KeepaliveTimeout = 100*time.Millisecond, time.Second
		c := newClient(t, cfg)
		conn, err := c.DialAgent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		s.Freeze()
		_, err = conn.Read(make([]byte, 1))
		bySSH := openssh && strings.Contains(fmt.Sprint(err), "not responding") // it may be the first to notice
		if !errors.Is(err, sshtransport.ErrLinkLost) || !bySSH && !strings.Contains(err.Error(), "no sign of life within 1s") {
			t.Errorf("error = %v", err)
		}
		s.Kill()
		conn, err = c.DialAgent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
}

func TestOpenSSHHostKeys(t *testing.T) {
	testkit.CheckLeaks(t)
	s, f := sshtest.StartOpenSSH(t), newFarm(t)
	good := opensshConfig(t, s, f, false)
	old := s.HostKey
	knownHosts := filepath.Join(t.TempDir(), "known_hosts")

	t.Run("unknown", func(t *testing.T) {
		cfg := good
		cfg.HostKey, cfg.KnownHosts = "", []string{knownHosts}
		_, err := newClient(t, cfg).DialAgent(t.Context())
		var unknown *sshtransport.UnknownHostError
		if !errors.As(err, &unknown) || !sshtransport.Permanent(err) {
			t.Fatalf("error = %v", err)
		}
		if !strings.Contains(err.Error(), "add to "+knownHosts+" the line: "+unknown.Line()) {
			t.Errorf("error = %v", err)
		}
		if err := os.WriteFile(knownHosts, []byte("# comment\n"+unknown.Line()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		mustGet(t, httpClient(t, newClient(t, cfg)), "/pid")
	})
	s.NewHostKey(t)
	t.Run("changed", func(t *testing.T) {
		cfg := good
		cfg.HostKeySource = "machines.toml:7"
		_, err := newClient(t, cfg).DialAgent(t.Context())
		checkChanged(t, err, old, s.HostKey, "machines.toml:7")
	})
	t.Run("changed in known_hosts", func(t *testing.T) {
		cfg := good
		cfg.HostKey, cfg.KnownHosts = "", []string{knownHosts}
		_, err := newClient(t, cfg).DialAgent(t.Context())
		checkChanged(t, err, old, s.HostKey, knownHosts+":2")
	})
	t.Run("another type", func(t *testing.T) {
		cfg := good
		cfg.HostKey = rsaHostKey(t)
		_, err := newClient(t, cfg).DialAgent(t.Context())
		var mismatch *sshtransport.HostKeyError
		if !errors.As(err, &mismatch) || !strings.Contains(err.Error(), "the machine has only keys of type ssh-ed25519") {
			t.Errorf("error = %v", err)
		}
	})
}

func checkChanged(t *testing.T, err error, wanted, found, source string) {
	t.Helper()
	var mismatch *sshtransport.HostKeyError
	if !errors.As(err, &mismatch) || !sshtransport.Permanent(err) {
		t.Fatalf("error = %v", err)
	}
	if got := sshtransport.FormatHostKey(mismatch.Wanted[0].Key); got != wanted {
		t.Errorf("wanted %s, want %s", got, wanted)
	}
	if got := sshtransport.FormatHostKey(mismatch.Found); got != found {
		t.Errorf("found %s, want %s", got, found)
	}
	if got := mismatch.Wanted[0].Source; got != source {
		t.Errorf("source %s, want %s", got, source)
	}
	if n := strings.Count(err.Error(), "SHA256:"); n != 2 {
		t.Errorf("the error names %d fingerprints: %v", n, err)
	}
}

// rsaHostKey returns a key that nobody has.
func rsaHostKey(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return sshtransport.FormatHostKey(public)
}

func TestOpenSSHAuth(t *testing.T) {
	testkit.CheckLeaks(t)
	s, f := sshtest.StartOpenSSH(t), newFarm(t)
	_, wrong := sshtest.WriteKey(t)
	cfg := opensshConfig(t, s, f, false)
	cfg.PrivateKey = wrong
	c := newClient(t, cfg)
	_, err := c.DialAgent(t.Context())
	var auth *sshtransport.AuthError
	if !errors.As(err, &auth) || !sshtransport.Permanent(err) {
		t.Fatalf("error = %v", err)
	}
	for _, part := range []string{s.User + " at " + s.Addr, wrong, "ssh-ed25519 SHA256:"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error without %q: %v", part, err)
		}
	}
}

// Login scripts print things before the agent can.
func TestOpenSSHNoise(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		f := newFarm(t)
		rc := filepath.Join(f.dir, "rc")
		if err := os.WriteFile(rc, []byte("echo 'Welcome to Linux x86_64'; echo; printf 'no line end'; printf '\\033[1m'; echo oops >&2\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		noise := "SetEnv HOME=" + f.dir + " BASH_ENV=" + rc
		for _, lines := range [][]string{{noise}, {noise, "DisableForwarding yes"}} {
			t.Run(fmt.Sprint(lines), func(t *testing.T) {
				s := sshtest.StartOpenSSH(t, lines...)
				mustGet(t, httpClient(t, newClient(t, opensshConfig(t, s, f, openssh))), "/pid")
			})
		}
	})
}

// What an account that is not for this says is shown, without its control characters.
func TestOpenSSHOtherAccount(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		s, f := sshtest.StartOpenSSH(t, `ForceCommand printf 'This account\007 is for mail.\n' >&2; exit 3`), newFarm(t)
		_, err := newClient(t, opensshConfig(t, s, f, openssh)).DialAgent(t.Context())
		var command *sshtransport.CommandError
		if !errors.As(err, &command) || command.Status != 3 || command.Stderr != "This account\uFFFD is for mail." {
			t.Errorf("error = %v", err)
		}
	})
}

// The wait of one caller ends; the connection is made for the other.
func TestOpenSSHCancel(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		s, f := sshtest.StartOpenSSH(t), newFarm(t)
		c := newClient(t, opensshConfig(t, s, f, openssh))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.DialAgent(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v", err)
		}
		var wg sync.WaitGroup
		ctx, cancel = context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		wg.Go(func() {
			if conn, err := c.DialAgent(ctx); err == nil {
				conn.Close()
			} else if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error = %v", err)
			}
		})
		wg.Go(func() {
			conn, err := c.DialAgent(t.Context())
			if err != nil {
				t.Errorf("the other: %v", err)
				return
			}
			conn.Close()
		})
		wg.Wait()
	})
}

// TestOpenSSHReplaced puts something else into the uploaded agent's place. It must not run.
func TestOpenSSHReplaced(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		s, f := sshtest.StartOpenSSH(t), newFarm(t)
		c := newClient(t, opensshConfig(t, s, f, openssh))
		pid := mustGet(t, httpClient(t, c), "/pid")
		c.Close()
		program := filepath.Join(f.remote, f.uploaded(t)[0], "lighter-agent")
		good, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		ran := filepath.Join(f.dir, "ran")
		script := []byte("#!/bin/sh\ntouch " + ran + "\necho 'lighter-agent/1 start {\"socket\":\"/evil\"}'\n")
		other := filepath.Join(f.dir, "other")
		if err := os.WriteFile(other, script, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, replace := range map[string]func() error{
			"script":    func() error { return errors.Join(os.Remove(program), os.WriteFile(program, script, 0o700)) },
			"link":      func() error { return errors.Join(os.Remove(program), os.Symlink(other, program)) },
			"fifo":      func() error { return errors.Join(os.Remove(program), syscall.Mkfifo(program, 0o700)) },
			"truncated": func() error { return errors.Join(os.Remove(program), os.WriteFile(program, good[:len(good)/2], 0o700)) },
			"one bit": func() error {
				return errors.Join(os.Remove(program), os.WriteFile(program, append(good[:len(good)-1:len(good)-1], good[len(good)-1]^1), 0o700))
			},
			"empty":              func() error { return errors.Join(os.Remove(program), os.WriteFile(program, nil, 0o700)) },
			"not to be executed": func() error { return os.Chmod(program, 0o600) },
			"open folders": func() error {
				return errors.Join(os.Chmod(filepath.Dir(program), 0o777), os.Chmod(f.remote, 0o777), os.Remove(program), os.WriteFile(program, script, 0o700))
			},
		} {
			if err := replace(); err != nil {
				t.Fatal(err)
			}
			c := newClient(t, opensshConfig(t, s, f, openssh))
			if again := mustGet(t, httpClient(t, c), "/pid"); again != pid {
				t.Errorf("%s: agent %s, was %s", name, again, pid)
			}
			c.Close()
			if text, err := os.ReadFile(program); err != nil || string(text) != string(good) {
				t.Errorf("%s: the agent was not uploaded again: %v", name, err)
			}
		}
		for _, dir := range []string{f.remote, filepath.Dir(program)} {
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o022 != 0 {
				t.Errorf("%s: %v, %v", dir, info.Mode(), err)
			}
		}
		if _, err := os.Lstat(ran); err == nil {
			t.Error("what is not an agent has run")
		}
	})
}
