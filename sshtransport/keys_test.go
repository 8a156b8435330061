package sshtransport_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
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

func startSSHAgent(t *testing.T, f *farm, key crypto.PrivateKey) {
	t.Helper()
	ring := sshagent.NewKeyring()
	for _, k := range []crypto.PrivateKey{rawKey(t), key} {
		if err := ring.Add(sshagent.AddedKey{PrivateKey: k}); err != nil {
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
