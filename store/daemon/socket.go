package daemon

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// socket is a connection whose reads and writes block a thread. A net.Conn waits with
// epoll, for which the kernel wakes a thread also whenever the daemon has made room by
// reading: with 32 KiB for each of the daemon's questions, that is most of the time that
// an import takes.
type socket struct{ *os.File }

// block makes a socket of a connection, which is closed.
func block(c *net.UnixConn) (*socket, error) {
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var dupErr error
	err = raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil {
		err = dupErr
	}
	if err == nil {
		if err = unix.SetNonblock(fd, false); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return nil, os.NewSyscallError("make a connection blocking", err)
	}
	return &socket{os.NewFile(uintptr(fd), "guix-daemon")}, nil
}

// Close ends reads and writes that are under way, too.
func (s *socket) Close() error {
	if raw, err := s.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) }) // what the daemon has ended needs none
	}
	return s.File.Close()
}
