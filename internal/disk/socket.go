package disk

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// MaxSocketName is how long the name of a Unix socket may be for the kernel, in bytes
// (sun_path, unix(7), without its NUL).
const MaxSocketName = 107

// DialSocket connects to a Unix socket, however long its name is: the kernel is given a
// short one. Its errors are those of net.Dialer.
func DialSocket(ctx context.Context, name string) (net.Conn, error) {
	var d net.Dialer
	if len(name) <= MaxSocketName {
		return d.DialContext(ctx, "unix", name)
	}
	conn, err := dialIn(ctx, filepath.Dir(name), filepath.Base(name))
	if err != nil {
		// As if the name had been dialed.
		var op *net.OpError
		var file *fs.PathError
		switch {
		case errors.As(err, &op):
			err = op.Err
		case errors.As(err, &file):
			err = file.Err
		}
		return nil, &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: name, Net: "unix"}, Err: err}
	}
	return conn, nil
}

func dialIn(ctx context.Context, folder, file string) (net.Conn, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), file))
}
