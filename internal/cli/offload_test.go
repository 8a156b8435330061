package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/machinetest"
	"lighter/internal/testkit"
	"lighter/machines"
	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
	"lighter/store"
)

// offloadLab is a configuration with machines behind SSH servers of the test.
type offloadLab struct {
	dir     string
	key     ssh.Signer
	keyFile string
	list    []machines.Machine
}

func newOffloadLab(t *testing.T) *offloadLab {
	t.Helper()
	l := &offloadLab{dir: t.TempDir()}
	l.key, l.keyFile = sshtest.WriteKey(t)
	for _, dir := range []string{"config", "agents"} {
		if err := os.Mkdir(filepath.Join(l.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// agent sets the program that is uploaded.
func (l *offloadLab) agent(t *testing.T, script string) {
	t.Helper()
	file := filepath.Join(l.dir, "agents", "lighter-agent-"+runtime.GOOS+"-"+runtime.GOARCH)
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// add adds a machine at an address.
func (l *offloadLab) add(t *testing.T, name, addr, hostKey string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	list, err := machines.ParseTOML("machines.toml", fmt.Appendf(nil,
		"[[machine]]\nname = %q\nhost = %q\nport = %s\nsystem = \"x86_64-linux\"\nuser = \"u\"\nprivate-key = %q\nhost-key = %q\n",
		name, host, port, l.keyFile, hostKey))
	if err != nil {
		t.Fatal(err)
	}
	l.list = append(l.list, list...)
	if err := os.WriteFile(filepath.Join(l.dir, "config", "machines.toml"), machines.FormatTOML(l.list), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (l *offloadLab) run(t *testing.T, signals <-chan os.Signal, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	p := command.Process{In: strings.NewReader(""), Out: &o, Err: &e, Signals: signals, Getenv: func(name string) string {
		return map[string]string{
			"HOME": l.dir, "LIGHTER_STATE": filepath.Join(l.dir, "state"), "LIGHTER_CONFIG": filepath.Join(l.dir, "config"),
			"LIGHTER_AGENTS": filepath.Join(l.dir, "agents"),
		}[name]
	}}
	code = Run(t.Context(), append([]string{"offload"}, args...), p)
	return code, o.String(), e.String()
}

// TestOffloadAgentFails has machines on which no agent can be got going.
func TestOffloadAgentFails(t *testing.T) {
	testkit.CheckLeaks(t)
	for _, tt := range []struct {
		name    string
		agent   string // the program
		options sshtest.Options
		want    []string
	}{
		{
			"no programs run", "exit 126\n",
			sshtest.Options{},
			[]string{"exit status 126", "see what keeps programs from running there", `agent-directory = "/scratch/u"`},
		},
		{
			"no login shell", "",
			sshtest.Options{Forced: "echo This account is currently not available.; false"},
			[]string{"currently not available", "give u a login shell there"},
		},
		{
			"no commands", "",
			sshtest.Options{ForbidCommands: true},
			[]string{"the server runs no commands for this account", "give u a login shell there"},
		},
		{
			"state not writable", "echo lighter-agent: mkdir /x: permission denied >&2\nexit 1\n",
			sshtest.Options{},
			[]string{"mkdir /x: permission denied", "let u write to .cache/lighter and .local/share/lighter there", `agent-directory = "/scratch/u"`},
		},
		{
			"disk full", "echo lighter-agent: write /x: no space left on device >&2\nexit 1\n",
			sshtest.Options{},
			[]string{"no space left on device", "make room there: ssh -p ", "df -h .cache/lighter", `agent-directory = "/scratch/u"`},
		},
		{
			"it crashes", "echo fatal error: cosmic ray >&2\nexit 2\n",
			sshtest.Options{},
			[]string{"cosmic ray", "the agent's log is there: ssh -p "},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newOffloadLab(t)
			l.agent(t, tt.agent)
			tt.options.Authorized = []ssh.PublicKey{l.key.PublicKey()}
			server := sshtest.Start(t, tt.options)
			l.add(t, "m", server.Addr, server.HostKey())
			code, out, _ := l.run(t, nil, "test")
			tt.want = append(tt.want, "m: can't be used", "ssh      good     logged in as u@", "agent    bad ")
			for _, want := range tt.want {
				if code != command.ExitUnusable || !strings.Contains(out, want) {
					t.Errorf("exit code %d, want %q in:\n%s", code, want, out)
				}
			}
		})
	}
}

func TestOffloadNoAgentForThePlatform(t *testing.T) {
	l := newOffloadLab(t)
	server := sshtest.Start(t, sshtest.Options{Authorized: []ssh.PublicKey{l.key.PublicKey()}})
	l.add(t, "m", server.Addr, server.HostKey())
	if code, out, _ := l.run(t, nil, "test"); code != command.ExitUnusable || !strings.Contains(out, "--agents says where they are") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

// silent accepts connections and never says a word.
func silent(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String()
}

// TestOffloadTimeout shows that a machine that does not answer keeps nobody waiting for
// longer than was asked for, and others not at all.
func TestOffloadTimeout(t *testing.T) {
	testkit.CheckLeaks(t)
	l := newOffloadLab(t)
	hostKey := sshtransport.FormatHostKey(l.key.PublicKey())
	l.add(t, "slow", silent(t), hostKey)
	l.add(t, "slow-too", silent(t), hostKey)
	l.add(t, "refused", "127.0.0.1:1", hostKey)
	began := time.Now()
	code, out, _ := l.run(t, nil, "status", "--json", "--timeout", "300ms")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	var got []string
	for line := range strings.Lines(out) {
		var s machineState
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
		if s.Fix == "" || s.OK {
			t.Errorf("got %s", line)
		}
		got = append(got, s.Machine+": "+s.Error)
	}
	want := []string{"slow: not done after 300ms", "slow-too: not done after 300ms", "refused: dial tcp 127.0.0.1:1: connect: connection refused"}
	if code != command.ExitUnusable || !slices.Equal(got, want) {
		t.Errorf("exit code %d, got %q", code, got)
	}
}

func TestOffloadIsInterrupted(t *testing.T) {
	testkit.CheckLeaks(t)
	l := newOffloadLab(t)
	l.add(t, "slow", silent(t), sshtransport.FormatHostKey(l.key.PublicKey()))
	signals := make(chan os.Signal, 1)
	time.AfterFunc(200*time.Millisecond, func() { signals <- os.Interrupt })
	began := time.Now()
	code, out, errs := l.run(t, signals, "test")
	if took := time.Since(began); code != command.ExitInterrupted || out != "" || errs != "lighter: interrupted\n" || took > 5*time.Second {
		t.Errorf("after %s: exit code %d, %q, %q", took, code, out, errs)
	}
}

// TestOffloadStatusText is the page of one machine, with every warning.
func TestOffloadStatusText(t *testing.T) {
	s := &machineState{Machine: "node1", OK: true}
	s.fill(&machinetest.Reached{
		Info: &agentapi.Machine{
			Version: "1.2+abcd", Kernel: "Linux 6.1", Hostname: "node1", Systems: []string{"aarch64-linux"}, Cores: 4, Load: 6,
			FreeDisk: 50 << 20, FreeMemory: 3 << 30, StoreKind: machines.StoreDaemon, StoreDir: store.DefaultDir, Running: 2, Uptime: api.Seconds(93784),
		},
		RoundTrip: 1234567, Skew: -2 * time.Minute,
	}, &machines.Machine{Systems: []string{"aarch64-linux", "armhf-linux"}, OverloadThreshold: 0.8, MinFreeDisk: machines.DefaultMinFreeDisk})
	var b bytes.Buffer
	s.write(&b, display.Style{})
	const want = `node1
  kernel: Linux 6.1
  architecture: aarch64
  host name: node1
  store: guix-daemon's /gnu/store
  uptime: 1d02h
  load: 6.00 on 4 cores
  normalized load: 1.50
  free disk space: 50.0 MiB
  free memory: 3.00 GiB
  clock: 2m0s behind the head's
  round trip: 1.23ms
  agent: lighter-agent 1.2+abcd, 2 builds running
  warning: clock: set the clocks, by NTP for example; builds work, but times of files and logs mislead
  warning: load: it gets no builds while its normalized load is not below its overload-threshold, 0.8
  warning: disk: it gets no builds while less than 100 MiB are free
  warning: systems: it gets no builds for armhf-linux: its kernel runs programs of aarch64-linux
`
	if got := b.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

// TestOffloadChoose has the machines that arguments ask for.
func TestOffloadChoose(t *testing.T) {
	all := []machines.Machine{
		{Name: "a1", Host: "a1", Port: 22, User: "u"},
		{Name: "a1-2", Host: "a1", Port: 22, User: "u"}, // for another system
		{Name: "a1-2222", Host: "a1", Port: 2222, User: "u"},
		{Name: "fe80--1", Host: "fe80::1", Port: 22, User: "u"},
	}
	for _, tt := range []struct {
		args []string
		want string
		left bool // a1-2 is left out, and named
	}{
		{nil, "a1 a1-2222 fe80--1", true},
		{[]string{"f"}, "a1 a1-2222 fe80--1", true},
		{[]string{"f", "1"}, "a1 a1-2222 fe80--1", true},
		{[]string{"f", "^a1$"}, "a1 a1-2222", true},
		{[]string{"f", "80::"}, "fe80--1", false},
		{[]string{"f", "^a1-2$"}, "a1-2", false},
	} {
		var told bytes.Buffer
		o := &offloading{machines: slices.Clone(all)}
		if err := o.choose(&command.Invocation{Args: tt.args, Process: command.Process{Err: &told}}); err != nil {
			t.Error(err)
		}
		var names []string
		for i := range o.machines {
			names = append(names, o.machines[i].Name)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.args, got, tt.want)
		}
		left := ""
		if tt.left {
			left = "lighter: left out, since an entry before has the same address: a1-2 (that of a1)\n"
		}
		if told.String() != left {
			t.Errorf("%q: it says %q, want %q", tt.args, &told, left)
		}
	}
}

// TestEachKeepsTheOrder shows that all are at work at the same time.
func TestEachKeepsTheOrder(t *testing.T) {
	o := &offloading{machines: make([]machines.Machine, 3), timeout: time.Minute}
	for i := range o.machines {
		o.machines[i].Name = string(rune('a' + i))
	}
	last := make(chan struct{})
	var got []string
	err := each(t.Context(), o, func(_ context.Context, m *machines.Machine) string {
		if m.Name == "c" {
			close(last)
		}
		<-last
		return m.Name
	}, func(name string) error {
		got = append(got, name)
		return nil
	})
	if err != nil || strings.Join(got, "") != "abc" {
		t.Errorf("got %q, %v", got, err)
	}
}
