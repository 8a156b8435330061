package sshtransport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lighter/internal/backoff"

	"golang.org/x/crypto/ssh"
)

const (
	// serverVersionPrefix is how a Client recognises a Server: it need not start an
	// agent there, nor find out a mode.
	serverVersionPrefix = "SSH-2.0-lighter-agent"

	// ServerSocket is the name under which a Server offers its agent to channels of
	// type direct-streamlocal@openssh.com. It is not a file.
	ServerSocket = "/lighter-agent"
)

// Limits on what comes from outside.
const (
	defaultMaxConnections = 64
	maxAuthTries          = 6
	maxChannels           = 64 // a connection
	maxCommand            = 4 << 10
	loginTime             = 10 * time.Second
	shutdownTime          = 10 * time.Second
	// sessionTime is how long a session may take until it asks for a command.
	sessionTime = 20 * time.Second
	// aliveInterval is after how much silence a client is asked for a sign of life, and how
	// long it has to give one.
	aliveInterval = 30 * time.Second
)

// Server is an SSH server that offers streams to one agent, and nothing else: no
// commands, no terminal, no forwarding, no SFTP. Login is by public key alone, with
// any user name.
//
// A session that asks for a command, whichever, or for a shell, is a stream after the
// magic line "lighter-agent/1 connect"; a channel of type direct-streamlocal@openssh.com to
// ServerSocket is one at once.
type Server struct {
	HostKey ssh.Signer
	// AuthorizedKeys returns the keys that may log in. It is asked at each login.
	AuthorizedKeys func() ([]ssh.PublicKey, error)
	// Handle serves one stream to its end, for who has logged in with the key; then the
	// stream is closed. The context ends
	// when the server is to stop. Reading deadlines work; see SetWriteDeadline of the
	// connection for the others, which are refused.
	Handle func(context.Context, net.Conn, ssh.PublicKey)
	// MaxConnections bounds connections that are logged in; further ones are closed. Those
	// that are not have a budget of their own. Zero means 64.
	MaxConnections int
	// Logger may be nil.
	Logger *slog.Logger
}

// Serve accepts connections until ctx ends; then it gives streams a few seconds to
// end, closes what is left, and returns nil when all is over. It closes listener.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	run := s.newRun()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	err := run.accept(ctx, listener)
	if ctx.Err() != nil {
		err = nil
	}
	run.shutdown()
	return err
}

// serverRun is one call of Serve.
type serverRun struct {
	*Server
	logger *slog.Logger
	guests guests
	logins logins
	group  group // connections

	mu    sync.Mutex
	conns map[*serverConn]struct{}
}

func (s *Server) newRun() *serverRun {
	n := s.MaxConnections
	if n <= 0 {
		n = defaultMaxConnections
	}
	logger := s.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &serverRun{Server: s, logger: logger, logins: logins{most: n}, conns: make(map[*serverConn]struct{})}
}

func (r *serverRun) accept(ctx context.Context, listener net.Listener) error {
	for pause := time.Duration(0); ; {
		c, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return err
			}
			// Too many open files, say: that passes.
			pause = min(max(2*pause, 10*time.Millisecond), time.Second)
			r.logger.Warn("connection could not be accepted", "err", err)
			if backoff.Wait(ctx, pause) != nil {
				return err
			}
			continue
		}
		pause = 0
		x, dropped := r.guests.admit(c)
		if dropped != nil {
			r.logger.Debug("connection closed for a newer one: it did not log in", "from", dropped.conn.RemoteAddr())
		}
		r.group.Go(func() { r.serve(ctx, x) })
	}
}

// shutdown waits for connections to end, and closes them when that takes too long.
func (r *serverRun) shutdown() {
	timer := time.AfterFunc(shutdownTime, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for c := range r.conns {
			c.conn.Close()
		}
	})
	defer timer.Stop()
	r.group.wait()
}

