package local

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/nar"
	"lighter/store"
)

// attackBuilds is how many builds have an accomplice; `make attack` has more.
var attackBuilds = flag.Int("attack-builds", 10, "builds whose outputs are changed from outside meanwhile, of each kind")

// accompliceVariable makes a process of the test binary a builder that passes a descriptor
// of its output to a process outside.
const accompliceVariable = "LIGHTER_TEST_ACCOMPLICE"

// swapped are the names in an output that are swapped for symlinks beside them to files
// outside.
var swapped = []struct {
	name   string
	mode   os.FileMode
	victim string
}{
	{"file", 0o600, "file"},
	{"program", 0o755, "program"},
	{"closed", 0, "folder/file"},
	{"folder", os.ModeDir | 0o755, "folder"},
	{"closed-folder", os.ModeDir, "folder"},
}

// runAccomplice is the builder.
func runAccomplice() int {
	err := passOutput(os.Getenv("out"), os.Getenv(accompliceVariable))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func passOutput(out, victims string) error {
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	for _, s := range swapped {
		name := filepath.Join(out, s.name)
		var err error
		if s.mode.IsDir() {
			err = errors.Join(os.Mkdir(name, 0o755), os.WriteFile(filepath.Join(name, "x"), []byte("mine"), 0o600))
		} else {
			err = os.WriteFile(name, []byte("mine"), 0o600)
		}
		if err := errors.Join(err, os.Chmod(name, s.mode.Perm()), os.Symlink(filepath.Join(victims, s.victim), name+"-evil")); err != nil {
			return err
		}
	}
	fd, err := unix.Open(out, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	// A file that is open for writing stays so, whatever its mode becomes.
	file, err := unix.Open(filepath.Join(out, "file"), unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	c, err := net.Dial("unix", "/accomplice/socket")
	if err != nil {
		return err
	}
	if _, _, err := c.(*net.UnixConn).WriteMsgUnix([]byte{1}, unix.UnixRights(fd, file), nil); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// accomplice is the process outside.
type accomplice struct {
	folder string // of its socket, and of the builder's program
	socket *net.UnixListener
	stop   atomic.Bool
	gentle atomic.Bool // change just the contents of a file, with which a build may succeed
	swaps  atomic.Int64
	group  sync.WaitGroup
}

func newAccomplice(t *testing.T) *accomplice {
	t.Helper()
	a := &accomplice{folder: scratch(t)}
	text, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(a.folder, "program"), text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(a.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(a.folder, "socket")
	if a.socket, err = net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o666); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.socket.Close() })
	return a
}

// takePart accepts one builder's descriptors and swaps until it is told to stop.
func (a *accomplice) takePart() {
	c, err := a.socket.AcceptUnix()
	if err != nil {
		return
	}
	defer c.Close()
	oob := make([]byte, 128)
	_, n, _, _, err := c.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 {
		return
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 2 {
		return
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	_, _ = c.Write([]byte{1})
	for i := 0; !a.stop.Load(); i++ {
		for _, s := range swapped {
			if a.gentle.Load() {
				break
			}
			if unix.Renameat2(fds[0], s.name, fds[0], s.name+"-evil", unix.RENAME_EXCHANGE) == nil {
				a.swaps.Add(1)
			}
		}
		_, _ = unix.Pwrite(fds[1], fmt.Appendf(nil, "%04d", i%10000), 0)
		if !a.gentle.Load() {
			_ = unix.Fchmod(fds[0], 0o755) // 0777 would be rejected at once
			_ = unix.Mkdirat(fds[0], "another", 0o700)
		}
	}
}

// victims makes what is outside, and returns a function that checks that it is as it was.
func victims(t *testing.T, folder string) func() error {
	t.Helper()
	var looks []func() error
	for _, step := range []error{
		os.MkdirAll(filepath.Join(folder, "folder"), 0o750),
		os.WriteFile(filepath.Join(folder, "file"), []byte("secret"), 0o400),
		os.WriteFile(filepath.Join(folder, "program"), []byte("secret"), 0o700),
		os.WriteFile(filepath.Join(folder, "folder", "file"), []byte("secret"), 0o600),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	for _, name := range []string{"file", "program", "folder", "folder/file"} {
		file := filepath.Join(folder, name)
		look := func() string {
			var st unix.Stat_t
			if err := unix.Lstat(file, &st); err != nil {
				return err.Error()
			}
			text, _ := os.ReadFile(file)
			return fmt.Sprintf("mode %o owner %d:%d time %v %q", st.Mode, st.Uid, st.Gid, st.Mtim, text)
		}
		want := look()
		looks = append(looks, func() error {
			if got := look(); got != want {
				return fmt.Errorf("%s was changed: got %s, want %s", file, got, want)
			}
			return nil
		})
	}
	return func() error {
		var errs []error
		for _, look := range looks {
			errs = append(errs, look())
		}
		return errors.Join(errs...)
	}
}

// TestAccomplice has builders pass descriptors of their outputs to a process outside,
// which goes on changing them: nothing outside of the build may be touched, and what
// becomes valid must be what it was checked to be, then and later.
func TestAccomplice(t *testing.T) {
	needBuilds(t)
	for name, hash := range map[string]string{"fixed": "r:sha256 " + strings.Repeat("0", 64), "with a socket": ""} {
		t.Run(name, func(t *testing.T) {
			s := openTestStore(t)
			a := newAccomplice(t)
			outside := scratch(t)
			check := victims(t, outside)
			valid := 0
			for round := range *attackBuilds {
				r := &recipe{name: fmt.Sprint("attack-", round), builder: "/accomplice/program", hash: hash, env: map[string]string{accompliceVariable: outside}}
				req := r.request(t, s)
				req.SandboxPaths = append(req.SandboxPaths, "/accomplice="+a.folder)
				a.stop.Store(false)
				a.gentle.Store(round%4 == 3)
				a.group.Go(a.takePart)
				err := buildAttacked(t.Context(), s, req, a)
				if err := check(); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				if err == nil {
					valid++
				} else if hash == "" && a.gentle.Load() {
					t.Errorf("round %d: %v", round, err)
				}
				var failure *store.BuildError
				if err != nil && !errors.As(err, &failure) {
					t.Errorf("round %d: not the derivation's failure: %v", round, err)
				}
			}
			t.Logf("%d builds, of which %d succeeded; %d swaps", *attackBuilds, valid, a.swaps.Load())
			if *attackBuilds > 0 && a.swaps.Load() == 0 {
				t.Error("nothing was ever swapped, so that this shows nothing")
			}
		})
	}
}

// TestAccompliceOfOrdinaryUser is the same where builders are who the agent is.
func TestAccompliceOfOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is one")
	}
	needBuilds(t)
	folder := scratch(t)
	if err := os.Chmod(folder, 0o1777); err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.v", "-test.run=^TestAccomplice$", "-test.timeout=2h", fmt.Sprint("-attack-builds=", *attackBuilds)}
	out, err := runSelf(t, folder, []string{"TMPDIR=" + folder}, &syscall.Credential{Uid: 54321, Gid: 54321}, args...)
	t.Log(out)
	if err != nil {
		t.Error(err)
	}
}

// buildAttacked builds, and looks at what has become valid while the accomplice goes on.
func buildAttacked(ctx context.Context, s *Store, req *store.BuildRequest, a *accomplice) error {
	result, err := s.Build(ctx, req)
	if err == nil {
		out := result.Outputs["out"]
		for range 3 {
			name, pathErr := s.PhysicalPath(out.Path)
			hash, _, hashErr := nar.Hash(name)
			if err := errors.Join(pathErr, hashErr); err != nil || hash != out.NARHash {
				return fmt.Errorf("what is valid was changed: %v", err)
			}
		}
	}
	a.stop.Store(true)
	a.group.Wait()
	return err
}
