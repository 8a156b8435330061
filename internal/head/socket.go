package head

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/agentd"
	"lighter/internal/disk"
)

// LockFolder makes sure that one process alone works in a folder. The lock goes
// with the process, however that ends.
func LockFolder(folder, name string) (*os.File, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(folder, name+".lock")
	f, err := disk.Lock(file)
	if errors.Is(err, disk.ErrLocked) {
		return nil, fmt.Errorf("another %s runs with the state folder %s%s; stop it, or choose another folder with --state", name, folder, ownerOf(file))
	}
	if err != nil {
		return nil, err
	}
	// Says whose the lock is; it has no other meaning.
	_ = f.Truncate(0)
	_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	return f, nil
}

// ownerOf says which process wrote its number into the file of a lock.
func ownerOf(file string) string {
	text, err := os.ReadFile(file)
	if pid, numErr := strconv.Atoi(string(text)); err == nil && numErr == nil {
		return fmt.Sprintf(" (process %d)", pid)
	}
	return ""
}

// socketMode lets owner and group connect.
const socketMode = 0o660

// nobody in place of a group lets the owner alone connect.
const nobody = -2

func modeFor(group int) fs.FileMode {
	if group == nobody {
		return socketMode &^ 0o060
	}
	return socketMode
}

// Socket is a Unix socket that a process listens on for as long as it lives: one that
// is removed comes back with keep.
type Socket struct {
	name   string
	logger *slog.Logger

	mu     sync.Mutex // owns all below
	group  int        // -1 is the process's own, or nobody
	l      *net.UnixListener
	file   fs.FileInfo // that l listens on
	closed bool
	told   string // what was last logged of what is in the way
}

// Listen listens on a Unix socket, in the place of one that a process left behind. One
// on which a process listens is an error. The group is -1 for the process's own, or nobody.
func Listen(name string, group int, logger *slog.Logger) (*Socket, error) {
	s := &Socket{name: name, group: group, logger: logger}
	return s, s.listen()
}

// listen makes the socket. It has its mode and group before others can see it, and replaces
// only a socket on which nothing listens.
func (s *Socket) listen() error {
	if err := os.MkdirAll(filepath.Dir(s.name), 0o755); err != nil {
		return err
	}
	old, err := deadSocket(s.name)
	if err != nil {
		return err
	}
	hidden, err := os.MkdirTemp(filepath.Dir(s.name), ".socket-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(hidden)
	l, file, err := listenIn(hidden, s.group)
	if err != nil {
		return fmt.Errorf("socket %s: %w", s.name, err)
	}
	if now, err := os.Lstat(s.name); old != nil && err == nil && os.SameFile(old, now) {
		os.Remove(s.name)
	}
	// A link, and no renaming, because that takes no other file's place.
	if err := os.Link(filepath.Join(hidden, socketFile), s.name); err != nil {
		l.Close()
		return fmt.Errorf("socket %s: %w", s.name, err)
	}
	s.l, s.file = l, file
	return nil
}

// socketFile is the name of a socket in its hidden folder.
const socketFile = "s"

// listenIn listens on a new socket in a folder that is this process's alone.
func listenIn(folder string, group int) (_ *net.UnixListener, _ fs.FileInfo, err error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	// The folder's own name may be too long for a socket in it.
	short := filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), socketFile)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	l.SetUnlinkOnClose(false) // by its name, which may be another's by then
	file := filepath.Join(folder, socketFile)
	if group >= 0 {
		if err = os.Chown(file, -1, group); errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("the group is to be %s, of which this user is not a member: %w", disk.GroupName(uint32(group)), err) // #nosec G115 -- it was one
		}
	}
	if err == nil {
		err = os.Chmod(file, modeFor(group))
	}
	var info fs.FileInfo
	if err == nil {
		info, err = os.Lstat(file)
	}
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	return l, info, nil
}

// deadSocket returns the socket of that name, if there is one and nothing listens on it.
func deadSocket(name string) (fs.FileInfo, error) {
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Mode().Type() != os.ModeSocket:
		return nil, fmt.Errorf("socket %s: there is a file of another kind", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := disk.DialSocket(ctx, name)
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return info, nil
	case err != nil: // such as EAGAIN, when many wait to be heard
		return nil, fmt.Errorf("socket %s: a process may listen there: %w", name, err)
	}
	defer conn.Close()
	return nil, fmt.Errorf("socket %s: %s listens on it already; stop that, or choose another name", name, listenerOf(conn))
}

// listenerOf says which process made the socket that a connection leads to.
func listenerOf(conn net.Conn) string {
	if socket, ok := conn.(*net.UnixConn); ok {
		if pid, err := agentd.PeerProcess(socket); err == nil && pid > 0 {
			return fmt.Sprintf("process %d", pid)
		}
	}
	return "another process"
}

// Accept waits for the next connection, even where the socket is made again meanwhile.
func (s *Socket) Accept() (net.Conn, error) {
	for {
		l, _ := s.now()
		conn, err := l.Accept()
		if err != nil {
			if next, closed := s.now(); next != l && !closed {
				continue // it came back as another
			}
		}
		return conn, err
	}
}

func (s *Socket) now() (l *net.UnixListener, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.l, s.closed
}

// Close ends it and removes the file, if it is still its own.
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.there() {
		os.Remove(s.name)
	}
	return s.l.Close()
}

// Addr is the socket's name.
func (s *Socket) Addr() net.Addr { return &net.UnixAddr{Name: s.name, Net: "unix"} }

// there reports whether the file is still the one that is listened on.
func (s *Socket) there() bool {
	info, err := os.Lstat(s.name)
	return err == nil && os.SameFile(info, s.file)
}

// socketInterval is how often keep looks after the socket.
const socketInterval = 2 * time.Second

// keep looks after the socket at each tick, until ctx ends.
func (s *Socket) keep(ctx context.Context, ticks <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
			s.restore() //nolint:contextcheck // asks a local socket, for a second at most
		}
	}
}

// restore makes the socket again if its file is gone, or is one that a process left behind.
// What is in the way otherwise is logged once.
func (s *Socket) restore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.there() {
		s.told = ""
		return
	}
	old := s.l
	if err := s.listen(); err != nil {
		if text := err.Error(); text != s.told {
			s.told = text
			s.logger.Error("the socket is gone, and clients don't reach this process; it is made again as soon as that is possible", "err", err)
		}
		return
	}
	old.Close() // who was accepted stays
	s.told = ""
	s.logger.Warn("the socket was gone and is back", "socket", s.name)
}

// regroup gives the socket to another group.
func (s *Socket) regroup(group int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if group == s.group || s.closed {
		return nil
	}
	id := group
	if id < 0 {
		id = os.Getegid()
	}
	if s.there() {
		if err := os.Lchown(s.name, -1, id); err != nil {
			return err
		}
		if err := os.Chmod(s.name, modeFor(group)); err != nil {
			return err
		}
	}
	s.group = group
	return nil
}
