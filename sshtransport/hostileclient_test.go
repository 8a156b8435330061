package sshtransport_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"lighter/internal/testkit"
	"lighter/sshtransport"
)

// silent opens connections that say nothing, or what hello is.
func silent(t *testing.T, addr, hello string, n int) {
	t.Helper()
	for range n {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		io.WriteString(conn, hello)
	}
}

// TestServerGuests has many connections that say nothing, or not enough, stand before a
// coordinator, while more of them come.
func TestServerGuests(t *testing.T) {
	for name, hello := range map[string]string{
		"silent":       "",
		"half a line":  "SSH-2.0-x",
		"a version":    "SSH-2.0-x\r\n",
		"big packet":   "SSH-2.0-x\r\n\xff\xff\xff\xff" + strings.Repeat("x", 100),
		"not SSH":      "GET / HTTP/1.1\r\n\r\n",
		"long version": strings.Repeat("x", 1<<16),
	} {
		for _, n := range []int{70, 1000} {
			if n == 1000 && hello != "" {
				continue // all the same
			}
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				testkit.CheckLeaks(t)
				cfg, _ := startServer(t)
				silent(t, cfg.Addr, hello, n)
				ctx, cancel := context.WithCancel(t.Context())
				var more sync.WaitGroup
				more.Go(func() {
					tick := time.NewTicker(100 * time.Millisecond) // five times what is asked for
					defer tick.Stop()
					for {
						select {
						case <-ctx.Done():
							return
						case <-tick.C:
							silent(t, cfg.Addr, hello, 1)
						}
					}
				})
				for range 3 {
					c := newClient(t, cfg)
					mustGet(t, httpClient(t, c), "/pid")
				}
				// Who is logged in stays, however many come.
				c := newClient(t, cfg)
				h := httpClient(t, c)
				before := mustGet(t, h, "/pid")
				silent(t, cfg.Addr, hello, 200)
				if after := mustGet(t, h, "/pid"); after != before {
					t.Errorf("%q after %q", after, before)
				}
				if got := c.Status(); got.Mode == "" {
					t.Errorf("status %+v", got)
				}
				cancel()
				more.Wait()
			})
		}
	}
}

