package sshtransport_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
)

// masters has masters make their folders in one of the test's own, which is returned.
func masters(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lm") //nolint:usetesting // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("XDG_RUNTIME_DIR", dir)
	return dir
}

// checkEmpty reports what was left in a folder.
func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(dir + "/lighter-ssh-*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// What lighter's own SSH can't, and says so, ssh can.
func TestMasterAlgorithms(t *testing.T) {
	testkit.NeedCommand(t, "ssh")
	for _, line := range []string{
		"KexAlgorithms sntrup761x25519-sha512@openssh.com",
		"KexAlgorithms diffie-hellman-group-exchange-sha256",
		"KexAlgorithms diffie-hellman-group18-sha512",
		"Ciphers aes256-ctr\nMACs umac-128-etm@openssh.com",
	} {
		t.Run(line, func(t *testing.T) {
			testkit.CheckLeaks(t)
			dir := masters(t)
			s, f := sshtest.StartOpenSSH(t, line), newFarm(t)
			_, err := newClient(t, opensshConfig(t, s, f, false)).DialAgent(t.Context())
			if err == nil || !strings.Contains(err.Error(), `transport = "openssh" in the machine's entry`) {
				t.Errorf("error of lighter's own SSH: %v", err)
			}
			c := newClient(t, opensshConfig(t, s, f, true))
			mustGet(t, httpClient(t, c), "/pid")
			c.Close()
			checkEmpty(t, dir)
		})
	}
}

func TestMasterFails(t *testing.T) {
	testkit.NeedCommand(t, "ssh")
	testkit.CheckLeaks(t)
	dir := masters(t)
	s, f := sshtest.StartOpenSSH(t), newFarm(t)
	_, wrong := sshtest.WriteKey(t)
	for _, test := range []struct {
		name, want string
		change     func(*sshtransport.Config)
		permanent  bool
	}{
		{"login", "Permission denied (publickey)", func(c *sshtransport.Config) { c.PrivateKey = wrong }, true},
		{"host key", "Host key verification failed", func(c *sshtransport.Config) { c.HostKey = rsaHostKey(t) }, true},
		{"refused", "Connection refused", func(c *sshtransport.Config) { c.OpenSSH.Port = 1 }, false},
		{"configuration", "No such file or directory", func(c *sshtransport.Config) { c.OpenSSH.ConfigFile = "/nowhere" }, false},
	} {
		cfg := opensshConfig(t, s, f, true)
		test.change(&cfg)
		c := newClient(t, cfg)
		_, err := c.DialAgent(t.Context())
		var failed *sshtransport.ProgramError
		if !errors.As(err, &failed) || !strings.Contains(failed.Said, test.want) || sshtransport.Permanent(err) != test.permanent {
			t.Errorf("%s: error = %v", test.name, err)
		}
		c.Close()
	}
	t.Setenv("PATH", t.TempDir())
	_, err := newClient(t, opensshConfig(t, s, f, true)).DialAgent(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not installed here") {
		t.Errorf("without ssh: error = %v", err)
	}
	checkEmpty(t, dir)
}

// A server that takes the connection and says nothing.
func TestMasterTimeout(t *testing.T) {
	testkit.NeedCommand(t, "ssh")
	testkit.CheckLeaks(t)
	dir := masters(t)
	f := newFarm(t)
	s, cfg := startTestServer(t, f, sshtest.Options{})
	byProgram(t, &cfg, true)
	s.Stall(true)
	cfg.ConnectTimeout, cfg.HandshakeTimeout = 1, 1
	checkTimeout(t, cfg, "ssh's connection and login took longer than 2ns")
	checkEmpty(t, dir)
}

// Where a login needs a person, the user's own master, which has logged in before, is used, and stays.
func TestMasterOfTheUser(t *testing.T) {
	ssh := testkit.NeedCommand(t, "ssh")
	testkit.CheckLeaks(t)
	dir := masters(t)
	s, f := sshtest.StartOpenSSH(t), newFarm(t)
	cfg := opensshConfig(t, s, f, true)
	cfg.OpenSSH.ConfigFile = filepath.Join(dir, "config")
	cfg.OpenSSH.Host, cfg.HostKey = "cluster", ""
	text := fmt.Sprintf("Host cluster\n HostName 127.0.0.1\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n IdentityFile %s\n ControlPath %s/%%C\n", s.KeyFile, dir)
	if err := os.WriteFile(cfg.OpenSSH.ConfigFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	byHand := func(args ...string) error {
		args = append([]string{"-F", cfg.OpenSSH.ConfigFile, "-p", strconv.Itoa(cfg.OpenSSH.Port), "-l", s.User}, append(args, "cluster")...)
		return exec.Command(ssh, args...).Run()
	}
	if err := byHand("-M", "-f", "-N"); err != nil {
		t.Fatal(err)
	}
	defer byHand("-O", "exit")
	if err := os.Remove(filepath.Join(s.Dir, "authorized_keys")); err != nil { // nobody else gets in
		t.Fatal(err)
	}
	c := newClient(t, cfg)
	mustGet(t, httpClient(t, c), "/pid")
	c.Close()
	if err := byHand("-O", "check"); err != nil {
		t.Errorf("the user's master is gone: %v", err)
	}
	if err := byHand("-O", "exit"); err != nil {
		t.Error(err)
	}
	if _, err := newClient(t, cfg).DialAgent(t.Context()); err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("without the master: error = %v", err)
	}
}

// hold has a connection by ssh until it is killed.
func hold(addr, user, key, hostKey, socket string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	folder := sshtransport.NewFolder(sshtransport.Config{
		Machine: "m", Addr: addr, PrivateKey: key, HostKey: hostKey,
		OpenSSH: &sshtransport.OpenSSH{Host: host, Port: n, User: user, ConfigFile: "none"},
	}, "")
	if _, err := folder.Stat(context.Background(), socket); err != nil {
		return err
	}
	fmt.Println("connected")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A coordinator that is killed leaves no ssh behind.
func TestMasterEndsWithItsProcess(t *testing.T) {
	testkit.NeedCommand(t, "ssh")
	masters(t)
	s := sshtest.StartOpenSSH(t)
	cmd := exec.Command("/proc/self/exe", "hold", s.Addr, s.User, s.KeyFile, s.HostKey, "host_key")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, pid)
		}
	}
	if len(children) != 1 {
		t.Fatalf("its children are %v", children)
	}
	master, err := unix.PidfdOpen(children[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(master)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(master), Events: unix.POLLIN}}, -1)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
}