// serve is one connection, from the handshake to the end.
func (r *serverRun) serve(ctx context.Context, g *guest) {
	c := g.conn
	logger := r.logger.With("from", c.RemoteAddr().String())
	nc := newConn(c, guestReadAhead)
	stopLogin := r.limitLogin(ctx, c)
	tried := false
	conn, channels, requests, err := ssh.NewServerConn(nc, r.config(logger, &tried))
	inTime := stopLogin()
	if kept := r.guests.leave(g); err == nil && (!inTime || !kept) {
		err = errors.New("login took too long")
	}
	if err != nil {
		c.Close()
		level := slog.LevelInfo
		if !tried {
			level = slog.LevelDebug // anyone can cause any number of them
		}
		logger.Log(ctx, level, "login refused", "err", truncate(printable(err.Error()), maxTail))
		return
	}
	key, err := ssh.ParsePublicKey([]byte(conn.Permissions.Extensions[keyExtension]))
	if err != nil { // it was written by PublicKeyCallback
		conn.Close()
		return
	}
	if name := string(key.Marshal()); r.logins.enter(name) {
		defer r.logins.leave(name)
	} else {
		conn.Close()
		logger.Warn("login refused: there are too many connections", "key", describeKey(key))
		return
	}
	nc.readAhead(readAhead)
	x := &serverConn{run: r, conn: conn, net: nc, key: key, logger: logger, failed: make(chan struct{})}
	r.mu.Lock()
	r.conns[x] = struct{}{}
	r.mu.Unlock()
	logger.Info("logged in", "key", describeKey(key))
	x.serve(ctx, channels, requests)
	r.mu.Lock()
	delete(r.conns, x)
	r.mu.Unlock()
	logger.Info("logged out")
}

// limitLogin closes a connection that does not log in in time, or before ctx ends. The
// function that it returns reports whether it came in time.
func (r *serverRun) limitLogin(ctx context.Context, c net.Conn) (stop func() bool) {
	timer := time.AfterFunc(loginTime, func() { c.Close() })
	stopAfter := context.AfterFunc(ctx, func() { c.Close() })
	return func() bool {
		inTime := timer.Stop()
		return stopAfter() && inTime
	}
}

// keyExtension is where the login's key is kept.
const keyExtension = "lighter-key"

// config is that of one connection. Whether a key was tried it notes in tried.
func (r *serverRun) config(logger *slog.Logger, tried *bool) *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		Config:                  ssh.Config{Ciphers: defaultCiphers(), KeyExchanges: keyExchanges, MACs: macs},
		PublicKeyAuthAlgorithms: slices.Concat(signatures, loginSignatures),
		MaxAuthTries:            maxAuthTries,
		ServerVersion:           serverVersionPrefix,
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			*tried = true
			allowed, err := r.AuthorizedKeys()
			if err != nil {
				logger.Error("nobody can log in", "err", err)
				return nil, err
			}
			if !slices.ContainsFunc(allowed, func(k ssh.PublicKey) bool { return keysEqual(k, key) }) {
				return nil, fmt.Errorf("key %s is not authorized", describeKey(key))
			}
			return &ssh.Permissions{Extensions: map[string]string{keyExtension: string(key.Marshal())}}, nil
		},
	}
	config.AddHostKey(&sparingSigner{Signer: r.HostKey, began: time.Now()})
	return config
}

// sparingSigner is the host key for one connection, whose client can ask for a signature
// with each exchange of keys. Good clients exchange keys once, and after each GiB.
type sparingSigner struct {
	ssh.Signer
	began time.Time
	made  atomic.Int64
}

// signaturesAtOnce is how many signatures a connection may have, besides one each second.
const signaturesAtOnce = 8

func (s *sparingSigner) Sign(random io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(random, data, s.Algorithms()[0])
}

// SignWithAlgorithm implements ssh.AlgorithmSigner.
func (s *sparingSigner) SignWithAlgorithm(random io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if s.made.Add(1) > signaturesAtOnce+int64(time.Since(s.began)/time.Second) {
		return nil, errors.New("the client exchanges keys too often")
	}
	if able, ok := s.Signer.(ssh.AlgorithmSigner); ok {
		return able.SignWithAlgorithm(random, data, algorithm)
	}
	return s.Signer.Sign(random, data)
}

// Algorithms implements ssh.MultiAlgorithmSigner.
func (s *sparingSigner) Algorithms() []string { return keyAlgorithms(s.PublicKey().Type()) }

// serverConn is a connection that is logged in.
type serverConn struct {
	run     *serverRun
	conn    *ssh.ServerConn
	net     *conn
	key     ssh.PublicKey // that logged in
	logger  *slog.Logger
	streams group         // goroutines of streams
	failed  chan struct{} // closed when the connection is over
}

