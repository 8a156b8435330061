package disk

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestDialSocket(t *testing.T) {
	for _, folder := range []string{"f", strings.Repeat("f", 120)} {
		dir := filepath.Join(t.TempDir(), folder)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "socket")
		for _, missing := range []string{name, filepath.Join(dir, "no", "socket")} {
			_, err := DialSocket(context.Background(), missing)
			var op *net.OpError
			if !errors.As(err, &op) || op.Op != "dial" || !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), missing) {
				t.Errorf("%s is not there: %v", missing, err)
			}
		}

		// Linked into its place, as its own name may be too long to be made under.
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := os.Link(l.Addr().String(), name); err != nil {
			t.Fatal(err)
		}
		conn, err := DialSocket(context.Background(), name)
		if err != nil {
			t.Errorf("a name of %d bytes: %v", len(name), err)
			continue
		}
		conn.Close()
	}
}
