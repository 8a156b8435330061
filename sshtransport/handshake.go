package sshtransport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// clientVersion is the client's identification (RFC 4253 section 4.2).
const clientVersion = "SSH-2.0-lighter"

// connect makes an SSH connection and logs in, within the time limits. The end of ctx
// closes the connection under it.
func connect(ctx context.Context, cfg *Config) (*link, error) {
	if cfg.OpenSSH != nil {
		return connectOpenSSH(ctx, cfg)
	}
	keys, err := newHostKeys(cfg)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := withTimeout(ctx, cfg.HandshakeTimeout, "the SSH handshake and login")
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	creds, err := loadCredentials(ctx, cfg)
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer creds.close()

	h := &handshake{cfg: cfg, keys: keys, creds: creds}
	l := newLink(cfg, conn)
	h.conn = l.conn
	sshConn, channels, requests, err := ssh.NewClientConn(l.conn, cfg.Addr, h.config())
	if err == nil && !stop() {
		// The time was over in the same moment.
		sshConn.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		if cause := context.Cause(ctx); cause != nil {
			return nil, &ConnectError{Addr: cfg.Addr, Answered: true, Cause: cause}
		}
		return nil, h.explain(err)
	}
	l.run(ssh.NewClient(sshConn, channels, requests))
	return l, nil
}

func dial(ctx context.Context, cfg *Config) (net.Conn, error) {
	limited, cancel := withTimeout(ctx, cfg.ConnectTimeout+cfg.hopsTimeout(), "it")
	defer cancel()
	conn, err := cfg.Dial(limited)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case limited.Err() != nil:
		err = context.Cause(limited)
	case errors.As(err, new(*HopError)), errors.As(err, new(*KeyError)), errors.As(err, new(*net.OpError)):
		return nil, err // "dial tcp 192.0.2.1:22: connection refused"
	}
	return nil, &ConnectError{Addr: cfg.Addr, Cause: err}
}

// handshake knows what has been tried when it fails.
type handshake struct {
	cfg        *Config
	keys       *hostKeys
	creds      *credentials
	conn       *conn
	keyChecked bool  // the host key was right
	keyErr     error // or why not
}

func (h *handshake) config() *ssh.ClientConfig {
	ciphers := h.cfg.Ciphers
	if ciphers == nil {
		ciphers = defaultCiphers()
	}
	return &ssh.ClientConfig{
		Config:            ssh.Config{Ciphers: ciphers, KeyExchanges: slices.Concat(keyExchanges, groups), MACs: macs},
		User:              h.cfg.User,
		Auth:              []ssh.AuthMethod{h.creds.method()},
		HostKeyCallback:   h.checkHostKey,
		HostKeyAlgorithms: h.keys.usable(),
		ClientVersion:     clientVersion,
	}
}

// checkHostKey is called again when keys are exchanged again, by the library's goroutine.
func (h *handshake) checkHostKey(name string, addr net.Addr, key ssh.PublicKey) error {
	err := h.keys.check(name, addr, key)
	h.keyErr = err
	h.keyChecked = err == nil
	return err
}

// explain says what a failed handshake means.
func (h *handshake) explain(err error) error {
	if h.keyErr != nil {
		return h.keyErr
	}
	var hop *HopError
	var proxy *CommandProxyError
	switch {
	case errors.As(err, &hop):
		return hop
	case errors.As(err, &proxy):
		return &ConnectError{Addr: h.cfg.Addr, Cause: proxy}
	}
	var negotiation *ssh.AlgorithmNegotiationError
	if errors.As(err, &negotiation) && negotiation.What == "host key" && len(h.keys.wanted) > 0 {
		return &HostKeyError{Addr: h.cfg.Addr, Wanted: h.keys.wanted, Types: algorithmKeyTypes(negotiation.RequestedAlgorithms), Unreadable: h.keys.unreadable}
	}
	if negotiation != nil {
		return describeNegotiation(h.cfg.Addr, negotiation)
	}
	if refused, cause := refusal(err); h.keyChecked && refused {
		e := &AuthError{User: h.cfg.User, Addr: h.cfg.Addr, Unusable: h.creds.unusable, Locked: h.creds.locked, Cause: cause}
		for _, o := range h.creds.signers {
			if o.offered {
				e.Keys = append(e.Keys, o.text)
			} else {
				e.NotOffered = append(e.NotOffered, o.text)
			}
		}
		return e
	}
	return &ConnectError{Addr: h.cfg.Addr, Answered: true, Cause: harmless(err), dropped: h.conn.over.Load() && !h.conn.greeted.Load()}
}

// refusal tells a refused login from a connection that broke, and returns what the server
// says besides. There are only texts to tell them apart: the first is what x/crypto/ssh says
// when it has tried all keys, for which it has no type; the second is what OpenSSH says
// when too many were offered.
func refusal(err error) (refused bool, cause error) {
	switch text := err.Error(); {
	case strings.Contains(text, "unable to authenticate"):
		return true, nil
	case strings.Contains(text, "Too many authentication failures"):
		return true, harmless(err)
	}
	return false, nil
}

// defaultCiphers prefers what the processor is fast at: with instructions for AES and
// carry-less multiplication, AES-GCM is about twice as fast as ChaCha20-Poly1305.
func defaultCiphers() []string {
	ciphers := []string{
		ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305,
		ssh.CipherAES128CTR, ssh.CipherAES256CTR,
	}
	if !fastAES() {
		ciphers[0], ciphers[1], ciphers[2] = ssh.CipherChaCha20Poly1305, ssh.CipherAES128GCM, ssh.CipherAES256GCM
	}
	return ciphers
}

func fastAES() bool {
	switch runtime.GOARCH {
	case "amd64", "386":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ
	case "arm64":
		return cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	case "s390x":
		return cpu.S390X.HasAESGCM
	}
	return runtime.GOARCH == "ppc64le"
}

// timeoutError says what took too long.
type timeoutError struct {
	what  string
	limit time.Duration
}

func (e *timeoutError) Error() string { return fmt.Sprintf("%s took longer than %v", e.what, e.limit) }

// Is makes it match context.DeadlineExceeded.
func (e *timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// Timeout makes it a timeout for package net.
func (e *timeoutError) Timeout() bool { return true }

// withTimeout is context.WithTimeout with a cause that says what took too long.
func withTimeout(ctx context.Context, limit time.Duration, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, &timeoutError{what, limit})
}
