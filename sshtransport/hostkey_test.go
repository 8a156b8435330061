package sshtransport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/ssh"

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
	anyButFirst := func(first string) []string {
		all := slices.Concat(certificates, signatures)
		return append([]string{first}, slices.DeleteFunc(all, func(a string) bool { return a == first })...)
	}
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
		{"hashed", line(hashed("m"), ed), "m:22", ed, "", []string{ssh.KeyAlgoED25519}},
		{"hashed, other key", line(hashed("m"), ed), "m:22", other, "(FILE:1); found ", []string{ssh.KeyAlgoED25519}},
		{"port", line("[m]:2222", ed), "m:2222", ed, "", []string{ssh.KeyAlgoED25519}},
		{"hashed port", line(hashed("[m]:2222"), ed), "m:2222", ed, "", []string{ssh.KeyAlgoED25519}},
		{"another port", line("m", ed), "m:2222", ed, "", anyButFirst(ssh.KeyAlgoED25519)},
		{"another port, other key", line("m", ed), "m:2222", other, "is not known", anyButFirst(ssh.KeyAlgoED25519)},
		{"upper case", line("M.Example", ed), "m.eXample:22", ed, "", []string{ssh.KeyAlgoED25519}},
		{"a dot at the end", line("m.example", ed), "m.example.:22", ed, "is not known", nil},
		{"question mark", line("m?", ed), "m1:22", ed, "", []string{ssh.KeyAlgoED25519}},
		{"negated first", line("!m1,m*", ed), "m1:22", ed, "is not known", nil},
		{"wildcard in brackets", line("[*.example]:2222", ed), "m.example:2222", ed, "", []string{ssh.KeyAlgoED25519}},
		{"IPv6 with a zone", line("fe80::1%eth0", ed), "[fe80::1%eth0]:22", ed, "", []string{ssh.KeyAlgoED25519}},
		{"not at that port, where a wildcard counts", line("m", ed) + line("*", other), "m:2222", ed, "(FILE:2); found ssh-ed25519", []string{ssh.KeyAlgoED25519}},
		{"wildcard", line("*.example", ed), "m.example:22", ed, "", []string{ssh.KeyAlgoED25519}},
		{"wildcard at any port", line("*.example", ed), "m.example:2222", ed, "", anyButFirst(ssh.KeyAlgoED25519)},
		{"wildcard at any port, other key", line("*.example", ed), "m.example:2222", other, "is not known", anyButFirst(ssh.KeyAlgoED25519)},
		{"not that one", line("*.example,!m.example", ed), "m.example:22", ed, "is not known", nil},
		{"IPv6", line("[::1]:2222", ed), "[::1]:2222", ed, "", []string{ssh.KeyAlgoED25519}},
		{
			"as the lines have them", line("m", rs) + line("n", other) + line("m", ec) + line("m", ed), "m:22", ed, "",
			append(slices.Clone(rsaAlgorithms), ssh.KeyAlgoECDSA256, ssh.KeyAlgoED25519),
		},
		{"authority", line("@cert-authority m", authority), "m:22", certified, "", certificates},
		{"authority at any port", line("@cert-authority *", authority), "m:2222", certified, "", certificates},
		{"authority at another port", line("@cert-authority m", authority), "m:2222", certified, "", anyButFirst(ssh.CertAlgoED25519v01)},
		{
			"RSA authority and a key", line("@cert-authority m", rs) + line("m", ed), "m:22", ed, "",
			append([]string{ssh.KeyAlgoED25519}, certificates...),
		},
		{"not for that name", line("@cert-authority n", authority), "n:22", certified, "its certificate does not count: principal", certificates},
		{"other authority", line("@cert-authority m", other), "m:22", certified, "which is no authority for this host", certificates},
		{"revoked", line("m", ed) + line("@revoked *", ed), "m:22", ed, "it is revoked (FILE:2)", []string{ssh.KeyAlgoED25519}},
		{"revoked for another host", line("m", ed) + line("@revoked n", ed), "m:22", ed, "", []string{ssh.KeyAlgoED25519}},
		{"of a certificate, the key alone", line("@cert-authority m", other) + line("m", ed), "m:22", certified, "", append([]string{ssh.KeyAlgoED25519}, certificates...)},
		{"a pattern in a certificate", line("@cert-authority m.example", authority), "m.example:22", certificate(t, authority, ed, "*.example"), "principal", certificates},
		{"revoked at any port", line("*", ed) + line("@revoked *", ed), "m:2222", ed, "it is revoked (FILE:2)", []string{ssh.KeyAlgoED25519}},
		{"revoked authority", line("@cert-authority m", authority) + line("@revoked *", authority), "m:22", certified, "revoked", certificates},
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

