package machines

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/testkit"
)

// resolved are the ways to the machines of a file in TOML, with "~" for the home folder.
func resolved(t *testing.T, home, file string) []Machine {
	t.Helper()
	all, err := ParseTOML("machines.toml", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	Resolve(t.Context(), all, SSH{Program: testkit.NeedCommand(t, "ssh"), Home: home})
	return all
}

func TestResolve(t *testing.T) {
	home := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	included := write("more", "Host included\n Port 2201\n User more\n")
	write(".ssh/config", "Include "+included+`
Host node7
  HostName 192.0.2.7
  Port 2207
  User seven
  ProxyJump jump
  HostKeyAlias Seven.example.org
  UserKnownHostsFile ~/.ssh/cluster_hosts
  GlobalKnownHostsFile none
  IdentityFile ~/.ssh/cluster_%h
  IdentitiesOnly yes
  IdentityAgent ~/agent.sock
Host jump
  HostName jump.example.org
  ProxyJump outer@[2001:db8::1]:2022
Match exec "true" host matched
  Port 2299
Host command
  ProxyCommand nc -x proxy %h %p %r
Host circle
  ProxyJump round
Host round
  ProxyJump circle
Host chain
  ProxyJump first,jump
`)
	other := write("other", "Host *\n Port 2244\n User other\n")
	const systems = "systems = [\"x86_64-linux\"]\n"
	for name, test := range map[string]struct {
		entry string
		want  Way
	}{
		"all of it": {`name = "node7"`, Way{
			Host: "192.0.2.7", Port: 2207, User: "seven", HostKeyAlias: "seven.example.org",
			Identities: []string{"~/.ssh/cluster_192.0.2.7"}, IdentitiesOnly: true, IdentityAgent: "~/agent.sock",
			KnownHosts: []string{"~/.ssh/cluster_hosts"},
			Via:        &Way{Host: "jump.example.org", Port: 22, User: "me", Via: &Way{Host: "2001:db8::1", Port: 2022, User: "outer"}},
		}},
		"the entry wins": {"name = \"x\"\nhost = \"node7\"\nport = 22\nuser = \"u\"\nproxy-jump = \"none\"", Way{
			Host: "192.0.2.7", Port: 22, User: "u", HostKeyAlias: "seven.example.org",
			Identities: []string{"~/.ssh/cluster_192.0.2.7"}, IdentitiesOnly: true, IdentityAgent: "~/agent.sock",
			KnownHosts: []string{"~/.ssh/cluster_hosts"},
		}},
		"Match":           {`name = "matched"`, Way{Host: "matched", Port: 2299, User: "me"}},
		"Include":         {`name = "included"`, Way{Host: "included", Port: 2201, User: "more"}},
		"command":         {"name = \"command\"\nuser = \"u\"", Way{Host: "command", Port: 22, User: "u", ProxyCommand: "nc -x proxy command 22 u"}},
		"in place of it":  {"name = \"command\"\nproxy-jump = \"a@b:3\"", Way{Host: "command", Port: 22, User: "me", Via: &Way{Host: "b", Port: 3, User: "a"}}},
		"its own command": {"name = \"node7\"\nproxy-command = \"x %h %% %n\"\nssh-config = \"none\"", Way{Host: "node7", Port: 22, User: "me", ProxyCommand: "x node7 % node7"}},
		"a chain": {`name = "chain"`, Way{
			Host: "chain", Port: 22, User: "me",
			Via: &Way{Host: "jump.example.org", Port: 22, User: "me", Via: &Way{Host: "first", Port: 22, User: "me"}},
		}},
		"another file": {"name = \"a\"\nssh-config = \"" + other + "\"", Way{Host: "a", Port: 2244, User: "other"}},
		"none":         {"name = \"node7\"\nssh-config = \"none\"", Way{Host: "node7", Port: 22, User: "me"}},
		"a key for jump hosts too": {
			"name = \"x\"\nssh-config = \"none\"\nproxy-jump = \"j\"\nprivate-key = \"~/key\"",
			Way{Host: "x", Port: 22, User: "me", Via: &Way{Host: "j", Port: 22, User: "me", Identities: []string{"~/key"}}},
		},
		"no such file": {"name = \"a\"\nssh-config = \"/nonexistent/config\"", Way{
			Host: "a", Port: 22, User: "me", Problem: "ssh-config /nonexistent/config: file does not exist",
		}},
		"circle": {`name = "circle"`, Way{
			Host: "circle", Port: 22, User: "me", Problem: "ProxyJump: more than 16 hosts one after another; do they lead in a circle?",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := resolved(t, home, "[[machine]]\n"+test.entry+"\n"+systems)[0]
			if m.User != m.Way.User || m.Port != m.Way.Port {
				t.Errorf("the machine has %s, %d, the way %s, %d", m.User, m.Port, m.Way.User, m.Way.Port)
			}
			if diff := cmp.Diff(&test.want, portable(m.Way, home)); diff != "" {
				t.Errorf("the way (-want +got):\n%s", diff)
			}
		})
	}
}

// portable returns a way without what depends on where the test runs.
func portable(w *Way, home string) *Way {
	if w == nil {
		return nil
	}
	p, r := *w, new(resolver)
	me := r.whoami()
	p.Via, p.From = portable(w.Via, home), nil
	tilde := func(text string) string {
		return strings.ReplaceAll(strings.ReplaceAll(text, home, "~"), r.passwdHome, "~")
	}
	for i := range p.Identities {
		p.Identities[i] = tilde(p.Identities[i])
	}
	for i := range p.KnownHosts {
		p.KnownHosts[i] = tilde(p.KnownHosts[i])
	}
	p.IdentityAgent = tilde(p.IdentityAgent)
	if p.User == me {
		p.User = "me"
	}
	if p.Problem != "" {
		p.Via = nil
	}
	return &p
}

// What a person can write into ~/.ssh/config, and what is made of it.
func TestResolveProblems(t *testing.T) {
	for name, test := range map[string]struct{ config, want string }{
		"unknown keyword": {"Host x\n  Frobnicate yes\n", "line 2: Bad configuration option: frobnicate"},
		"unknown token":   {"ProxyCommand nc %h %Y\n", `ProxyCommand: "%Y", which is not replaced by anything`},
		"no end":          {"Match exec \"sleep 1000\"\n Port 1\n", "ssh -G x: it took too long"},
		"bad jump":        {"ProxyJump a:b\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config")
			if err := os.WriteFile(file, []byte(test.config), 0o600); err != nil {
				t.Fatal(err)
			}
			all := []Machine{{Name: "x", Host: "x", Port: 22, SSHConfig: file}}
			timeout := time.Minute
			if name == "no end" {
				timeout = 300 * time.Millisecond
			}
			Resolve(t.Context(), all, SSH{Program: testkit.NeedCommand(t, "ssh"), Home: t.TempDir(), Timeout: timeout})
			if got := all[0].Way.Problem; got == "" || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	home := t.TempDir()
	all := []Machine{{Name: "x", Host: "x", Port: 22}}
	Resolve(t.Context(), all, SSH{Home: home})
	if w := all[0].Way; w.Problem != "" || w.Host != "x" {
		t.Errorf("without ssh and configuration: %+v", w)
	}
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".ssh/config"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	Resolve(t.Context(), all, SSH{Home: home})
	if p := all[0].Way.Problem; !strings.Contains(p, `there is no program ssh here to ask; install OpenSSH's client, or write ssh-config = "none"`) {
		t.Errorf("without ssh: %q", p)
	}
}

func TestTarget(t *testing.T) {
	entry := func(host, rest string) Target {
		t.Helper()
		all, err := ParseTOML("m.toml", []byte("[[machine]]\nname = \"m\"\nuser = \"u\"\nsystem = \"x86_64-linux\"\nhost = \""+host+"\"\n"+rest))
		if err != nil {
			t.Fatal(err)
		}
		before := all[0].Target()
		Resolve(t.Context(), all, SSH{Home: t.TempDir()})
		if after := all[0].Target(); before != after && rest == "" {
			t.Errorf("%s: %+v before, %+v after", host, before, after)
		}
		return all[0].Target()
	}
	for _, same := range [][]string{
		{"a.example.org", "A.Example.org", "a.example.org."},
		{"2001:db8::1", "[2001:DB8:0::1]", "2001:db8:0:0:0:0:0:1"},
		{"192.0.2.1", "::ffff:192.0.2.1"},
		{"fe80::1%eth0", "[fe80::1%eth0]"},
	} {
		for _, host := range same {
			if got, want := entry(host, ""), entry(same[0], ""); got != want {
				t.Errorf("%s: %+v, %s: %+v", host, got, same[0], want)
			}
		}
	}
	if entry("a", "") == entry("a", `proxy-jump = "j"`) || entry("a", `proxy-jump = "j"`) == entry("a", `proxy-jump = "k"`) {
		t.Error("the proxy does not count")
	}
	if entry("a", `proxy-jump = "U@J:22"`) != entry("a", `proxy-jump = "U@j."`) {
		t.Error("a jump host is not the same with and without its port")
	}
}

// Where ssh is there, lighter and ssh must mean the same host.
func TestResolveAsSSH(t *testing.T) {
	ssh := testkit.NeedCommand(t, "ssh")
	file := filepath.Join(t.TempDir(), "config")
	const config = "Host a\n HostName b\n Port 5\nMatch user x\n Port 6\nMatch originalhost c\n HostName d%h\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"a", "c", "e", "A"} {
		for _, user := range []string{"x", "y"} {
			out, err := exec.Command(ssh, "-G", "-F", file, "-l", user, host).Output()
			if err != nil {
				t.Fatal(err)
			}
			all := []Machine{{Name: "m", Host: host, User: user, Port: 22, SSHConfig: file}}
			Resolve(t.Context(), all, SSH{Program: ssh})
			addr := all[0].Addr()
			var want [2]string
			for line := range strings.Lines(string(out)) {
				for i, key := range []string{"hostname ", "port "} {
					if value, ok := strings.CutPrefix(line, key); ok {
						want[i] = strings.TrimSpace(value)
					}
				}
			}
			if addr != want[0]+":"+want[1] {
				t.Errorf("%s@%s: got %s, want %v", user, host, addr, want)
			}
		}
	}
}
