package sshtransport_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"lighter/internal/testkit"
	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
)

// knownHostsOf writes a known_hosts file for servers.
func knownHostsOf(t *testing.T, servers ...*sshtest.OpenSSH) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "known_hosts")
	var text strings.Builder
	for _, s := range servers {
		host, port, err := net.SplitHostPort(s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "[%s]:%s %s\n", host, port, s.HostKey)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A machine is reached through two real sshds, each of which is who it should be.
func TestJumpHosts(t *testing.T) {
	testkit.CheckLeaks(t)
	outer, inner, s, f := sshtest.StartOpenSSH(t), sshtest.StartOpenSSH(t), sshtest.StartOpenSSH(t), newFarm(t)
	cfg := opensshConfig(t, s, f, false)
	cfg.Via = &sshtransport.Config{
		Addr: inner.Addr, User: inner.User, Identities: []string{inner.KeyFile}, KnownHosts: []string{knownHostsOf(t, inner)},
		Via: &sshtransport.Config{Addr: outer.Addr, User: outer.User, Identities: []string{outer.KeyFile}, KnownHosts: []string{knownHostsOf(t, outer)}},
	}
	c := newClient(t, cfg)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	if got, err := post(t, httpClient(t, c), "/echo", big); err != nil || got != big {
		t.Fatalf("echo of %d bytes = %d bytes, %v", len(big), len(got), err)
	}
	conn, err := c.DialAgent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	outer.Kill() // the connection ends with any of its hosts, and says which
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, new(*sshtransport.HopError)) && !errors.Is(err, sshtransport.ErrLinkLost) {
		t.Errorf("got %v", err)
	}
	conn.Close()
	mustGet(t, httpClient(t, c), "/pid")
	c.Close()

	for name, test := range map[string]struct {
		spoil func(cfg *sshtransport.Config)
		want  string
	}{
		"another host key": {func(c *sshtransport.Config) { c.Via.Via.KnownHosts = []string{knownHostsOf(t, inner)} }, "jump host " + outer.User + "@" + outer.Addr + ": host key of " + outer.Addr + " is not known"},
		"login refused":    {func(c *sshtransport.Config) { c.Via.Identities = []string{outer.KeyFile} }, "jump host " + inner.User + "@" + inner.Addr + ": login as"},
		"nobody there":     {func(c *sshtransport.Config) { c.Addr = "127.0.0.1:1" }, "jump host " + inner.User + "@" + inner.Addr + ": connect to 127.0.0.1:1 from there: "},
	} {
		t.Run(name, func(t *testing.T) {
			bad := cfg
			via, further := *cfg.Via, *cfg.Via.Via
			bad.Via, via.Via = &via, &further
			test.spoil(&bad)
			_, err := newClient(t, bad).DialAgent(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	inner.SetConfig(t, "AllowTcpForwarding no")
	if _, err := newClient(t, cfg).DialAgent(t.Context()); err == nil || !strings.Contains(err.Error(), "it forbids connections to "+s.Addr+" (AllowTcpForwarding") {
		t.Errorf("got %v", err)
	}
}

func TestProxyCommand(t *testing.T) {
	testkit.CheckLeaks(t)
	s, f := sshtest.StartOpenSSH(t), newFarm(t)
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	pids := filepath.Join(t.TempDir(), "pids")
	relay := fmt.Sprintf(`sh -c 'echo $$ >> %s; exec %s -W %s:%s -o BatchMode=yes -o UserKnownHostsFile=%s -i %s -p %s %s@%s'`,
		pids, testkit.NeedCommand(t, "ssh"), host, port, knownHostsOf(t, s), s.KeyFile, port, s.User, host)
	cfg := opensshConfig(t, s, f, false)
	cfg.ProxyCommand = relay
	c := newClient(t, cfg)
	mustGet(t, httpClient(t, c), "/pid")
	c.Close()
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(text))); err == nil {
		t.Errorf("the command %s is still there", text)
	}

	for command, want := range map[string]string{
		"sh -c 'echo no way >&2; exit 3'": "proxy command sh -c 'echo no way >&2; exit 3' ended: exit status 3: no way",
		"/nonexistent/proxy":              "/nonexistent/proxy",
		"true":                            "proxy command true ended",
	} {
		cfg.ProxyCommand = command
		_, err := newClient(t, cfg).DialAgent(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", command, err, want)
		}
	}
	// A command that ignores all but SIGKILL is ended too.
	cfg.HandshakeTimeout = 300 * time.Millisecond
	cfg.ProxyCommand = "sh -c 'trap \"\" HUP TERM; echo junk; while :; do sleep 1; done'"
	if _, err := newClient(t, cfg).DialAgent(t.Context()); err == nil {
		t.Error("junk is no SSH server")
	}
}

// What ssh logs in with, lighter logs in with: certificates beside keys and in ssh-agent.
func TestUserCertificates(t *testing.T) {
	testkit.CheckLeaks(t)
	authority := sshtest.NewKey(t)
	s, f := sshtest.StartOpenSSH(t), newFarm(t)
	trusted := filepath.Join(s.Dir, "user_ca.pub")
	if err := os.WriteFile(trusted, ssh.MarshalAuthorizedKey(authority.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	s.SetConfig(t, "AuthorizedKeysFile none", "TrustedUserCAKeys "+trusted)
	key, err := sshtransport.LoadPrivateKey(s.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	certify := func(until uint64, principals ...string) []byte {
		return ssh.MarshalAuthorizedKey(userCertificate(t, authority, key, until, principals...))
	}
	beside := s.KeyFile + "-cert.pub"
	for _, test := range []struct {
		name, want string
		cert       []byte
	}{
		{"none", "login as", nil},
		{"good", "", certify(ssh.CertTimeInfinity, s.User)},
		{"expired", "which has expired, for " + s.User + " (" + beside + ")", certify(1, s.User)},
		{"for somebody else", ", for nobody (" + beside + ")", certify(ssh.CertTimeInfinity, "nobody")},
		{"for another key", "it is for another key", ssh.MarshalAuthorizedKey(userCertificate(t, authority, sshtest.NewKey(t), ssh.CertTimeInfinity, s.User))},
		{"rubbish", "certificate " + beside + ": ssh: no key found", []byte("x")},
	} {
		t.Run(test.name, func(t *testing.T) {
			os.Remove(beside)
			if test.cert != nil {
				if err := os.WriteFile(beside, test.cert, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c := newClient(t, opensshConfig(t, s, f, false))
			_, err := c.DialAgent(t.Context())
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			c.Close()
		})
	}
	os.Remove(beside)
	t.Run("CertificateFile", func(t *testing.T) {
		cfg := opensshConfig(t, s, f, false)
		cfg.Certificates = []string{filepath.Join(t.TempDir(), "c")}
		if err := os.WriteFile(cfg.Certificates[0], certify(ssh.CertTimeInfinity, s.User), 0o600); err != nil {
			t.Fatal(err)
		}
		c := newClient(t, cfg)
		mustGet(t, httpClient(t, c), "/pid")
		c.Close()
	})
	t.Run("in ssh-agent", func(t *testing.T) {
		startSSHAgentCertified(t, f, s.KeyFile, userCertificate(t, authority, key, ssh.CertTimeInfinity, s.User))
		c := newClient(t, opensshConfig(t, s, f, false))
		mustGet(t, httpClient(t, c), "/pid")
		c.Close()
	})
}
