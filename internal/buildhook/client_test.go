package buildhook

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// fakeProcess is a process in a folder that stands for /proc.
type fakeProcess struct {
	pid, parent int
	user        int
	began       int
	args        string // NULs are written as |
}

func fakeProc(t *testing.T, processes ...fakeProcess) string {
	t.Helper()
	proc := t.TempDir()
	for _, p := range processes {
		folder := filepath.Join(proc, strconv.Itoa(p.pid))
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"status":  fmt.Sprintf("Name:\tguix)\nPPid:\t%d\nUid:\t7\t%d\t7\t7\nGid:\t1\t2\t3\t4\n", p.parent, p.user),
			"stat":    fmt.Sprintf("%d (a name ) (x) S %d%s %d 0 0\n", p.pid, p.parent, strings.Repeat(" 1", 17), p.began),
			"cmdline": strings.ReplaceAll(p.args, "|", "\x00"),
		} {
			if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return proc
}

func TestClientUser(t *testing.T) {
	const none = -1
	daemon := fakeProcess{100, 1, 0, 10, "/bin/guix-daemon|--build-users-group=guixbuild|--debug|"}
	overwritten := "4321" + strings.Repeat("|", len("--build-users-group=guixbuild")-4)
	fork := fakeProcess{200, 100, 0, 500, "/bin/guix-daemon|" + overwritten + "|--debug|"}
	client := fakeProcess{4321, 4000, 1000, 400, "guix|build|hello|"}
	with := func(p fakeProcess, change func(*fakeProcess)) fakeProcess {
		change(&p)
		return p
	}
	for _, tt := range []struct {
		name      string
		processes []fakeProcess
		parent    int // of the hook
		want      int
	}{
		{"a client", []fakeProcess{daemon, fork, client}, 200, 1000},
		{"root's client", []fakeProcess{daemon, fork, with(client, func(p *fakeProcess) { p.user = 0 })}, 200, 0},
		{"a script between", []fakeProcess{daemon, fork, client, {300, 200, 0, 600, "/bin/sh|/usr/local/bin/hook|"}}, 300, 1000},
		{"the client has gone", []fakeProcess{daemon, fork}, 200, none},
		{"another has its number", []fakeProcess{daemon, fork, with(client, func(p *fakeProcess) { p.began = 501 })}, 200, none},
		{"guix-daemon has gone", []fakeProcess{with(fork, func(p *fakeProcess) { p.parent = 1 }), {1, 0, 0, 1, "/sbin/init|"}, client}, 200, none},
		{"no arguments", []fakeProcess{
			with(daemon, func(p *fakeProcess) { p.args = "/bin/guix-daemon|" }), with(fork, func(p *fakeProcess) { p.args = "/bin/guix-daemon|" }), client,
		}, 200, none},
		{"no room for the number", []fakeProcess{
			with(daemon, func(p *fakeProcess) { p.args = "guix-daemon|-c|4|" }), with(fork, func(p *fakeProcess) { p.args = "guix-daemon|43|4|" }),
			with(client, func(p *fakeProcess) { p.pid = 43 }),
		}, 200, none},
		{"no client that the kernel knows", []fakeProcess{daemon, with(fork, func(p *fakeProcess) { p.args = daemon.args }), client}, 200, none},
		{"not below guix-daemon", []fakeProcess{{300, 1, 0, 1, "bash|"}, {1, 0, 0, 1, "/sbin/init|"}}, 300, none},
		{"a circle", []fakeProcess{{300, 300, 0, 1, "bash|"}}, 300, none},
		{"nothing is known", nil, 200, none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := none
			if user := clientUser(fakeProc(t, tt.processes...), tt.parent); user != nil {
				got = int(*user)
			}
			if got != tt.want {
				t.Errorf("got user %d, want %d", got, tt.want)
			}
		})
	}
}

// TestReadOwnProcess reads the real /proc.
func TestReadOwnProcess(t *testing.T) {
	p, ok := readProcess("/proc", os.Getpid())
	if !ok || p.parent != os.Getppid() || int(p.user) != os.Geteuid() || p.began == 0 {
		t.Errorf("this process is %+v, %v", p, ok)
	}
}