// serve returns when the connection is over, and all its streams.
func (c *serverConn) serve(ctx context.Context, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	var loops sync.WaitGroup
	loops.Go(func() { ssh.DiscardRequests(requests) }) // answers keepalives with a refusal, as OpenSSH does
	loops.Go(func() { c.accept(ctx, channels) })
	loops.Go(func() {
		if !c.net.stayAlive(&c.streams, aliveInterval, aliveInterval, c.failed, func() { _, _, _ = c.conn.SendRequest(keepaliveRequest, true, nil) }) {
			c.conn.Close()
		}
	})
	stop := context.AfterFunc(ctx, func() {
		// Streams see the end of ctx and end; new ones are refused.
		c.streams.wait()
		c.conn.Close()
	})
	_ = c.conn.Wait() // why it ended is of no use
	close(c.failed)
	c.conn.Close()
	loops.Wait()
	c.streams.wait()
	stop()
}

// accept takes channels, each a stream.
func (c *serverConn) accept(ctx context.Context, channels <-chan ssh.NewChannel) {
	open := make(chan struct{}, maxChannels)
	for ch := range channels {
		if reason, text := refuse(ch); text != "" {
			_ = ch.Reject(reason, text) // if that fails, the connection does
			continue
		}
		select {
		case open <- struct{}{}:
		default:
			_ = ch.Reject(ssh.ResourceShortage, fmt.Sprintf("%d channels are open", maxChannels))
			continue
		}
		if !c.streams.Go(func() {
			defer func() { <-open }()
			c.stream(ctx, ch)
		}) {
			<-open
			_ = ch.Reject(ssh.ResourceShortage, "the server is stopping")
		}
	}
}

// refuse says why a channel is not accepted, if it is not.
func refuse(ch ssh.NewChannel) (ssh.RejectionReason, string) {
	switch ch.ChannelType() {
	case "session":
		return 0, ""
	case streamLocalChannel:
		var m directStreamLocal
		if err := ssh.Unmarshal(ch.ExtraData(), &m); err != nil {
			return ssh.ConnectionFailed, "malformed request"
		}
		if m.Socket != ServerSocket {
			return ssh.Prohibited, "there is only " + ServerSocket
		}
		return 0, ""
	}
	return ssh.UnknownChannelType, "this server offers streams to a lighter agent alone"
}

// stream serves one channel. Its end is that of Handle.
func (c *serverConn) stream(ctx context.Context, newChannel ssh.NewChannel) {
	session := newChannel.ChannelType() == "session"
	ch, requests, err := newChannel.Accept()
	if err != nil {
		return // the connection is over
	}
	var following sync.WaitGroup
	defer following.Wait()
	defer ch.Close()
	if session {
		command := make(chan struct{})
		following.Go(func() { c.answer(requests, command) })
		late := time.NewTimer(sessionTime)
		defer late.Stop()
		select {
		case <-command:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		case <-c.failed:
			return
		}
		if err := writeConnect(ch); err != nil {
			return
		}
	} else {
		following.Go(func() { ssh.DiscardRequests(requests) })
	}
	c.handle(ctx, ch, session)
}

func (c *serverConn) handle(ctx context.Context, ch ssh.Channel, session bool) {
	var goroutines group
	s := newStream(ch, ch, &goroutines, c.lost)
	s.remote, s.local = addr(c.conn.RemoteAddr().String()), addr(ServerSocket)
	if session {
		s.goodbye = func() {
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
		}
	}
	// The end of ctx is the business of Handle; closing is the way to interrupt it, and
	// done when time is up, with the connection.
	c.run.Handle(ctx, s, c.key)
	_ = s.Close() // which never fails
	goroutines.wait()
}

// lost tells the end of the connection from that of a stream, if it is known yet. Here
// it makes no difference that matters: nobody answers either way.
func (c *serverConn) lost() error {
	select {
	case <-c.failed:
		return ErrLinkLost
	default:
		return nil
	}
}

// answer answers the requests of a session until it ends. The first one for a command
// or a shell is granted, and closes command.
func (c *serverConn) answer(requests <-chan *ssh.Request, command chan<- struct{}) {
	granted := false
	for req := range requests {
		grant := !granted && (req.Type == "exec" || req.Type == "shell") && len(req.Payload) <= maxCommand
		if req.WantReply {
			_ = req.Reply(grant, nil)
		}
		if grant {
			granted = true
			close(command)
		}
	}
	if !granted {
		close(command)
	}
}
