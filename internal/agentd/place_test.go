package agentd

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lighter/internal/disk"
)

func TestMakePrivate(t *testing.T) {
	dir := t.TempDir()
	fresh, open, link, file := filepath.Join(dir, "fresh"), filepath.Join(dir, "open"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, want string }{
		{fresh, ""},
		{fresh, ""},
		{open, "mode 0755"},
		{link, "not a folder"},
		{file, "not a folder"},
		{filepath.Join(dir, "no", "parent"), "no such file"},
	} {
		err := makePrivate(tt.name)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if os.Getuid() == 0 {
		theirs := filepath.Join(dir, "theirs")
		if err := os.Mkdir(theirs, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(theirs, 1234, 1234); err != nil {
			t.Fatal(err)
		}
		if err := makePrivate(theirs); err == nil || !strings.Contains(err.Error(), "another user") {
			t.Errorf("a folder of another user: %v", err)
		}
	}
}

func TestPlace(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_DATA_HOME", "")
	a, b := socketName("/a"), socketName("/b")
	if a == b || a != socketName("/a") || len(a) > disk.MaxSocketName {
		t.Errorf("sockets %s and %s", a, b)
	}
	for name, want := range map[string]string{"~/x": home + "/x", "/x/../y": "/y"} {
		if got, err := absolute(name, nil); err != nil || got != want {
			t.Errorf("absolute(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
	if name := nodeName(); strings.ContainsAny(name, "/. ") || name == "" {
		t.Errorf("node %q", name)
	}
}

// TestLock has many take a lock whose file each removes.
func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				unlock, err := lock(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d have the lock", n)
				}
				runtime.Gosched()
				inside.Add(-1)
				unlock()
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lock's file is left: %v", err)
	}
}

// TestChooseSocket has another user make the folders of the socket first.
func TestChooseSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "sock") //nolint:usetesting // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	state := filepath.Join(dir, "state")
	folders := []string{filepath.Join(dir, "tmp"), filepath.Join(state, "run"), filepath.Join(dir, "shm")}
	choose := func() string {
		t.Helper()
		socket, err := chooseSocket(state, folders)
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Dir(socket)
	}
	theirs := func(name string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(name), os.Mkdir(name, 0o700), os.Chmod(name, 0o777)); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 {
			if err := errors.Join(os.Chmod(name, 0o700), os.Chown(name, 12345, 12345)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, spoil := range map[string]func(string) error{
		"link":  func(name string) error { return os.Symlink(dir, name) },
		"file":  func(name string) error { return os.WriteFile(name, nil, 0o600) },
		"loose": func(name string) error { return errors.Join(os.Mkdir(name, 0o700), os.Chmod(name, 0o711)) },
	} {
		if err := spoil(folders[0]); err != nil {
			t.Fatal(err)
		}
		if got := choose(); got != folders[1] {
			t.Errorf("beside a %s: %s", name, got)
		}
		if err := os.RemoveAll(folders[0]); err != nil {
			t.Fatal(err)
		}
	}
	theirs(folders[0])
	if got := choose(); got != folders[1] {
		t.Errorf("beside another's folder: %s", got)
	}
	// An agent is there, and the other user goes away.
	l, err := net.Listen("unix", filepath.Join(folders[1], socketName(state)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.RemoveAll(folders[0]); err != nil {
		t.Fatal(err)
	}
	if got := choose(); got != folders[1] {
		t.Errorf("the agent that is there is not found: %s", got)
	}
	l.Close()
	if got := choose(); got != folders[0] {
		t.Errorf("with nothing in the way: %s", got)
	}
	for _, name := range folders {
		theirs(name)
	}
	if _, err := chooseSocket(state, folders); err == nil || !strings.Contains(err.Error(), "--socket") {
		t.Errorf("with everything taken: %v", err)
	}
	long := filepath.Join(dir, strings.Repeat("x", 100))
	if got, err := chooseSocket(state, []string{long}); err == nil {
		t.Errorf("a name of %d bytes", len(got))
	}
}
