package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/store/local/sandbox"
)

// problemAge is for how long a problem is believed before it is looked for again.
const problemAge = 30 * time.Second

// problemCache remembers the last answer of BuildProblem.
type problemCache struct {
	mu    sync.Mutex
	asked time.Time
	err   error
}

// BuildProblem returns why the store can't build here, with what to change, or nil if
// it can. To find out, it sets up a sandbox, unless it has done so lately.
func (s *Store) BuildProblem() error {
	p := &s.sandboxes.problem
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked.IsZero() || p.err != nil && time.Since(p.asked) >= problemAge {
		p.err = s.sandboxes.try(time.Minute, networkAccess{})
		p.asked = time.Now()
	}
	return p.err
}

// try sets up a sandbox without a builder.
func (s *sandboxes) try(limit time.Duration, access networkAccess) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	f, err := s.makeFolder("probe.drv")
	if err != nil {
		return s.claims.layout.explainSpace(err)
	}
	defer func() {
		if err := f.remove(); err != nil {
			s.opts.Logger.Warn("the folder of a trial build was not removed", "err", err)
		}
	}()
	c := s.newConfig(f, access)
	c.Probe = true
	_, err = runSandbox(ctx, c, access.tool, io.Discard, nil)
	return err
}

// userNamespacesAllowed reports whether this process, which is root, may make user
// namespaces. To find out, it starts a process that finds no sandbox to set up, and ends.
var userNamespacesAllowed = sync.OnceValue(func() bool {
	process, err := os.StartProcess("/proc/self/exe", []string{"lighter-sandbox"}, &os.ProcAttr{
		Env: []string{sandbox.Variable + "=1"},
		Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER},
	})
	if err != nil {
		return false
	}
	_, err = process.Wait()
	return err == nil
})

// startError explains why a process in new namespaces could not be started.
func startError(err error) error {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("start the sandbox: %w", err)
	}
	return fmt.Errorf("start the sandbox: %w; %s", err, advice())
}

// setupError explains why a sandbox could not be set up.
func setupError(step string, errno unix.Errno) error {
	switch {
	case errno == unix.EPERM && step == "mount /proc":
		return fmt.Errorf("set up the sandbox: %s: %w; parts of this machine's /proc are hidden, as in containers, and then the kernel gives builds no /proc of their own: run outside the container, or let it see all of /proc (docker run --security-opt systempaths=unconfined)", step, errno)
	case errno == unix.EPERM || errno == unix.EACCES:
		return fmt.Errorf("set up the sandbox: %s: %w; %s", step, errno, advice())
	}
	return fmt.Errorf("set up the sandbox: %s: %w", step, errno)
}

// advice says what keeps this process from using user namespaces, and what to do.
func advice() string { return adviceOf(os.ReadFile) }

func adviceOf(readFile func(name string) ([]byte, error)) string {
	for _, off := range []struct{ key, bad, good string }{
		{"kernel.unprivileged_userns_clone", "0", "1"},
		{"user.max_user_namespaces", "0", "15000"},
		{"kernel.apparmor_restrict_unprivileged_userns", "1", "0"},
	} {
		file := "/proc/sys/" + strings.ReplaceAll(off.key, ".", "/")
		text, err := readFile(file)
		if err == nil && strings.TrimSpace(string(text)) == off.bad {
			return fmt.Sprintf("this kernel forbids user namespaces (%[1]s is %[2]s); as root: sysctl -w %[1]s=%[3]s, and the same line in /etc/sysctl.d for the next boot; or let root build here, by an entry with user = \"root\" or a guix-daemon",
				off.key, off.bad, off.good)
		}
	}
	return "this kernel supports user namespaces, but something denies them to this process: a chroot (run outside it), a container's seccomp profile (docker run --security-opt seccomp=unconfined), or an LSM"
}
