package sshtest

import (
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Options say how a Server behaves. The zero value is a well-behaved server that
// nobody can log in to.
type Options struct {
	HostKey    ssh.Signer      // made if nil
	Authorized []ssh.PublicKey // who may log in
	Home       string          // where commands and SFTP start; the test's own folder if empty

	Version           string   // identification; empty: the library's
	Env               []string // more variables for commands, as NAME=VALUE
	Noise             string   // printed before the output of each command
	Forced            string   // run instead of each command, like ForceCommand
	ForbidStreamLocal bool
	ForbidCommands    bool
	MaxSessions       int // a connection; 0: any number
	// SFTP serves the subsystem; nil: the real files from Home on.
	SFTP func(io.ReadWriteCloser)
}

// Server is an SSH server on real files, commands and sockets.
type Server struct {
	Addr string // HOST:PORT

	listener net.Listener
	wg       sync.WaitGroup
	count    atomic.Int64

	mu     sync.Mutex
	opts   Options
	conns  map[*faultyConn]struct{}
	cutAt  int64
	stall  bool
	closed bool
}

// Start starts a server, which ends with the test.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	if opts.HostKey == nil {
		opts.HostKey = NewKey(t)
	}
	if opts.Home == "" {
		opts.Home = t.TempDir()
	}
	var config net.ListenConfig
	listener, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: listener.Addr().String(), listener: listener, opts: opts, conns: make(map[*faultyConn]struct{}), cutAt: -1}
	s.wg.Go(s.accept)
	t.Cleanup(s.Close)
	return s
}

// Close ends all connections and waits for what they started.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.listener.Close()
	s.CutAll()
	s.wg.Wait()
}

// HostKey returns the server's key as "TYPE BASE64".
func (s *Server) HostKey() string {
	return hostKeyLine(s.options().HostKey.PublicKey())
}

func hostKeyLine(key ssh.PublicKey) string {
	line := ssh.MarshalAuthorizedKey(key)
	return string(line[:len(line)-1])
}

// Set changes how new connections are treated.
func (s *Server) Set(change func(*Options)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.opts)
}

func (s *Server) options() Options {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opts
}

// Connections returns how many there have been.
func (s *Server) Connections() int { return int(s.count.Load()) }

// CutAll breaks all connections off.
func (s *Server) CutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// CutAt breaks each new connection off after that many bytes to the client; -1: never.
func (s *Server) CutAt(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutAt = bytes
}

// Stall makes connections, old and new ones, move nothing more, as if a cable had been
// pulled.
func (s *Server) Stall(stall bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stall = stall
	for c := range s.conns {
		c.setStall(stall)
	}
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		f := newFaultyConn(c, s.cutAt, s.stall)
		s.conns[f] = struct{}{}
		if s.closed {
			f.Close()
		}
		opts := s.opts
		s.mu.Unlock()
		s.count.Add(1)
		s.wg.Go(func() {
			serve(f, opts)
			f.Close()
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.conns, f)
		})
	}
}

// session is one connection.
type session struct {
	opts Options
	wg   sync.WaitGroup
	open atomic.Int64 // sessions
}

func serve(c net.Conn, opts Options) {
	config := &ssh.ServerConfig{
		ServerVersion: opts.Version,
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if slices.ContainsFunc(opts.Authorized, func(k ssh.PublicKey) bool { return string(k.Marshal()) == string(key.Marshal()) }) {
				return nil, nil
			}
			return nil, errors.New("not authorized")
		},
	}
	config.AddHostKey(opts.HostKey)
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	s := &session{opts: opts}
	s.wg.Go(func() { ssh.DiscardRequests(requests) })
	for ch := range channels {
		s.wg.Go(func() { s.channel(ch) })
	}
	conn.Close()
	s.wg.Wait()
}

