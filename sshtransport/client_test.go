package sshtransport_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"lighter/internal/testkit"
	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
)

// startTestServer starts a server in this process, and returns how to log in to it.
func startTestServer(t testing.TB, f *farm, opts sshtest.Options) (*sshtest.Server, sshtransport.Config) {
	t.Helper()
	key, file := sshtest.WriteKey(t)
	opts.Authorized = append(opts.Authorized, key.PublicKey())
	s := sshtest.Start(t, opts)
	return s, sshtransport.Config{
		Machine: "m", Addr: s.Addr, User: "u", PrivateKey: file, HostKey: s.HostKey(), Bootstrap: f.bootstrap(t),
	}
}

// preinstalled has the agent in PATH, so that nothing is uploaded. It runs in this process.
func preinstalled(t testing.TB, f *farm, cfg *sshtransport.Config) {
	t.Helper()
	cfg.Bootstrap.Agents = nil
	serveInProcess(t, f)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	script.WriteString("#!/bin/sh\n[ \"$1\" = start ] || exec '" + exe + "' \"$@\"\ncat > /dev/null\ncat << 'END'\n")
	if err := sshtransport.WriteStart(&script, sshtransport.StartAnswer{Socket: filepath.Join(f.dir, "agent.sock")}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "lighter-agent"), []byte(script.String()+"END\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		for _, test := range []struct {
			name string
			opts sshtest.Options
			mode sshtransport.Mode
		}{
			{"stream-local", sshtest.Options{}, sshtransport.ModeStreamLocal},
			{"session", sshtest.Options{ForbidStreamLocal: true}, sshtransport.ModeSession},
			{"one session", sshtest.Options{MaxSessions: 1}, sshtransport.ModeStreamLocal},
			{"one session alone", sshtest.Options{MaxSessions: 1, ForbidStreamLocal: true}, sshtransport.ModeSession},
			{"noise", sshtest.Options{Noise: "hello\n", ForbidStreamLocal: true}, sshtransport.ModeSession},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				f := newFarm(t)
				_, cfg := startTestServer(t, f, test.opts)
				byProgram(t, &cfg, openssh)
				c := newClient(t, cfg)
				if got, err := post(t, httpClient(t, c), "/echo", "abc"); err != nil || got != "abc" {
					t.Fatalf("echo = %q, %v", got, err)
				}
				if got := c.Status().Mode; got != test.mode {
					t.Errorf("mode = %q, want %q", got, test.mode)
				}
			})
		}
	})
}

// However many ask at the same time, there is one connection and one agent.
func TestOneConnection(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		f := newFarm(t)
		s, cfg := startTestServer(t, f, sshtest.Options{Env: []string{"PATH=" + f.dir + ":/usr/bin:/bin"}})
		byProgram(t, &cfg, openssh)
		preinstalled(t, f, &cfg)
		c := newClient(t, cfg)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				conn, err := c.DialAgent(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				conn.Close()
			})
		}
		wg.Wait()
		if n := s.Connections(); n != 1 {
			t.Errorf("%d connections", n)
		}
		c.Close()
		if _, err := c.DialAgent(t.Context()); !errors.Is(err, sshtransport.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestWrongHash(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		f := newFarm(t)
		_, cfg := startTestServer(t, f, sshtest.Options{})
		byProgram(t, &cfg, openssh)
		good := toUpload(ownScript(t))
		for _, test := range []struct {
			name   string
			change func(*sshtransport.AgentBinary)
			want   string
		}{
			{"hash", func(b *sshtransport.AgentBinary) { b.SHA256[0] ^= 1 }, "the agent to upload: its SHA-256 is " + hex.EncodeToString(good.SHA256[:])},
			{"too long", func(b *sshtransport.AgentBinary) { b.Size-- }, "bytes, not the"},
			{"too short", func(b *sshtransport.AgentBinary) { b.Size++ }, "bytes, not the"},
			{"unreadable", func(b *sshtransport.AgentBinary) {
				b.Open = func() (io.ReadCloser, error) {
					return io.NopCloser(io.MultiReader(strings.NewReader("x"), brokenReader{})), nil
				}
			}, "input/output error"},
		} {
			t.Run(test.name, func(t *testing.T) {
				bad := *good
				test.change(&bad)
				cfg := cfg
				cfg.Bootstrap.Agents = func(context.Context, string, string) (*sshtransport.AgentBinary, error) { return &bad, nil }
				_, err := newClient(t, cfg).DialAgent(t.Context())
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error = %v", err)
				}
				if left := f.uploaded(t); len(left) != 0 {
					t.Errorf("left on the machine: %q", left)
				}
			})
		}
	})
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, syscall.EIO }

