package apiserver

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
)

func peer(uid uint32, groups ...uint32) *Peer { return &Peer{UID: uid, GID: uid, Groups: groups} }

func TestWhoOperates(t *testing.T) {
	a := &Access{UID: 1, Users: []uint32{7}, Groups: []uint32{70}}
	for _, test := range []struct {
		name string
		peer *Peer
		want bool
	}{
		{"root", peer(0), true},
		{"the coordinator's user", peer(1), true},
		{"a user who is named", peer(7), true},
		{"a member of the group", peer(5, 3, 70), true},
		{"a user whose own group it is", &Peer{UID: 5, GID: 70}, true},
		{"a user", peer(5, 3), false},
		{"a user of root's group", peer(5, 0), false},
		{"a user with the number of the group", peer(70), true}, // whose own group has it
		{"nobody", peer(65534), false},
	} {
		if got := a.operates(test.peer); got != test.want {
			t.Errorf("%s: got %v", test.name, got)
		}
	}
}

// TestPeerCredentials connects as another user, with other groups, and asks what the kernel
// says of that.
func TestPeerCredentials(t *testing.T) {
	testkit.NeedRoot(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name := l.Addr().String(); name != os.TempDir(); name = filepath.Dir(name) {
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	clients := new(Server).Clients(l)
	var groups []uint32
	for i := range uint32(100) {
		groups = append(groups, 1000+i)
	}
	for _, want := range []*Peer{{UID: 12345, GID: 54321}, {UID: 12345, GID: 0, Groups: []uint32{70}}, {UID: 0, GID: 7, Groups: groups}} {
		leave := dialAs(t, l.Addr().String(), want)
		conn, err := clients.Accept()
		if err != nil {
			t.Fatal(err)
		}
		got := conn.(*clientConn).peer
		if got.UID != want.UID || got.GID != want.GID || !slices.Equal(got.Groups, want.Groups) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		conn.Close()
		leave()
	}
}

// dialAs connects to a socket as another user, and returns what ends the connection.
func dialAs(t *testing.T, socket string, p *Peer) (leave func()) {
	t.Helper()
	dialed, over, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlocked: the thread goes with what it became
		unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(p.Groups)), uintptr(unsafe.Pointer(unsafe.SliceData(p.Groups))), 0)
		unix.RawSyscall(unix.SYS_SETRESGID, uintptr(p.GID), uintptr(p.GID), uintptr(p.GID))
		unix.RawSyscall(unix.SYS_SETRESUID, uintptr(p.UID), uintptr(p.UID), uintptr(p.UID))
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		}
		dialed <- err
		<-over
	}()
	if err := <-dialed; err != nil {
		t.Fatal(err)
	}
	return func() {
		close(over)
		<-ended
	}
}