// A line that can't be read harms nobody but the host that it is about, which is told of it.
func TestKnownHostsUnreadable(t *testing.T) {
	ed, other := sshtest.NewKey(t), sshtest.NewKey(t)
	good := "m " + FormatHostKey(ed.PublicKey()) + "\n"
	for name, test := range map[string]struct {
		line, host string
		want       string // of what the host of the line is told
	}{
		"protocol 1":     {"old.example.org 1024 35 1234567890", "old.example.org", "FILE:1 can't be read"},
		"cut":            {"cut.example.org ssh-rsa AAAA", "cut.example.org", "FILE:1 can't be read"},
		"rubbish":        {"=", "=", "FILE:1 can't be read: it has no key"},
		"NUL":            {"\x00", "\x00", "FILE:1 can't be read"},
		"unknown type":   {"x ssh-xmss@openssh.com AAAAFHNzaC14bXNzQG9wZW5zc2guY29t", "x", "FILE:1 can't be read"},
		"no base64":      {"x ssh-ed25519 ???", "x", "FILE:1 can't be read"},
		"unknown marker": {"@trusted x " + FormatHostKey(other.PublicKey()), "x", "FILE:1 can't be read: the marker @trusted is not known"},
		"too long":       {"x ssh-ed25519 " + strings.Repeat("A", 1<<20), "x", "FILE:1 can't be read: it is longer than 65536 bytes"},
		"bad hash":       {"|1|??|?? " + FormatHostKey(other.PublicKey()), "x", ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "known_hosts")
			if err := os.WriteFile(file, []byte(test.line+"\n"+good), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, addr := range []string{"m:22", test.host + ":22"} {
				h, err := newHostKeys(&Config{Machine: "m", Addr: addr, KnownHosts: []string{file}})
				if err != nil {
					t.Fatal(err)
				}
				err = h.check("", nil, ed.PublicKey())
				if addr == "m:22" {
					if err != nil || len(h.unreadable) != 0 {
						t.Errorf("%s: got %v, %q", addr, err, h.unreadable)
					}
					continue
				}
				if want := strings.ReplaceAll(test.want, "FILE", file); err == nil || !strings.Contains(err.Error(), want) || !Permanent(err) {
					t.Errorf("%s: got %v, want %q", addr, err, want)
				}
			}
		})
	}
	t.Run("a folder", func(t *testing.T) {
		h, err := newHostKeys(&Config{Machine: "m", Addr: "m:22", KnownHosts: []string{t.TempDir()}})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.check("", nil, ed.PublicKey()); err == nil || !strings.Contains(err.Error(), "is a directory") {
			t.Errorf("got %v", err)
		}
	})
	_, err := newHostKeys(&Config{Machine: "m", Addr: "m:22", KnownHosts: []string{}})
	if err == nil || !strings.Contains(err.Error(), "no known_hosts file to look into") || !Permanent(err) {
		t.Errorf("got %v", err)
	}
}

// hashed is a name as ssh-keygen -H writes it.
func hashed(name string) string {
	salt := []byte("01234567890123456789")
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(name))
	return "|1|" + base64.StdEncoding.EncodeToString(salt) + "|" + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func FuzzKnownHosts(f *testing.F) {
	f.Add("m ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDpf8W+vFz0WoC9lSKC0zs+o113ylen4DT8zwRxW2VZC", "m")
	f.Add("@revoked *,!x* ssh-ed25519 AAAA", "[m]:22")
	f.Add("|1|AAAA|BBBB ssh-rsa AAAA", "m")
	f.Fuzz(func(t *testing.T, text, name string) {
		k := new(knownHosts)
		k.readLine([]byte(text), name, "f:1", false)
		if len(k.keys)+len(k.authorities)+len(k.revoked)+len(k.unreadable) > 1 {
			t.Errorf("one line became several: %+v", k)
		}
	})
}

// A machine with a certificate beside its key is asked for what the file can check.
func TestHostCertificate(t *testing.T) {
	authority := sshtest.NewKey(t)
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte("@cert-authority m "+FormatHostKey(authority.PublicKey())+"\n"), 0o600); err != nil {
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
