package sshtransport_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"lighter/internal/testkit"
	"lighter/sshtransport/sshtest"
)

func rawKey(t *testing.T) crypto.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// lockedKey returns a key, and its file, which has a passphrase. To make that takes long.
var lockedKey = sync.OnceValues(func() (crypto.PrivateKey, []byte) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("secret"))
	if err != nil {
		panic(err)
	}
	return key, pem.EncodeToMemory(block)
})

// Keys come from ssh-agent, also the one for a file that has a passphrase.
func TestSSHAgent(t *testing.T) {
	testkit.CheckLeaks(t)
	f := newFarm(t)
	private, locked := lockedKey()
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	_, cfg := startTestServer(t, f, sshtest.Options{
		Authorized: []ssh.PublicKey{signer.PublicKey()}, Env: []string{"PATH=" + f.dir + ":/usr/bin:/bin"},
	})
	preinstalled(t, f, &cfg)
	file := filepath.Join(t.TempDir(), "locked")
	if err := os.WriteFile(file, locked, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", t.TempDir())
	for name, key := range map[string]string{"any key": "", "locked file": file} {
		t.Run(name, func(t *testing.T) {
			cfg.PrivateKey = key
			if _, err := newClient(t, cfg).DialAgent(t.Context()); err == nil {
				t.Fatal("without ssh-agent: no error")
			}
			startSSHAgent(t, f, private)
			mustGet(t, httpClient(t, newClient(t, cfg)), "/pid")
		})
	}
}

// What is said of keys that only an ssh-agent could use.
func TestLockedKeys(t *testing.T) {
	f := newFarm(t)
	_, cfg := startTestServer(t, f, sshtest.Options{Env: []string{"PATH=" + f.dir + ":/usr/bin:/bin"}})
	_, locked := lockedKey()
	dir := t.TempDir()
	token, err := os.ReadFile("testdata/id_ed25519_sk")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"locked": locked, "token": token} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", dir)
	t.Setenv("SSH_AUTH_SOCK", "")
	words := map[string]string{
		"locked": "it has a passphrase, so that only ssh-agent can use it",
		"token":  "it is of type sk-ssh-ed25519@openssh.com, in a hardware token, so that only ssh-agent can use it",
	}
	check := func(end string) {
		t.Helper()
		for name, reason := range words {
			cfg.PrivateKey = filepath.Join(dir, name)
			_, err := newClient(t, cfg).DialAgent(t.Context())
			if want := cfg.PrivateKey + ": " + reason + "; " + end; err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(want, "KEY", cfg.PrivateKey)) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
	}
	check("there is no ssh-agent to ask: SSH_AUTH_SOCK was not set where this process was started")
	startSSHAgent(t, f, rawKey(t))
	check("the ssh-agent at " + os.Getenv("SSH_AUTH_SOCK") + " does not have it: ssh-add KEY")
	cfg.IdentityAgent = "none"
	check("its configuration forbids ssh-agent (IdentityAgent)")
}

func startSSHAgent(t *testing.T, f *farm, key crypto.PrivateKey) {
	t.Helper()
	serveSSHAgent(t, f, sshagent.AddedKey{PrivateKey: rawKey(t)}, sshagent.AddedKey{PrivateKey: key})
}

// startSSHAgentCertified starts an ssh-agent that has a certificate for the key in a file.
func startSSHAgentCertified(t *testing.T, f *farm, file string, cert *ssh.Certificate) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	serveSSHAgent(t, f, sshagent.AddedKey{PrivateKey: key, Certificate: cert})
}

func userCertificate(t *testing.T, authority, key ssh.Signer, until uint64, principals ...string) *ssh.Certificate {
	t.Helper()
	cert := &ssh.Certificate{CertType: ssh.UserCert, Key: key.PublicKey(), ValidPrincipals: principals, ValidBefore: until}
	cert.Permissions.Extensions = map[string]string{"permit-port-forwarding": "", "permit-pty": ""}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return cert
}

func serveSSHAgent(t *testing.T, f *farm, keys ...sshagent.AddedKey) {
	t.Helper()
	ring := sshagent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(k); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(f.dir, "ssh-agent")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			sshagent.ServeAgent(ring, c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	t.Setenv("SSH_AUTH_SOCK", socket)
}
