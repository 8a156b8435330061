package local

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
)

// A mount somewhere on the machine whose server does not answer, as of a file server that is gone, is in no
// build's way: nothing looks at mounts that a build does not need.
func TestHungMount(t *testing.T) {
	testkit.NeedRoot(t)
	needBuilds(t)
	server, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		testkit.Missing(t, fmt.Errorf("/dev/fuse: %w", err))
	}
	folder := t.TempDir()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server)
	if err := unix.Mount("gone", folder, "fuse", 0, options); err != nil {
		unix.Close(server)
		testkit.Missing(t, fmt.Errorf("FUSE: %w", err))
	}
	defer func() {
		unix.Close(server) // ends all that waits for it
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	asked := make(chan error, 1)
	go func() {
		_, err := os.ReadDir(folder)
		asked <- err
	}()
	s := openTestStore(t)
	if err := s.BuildProblem(); err != nil {
		t.Error(err)
	}
	r := &recipe{name: "hello", script: "echo hi > $out"}
	r.mustBuild(t, s)
	select {
	case err := <-asked:
		t.Errorf("the mount does not hang: %v", err)
	default:
	}
}