// What arrives damaged does not run, wherever that is noticed.
func TestDamagedUpload(t *testing.T) {
	testkit.CheckLeaks(t)
	bin := t.TempDir()
	lie := "#!/bin/sh\nprintf '%s  %s\\n' " + strings.Repeat("0", 64) + " \"$1\"\n"
	if err := os.WriteFile(filepath.Join(bin, "sha256sum"), []byte(lie), 0o700); err != nil {
		t.Fatal(err)
	}
	f := newFarm(t)
	_, cfg := startTestServer(t, f, sshtest.Options{Env: []string{"PATH=" + bin + ":/usr/bin:/bin"}})
	_, err := newClient(t, cfg).DialAgent(t.Context())
	var wrong *sshtransport.HashError
	if !errors.As(err, &wrong) || wrong.Got != [32]byte{} {
		t.Errorf("error = %v", err)
	}
	if left := f.uploaded(t); len(left) != 0 {
		t.Errorf("left on the machine: %q", left)
	}
}

// A damaged agent in its place is replaced, a good one that fails is not.
func TestAgentInPlace(t *testing.T) {
	testkit.CheckLeaks(t)
	f := newFarm(t)
	// Without sha256sum, the file is read back.
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "sha256sum"), []byte("#!/bin/sh\nexit 127\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, cfg := startTestServer(t, f, sshtest.Options{Env: []string{"PATH=" + bin + ":/usr/bin:/bin"}})
	binary := toUpload(ownScript(t))
	program := filepath.Join(f.remote, hex.EncodeToString(binary.SHA256[:]), "lighter-agent")
	if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, make([]byte, binary.Size), 0o700); err != nil {
		t.Fatal(err)
	}
	mustGet(t, httpClient(t, newClient(t, cfg)), "/pid")

	f.killAgent(t)
	if err := os.WriteFile(filepath.Join(f.dir, "refuse"), []byte("not found"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	_, err = newClient(t, cfg).DialAgent(t.Context())
	var command *sshtransport.CommandError
	if !errors.As(err, &command) || command.Status != 1 {
		t.Errorf("error = %v", err)
	}
	if after, err := os.Stat(program); err != nil || !os.SameFile(before, after) {
		t.Errorf("the agent was uploaded again: %v", err)
	}
}

// Old agents go, but not those that may run.
func TestOldAgents(t *testing.T) {
	testkit.CheckLeaks(t)
	f := newFarm(t)
	_, cfg := startTestServer(t, f, sshtest.Options{})
	old := time.Now().Add(-100 * 24 * time.Hour)
	make1 := func(name string, at time.Time) {
		dir := filepath.Join(f.remote, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "lighter-agent"), nil, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, at, at); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 7 {
		make1(fmt.Sprintf("%064d", i), old.Add(time.Duration(i)*time.Hour))
	}
	make1("other", old)
	make1(strings.Repeat("f", 64), time.Now())
	for name, at := range map[string]time.Time{".upload-old": old, ".upload-new": time.Now()} {
		file := filepath.Join(f.remote, name)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(file, at, at)
	}
	mustGet(t, httpClient(t, newClient(t, cfg)), "/pid")
	binary := toUpload(ownScript(t))
	want := []string{
		".upload-new", fmt.Sprintf("%064d", 4), fmt.Sprintf("%064d", 5), fmt.Sprintf("%064d", 6),
		hex.EncodeToString(binary.SHA256[:]), strings.Repeat("f", 64), "other",
	}
	got := f.uploaded(t)
	if strings.Join(got, " ") != strings.Join(want, " ") && len(got) != len(want) {
		t.Errorf("left: %q, want %q", got, want)
	}
}

// SFTP has no word for a full disk.
func TestDiskFull(t *testing.T) {
	testkit.CheckLeaks(t)
	f := newFarm(t)
	_, cfg := startTestServer(t, f, sshtest.Options{SFTP: func(ch io.ReadWriteCloser) {
		handlers := sftp.InMemHandler()
		handlers.FilePut = fullDisk{handlers.FilePut}
		handlers.FileCmd = fullDiskCmd{handlers.FileCmd}
		server := sftp.NewRequestServer(ch, handlers)
		server.Serve()
		server.Close()
	}})
	_, err := newClient(t, cfg).DialAgent(t.Context())
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left on device: 4096 bytes are free") {
		t.Errorf("error = %v", err)
	}
}

type fullDisk struct{ sftp.FileWriter }

func (d fullDisk) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	w, err := d.FileWriter.Filewrite(r)
	return fullFile{w}, err
}

type fullFile struct{ io.WriterAt }

func (f fullFile) WriteAt(p []byte, off int64) (int, error) {
	if off > 1<<16 {
		return 0, errors.New("Failure")
	}
	return f.WriterAt.WriteAt(p, off)
}

type fullDiskCmd struct{ sftp.FileCmder }

