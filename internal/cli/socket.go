package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxSocketName is how long the name of a Unix socket may be (sun_path, unix(7),
// without its NUL).
const maxSocketName = 107

// lockFolder makes sure that one process alone works in a folder. The lock goes
// with the process, however that ends.
func lockFolder(folder, name string) (*os.File, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(folder, name+".lock")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another %s runs with the state folder %s", name, folder)
		}
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return f, nil
}

// listenSocket listens on a Unix socket, in the place of one that a process left
// behind which holds the lock no more. The owner and the group may connect.
func listenSocket(ctx context.Context, socket string) (net.Listener, error) {
	if len(socket) > maxSocketName {
		return nil, fmt.Errorf("socket %s: the name has %d bytes, more than %d; choose another with --socket", socket, len(socket), maxSocketName)
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(socket); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("socket %s: there is a file of another kind", socket)
		}
		if err := os.Remove(socket); err != nil {
			return nil, err
		}
	}
	// Made with no rights for others, so that there is no moment when anybody may connect.
	old := unix.Umask(0o117)
	defer unix.Umask(old)
	var config net.ListenConfig
	return config.Listen(ctx, "unix", socket)
}
