package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lighter/internal/api"
)

// Limits on connections of clients.
const (
	// maxClients is how many there may be at the same time, unless the process may open too
	// few files for that: files that the ledger can't open end the coordinator.
	maxClients = 4096
	// clientFiles is the part of the files that connections of clients may take.
	clientFiles = 4
	// userClients is the part of all connections that one user who does not operate may have,
	// and operatorClients the part that is for those who do.
	userClients     = 2
	operatorClients = 4
	// headerPatience is how long the head of a request may take, idlePatience how long a
	// connection may be without one.
	headerPatience = 10 * time.Second
	idlePatience   = 2 * time.Minute
	// maxHeader bounds the head of a request, in bytes: an address may name many builds.
	maxHeader = 1 << 20
)

// Peer is who is behind a connection, as the kernel says: the process that connected, at
// that time. No client can pretend to be another.
type Peer struct {
	UID, GID uint32
	Groups   []uint32 // the supplementary ones

	Name func() string // of the user; nil is not known
}

// userName returns what the user database calls the user, or "".
func (p *Peer) userName() string {
	if p.Name == nil {
		return ""
	}
	return p.Name()
}

func lookUpUser(uid uint32) string {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil || api.CheckText("name", u.Username, api.MaxName) != nil {
		return ""
	}
	return u.Username
}

func (p *Peer) in(group uint32) bool { return p.GID == group || slices.Contains(p.Groups, group) }

type peerKey struct{}

// WithPeer returns the context of requests that come from a peer, for servers of other
// connections than those of Clients.
func WithPeer(ctx context.Context, p *Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

func peerOf(ctx context.Context) *Peer {
	p, _ := ctx.Value(peerKey{}).(*Peer)
	return p
}

// HTTP returns a server of the API on sockets that Clients has wrapped.
func (s *Server) HTTP() *http.Server {
	return &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headerPatience, IdleTimeout: idlePatience, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if client, ok := conn.(*clientConn); ok {
				return WithPeer(ctx, client.peer)
			}
			return ctx
		},
	}
}

// Clients returns a listener that asks the kernel who connects to a Unix socket, and bounds
// how many connections there are: of all, and of each user who does not operate.
func (s *Server) Clients(l net.Listener) net.Listener {
	most := maxClients
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		most = int(min(uint64(most), files.Cur/clientFiles)) // #nosec G115 -- at most maxClients
	}
	return &clientListener{Listener: l, s: s, most: most, users: make(map[uint32]int)}
}

// clientListener is what Clients returns.
type clientListener struct {
	net.Listener
	s    *Server
	most int

	mu    sync.Mutex // owns all below
	all   int
	users map[uint32]int // connections by user
	told  time.Time      // when one that was refused was last logged
}

// Accept returns the next connection that is not one too many. Others are closed at once.
func (l *clientListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := readPeer(conn)
		if err == nil {
			err = l.enter(peer)
		}
		if err == nil {
			return &clientConn{UnixConn: conn.(*net.UnixConn), peer: peer, left: sync.OnceFunc(func() { l.leave(peer) })}, nil
		}
		conn.Close()
		l.refused(err)
	}
}

func (l *clientListener) enter(p *Peer) error {
	most, each := l.most, l.most
	if access := l.s.access.Load(); access != nil && !access.operates(p) {
		most, each = most-most/operatorClients, max(1, most/userClients)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.all >= most:
		return fmt.Errorf("there are %d connections", l.all)
	case l.users[p.UID] >= each:
		return fmt.Errorf("user %d has %d connections", p.UID, l.users[p.UID])
	}
	l.all++
	l.users[p.UID]++
	return nil
}

func (l *clientListener) leave(p *Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.users[p.UID]--; l.users[p.UID] == 0 {
		delete(l.users, p.UID)
	}
}

// refused logs that a connection was closed, at most once in a while.
func (l *clientListener) refused(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.told) >= time.Minute {
		l.told = now
		l.s.log.Warn("a client's connection was closed at once", "err", err)
	}
}

// clientConn is the connection of a client.
type clientConn struct {
	*net.UnixConn
	peer *Peer
	left func()
}

func (c *clientConn) Close() error {
	c.left()
	return c.UnixConn.Close()
}

// readPeer asks the kernel who is at the other end of a Unix socket.
func readPeer(conn net.Conn) (*Peer, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T is not a Unix socket", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	var p *Peer
	controlErr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p = &Peer{UID: cred.Uid, GID: cred.Gid, Name: sync.OnceValue(func() string { return lookUpUser(cred.Uid) })}
		p.Groups, err = peerGroups(fd)
	})
	return p, errors.Join(controlErr, err)
}

// peerGroups returns the supplementary groups of the process at the other end
// (SO_PEERGROUPS, unix(7)). Linux before 4.13 does not say, so that they don't count there.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups)) * 4 // #nosec G115 -- at most 65,536 groups (NGROUPS_MAX)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size) > len(groups)*4:
			groups = make([]uint32, size/4)
		case errno == unix.ENOPROTOOPT:
			return nil, nil
		default:
			return nil, fmt.Errorf("getsockopt SO_PEERGROUPS: %w", errno)
		}
	}
}