func (d fullDiskCmd) Filecmd(r *sftp.Request) error {
	if r.Method == "Setstat" {
		return nil // files in memory have no modes
	}
	return d.FileCmder.Filecmd(r)
}

func (fullDiskCmd) StatVFS(*sftp.Request) (*sftp.StatVFS, error) {
	return &sftp.StatVFS{Bsize: 4096, Frsize: 4096, Blocks: 1000, Bfree: 1, Bavail: 1, Files: 10, Favail: 10}, nil
}

func TestNoAgentForPlatform(t *testing.T) {
	testkit.CheckLeaks(t)
	f := newFarm(t)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "uname"), []byte("#!/bin/sh\necho Linux armv7l\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, cfg := startTestServer(t, f, sshtest.Options{Env: []string{"PATH=" + bin + ":/usr/bin:/bin"}})
	errNone := errors.New("not built")
	cfg.Bootstrap.Agents = func(_ context.Context, _, arch string) (*sshtransport.AgentBinary, error) {
		if arch == "arm" {
			return nil, errNone
		}
		return toUpload(ownScript(t)), nil
	}
	_, err := newClient(t, cfg).DialAgent(t.Context())
	if !errors.Is(err, errNone) || !strings.Contains(err.Error(), "agent for linux/arm: not built") {
		t.Errorf("error = %v", err)
	}
}

// Wherever a connection breaks off, the caller hears of it, nothing hangs, and the next
// one works.
func TestCut(t *testing.T) {
	testkit.CheckLeaks(t)
	f := newFarm(t)
	s, cfg := startTestServer(t, f, sshtest.Options{Env: []string{"PATH=" + f.dir + ":/usr/bin:/bin"}})
	preinstalled(t, f, &cfg)
	mustGet(t, httpClient(t, newClient(t, cfg)), "/pid") // the agent runs
	for at := int64(157); at < 6000; at += 157 {         // from where the server has said that it speaks SSH
		s.CutAt(at)
		c := newClient(t, cfg)
		h := httpClient(t, c)
		_, err := get(t, h, "/bytes/100000")
		if err == nil {
			t.Fatalf("cut at %d: no error", at)
		}
		s.CutAt(-1)
		if _, err := get(t, h, "/pid"); err != nil {
			t.Fatalf("cut at %d: afterwards: %v", at, err)
		}
		c.Close()
	}
}

// The link ends under many streams at the same time: each says so.
func TestLinkLost(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		for _, forbid := range []bool{false, true} {
			t.Run(fmt.Sprint("session mode ", forbid), func(t *testing.T) {
				testkit.CheckLeaks(t)
				f := newFarm(t)
				s, cfg := startTestServer(t, f, sshtest.Options{ForbidStreamLocal: forbid})
				byProgram(t, &cfg, openssh)
				c := newClient(t, cfg)
				var reading, writing sync.WaitGroup
				for range 4 {
					conn, err := c.DialAgent(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					reading.Go(func() {
						if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, sshtransport.ErrLinkLost) {
							t.Errorf("Read: %v", err)
						}
					})
					other, err := c.DialAgent(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					defer other.Close()
					writing.Go(func() {
						// It is a request with an endless body, which is read until the agent's
						// answer is in nobody's way.
						fmt.Fprint(other, "POST /sum HTTP/1.1\r\nHost: agent\r\nContent-Length: 1000000000000\r\n\r\n")
						if _, err := io.Copy(other, struct{ io.Reader }{zeros{}}); !errors.Is(err, sshtransport.ErrLinkLost) {
							t.Errorf("Write: %v", err)
						}
					})
				}
				s.CutAll()
				reading.Wait()
				writing.Wait()
				mustGet(t, httpClient(t, c), "/pid")
			})
		}
	})
}

// A stream that the agent ends is no lost link.
func TestStreamEnds(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		for _, forbid := range []bool{false, true} {
			t.Run(fmt.Sprint("session mode ", forbid), func(t *testing.T) {
				testkit.CheckLeaks(t)
				f := newFarm(t)
				_, cfg := startTestServer(t, f, sshtest.Options{ForbidStreamLocal: forbid})
				byProgram(t, &cfg, openssh)
				conn, err := newClient(t, cfg).DialAgent(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				fmt.Fprint(conn, "GET /pid HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
				text, err := io.ReadAll(conn)
				if err != nil || !bytes.HasPrefix(text, []byte("HTTP/1.1 200")) {
					t.Errorf("read %q, %v", text, err)
				}
			})
		}
	})
}

