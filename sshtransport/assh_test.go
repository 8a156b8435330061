package sshtransport_test

import (
	"crypto/rand"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"lighter/internal/testkit"
	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
)

// With the same known_hosts, lighter and ssh come to the same verdict.
func TestKnownHostsAsSSH(t *testing.T) {
	program := testkit.NeedCommand(t, "ssh")
	s, f := sshtest.StartOpenSSH(t), newFarm(t)
	authority, other := sshtest.NewKey(t), sshtest.NewKey(t)
	hostKey, err := sshtransport.LoadPrivateKey(filepath.Join(s.Dir, "host_key"))
	if err != nil {
		t.Fatal(err)
	}
	plain := func(key ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) }
	certify := func(principals ...string) {
		t.Helper()
		cert := &ssh.Certificate{CertType: ssh.HostCert, Key: hostKey.PublicKey(), ValidPrincipals: principals, ValidBefore: ssh.CertTimeInfinity}
		if err := cert.SignCert(rand.Reader, authority); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Dir, "host_key-cert.pub"), ssh.MarshalAuthorizedKey(cert), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certify("localhost", "alias", "*.example.org")
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	name := "[localhost]:" + port
	good, ca := " "+s.HostKey+"\n", " "+plain(authority.PublicKey())+"\n"
	for _, test := range []struct {
		name, text, alias string
		certified         bool
	}{
		{name: "good", text: name + good},
		{name: "nothing"},
		{name: "other key", text: name + " " + plain(other.PublicKey()) + "\n"},
		{name: "other key first", text: name + " " + plain(other.PublicKey()) + "\n" + name + good},
		{name: "upper case", text: "[LocalHost]:" + port + good},
		{name: "port 22", text: "localhost" + good},
		{name: "port 22, other key", text: "localhost " + plain(other.PublicKey()) + "\n"},
		{name: "another port", text: "[localhost]:1" + good},
		{name: "a list", text: "a.example.org," + name + ",192.0.2.1" + good},
		{name: "wildcard", text: "*" + good},
		{name: "wildcard with the port", text: "[local*]:" + port + good},
		{name: "wildcard without it", text: "local*" + good},
		{name: "negated", text: "*,!" + name + good},
		{name: "negated without the port", text: "*,!localhost" + good},
		{name: "tabs and blanks", text: "  " + name + "\t" + strings.ReplaceAll(s.HostKey, " ", "\t ") + "  comment of mine\n"},
		{name: "CRLF", text: name + " " + s.HostKey + "\r\n"},
		{name: "unreadable lines before it", text: "old.example.org 1024 35 1234567890\n=\nx ssh-rsa AAAA\ny ssh-xmss@openssh.com AAAA\n" + name + good},
		{name: "an unreadable line of its own before it", text: name + " ssh-rsa AAAA\n" + name + good},
		{name: "an unreadable line of its own alone", text: name + " ssh-ed25519 AAAA\n"},
		{name: "unknown marker", text: "@trusted " + name + good},
		{name: "revoked", text: name + good + "@revoked " + name + good},
		{name: "revoked everywhere", text: name + good + "@revoked *" + good},
		{name: "revoked elsewhere", text: name + good + "@revoked other.example.org" + good},
		{name: "alias", text: "alias" + good, alias: "Alias"},
		{name: "alias, known by its name alone", text: name + good, alias: "alias"},
		{name: "alias with the port", text: "[alias]:" + port + good, alias: "alias"},
		{name: "authority", text: "@cert-authority " + name + ca, certified: true},
		{name: "authority everywhere", text: "@cert-authority *" + ca, certified: true},
		{name: "authority at port 22", text: "@cert-authority localhost" + ca, certified: true},
		{name: "authority elsewhere", text: "@cert-authority *.org" + ca, certified: true},
		{name: "authority, without a certificate", text: "@cert-authority *" + ca},
		{name: "authority and the key", text: "@cert-authority *" + ca + name + good, certified: true},
		{name: "another authority and the key", text: "@cert-authority * " + plain(other.PublicKey()) + "\n" + name + good, certified: true},
		{name: "the authority as a key", text: name + ca, certified: true},
		{name: "authority, for the alias", text: "@cert-authority alias" + ca, alias: "alias", certified: true},
		{name: "authority, for a pattern", text: "@cert-authority *" + ca, alias: "a.example.org", certified: true},
		{name: "authority, for another name", text: "@cert-authority *" + ca, alias: "b.example.com", certified: true},
		{name: "revoked authority", text: "@cert-authority *" + ca + "@revoked *" + ca, certified: true},
		{name: "revoked key of a certificate", text: "@cert-authority *" + ca + "@revoked *" + good, certified: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var lines []string
			if test.certified {
				lines = []string{"HostCertificate " + filepath.Join(s.Dir, "host_key-cert.pub")}
			}
			s.SetConfig(t, lines...)
			file := filepath.Join(t.TempDir(), "known_hosts")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{
				"-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + file, "-o", "GlobalKnownHostsFile=/dev/null",
				"-o", "IdentitiesOnly=yes", "-i", s.KeyFile, "-p", port,
			}
			if test.alias != "" {
				args = append(args, "-o", "HostKeyAlias="+test.alias)
			}
			said, err := exec.CommandContext(t.Context(), program, append(args, s.User+"@localhost", "true")...).CombinedOutput()
			trusts := err == nil
			cfg := opensshConfig(t, s, f, false)
			cfg.Addr, cfg.HostKey, cfg.HostKeyAlias, cfg.KnownHosts = "localhost:"+port, "", test.alias, []string{file}
			c := newClient(t, cfg)
			_, err = c.DialAgent(t.Context())
			if trusts != (err == nil) {
				t.Errorf("lighter: %v\nssh: %s", err, said)
			}
			if err != nil && !errors.As(err, new(*sshtransport.HostKeyError)) && !errors.As(err, new(*sshtransport.UnknownHostError)) {
				t.Errorf("it is not about the host key: %v", err)
			}
			c.Close()
		})
	}
}
