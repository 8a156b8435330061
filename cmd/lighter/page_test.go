package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"lighter/internal/testkit"
	"lighter/sshtransport/sshtest"
)

// TestPageWithoutGuix carries out the commands of docs/without-guix.md in their order, as they are written. Its
// machine is a real sshd on this computer; what logs in to it by hand is left out.
func TestPageWithoutGuix(t *testing.T) {
	testkit.NeedUserNamespaces(t)
	testkit.NeedCommand(t, "gcc")
	if runtime.GOARCH != "amd64" {
		t.Skip("the page is for x86_64-linux")
	}
	compile(t)
	sshd := sshtest.StartOpenSSH(t)
	host, port, err := net.SplitHostPort(sshd.Addr)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "lighter") //nolint:usetesting // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "machine")
	t.Cleanup(func() {
		if out, err := exec.Command(filepath.Join(programs, "lighter-agent"), "stop", "--state", state).CombinedOutput(); err != nil {
			t.Errorf("stop the agent: %v\n%s", err, out)
		}
		if out, err := exec.Command("sh", "-c", "chmod -R u+w "+dir+" && rm -rf "+dir).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	page, err := os.ReadFile("../../docs/without-guix.md")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eux\ntrap 'kill $! && wait' EXIT\n"
	for _, block := range regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		language, text := block[1], block[2]
		switch {
		case language == "toml":
			text = strings.NewReplacer(
				`"alpha.example.org"`, fmt.Sprintf("%q\nport = %s", host, port), `"builder"`, fmt.Sprintf("%q", sshd.User),
				`"ssh-ed25519 AAAAC3…"`, fmt.Sprintf("%q", sshd.HostKey)).Replace(text)
			script += fmt.Sprintf("cat > $LIGHTER_CONFIG/machines.toml <<'END'\n%sprivate-key = %q\nagent-directory = %q\nstate-directory = %q\noverload-threshold = false\nEND\n",
				text, sshd.KeyFile, state, state)
		case strings.Contains(text, "ssh-copy-id"):
		case strings.Contains(text, "lighter store import"):
			script += "(export LIGHTER_CONFIG=$HOME/elsewhere LIGHTER_STATE=$HOME/elsewhere LIGHTER_SOCKET=$HOME/none\n" + text + ")\n"
		default:
			script += text
		}
	}
	for _, name := range []string{"config", "home"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = filepath.Join(dir, "home")
	cmd.Env = []string{
		"HOME=" + cmd.Dir, "PATH=" + programs + ":" + os.Getenv("PATH"), "LC_ALL=C.UTF-8",
		"LIGHTER_CONFIG=" + filepath.Join(dir, "config"), "LIGHTER_STATE=" + filepath.Join(dir, "state"), "LIGHTER_STORE=local",
	}
	out, err := cmd.CombinedOutput()
	if said := strings.Count(string(out), "\nhello, world\n"); err != nil || said != 2 {
		t.Errorf("%v; the program ran %d times:\n%s", err, said, out)
	}
}
