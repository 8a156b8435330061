package buildhook

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"lighter/internal/testkit"
)

// mayMount reports whether the test may mount something. Where it may not, it runs itself
// where it may, and has nothing left to do.
func mayMount(t *testing.T) bool {
	const there = "LIGHTER_TEST_MAY_MOUNT"
	if os.Getenv(there) != "" {
		return true
	}
	testkit.NeedUserNamespaces(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), there+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// TestFullDisk has a store on a disk of 64 KiB. The test runs itself where it may mount one.
func TestFullDisk(t *testing.T) {
	if !mayMount(t) {
		return
	}
	l := newLab(t, nil)
	if err := syscall.Mount("none", string(l.cfg.Dir), "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(string(l.cfg.Dir), 0); err != nil {
			t.Error(err)
		}
	}()
	s, _ := l.accepted("hello", "hello-lib")
	big := item{l.path("hello-lib"), l.tree(strings.Repeat("text\n", 50_000)), l.key}
	r := s.ship(1, l.archive(item{l.path("hello"), l.tree("small"), l.key}, big))
	if !r.Local || !strings.Contains(r.Error, syscall.ENOSPC.Error()) {
		t.Errorf("got %+v, want the blame taken for a full disk", r)
	}
	l.exit(ExitTransient)
	l.wantNothingLeft()
	l.out.await(t, syscall.ENOSPC.Error())
}