// TestServerFloods sends much of everything that a client that is logged in can send.
func TestServerFloods(t *testing.T) {
	testkit.CheckLeaks(t)
	cfg, _ := startServer(t)
	client := rawClient(t, cfg)
	for range 5000 {
		if _, _, err := client.SendRequest("flood@example.org", false, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	opened := 0
	for range 3000 {
		ch, requests, err := client.OpenChannel("session", nil)
		var refused *ssh.OpenChannelError
		if errors.As(err, &refused) && refused.Reason == ssh.ResourceShortage {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		opened++
		go ssh.DiscardRequests(requests)
		defer ch.Close()
	}
	if opened == 0 || opened > 64 {
		t.Errorf("%d channels are open", opened)
	}
	for _, kind := range []string{"direct-tcpip", "x11", "auth-agent@openssh.com", "forwarded-tcpip", "tun@openssh.com", strings.Repeat("x", 10000)} {
		if _, _, err := client.OpenChannel(kind, []byte("rubbish")); err == nil {
			t.Errorf("a channel of type %.20q is open", kind)
		}
	}
	client.Close()
	mustGet(t, httpClient(t, newClient(t, cfg)), "/pid")
}

// TestServerLogins shows how many connections one key may have.
func TestServerLogins(t *testing.T) {
	testkit.CheckLeaks(t)
	cfg, _ := startServer(t)
	alive := 0
	for range 20 {
		client := rawClient(t, cfg)
		if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
			alive++
		}
	}
	if alive == 0 || alive > 16 {
		t.Errorf("%d connections with one key", alive)
	}
}

// TestServerAlgorithms asks for what is old, one at a time.
func TestServerAlgorithms(t *testing.T) {
	testkit.CheckLeaks(t)
	cfg, _ := startServer(t)
	offered := serverKexInit(t, cfg.Addr)
	for _, old := range []string{"sha1", "ssh-rsa", "ssh-dss", "cbc", "arcfour", "-96", "md5", "group14", "group1-", "group-exchange", "3des"} {
		if strings.Contains(offered, old) {
			t.Errorf("the server offers %s: %q", old, offered)
		}
	}
	for _, needed := range []string{"curve25519-sha256", "kex-strict-s-v00@openssh.com", "ssh-ed25519", "hmac-sha2-256"} {
		if !strings.Contains(offered, needed) {
			t.Errorf("the server does not offer %s: %q", needed, offered)
		}
	}
}

// serverKexInit returns the lists of the first packet that a server sends (RFC 4253
// section 7.1).
func serverKexInit(t *testing.T, addr string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "SSH-2.0-test\r\n")
	r := bufio.NewReader(conn)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	packet := make([]byte, 4)
	if _, err := io.ReadFull(r, packet); err != nil {
		t.Fatal(err)
	}
	packet = make([]byte, int(packet[2])<<8|int(packet[3]))
	if _, err := io.ReadFull(r, packet); err != nil {
		t.Fatal(err)
	}
	return string(packet)
}

// TestClientAlgorithms shows that a server which has only what is old is refused, with its
// offer in the error.
func TestClientAlgorithms(t *testing.T) {
	testkit.CheckLeaks(t)
	for name, config := range map[string]ssh.Config{
		"diffie-hellman-group14-sha1":        {KeyExchanges: []string{ssh.InsecureKeyExchangeDH14SHA1}},
		"diffie-hellman-group-exchange-sha1": {KeyExchanges: []string{ssh.InsecureKeyExchangeDHGEXSHA1}},
		"hmac-sha1":                          {MACs: []string{ssh.HMACSHA1}, Ciphers: []string{ssh.CipherAES128CTR}},
		"hmac-sha1-96":                       {MACs: []string{ssh.InsecureHMACSHA196}, Ciphers: []string{ssh.CipherAES128CTR}},
		"aes128-cbc":                         {Ciphers: []string{ssh.InsecureCipherAES128CBC}},
	} {
		cfg := serverWith(t, &ssh.ServerConfig{Config: config, NoClientAuth: true})
		_, err := newClient(t, cfg).DialAgent(t.Context())
		if err == nil || !strings.Contains(err.Error(), "of what the server offers") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A name that a terminal would obey, and very many.
	wild := &ssh.ServerConfig{NoClientAuth: true}
	wild.ServerVersion = "SSH-2.0-\x1b[2Jwild"
	cfg := serverWith(t, wild)
	if _, err := newClient(t, cfg).DialAgent(t.Context()); err == nil || strings.ContainsRune(err.Error(), '\x1b') {
		t.Errorf("%q", err)
	}
}

// serverWith answers handshakes with a configuration.
func serverWith(t *testing.T, config *ssh.ServerConfig) sshtransport.Config {
	t.Helper()
	cfg, stop := startServer(t)
	stop()
	signer := hostSigner(t)
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				server, channels, requests, err := ssh.NewServerConn(conn, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(requests)
				go func() {
					for ch := range channels {
						ch.Reject(ssh.Prohibited, "\x1b[31mno\x07")
					}
				}()
				server.Wait()
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	cfg.Addr, cfg.HostKey = listener.Addr().String(), sshtransport.FormatHostKey(signer.PublicKey())
	return cfg
}

func hostSigner(t *testing.T) ssh.Signer {
	t.Helper()
	signer, err := sshtransport.LoadOrCreateHostKey(t.TempDir() + "/key")
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// TestServerRekeys exchanges keys again and again.
func TestServerRekeys(t *testing.T) {
	testkit.CheckLeaks(t)
	cfg, _ := startServer(t)
	key, err := sshtransport.LoadPrivateKey(cfg.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", cfg.Addr, &ssh.ClientConfig{
		Config: ssh.Config{Rand: rand.Reader, RekeyThreshold: 256}, User: "u",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range 10000 {
		if _, _, err = client.SendRequest("keepalive@openssh.com", true, make([]byte, 300)); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("10000 exchanges of keys are made")
	}
	mustGet(t, httpClient(t, newClient(t, cfg)), "/pid")
}
