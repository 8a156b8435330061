package sshtransport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// HopError says what is wrong with a host on the way to a machine, not with the machine.
type HopError struct {
	Addr, User string
	Cause      error
}

func (e *HopError) Error() string { return fmt.Sprintf("jump host %s@%s: %v", e.User, e.Addr, e.Cause) }

// Unwrap returns the cause.
func (e *HopError) Unwrap() error { return e.Cause }

// CommandProxyError says how a proxy command ended that should have gone on.
type CommandProxyError struct {
	Command string
	Cause   error  // nil if it ended with status 0
	Stderr  string // its last lines, printable
}

func (e *CommandProxyError) Error() string {
	text := "proxy command " + truncate(printable(e.Command), 300) + " ended"
	if e.Cause != nil {
		text = fmt.Sprintf("%s: %v", text, e.Cause)
	}
	if e.Stderr != "" {
		text += ": " + e.Stderr
	}
	return text
}

// Unwrap returns the cause.
func (e *CommandProxyError) Unwrap() error { return e.Cause }

// dialer returns how the server of a Config, which has its defaults, is connected to.
func (c *Config) dialer() func(ctx context.Context) (net.Conn, error) {
	addr, via, command, problem := c.Addr, c.Via, c.ProxyCommand, c.Problem
	switch {
	case problem != "":
		return func(context.Context) (net.Conn, error) {
			return nil, &KeyError{What: "SSH's configuration", Reason: problem}
		}
	case via != nil:
		return func(ctx context.Context) (net.Conn, error) { return dialVia(ctx, via, addr) }
	case command != "":
		return func(context.Context) (net.Conn, error) { return startProxy(command) }
	}
	return func(ctx context.Context) (net.Conn, error) { return systemNames.dial(ctx, addr) }
}

// hopsTimeout bounds how long the hosts on the way may take.
func (c *Config) hopsTimeout() time.Duration {
	if c.Via == nil {
		return 0
	}
	return c.Via.ConnectTimeout + c.Via.HandshakeTimeout + c.Via.hopsTimeout()
}

// atOnce is how many connections to one jump host are made at the same time: sshd drops those
// that are not logged in yet where there are many (MaxStartups).
const atOnce = 4

// jumpGates has a token for each connection to a jump host that is being made, by its address.
var jumpGates sync.Map // of chan struct{}

// dialVia connects to an address from a jump host, whose connection ends with this one.
func dialVia(ctx context.Context, via *Config, addr string) (net.Conn, error) {
	hop := func(err error) error {
		if ctx.Err() != nil || errors.As(err, new(*HopError)) {
			return err
		}
		return &HopError{via.Addr, via.User, err}
	}
	gate, _ := jumpGates.LoadOrStore(via.Addr, make(chan struct{}, atOnce))
	select {
	case gate.(chan struct{}) <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	l, err := connect(ctx, via)
	<-gate.(chan struct{})
	if err != nil {
		return nil, hop(err)
	}
	conn, err := l.client.DialContext(ctx, "tcp", addr)
	if err != nil {
		l.close(ErrClosed)
		var refused *ssh.OpenChannelError
		switch {
		case !errors.As(err, &refused):
		case refused.Reason == ssh.Prohibited:
			err = fmt.Errorf("it forbids connections to %s (AllowTcpForwarding, PermitOpen in its sshd_config)", addr)
		default:
			err = fmt.Errorf("connect to %s from there: %w", addr, harmless(errors.New(refused.Message)))
		}
		return nil, hop(err)
	}
	return &jumpConn{Conn: conn, link: l}, nil
}

// jumpConn is a connection through a jump host.
type jumpConn struct {
	net.Conn
	link *link
}

func (c *jumpConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		if lost := c.link.lostError(); lost != nil {
			err = &HopError{c.link.cfg.Addr, c.link.cfg.User, lost}
		}
	}
	return n, err
}

func (c *jumpConn) Close() error {
	err := c.Conn.Close()
	c.link.close(ErrClosed)
	return err
}

// proxyConn is a connection through a proxy command.
type proxyConn struct {
	net.Conn
	command string
	cmd     *exec.Cmd
	stderr  tail
	ended   chan struct{} // closed when the command has ended; err is set then
	err     error
}

// proxyGrace is how long a proxy command gets to end by itself.
const proxyGrace = time.Second

// startProxy starts a command whose standard input and output are a connection.
func startProxy(command string) (net.Conn, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("proxy command: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "proxy"), os.NewFile(uintptr(pair[1]), "proxy")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("proxy command: %w", err)
	}
	c := &proxyConn{Conn: conn, command: command, ended: make(chan struct{})}
	c.cmd = exec.Command("/bin/sh", "-c", "exec "+command) //nolint:noctx // Close ends it
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = theirs, theirs, &c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.WaitDelay = proxyGrace
	if err := c.cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("proxy command %s: %w", command, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// Read and Write say how the command ended where the connection does.
func (c *proxyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.explain(err)
}

func (c *proxyConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.explain(err)
}

func (c *proxyConn) explain(err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) {
		return err
	}
	select {
	case <-c.ended:
		return &CommandProxyError{c.command, c.err, c.stderr.String()}
	case <-time.After(proxyGrace):
		return err
	}
}

// Close ends the command, with all that it has started in its process group.
func (c *proxyConn) Close() error {
	err := c.Conn.Close()
	select {
	case <-c.ended: // its process id may be another one's by now
		return err
	default:
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGHUP)
	select {
	case <-c.ended:
	case <-time.After(proxyGrace):
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		<-c.ended
	}
	return err
}
