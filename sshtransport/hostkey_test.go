package sshtransport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"lighter/sshtransport/sshtest"
)

// certificate returns a host's key, signed by an authority, for a name.
func certificate(t *testing.T, authority, key ssh.Signer, name string) ssh.Signer {
	t.Helper()
	cert := &ssh.Certificate{CertType: ssh.HostCert, Key: key.PublicKey(), ValidPrincipals: []string{name}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func TestKnownHosts(t *testing.T) {
	signer := func(key any, err error) ssh.Signer {
		if err != nil {
			t.Fatal(err)
		}
		s, err := ssh.NewSignerFromKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ed, other, authority := sshtest.NewKey(t), sshtest.NewKey(t), sshtest.NewKey(t)
	ec := signer(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	rs := signer(rsa.GenerateKey(rand.Reader, 2048))
	certified := certificate(t, authority, ed, "m")
	line := func(names string, key ssh.Signer) string { return names + " " + FormatHostKey(key.PublicKey()) + "\n" }
	rsaAlgorithms := []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	for _, test := range []struct {
		name, file, addr string
		shown            ssh.Signer
		want             string // of the error, with FILE for the file; empty: it is right
		algorithms       []string
	}{
		{"plain", line("m", ed), "m:22", ed, "", []string{ssh.KeyAlgoED25519}},
		{"unknown", line("n", ed), "m:22", ed, "is not known: if ssh-ed25519", nil},
		{"other key", "# comment\n" + line("m", ed), "m:22", other, "(FILE:2); found ssh-ed25519", []string{ssh.KeyAlgoED25519}},
		{"hashed", line(xknownhosts.HashHostname("m"), ed), "m:22", ed, "", []string{ssh.KeyAlgoED25519}},
		{"hashed, other key", line(xknownhosts.HashHostname("m"), ed), "m:22", other, "(FILE:1); found ", []string{ssh.KeyAlgoED25519}},
		{"port", line("[m]:2222", ed), "m:2222", ed, "", []string{ssh.KeyAlgoED25519}},
		{"hashed port", line(xknownhosts.HashHostname("[m]:2222"), ed), "m:2222", ed, "", []string{ssh.KeyAlgoED25519}},
		{"not at that port", line("m", ed), "m:2222", ed, "is not known", nil},
		{"not at that port, with a wildcard", line("m", ed) + line("*.example", other), "m:2222", ed, "is not known", nil},
		{"not at that port, where a wildcard counts", line("m", ed) + line("*", other), "m:2222", ed, "(FILE:2); found ssh-ed25519", []string{ssh.KeyAlgoED25519}},
		{"wildcard", line("*.example", ed), "m.example:22", ed, "", []string{ssh.KeyAlgoED25519}},
		{"wildcard at any port", line("*.example", ed), "m.example:2222", ed, "", []string{ssh.KeyAlgoED25519}},
		{"wildcard at any port, other key", line("*.example", ed), "m.example:2222", other, "(FILE:1); found ", []string{ssh.KeyAlgoED25519}},
		{"not that one", line("*.example,!m.example", ed), "m.example:22", ed, "is not known", nil},
		{"IPv6", line("[::1]:2222", ed), "[::1]:2222", ed, "", []string{ssh.KeyAlgoED25519}},
		{
			"as the lines have them", line("m", rs) + line("n", other) + line("m", ec) + line("m", ed), "m:22", ed, "",
			append(slices.Clone(rsaAlgorithms), ssh.KeyAlgoECDSA256, ssh.KeyAlgoED25519),
		},
		{"authority", line("@cert-authority m", authority), "m:22", certified, "", []string{ssh.CertAlgoED25519v01}},
		{"authority at any port", line("@cert-authority *", authority), "m:2222", certified, "", []string{ssh.CertAlgoED25519v01}},
		{"authority not at that port", line("@cert-authority m", authority) + line("*.example", other), "m:2222", certified, "is not known", nil},
		{
			"RSA authority and a key", line("@cert-authority m", rs) + line("m", ed), "m:22", ed, "",
			[]string{ssh.KeyAlgoED25519, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01},
		},
		{"not for that name", line("@cert-authority n", authority), "n:22", certified, "principal", []string{ssh.CertAlgoED25519v01}},
		{"other authority", line("@cert-authority m", other), "m:22", certified, "no authorities for hostname", []string{ssh.CertAlgoED25519v01}},
		{"revoked", line("m", ed) + line("@revoked *", ed), "m:22", ed, "it is revoked (FILE:2)", []string{ssh.KeyAlgoED25519}},
		{"revoked at any port", line("*", ed) + line("@revoked *", ed), "m:2222", ed, "it is revoked (FILE:2)", []string{ssh.KeyAlgoED25519}},
		{"revoked authority", line("@cert-authority m", authority) + line("@revoked *", authority), "m:22", certified, "revoked", []string{ssh.CertAlgoED25519v01}},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "known_hosts")
			if err := os.WriteFile(file, []byte(test.file), 0o600); err != nil {
				t.Fatal(err)
			}
			h, err := newHostKeys(&Config{Machine: "m", Addr: test.addr, KnownHosts: []string{file, file + ".absent"}})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(h.algorithms, test.algorithms) {
				t.Errorf("got algorithms %q, want %q", h.algorithms, test.algorithms)
			}
			err = h.check("", nil, test.shown.PublicKey())
			if want := strings.ReplaceAll(test.want, "FILE", file); (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !Permanent(err)) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

func TestKnownHostsRefused(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"rubbish":             {"\n\x00\n", ":2: "},
		"no key":              {"m ssh-ed25519\n", ":1: "},
		"unknown mark":        {"@trusted m ssh-ed25519 AAAA\n", ":1: "},
		"line without an end": {"# " + strings.Repeat("x", 1<<20), "token too long"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "known_hosts")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := newHostKeys(&Config{Machine: "m", Addr: "m:22", KnownHosts: []string{file}})
			if err == nil || !strings.HasPrefix(err.Error(), "known hosts: ") || !strings.Contains(err.Error(), test.want) || !Permanent(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	_, err := newHostKeys(&Config{Machine: "m", Addr: "m:22", KnownHosts: []string{}})
	if err == nil || !strings.Contains(err.Error(), "no known_hosts file to look into") || !Permanent(err) {
		t.Errorf("got %v", err)
	}
}

// A machine with a certificate beside its key is asked for what the file can check.
func TestHostCertificate(t *testing.T) {
	authority := sshtest.NewKey(t)
	file := filepath.Join(t.TempDir(), "known_hosts")
	var text strings.Builder
	if err := knownhosts.WriteKnownHostCA(&text, "m", authority.PublicKey()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, certified := range map[string]bool{"certificate": true, "key alone": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answers := make(chan struct{})
				cfg := pipeConfig(t, func(c net.Conn, config *ssh.ServerConfig) {
					if certified {
						config.AddHostKey(certificate(t, authority, sshtest.NewKey(t), "m"))
					}
					acceptAll(answers)(c, config)
				})
				cfg.HostKey, cfg.KnownHosts = "", []string{file}
				c := New(cfg)
				_, err := c.DialAgent(t.Context())
				var wrong *HostKeyError
				if certified != (err == nil) || !certified && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), "("+file+":1, an authority); the machine has only keys of type ssh-ed25519")) {
					t.Errorf("got %v", err)
				}
				c.Close()
				close(answers)
			})
		})
	}
}