func (s *session) channel(newChannel ssh.NewChannel) {
	switch newChannel.ChannelType() {
	case "direct-streamlocal@openssh.com":
		s.forward(newChannel)
	case "session":
		if n := s.open.Add(1); s.opts.MaxSessions > 0 && n > int64(s.opts.MaxSessions) {
			s.open.Add(-1)
			_ = newChannel.Reject(ssh.ConnectionFailed, "open failed")
			return
		}
		ch, requests, err := newChannel.Accept()
		if err != nil {
			return
		}
		s.session(ch, requests)
	default:
		_ = newChannel.Reject(ssh.UnknownChannelType, "unknown channel type")
	}
}

// forward answers like OpenSSH: the client cannot tell what is forbidden from a socket
// that nothing listens on.
func (s *session) forward(newChannel ssh.NewChannel) {
	var m struct {
		Path      string
		Reserved  string
		Reserved2 uint32
	}
	if s.opts.ForbidStreamLocal || ssh.Unmarshal(newChannel.ExtraData(), &m) != nil {
		_ = newChannel.Reject(ssh.ConnectionFailed, "open failed")
		return
	}
	var d net.Dialer
	socket, err := d.DialContext(context.Background(), "unix", m.Path)
	if err != nil {
		_ = newChannel.Reject(ssh.ConnectionFailed, "open failed")
		return
	}
	defer socket.Close()
	ch, requests, err := newChannel.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(socket, ch)
		_ = socket.(*net.UnixConn).CloseWrite()
	})
	go func() {
		ssh.DiscardRequests(requests)
		socket.Close() // the client closed the channel
	}()
	_, _ = io.Copy(ch, socket)
	_ = ch.CloseWrite()
	ch.Close()
	socket.Close()
	up.Wait()
}

func (s *session) session(ch ssh.Channel, requests <-chan *ssh.Request) {
	var running sync.WaitGroup
	closed := make(chan struct{})
	started := false
	end := func() {
		s.open.Add(-1)
		ch.Close()
	}
	for req := range requests {
		var m struct{ Text string }
		_ = ssh.Unmarshal(req.Payload, &m)
		var run func()
		switch {
		case started:
		case req.Type == "exec" && !s.opts.ForbidCommands:
			run = func() { s.command(ch, m.Text, closed) }
		case req.Type == "subsystem" && m.Text == "sftp" && s.opts.Forced == "":
			run = func() { s.sftp(ch) }
		}
		if req.WantReply {
			_ = req.Reply(run != nil, nil)
		}
		if run != nil {
			started = true
			running.Go(func() {
				run()
				end()
			})
		}
	}
	close(closed)
	running.Wait()
	if !started {
		end()
	}
}

// command runs a command in a process group that ends with the channel.
func (s *session) command(ch ssh.Channel, text string, closed <-chan struct{}) {
	if s.opts.Forced != "" {
		text = s.opts.Forced
	}
	_, _ = io.WriteString(ch, s.opts.Noise)
	cmd := exec.Command("/bin/sh", "-c", text)
	cmd.Dir = s.opts.Home
	cmd.Env = append(cmd.Environ(), "HOME="+s.opts.Home)
	cmd.Env = append(cmd.Env, s.opts.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return
	}
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	status := uint32(255)
	if cmd.Start() == nil {
		go func() {
			_, _ = io.Copy(stdin, ch)
			stdin.Close()
		}()
		done := make(chan struct{})
		go func() {
			select {
			case <-closed:
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // SIGHUP is ignored below nohup
			case <-done:
			}
		}()
		_ = cmd.Wait()
		close(done)
		status = uint32(max(cmd.ProcessState.ExitCode(), 0))
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
}

func (s *session) sftp(ch ssh.Channel) {
	if s.opts.SFTP != nil {
		s.opts.SFTP(ch)
		return
	}
	server, err := sftp.NewServer(ch, sftp.WithServerWorkingDirectory(s.opts.Home))
	if err != nil {
		return
	}
	_ = server.Serve()
}