// A deadline and Close interrupt Read, whatever the machine does.
func TestStreamInterrupted(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		f := newFarm(t)
		s, cfg := startTestServer(t, f, sshtest.Options{})
		byProgram(t, &cfg, openssh)
		conn, err := newClient(t, cfg).DialAgent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Stall(true)
		conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		var timeout net.Error
		if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("error = %v", err)
		}
		conn.SetReadDeadline(time.Time{})
		read := make(chan error)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			read <- err
		}()
		go func() {
			_, err := conn.Read(make([]byte, 1))
			read <- err
		}()
		conn.Close()
		for range 2 {
			if err := <-read; !errors.Is(err, net.ErrClosed) {
				t.Errorf("error = %v", err)
			}
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("error = %v", err)
		}
		if err := conn.SetWriteDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
			t.Errorf("error = %v", err)
		}
	})
}

// Streams that are not read hold up nobody else.
func TestSlowReader(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		f := newFarm(t)
		_, cfg := startTestServer(t, f, sshtest.Options{})
		byProgram(t, &cfg, openssh)
		c := newClient(t, cfg)
		slow, err := c.DialAgent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		fmt.Fprint(slow, "GET /bytes/100000000 HTTP/1.1\r\nHost: agent\r\n\r\n")
		if got := mustGet(t, httpClient(t, c), "/bytes/10000000"); len(got) != 10000000 {
			t.Errorf("%d bytes", len(got))
		}
	})
}

// The machine does not answer: what waits ends when its time is over, at each stage.
func TestTimeLimits(t *testing.T) {
	testkit.CheckLeaks(t)
	f := newFarm(t)
	s, good := startTestServer(t, f, sshtest.Options{Env: []string{"PATH=" + f.dir + ":/usr/bin:/bin"}})
	preinstalled(t, f, &good)
	t.Run("connect", func(t *testing.T) {
		cfg := good
		cfg.ConnectTimeout = 10 * time.Millisecond
		cfg.Dial = func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		checkTimeout(t, cfg, "took longer than 10ms")
	})
	t.Run("handshake", func(t *testing.T) {
		s.Stall(true)
		defer s.Stall(false)
		cfg := good
		cfg.HandshakeTimeout = 10 * time.Millisecond
		checkTimeout(t, cfg, "the SSH handshake and login took longer than 10ms")
	})
	t.Run("start", func(t *testing.T) {
		cfg := good
		cfg.Bootstrap.StartInput = nil
		s.Set(func(o *sshtest.Options) { o.Forced = "exec sleep 60" })
		defer s.Set(func(o *sshtest.Options) { o.Forced = "" })
		cfg.StartTimeout = 50 * time.Millisecond
		checkTimeout(t, cfg, "starting the agent took longer than 50ms")
	})
	t.Run("open", func(t *testing.T) {
		cfg := good
		cfg.Bootstrap.Forced = true
		s.Set(func(o *sshtest.Options) { o.Forced = "exec sleep 60" })
		defer s.Set(func(o *sshtest.Options) { o.Forced = "" })
		cfg.OpenTimeout = 50 * time.Millisecond
		checkTimeout(t, cfg, "")
	})
}

func checkTimeout(t *testing.T, cfg sshtransport.Config, want string) {
	t.Helper()
	c := newClient(t, cfg)
	_, err := c.DialAgent(t.Context())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error = %v, want %q", err, want)
	}
	c.Close()
}

func TestPrivateKeys(t *testing.T) {
	dir := t.TempDir()
	key, good := sshtest.WriteKey(t)
	_, locked := lockedKey()
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"locked": locked, "open": text, "public": ssh.MarshalAuthorizedKey(key.PublicKey()),
		"rubbish": []byte("x"), "empty": []byte("\n"), "putty": []byte("PuTTY-User-Key-File-3: ssh-ed25519\r\n"),
		"one line": bytes.ReplaceAll(text, []byte("\n"), []byte(`\n`)), "cut": text[:len(text)/2],
		"crlf": bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")), "no end of line": bytes.TrimSpace(text),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(filepath.Join(dir, "open"), 0o640)
	for name, want := range map[string]string{
		"none":     "there is no such file",
		"locked":   "it has a passphrase, so that only ssh-agent can use it",
		"open":     "its permissions 0640 let others use it: chmod 600",
		"rubbish":  "none of its lines begins with -----BEGIN",
		"empty":    "it is empty",
		"putty":    "with -O private-openssh",
		"one line": `its lines end in \n written out`,
		"cut":      "ssh: ",
		"public":   "it is a public key, so that only ssh-agent can use it",
		".":        "regular file",
	} {
		_, err := sshtransport.LoadPrivateKey(filepath.Join(dir, name))
		if err == nil || !strings.Contains(err.Error(), want) || !sshtransport.Permanent(err) {
			t.Errorf("%s: error = %v, want %q", name, err, want)
		}
	}
	for _, file := range []string{good, filepath.Join(dir, "crlf"), filepath.Join(dir, "no end of line")} {
		if _, err := sshtransport.LoadPrivateKey(file); err != nil {
			t.Error(err)
		}
	}
}
